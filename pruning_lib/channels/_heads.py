"""Modules that count their heads, or the channels that they filter, in attributes: the numbers follow what is left.

``x.reshape(n, t, 3, self.num_heads, self.head_dim)`` fits another number of heads if `num_heads` says so, and so does
``F.conv2d(x, self.filt, groups=self.channels)``. An attribute follows if its name says what it counts, and its value
agrees. A plan lists them, and `load` sets them as `shrink` did.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn
from torch.fx import Node

from pruning_lib.channels._graph import argument, base, caller
from pruning_lib.channels._shapes import distinct
from pruning_lib.channels._state import Analysis, Kept

COUNTS = (
    *("num_heads", "n_heads", "n_head", "nhead", "heads", "num_attention_heads", "num_attn_heads", "num_query_heads"),
    *("num_key_value_heads", "num_kv_heads", "n_kv_heads", "n_kv_head", "kv_heads"),
)
WIDTHS = ("all_head_size", "attn_dim", "inner_dim", "split_size")
FILTERED = "channels"
NAMES = (*COUNTS, *WIDTHS, FILTERED)


def counts(state: Analysis, kept: Kept) -> dict[str, dict[str, int]]:
    """Return the attributes that follow, by module, and their new values."""
    found: dict[str, dict[str, int]] = {}
    for node, (labels, widths) in state.heads.items():
        path, module = caller(state.graph, node)
        for name, before, after in _numbers(kept, labels, widths):
            if before != after and _value(module, name) == before:
                found.setdefault(path, {})[name] = after
    for call in state.calls:
        path, module = caller(state.graph, call.node)
        left = int(kept.of(call.columns).sum())
        if call.depthwise and left < call.groups == _value(module, FILTERED):
            found.setdefault(path, {})[FILTERED] = left
    return found


def counted(model: nn.Module) -> dict[str, dict[str, int]]:
    """Return the numbers of heads and of filtered channels that a model holds in attributes, by module."""
    found = (
        (path, {name: it for name in NAMES if (it := _value(module, name)) is not None})
        for path, module in model.named_modules()
    )
    return {path: numbers for path, numbers in found if numbers}


def _numbers(kept: Kept, labels: Tensor, widths: tuple[int, ...]) -> Iterator[tuple[str, int, int]]:
    """Yield each name with a number that it may hold, and with what becomes of this number."""
    shared = distinct(kept.roots[labels])  # heads with the same keys and values are of one class
    for before, left in ((labels, kept.of(labels)), (shared, kept.classes[shared])):
        yield from ((name, len(before), int(left.sum())) for name in COUNTS)
        yield from ((name, len(before) * width, int(left.sum()) * width) for name in WIDTHS for width in widths)


def _value(module: nn.Module, name: str) -> int | None:
    value = getattr(module, name, None)
    return value if type(value) is int else None


def follows(state: Analysis, node: Node) -> bool:
    """Whether the size that a split was given is an attribute that can follow."""
    module = caller(state.graph, node)[1]
    size = argument(node, 1, "split_size")
    return base(node) == "split" and any(_value(module, name) == size for name in WIDTHS)
