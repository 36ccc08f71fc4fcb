"""Modules that count their heads in attributes: the numbers follow what is left.

``x.reshape(n, t, 3, self.num_heads, self.head_dim)`` fits another number of heads if `num_heads` says so. An attribute
follows if its name says what it counts, and its value agrees. A plan lists them, and `load` sets them as `shrink` did.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn
from torch.fx import Node

from pruning_lib.channels._graph import argument, base, caller
from pruning_lib.channels._state import Analysis, Heads, Kept

HEADS = ("num_heads", "n_heads", "n_head", "nhead", "heads", "num_attention_heads", "num_attn_heads", "num_query_heads")
SHARED = ("num_key_value_heads", "num_kv_heads", "n_kv_heads", "n_kv_head", "kv_heads")
WIDTHS = ("all_head_size", "attn_dim", "inner_dim", "split_size")
NAMES = (*HEADS, *SHARED, *WIDTHS)


def counts(state: Analysis, kept: Kept) -> dict[str, dict[str, int]]:
    """Return the attributes that follow, by module, and their new values."""
    found: dict[str, dict[str, int]] = {}
    for node, heads in state.heads.items():
        path, module = caller(state.graph, node)
        for name, before, after in _numbers(kept, heads):
            if before != after and _value(module, name) == before:
                found.setdefault(path, {})[name] = after
    return found


def _numbers(kept: Kept, heads: Heads) -> Iterator[tuple[str, int, int]]:
    """Yield each name with the number that it has to hold to be followed, and the one that it gets."""
    for names, labels in ((HEADS, heads.queries), (SHARED, heads.shared)):
        for name in names:
            yield name, len(labels), int(kept.of(labels).sum())
    left = int(kept.of(heads.queries).sum())
    for width in heads.widths:
        for name in WIDTHS:
            yield name, len(heads.queries) * width, left * width


def _value(module: nn.Module, name: str) -> int | None:
    value = getattr(module, name, None)
    return value if type(value) is int else None


def follows(state: Analysis, node: Node) -> bool:
    """Whether the size that a split was given is an attribute that can follow."""
    module = caller(state.graph, node)[1]
    size = argument(node, 1, "split_size")
    return base(node) == "split" and any(_value(module, name) == size for name in WIDTHS)
