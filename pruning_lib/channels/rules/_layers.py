"""Linear and convolution layers: rows of their weight write channels, columns read them.

A weight is seen as blocks of shape (groups, outputs of a group, inputs of a group); most layers are one block. A
transposed convolution is the same with both axes swapped. In a grouped layer each group may lose other channels, but
all groups that stay must be left with equally many.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fx import Node

from pruning_lib.channels._graph import argument, base, computes, operand, shape_of
from pruning_lib.channels._shapes import NAN, by_channel, finite, in_groups, spread, uniform
from pruning_lib.channels._state import Analysis, Call, Kept
from pruning_lib.channels.rules._registry import Rule, rule

SPATIAL = {"linear": 0, **{f"conv{d}d": d for d in (1, 2, 3)}, **{f"conv_transpose{d}d": d for d in (1, 2, 3)}}
CHUNK = 1 << 22  # weights that are summed in float64 at a time


def weighs(node: Node) -> bool:
    """Whether the node multiplies by a weight whose rows are units."""
    return computes(node) and base(node) in SPATIAL


def transposed(node: Node) -> bool:
    """Whether the weight's first axis counts inputs."""
    return base(node).startswith("conv_transpose") or "inputs first" in node.meta


def channel_axis(node: Node) -> int:
    """Return the axis that holds the channels of what a layer or a BatchNorm reads and returns."""
    return len(shape_of(node)) - 1 - SPATIAL[base(node)] if weighs(node) else 1


def groups_of(node: Node) -> int:
    """Return a convolution's number of groups."""
    return int(argument(node, 6, "groups", 1)) if base(node) != "linear" else 1


def reads_zeros(node: Node) -> bool:
    """Whether zeros or gaps are read beside the input, so that a constant gives an output that varies at the border."""
    if base(node) == "linear":
        return False
    padding = argument(node, 4, "padding", 0)
    if isinstance(padding, str):  # a kernel of one tap needs no padding to keep the size
        return padding == "same" and any(taps > 1 for taps in shape_of(operand(node, 1))[2:])
    return transposed(node) or (any(padding) if isinstance(padding, list | tuple) else bool(padding))


def blocks(weight: Tensor, node: Node) -> Tensor:
    """View a weight of shape (axis 0, axis 1, …) as (groups, outputs, inputs, …)."""
    split = in_groups(weight, groups_of(node))
    return split.transpose(1, 2) if transposed(node) else split


@rule("linear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d")
class Layer(Rule):
    """Columns of the weight are the channels that come in, its rows those that go out."""

    def label(self, state: Analysis, node: Node) -> None:
        source, weight, bias = operand(node), operand(node, 1), argument(node, 2, "bias")
        groups, axis = groups_of(node), channel_axis(node)
        if weight not in state.leaves:
            state.give_up(node, "feeds a layer whose weight forward computes")
            return
        # The labels of axis 1 belong to one number of groups: a second call with another one cannot share them.
        sides = state.axis(weight, 0), state.axis(weight, 1, groups)
        rows, columns = (sides[1], sides[0]) if transposed(node) else sides
        if len(rows) != shape_of(node)[axis] or len(columns) != shape_of(source)[axis]:
            state.give_up(node, "feeds a layer whose weight is read with two numbers of groups")
            return
        call = Call(node, weight, rows, columns, groups)
        reason = "has a weight that something else reads" if not rows.any() else "reads values that cannot shrink"
        if call.depthwise:  # a group without its one input would be a group of constants: both go together
            state.classes.union(rows.reshape(groups, -1), columns[:, None], reason)
        state.classes.union(columns[:, None], by_channel(state.labels_of(source), axis), reason)
        if isinstance(bias, Node):
            state.classes.union(rows, state.labels_of(bias, vector=True), "has a bias that cannot shrink")
        state.labels[node] = spread(rows, axis, shape_of(node))
        state.calls.append(call)

    def value(self, state: Analysis, node: Node) -> None:
        """Call an output constant if every tap to a live input is exactly 0."""
        bias, axis, groups = argument(node, 2, "bias"), channel_axis(node), groups_of(node)
        read = uniform(state.values_of(operand(node)), axis)
        # Where zeros are read beside it, a constant other than 0 varies towards the border as a live channel does.
        live = read.isnan() | (reads_zeros(node) & (read != 0))
        constant = ~(taps(state, node) & live.reshape(groups, 1, -1)).any(2).flatten()
        result = weighted_sum(state, node, torch.where(live, 0.0, read))
        if isinstance(bias, Node):
            result = result + state.values_of(bias).double()
        state.read[node] = read
        state.values[node] = spread(torch.where(constant, finite(result), NAN), axis, shape_of(node))

    def use(self, state: Analysis, node: Node) -> None:
        """Call an input read if a tap to an output that is used differs from 0."""
        source, axis, groups = operand(node), channel_axis(node), groups_of(node)
        rows = by_channel(state.used_of(node), axis).any(1)
        read = (taps(state, node) & rows.reshape(groups, -1, 1)).any(1).flatten()
        state.mark(source, spread(read, axis, shape_of(source)))


def taps(state: Analysis, node: Node) -> Tensor:
    """Return a bool tensor (groups, outputs, inputs): whether any tap of the kernel between them differs from 0."""
    weight = operand(node, 1)
    # Once a weight: label, value, use and every round of `keep` ask for it.
    if weight not in state.taps:
        nonzero = blocks(state.tensor(weight).detach() != 0, node)
        state.taps[weight] = (nonzero.flatten(3).any(-1) if nonzero.ndim > 3 else nonzero).cpu()
    return state.taps[weight]


def weighted_sum(state: Analysis, node: Node, factors: Tensor) -> Tensor:
    """Return Σ f w over all inputs and taps, (outputs,), in float64, without a copy of the whole weight."""
    weight, groups = state.tensor(operand(node, 1)).detach(), groups_of(node)
    index = factors.nonzero()[:, 0]
    if not len(index):
        return torch.zeros(taps(state, node).shape[:2]).double().flatten()
    if groups > 1 or transposed(node):
        split = blocks(weight, node).double()
        sums = (split.flatten(3).sum(-1) if split.ndim > 3 else split).cpu()
        return (sums @ factors.reshape(groups, -1, 1)).flatten()
    # A slice of rows at a time, and of these the columns of constants alone.
    index = index.to(weight.device)
    size = max(1, CHUNK // weight[:1].numel())
    columns = [part.index_select(1, index).double() for part in torch.split(weight, size)]
    sums = torch.cat([part.flatten(2).sum(-1) if part.ndim > 2 else part for part in columns])
    return sums.cpu() @ factors[index.cpu()]


def merges(state: Analysis, node: Node) -> bool:
    """Whether a node is a layer of one group whose weight is its own, so that one column can stand for others."""
    if not weighs(node) or node in state.unknown or node in state.severed or groups_of(node) > 1:
        return False
    weight = operand(node, 1)
    return weight in state.graph.owned and len(weight.users) == 1


def balance(call: Call, kept: Kept) -> None:
    """Let every group that stays keep equally many rows, and equally many columns, at least one of each."""
    if call.groups == 1:
        return
    sides = [labels.reshape(call.groups, -1) for labels in (call.rows, call.columns)]
    stays = [kept.of(labels) for labels in sides]
    occupied = stays[0].any(1) | stays[1].any(1)
    for labels in sides:
        # All groups are filled up to the fullest: their weights have to fit into one tensor.
        fill_up(labels[occupied], kept, "one of a group, whose sizes must stay equal")


def fill_up(parts: Tensor, kept: Kept, reason: str) -> None:
    """Keep as many labels of each part, (parts, labels), as of the fullest, at least one."""
    stays = kept.of(parts)
    most = max([1, *stays.sum(1).tolist()])
    lacking = stays.sum(1) < most
    for labels, stay in zip(parts[lacking], stays[lacking], strict=True):
        kept.add(labels[~stay][: most - int(stay.sum())], reason)


def kept_groups(call: Call, kept: Kept) -> Tensor:
    """Return which groups of a grouped convolution stay, (groups,)."""
    return kept.of(call.columns).reshape(call.groups, -1).any(1)
