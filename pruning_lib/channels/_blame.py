"""Say where a cut network goes astray: the first operator from which on nothing is as it was.

The modules of both networks are compared one by one on the input that told them apart, in float64. What a layer returns
may differ although all is well, where a BatchNorm behind it makes up for a constant; so the last module that is right
counts, and the next one in the order of computation is to blame.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node

from pruning_lib._inputs import Inputs
from pruning_lib.channels import rules
from pruning_lib.channels._double import InDouble, native_dtype
from pruning_lib.channels._graph import base, caller, computes, line_of
from pruning_lib.channels._plan import cast, wider
from pruning_lib.channels._shapes import by_channel
from pruning_lib.channels._state import Analysis, Kept


def blame(state: Analysis, kept: Kept, dense: nn.Module, small: nn.Module, inputs: Inputs) -> str:
    """Return " behind `operator` (file, line)", or "" if nothing can be said; both networks are copies."""
    last: dict[str, Node] = {}
    for node in state.graph.nodes:
        if computes(node) and isinstance(node.meta.get("val"), Tensor):
            last[caller(state.graph, node)[0]] = node
    try:
        before, after = (_outputs(model, list(last), inputs) for model in (dense, small))
        wrong = [
            node
            for name, node in last.items()
            if name in before and name in after and not _same(state, kept, node, before[name], after[name])
        ]
        right = [node for name, node in last.items() if name in before and name in after and node not in wrong]
    except Exception:  # whatever it is, the refusal stands without this
        return ""
    order = {node: i for i, node in enumerate(state.graph.nodes)}
    start = max((order[node] for node in right), default=-1)
    end = min((order[node] for node in wrong if order[node] > start), default=start)
    between = [node for node in state.graph.nodes[start + 1 : end + 1] if computes(node)]
    # What treats each element alone cannot be mistaken in much.
    between = [node for node in between if not rules.find(node).elementwise] or between
    return f", first behind `{base(between[0])}`{line_of(between[0])}" if between else ""


@torch.no_grad()
def _outputs(model: nn.Module, names: list[str], inputs: Inputs) -> dict[str, Tensor]:
    """Return what the modules return in float64, by name, where it is one tensor."""
    double = InDouble(native_dtype(model))
    cast(model.eval(), torch.float64)
    found: dict[str, Tensor] = {}

    def note(name: str, _module: nn.Module, _args: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            found[name] = output

    modules = dict(model.named_modules())
    for name in names:
        if name in modules:
            modules[name].register_forward_hook(partial(note, name))
    with double:
        inputs.map(lambda x: x.to(wider(x.dtype, torch.float64), copy=True)).call(model)
    return found


def _same(state: Analysis, kept: Kept, node: Node, before: Tensor, after: Tensor) -> bool:
    labels = state.labels.get(node)
    if not isinstance(labels, Tensor) or labels.ndim != before.ndim:
        return True
    for axis in range(labels.ndim):
        if labels.stride(axis) and labels.shape[axis] > 1 and labels.shape[axis] == before.shape[axis]:
            stay = by_channel(kept.of(labels), axis).any(1)
            before = before.index_select(axis, stay.nonzero()[:, 0].to(before.device))
    if before.shape != after.shape:
        return False
    return bool((before - after).abs().max() <= 1e-9 * before.abs().max()) if before.numel() else True
