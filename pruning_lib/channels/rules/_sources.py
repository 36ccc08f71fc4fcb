"""Tensors that come from nowhere: made of numbers, looked up in a table, or mere notes of the exporter."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.fx import Node

from pruning_lib.channels._graph import argument, base, computes, operand, shape_of
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
        # In the type that forward asks for: 0.1 is another number in half precision.
        dtype = node.meta["val"].dtype
        value = torch.full((), NAN) if dtype.is_complex else torch.tensor(number, dtype=dtype)
        state.values[node] = value.double().expand(shape_of(node))


def looks_up(node: Node) -> bool:
    """Whether an operator looks rows of a table up."""
    return computes(node) and base(node) in ("embedding", "embedding_bag", "_embedding_bag")


@rule("embedding")
class Embedding(Source):
    """Each column of the table is a channel of the output; its rows are the words, whose number stays."""

    def label(self, state: Analysis, node: Node) -> None:
        table = operand(node)
        if table not in state.leaves:
            state.give_up(node, "has a weight that forward computes")
            return
        state.classes.pin(state.axis(table, 0), "has a weight that counts the entries of an embedding")
        state.labels[node] = spread(state.axis(table, 1), len(shape_of(node)) - 1, shape_of(node))

    def value(self, state: Analysis, node: Node) -> None:
        table = state.values_of(operand(node))
        # A column that is the same for every word is a constant, whichever words come in.
        constant = torch.where((table == table[:1]).all(0), table[0].double(), NAN)
        state.values[node] = spread(finite(constant), len(shape_of(node)) - 1, shape_of(node))


@rule("embedding_bag _embedding_bag")
class EmbeddingBag(Source):
    """Sums, means or maxima of rows of a table, and three tensors that count rows."""

    def label(self, state: Analysis, node: Node) -> None:
        table, counts = operand(node), node.meta["val"][1:]
        if table not in state.leaves:
            state.give_up(node, "has a weight that forward computes")
            return
        state.classes.pin(state.axis(table, 0), "has a weight that counts the entries of an embedding")
        labels = spread(state.axis(table, 1), 1, node.meta["val"][0].shape)
        state.labels[node] = [labels, *(NO_CLASS.expand(count.shape) for count in counts)]

    def value(self, state: Analysis, node: Node) -> None:
        # How many rows a bag holds is not known, and of none it is 0: only 0 stays what it is.
        constant = torch.where((state.values_of(operand(node)) == 0).all(0), 0.0, NAN).double()
        values = spread(constant, 1, node.meta["val"][0].shape)
        state.values[node] = [values, *(torch.full((), NAN).double().expand(v.shape) for v in node.meta["val"][1:])]


@rule("_assert_tensor_metadata")
class Note(Source):
    """The exporter's note of a dtype, which returns nothing and is gone from the forward."""

    def label(self, state: Analysis, node: Node) -> None:
        """Give no labels."""

    def value(self, state: Analysis, node: Node) -> None:
        """Give no values."""
