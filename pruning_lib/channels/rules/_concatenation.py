"""Several tensors become one, and one of several is taken."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from pruning_lib.channels._graph import argument, operand, shape_of
from pruning_lib.channels._state import Analysis
from pruning_lib.channels.rules._registry import Rule, rule


@rule("cat")
class Concatenation(Rule):
    """The channels of the operands, one after the other."""

    def axis(self, node: Node) -> int:
        return int(argument(node, 1, "dim", 0)) % len(shape_of(node))

    def label(self, state: Analysis, node: Node) -> None:
        labels = [state.labels_of(source) for source in _sources(node)]
        state.labels[node] = _concatenated(labels, self.axis(node), shape_of(node))

    def value(self, state: Analysis, node: Node) -> None:
        values = [state.values_of(source).double() for source in _sources(node)]
        state.values[node] = _concatenated(values, self.axis(node), shape_of(node))

    def use(self, state: Analysis, node: Node) -> None:
        axis, start = self.axis(node), 0
        for source in _sources(node):
            size = shape_of(source)[axis]
            state.mark(source, state.used_of(node).narrow(axis, start, size))
            start += size


def _sources(node: Node) -> list[Node]:
    """Return the operands, without an empty tensor of one axis, as of a cache to which nothing was written yet."""
    sources: Any = node.args[0]
    return [source for source in sources if len(shape_of(source)) == len(shape_of(node))]


def _concatenated(parts: Sequence[Tensor], axis: int, shape: torch.Size) -> Tensor:
    """Concatenate without spelling out what repeats."""
    for other in range(len(shape)):
        if other == axis or not shape[other]:
            continue
        if all(part.shape[other] == 1 or part.stride(other) == 0 for part in parts):
            parts = [part.narrow(other, 0, 1) for part in parts]
    return torch.cat(list(parts), axis).expand(shape)


@rule("getitem", view=True)
class Item(Rule):
    """One of the tensors that an operator returned."""

    def label(self, state: Analysis, node: Node) -> None:
        parts, index = state.labels.get(operand(node)), node.args[1]
        part = parts[index] if isinstance(parts, list) and isinstance(index, int) else None
        if part is None:
            state.give_up(node)
        else:
            state.labels[node] = part

    def value(self, state: Analysis, node: Node) -> None:
        parts, index = state.values[operand(node)], node.args[1]
        assert isinstance(parts, list)
        assert isinstance(index, int)
        state.values[node] = parts[index]

    def use(self, state: Analysis, node: Node) -> None:
        source, index = operand(node), node.args[1]
        parts = state.labels[source]
        assert isinstance(index, int)
        if not isinstance(parts, list):
            return
        used = state.used.get(source)
        if not isinstance(used, list):
            used = [torch.zeros((), dtype=torch.bool).expand(part.shape) for part in parts if isinstance(part, Tensor)]
            state.used[source] = used
        # The parts of one operator are used one by one: of an LSTM's three results perhaps the first alone.
        before = used[index]
        assert isinstance(before, Tensor)
        used[index] = before | state.used_of(node)
