"""Tensors that come from nowhere: made of numbers, looked up in a table, or mere notes of the exporter."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.fx import Node

from pruning_lib.channels._graph import argument, base, operand, shape_of
from pruning_lib.channels._shapes import NAN, NO_CLASS, finite, spread
from pruning_lib.channels._state import Analysis
from pruning_lib.channels.rules._registry import Rule, rule


class Source(Rule):
    """An operator that depends on no value that could be live."""

    def use(self, state: Analysis, node: Node) -> None:
        """Mark nothing."""


@rule("zeros zeros_like new_zeros", fill=0.0)
@rule("ones ones_like new_ones", fill=1.0)
@rule("full full_like", position=1)
@rule("new_full", position=2)
@rule("scalar_tensor", position=0)
@dataclass(frozen=True)
class Filled(Source):
    """Tensors of one number: `fill`, or the argument at `position`."""

    fill: float = NAN
    position: int | None = None

    def label(self, state: Analysis, node: Node) -> None:
        # zeros_like and its kin follow the channels of what they look like; a size given as numbers is a literal.
        follows = base(node).endswith("_like") and isinstance(node.args[0], Node)
        labels = state.labels_of(operand(node)) if follows else NO_CLASS
        state.labels[node] = labels.expand(shape_of(node))

    def value(self, state: Analysis, node: Node) -> None:
        number = self.fill if self.position is None else argument(node, self.position, "fill_value")
        state.values[node] = torch.tensor(float(number)).double().expand(shape_of(node))


@rule("embedding")
class Embedding(Source):
    """Each column of the table is a channel of the output; its rows are the words, whose number stays."""

    def label(self, state: Analysis, node: Node) -> None:
        table = operand(node)
        if table not in state.leaves:
            state.give_up(node, "has a weight that forward computes")
            return
        state.classes.pin(state.axis(table, 0), "counts the entries of an embedding")
        state.labels[node] = spread(state.axis(table, 1), len(shape_of(node)) - 1, shape_of(node))

    def value(self, state: Analysis, node: Node) -> None:
        table = state.values_of(operand(node))
        # A column that is the same for every word is a constant, whichever words come in.
        constant = torch.where((table == table[:1]).all(0), table[0].double(), NAN)
        state.values[node] = spread(finite(constant), len(shape_of(node)) - 1, shape_of(node))


@rule("_assert_tensor_metadata")
class Note(Source):
    """The exporter's note of a dtype, which returns nothing and is gone from the forward."""

    def label(self, state: Analysis, node: Node) -> None:
        """Give no labels."""

    def value(self, state: Analysis, node: Node) -> None:
        """Give no values."""
