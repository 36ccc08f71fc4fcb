"""Movement: elements change place and nothing else.

The operator itself says where they go: it is run on labels, on values, and for uses on the operand's own indices.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

from pruning_lib.channels._graph import argument, base, operand, shape_of
from pruning_lib.channels._heads import follows
from pruning_lib.channels._shapes import NAN, Labels, flat, narrow, repeated, uniform, varies
from pruning_lib.channels._state import Analysis, Kept
from pruning_lib.channels.rules._elementwise import functional
from pruning_lib.channels.rules._layers import channel_axis, fill_up, merges
from pruning_lib.channels.rules._registry import Rule, literal, rule

CHANNELS = 1
VIEWS = ("view", "reshape", "unflatten")


@rule("view reshape flatten unflatten expand repeat view_as expand_as tile", literal="sizes")
@rule("slice select split split_with_sizes roll narrow", literal="positions")
@rule(
    "squeeze unsqueeze permute transpose t mT movedim swapaxes chunk unbind stack flip pixel_shuffle pixel_unshuffle "
    "channel_shuffle reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d"
)
@rule("unsafe_chunk", view=True)
class Movement(Rule):
    """Every element of the result is one of the operands' elements."""

    def run(self, node: Node, operands: dict[Node, Tensor]) -> Any:
        """Run the operator on stand-ins for its operands."""
        args: Any
        kwargs: Any
        args, kwargs = map_arg((node.args, dict(node.kwargs)), lambda source: operands[source])
        if base(node) != "view":
            return functional(node)(*args, **kwargs)
        if not isinstance(args[1], list | tuple):
            raise NotImplementedError("a view as another dtype")
        return args[0].reshape(args[1])  # labels and values with stride 0 cannot be viewed in another shape

    def move_labels(self, node: Node, operands: dict[Node, Tensor]) -> Labels:
        """Return the labels of the result."""
        moved: Labels = _listed(self.run(node, operands))
        return moved

    def label(self, state: Analysis, node: Node) -> None:
        try:
            moved = self.move_labels(node, {source: state.labels_of(source) for source in node.all_input_nodes})
        except (RuntimeError, TypeError):
            state.give_up(node)
            return
        # A copy has forgotten along which axes its channels repeat.
        parts = [repeated(part) for part in flat(moved)]
        parts = [_hold_given(state, node, part) for part in parts]
        state.labels[node] = list(parts) if isinstance(moved, list) else parts[0]

    def value(self, state: Analysis, node: Node) -> None:
        operands = {source: state.values_of(source).double() for source in node.all_input_nodes}
        if all(bool(narrow(values).isnan().all()) for values in operands.values()):
            super().value(state, node)  # live, wherever it goes
        else:
            state.values[node] = _listed(self.run(node, operands))

    def use(self, state: Analysis, node: Node) -> None:
        masks = flat(state.used[node])
        if all(bool(narrow(mask).all()) for mask in masks):
            moved = sum(mask.numel() for mask in masks)
            if moved >= sum(shape_of(source).numel() for source in node.all_input_nodes):
                super().use(state, node)  # everything that is there is used; to number it would take long
                return
        for source in node.all_input_nodes:
            if source in state.labels:
                state.mark(source, repeated(self._read(node, source, masks)))

    def _read(self, node: Node, source: Node, masks: list[Tensor]) -> Tensor:
        """Return which elements of an operand arrive where something is used."""
        elsewhere = {each: torch.zeros(shape_of(each), dtype=torch.bool) for each in node.all_input_nodes}
        read = elsewhere[source]
        parts = flat(_listed(self.run(node, elsewhere)))
        if all(_looks_at(part, read) for part in parts):  # what is written into a view is written there
            for part, mask in zip(parts, masks, strict=True):
                part.logical_or_(mask)
            return read
        # Number the elements of the operand from 1 and see which numbers arrive.
        numbers = torch.arange(1, read.numel() + 1).reshape(read.shape)
        whole = {each: torch.zeros(shape_of(each), dtype=torch.int64) for each in elsewhere}
        found = torch.zeros(read.numel() + 1, dtype=torch.bool)
        for part, mask in zip(flat(_listed(self.run(node, {**whole, source: numbers}))), masks, strict=True):
            found[part[mask]] = True
        return found[1:].reshape(read.shape)

    def keep(self, state: Analysis, node: Node, kept: Kept) -> None:
        """Keep all channels of a movement that, run on the kept ones alone, would put them elsewhere.

        Where the arguments are the sizes of the result, the forward has to compute them, or it fails and is suspected.
        """
        if literal(node) == "sizes" or node in state.unknown or follows(state, node):
            return
        before = {source: state.labels_of(source) for source in node.all_input_nodes}
        if "chunk" in base(node):
            _even_chunks(state, node, kept)
        # The forward will run this operator, with the same numbers, on what is left. So run it: `x[:, 8:]` of fewer
        # channels starts at another one, while a flip of all channels is a flip of those that are left.
        if all(bool(kept.of(labels).all()) for labels in before.values()):
            return
        try:
            after = flat(self.move_labels(node, {source: kept.left(labels) for source, labels in before.items()}))
            expected = [kept.left(labels) for labels in flat(state.labels[node])]
            same = len(after) == len(expected) and all(map(torch.equal, after, expected))
        except (RuntimeError, IndexError):
            same = False
        if not same:
            for labels in before.values():
                kept.add(labels, f"moved by `{base(node)}` in a way that counts channels")


def _hold_given(state: Analysis, node: Node, labels: Tensor) -> Tensor:
    """Keep the sizes that a view was given beside a −1, which follows: of (heads, width) one alone can change."""
    inside = base(node) == "unflatten"
    sizes = argument(node, 2 if inside else 1, "sizes") if base(node) in VIEWS else None
    if not isinstance(sizes, list | tuple) or -1 not in sizes:
        return labels
    start = int(argument(node, 1, "dim")) % len(shape_of(operand(node))) if inside else 0
    follows = start + list(sizes).index(-1)
    if not bool(varies(labels, [follows]).any()):
        return labels
    given = [axis for axis in range(start, start + len(sizes)) if axis != follows]
    return state.classes.hold(labels, given, f"passes `{base(node)}` with a literal size")


def _even_chunks(state: Analysis, node: Node, kept: Kept) -> None:
    """Keep as many channels of each part of a chunk, so that it is cut where it was."""
    parts = [narrow(part) for part in flat(state.labels[node])]
    axis = int(argument(node, 2, "dim", 0)) % parts[0].ndim
    if len({part.shape for part in parts}) == 1 and parts[0].numel() == parts[0].shape[axis] > 1:
        fill_up(torch.stack([part.flatten() for part in parts]), kept, "part of a chunk, cut in equal parts")


def _looks_at(part: Tensor, whole: Tensor) -> bool:
    """Whether a tensor is a view of another one in which no element lies twice."""
    shares = part.untyped_storage().data_ptr() == whole.untyped_storage().data_ptr()
    return shares and all(stride or size < 2 for size, stride in zip(part.shape, part.stride(), strict=True))


def _listed(result: Any) -> Any:
    return list(result) if isinstance(result, list | tuple) else result


@rule("constant_pad_nd", literal="positions", fill=2)
@rule("pad", literal="positions", fill=3)
class Padding(Movement):
    """A border of one number, or of the inside's own elements.

    Parameters
    ----------
    fill : int
        Where the number stands among the arguments.
    """

    def __init__(self, fill: int) -> None:
        self.fill = fill

    def constant(self, node: Node) -> bool:
        """Whether the border is a number."""
        return base(node) == "constant_pad_nd" or argument(node, 2, "mode", "constant") == "constant"

    def run(self, node: Node, operands: dict[Node, Tensor], number: float = 0.0) -> Any:
        source, amounts = operands[node.all_input_nodes[0]], argument(node, 1, "pad")
        if self.constant(node):
            return F.pad(source, amounts, value=number)
        return F.pad(source.double(), amounts, mode=argument(node, 2, "mode")).to(source.dtype)

    def move_labels(self, node: Node, operands: dict[Node, Tensor]) -> Labels:
        if self.constant(node):
            return _pad_labels(operands[node.all_input_nodes[0]], argument(node, 1, "pad"))
        return super().move_labels(node, operands)

    def value(self, state: Analysis, node: Node) -> None:
        operands = {source: state.values_of(source).double() for source in node.all_input_nodes}
        padded: Tensor = self.run(node, operands, float(argument(node, self.fill, "value", 0.0) or 0.0))
        labels = state.labels_of(node)
        positions = [axis for axis in range(padded.ndim) if not bool(varies(labels, [axis]).any())]
        if positions:
            # The border differs from the inside, at another size elsewhere: a constant only where both are equal.
            padded = torch.where(varies(padded, positions), NAN, padded)
        if self.constant(node) and not _widened(node, positions):
            number = float(argument(node, self.fill, "value", 0.0) or 0.0)
            # Amounts of 0 may be computed from the size, and be others at another one.
            padded = torch.where(padded == number, padded, NAN)
            if number == 0 and CHANNELS not in positions:
                self._scale(state, node)
        state.values[node] = padded

    def _scale(self, state: Analysis, node: Node) -> None:
        """Say which factor of one map each padded constant is, for convolutions that alone read it."""
        source = operand(node)
        dims = len(shape_of(node))
        alone = all(
            merges(state, user) and operand(user) is node and channel_axis(user) == CHANNELS for user in node.users
        )
        if alone and dims > 2:
            factor = uniform(state.values_of(source), CHANNELS)
            state.scaled[node] = torch.where(factor == 0, NAN, factor)


def _widened(node: Node, positions: Sequence[int]) -> bool:
    """Whether a border is added along an axis of channels: its amounts are literals."""
    amounts = argument(node, 1, "pad")
    dims = len(shape_of(node))
    padded = [dims - 1 - i // 2 for i, amount in enumerate(amounts) if amount]
    return any(axis not in positions for axis in padded)


def _pad_labels(labels: Tensor, amounts: Sequence[int]) -> Tensor:
    """Pad labels by 0, no class, along axes of channels; along others what is padded belongs to the channel there."""
    pairs = list(zip(amounts[::2], amounts[1::2], strict=True))[::-1]
    pairs = [(0, 0)] * (labels.ndim - len(pairs)) + pairs
    # An axis along which labels repeat holds positions: the padded ones belong to the same channels.
    thin = narrow(repeated(labels))
    shape = [size + sum(pair) for size, pair in zip(labels.shape, pairs, strict=True)]
    varied = [
        pair if size == thin.shape[axis] else (0, 0)
        for axis, (size, pair) in enumerate(zip(labels.shape, pairs, strict=True))
    ]
    return F.pad(thin, [amount for pair in varied[::-1] for amount in pair]).expand(shape)
