"""Linear and convolution layers: who reads whom, which outputs are constant, where a removed constant goes.

A weight is seen as blocks of shape (groups, outputs of a group, inputs of a group); most layers are one block. A
transposed convolution is the same with both axes swapped. In a grouped layer each group may lose other channels, but
all groups that stay must be left with equally many.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.fx import Node

from pruning_lib.channels._shapes import NAN, by_channel, finite, parts, spread, uniform
from pruning_lib.channels._trace import argument, base, shape_of

if TYPE_CHECKING:
    from pruning_lib.channels._liveness import Analysis, Kept

SPATIAL = {"linear": 0, **{f"conv{d}d": d for d in (1, 2, 3)}, **{f"conv_transpose{d}d": d for d in (1, 2, 3)}}
CHUNK = 1 << 22  # weights that are summed in float64 at a time


@dataclass
class Call:
    """One call of a linear or convolution layer: the node, its weight, the labels on both of its sides."""

    node: Node
    weight: Node
    rows: Tensor
    columns: Tensor
    groups: int = 1

    @property
    def depthwise(self) -> bool:
        """Whether each group reads one channel, so that its outputs live and die with it."""
        return self.groups > 1 and len(self.columns) == self.groups


def weighs(node: Node) -> bool:
    """Whether the node multiplies by a weight whose rows are units."""
    return node.op == "call_function" and base(node) in SPATIAL


def transposed(node: Node) -> bool:
    """Whether the weight's first axis counts inputs."""
    return base(node).startswith("conv_transpose")


def channel_axis(node: Node) -> int:
    """Return the axis of the input and the output that holds channels."""
    return len(shape_of(node)) - 1 - SPATIAL[base(node)]


def groups_of(node: Node) -> int:
    """Return a convolution's number of groups."""
    return int(argument(node, 6, "groups", 1)) if base(node) != "linear" else 1


def uneven(node: Node) -> bool:
    """Whether a constant input c ≠ 0 gives an output that varies over positions: zeros or gaps are read beside it."""
    if base(node) == "linear":
        return False
    padding = argument(node, 4, "padding", 0)
    if isinstance(padding, str):
        return padding != "valid"
    return transposed(node) or (any(padding) if isinstance(padding, list | tuple) else bool(padding))


def blocks(weight: Tensor, node: Node) -> Tensor:
    """View a weight of shape (axis 0, axis 1, …) as (groups, outputs, inputs, …)."""
    found = parts(weight, groups_of(node))
    return found.transpose(1, 2) if transposed(node) else found


# Labels, values, uses


def weigh_label(state: Analysis, node: Node) -> None:
    """Join the columns of the weight with what comes in, and give its rows to what goes out."""
    source, weight, bias = node.args[0], node.args[1], argument(node, 2, "bias")
    assert isinstance(source, Node)
    assert isinstance(weight, Node)
    groups, axis = groups_of(node), channel_axis(node)
    if weight not in state.leaves:
        state.give_up(node, "has a weight that forward computes")
        return
    sides = state.axis(weight, 0), state.axis(weight, 1, groups)
    rows, columns = (sides[1], sides[0]) if transposed(node) else sides
    if len(rows) != shape_of(node)[axis] or len(columns) != shape_of(source)[axis]:
        state.give_up(node, "has a weight that is read with two numbers of groups")
        return
    inputs = by_channel(state.of(source), axis)
    call = Call(node, weight, rows, columns, groups)
    reason = "has a weight that something else reads" if not rows.any() else "reads values that cannot shrink"
    if call.depthwise:
        state.classes.union(rows.reshape(groups, -1), columns[:, None], reason)
    state.classes.union(columns[:, None], inputs, reason)
    if isinstance(bias, Node):
        state.classes.union(rows, state.of(bias, vector=True), "has a bias that cannot shrink")
    state.labels[node] = spread(rows, axis, shape_of(node))
    state.calls.append(call)


def taps(state: Analysis, node: Node) -> Tensor:
    """Return a bool tensor (groups, outputs, inputs): whether any tap of the kernel between them differs from 0."""
    weight = node.args[1]
    if weight not in state.taps:
        found = blocks(state.tensor(weight).detach() != 0, node)
        state.taps[weight] = (found.flatten(3).any(-1) if found.ndim > 3 else found).cpu()
    return state.taps[weight]


def weigh_value(state: Analysis, node: Node) -> None:
    """Call an output constant if every tap to a live input is exactly 0."""
    bias, axis, groups = argument(node, 2, "bias"), channel_axis(node), groups_of(node)
    constants = uniform(state.value(node.args[0]), axis)
    live = constants.isnan() | (uneven(node) & (constants != 0))
    fixed = ~(taps(state, node) & live.reshape(groups, 1, -1)).any(2).flatten()
    found = dot(state, node, torch.where(live, 0.0, constants))
    if isinstance(bias, Node):
        found = found + state.value(bias).double()
    state.constants[node] = constants
    state.values[node] = spread(torch.where(fixed, finite(found), NAN), axis, shape_of(node))


def dot(state: Analysis, node: Node, factors: Tensor) -> Tensor:
    """Return Σ f w over all inputs and taps, (outputs,), in float64, without a copy of the whole weight."""
    weight, groups = state.tensor(node.args[1]).detach(), groups_of(node)
    index = factors.nonzero()[:, 0]
    if not len(index):
        return torch.zeros(taps(state, node).shape[:2]).double().flatten()
    if groups > 1 or transposed(node):
        sums = blocks(weight, node).double().flatten(3).sum(-1).cpu()
        return (sums @ factors.reshape(groups, -1, 1)).flatten()
    index = index.to(weight.device)
    size = max(1, CHUNK // weight[:1].numel())
    columns = [part.index_select(1, index).double() for part in torch.split(weight, size)]
    sums = torch.cat([part.flatten(2).sum(-1) if part.ndim > 2 else part for part in columns])
    return sums.cpu() @ factors[index.cpu()]


def weigh_use(state: Analysis, node: Node) -> None:
    """Call an input read if a tap to an output that is used differs from 0."""
    source, axis, groups = node.args[0], channel_axis(node), groups_of(node)
    assert isinstance(source, Node)
    rows = by_channel(state.used[node], axis).any(1)
    read = (taps(state, node) & rows.reshape(groups, -1, 1)).any(1).flatten()
    state.mark(source, spread(read, axis, shape_of(source)))


# Constants


def merges(state: Analysis, node: Node) -> bool:
    """Whether a node is a layer of one group whose weight is its own, so that columns can stand for others."""
    if not weighs(node) or node in state.unknown or node in state.severed or groups_of(node) > 1:
        return False
    weight = node.args[1]
    assert isinstance(weight, Node)
    return weight in state.graph.owned and len(weight.users) == 1


def compensation(state: Analysis, call: Call) -> str:
    """Say where a constant that `call` reads can go; "" if nowhere.

    "fold": into the bias; "center": into the running mean of the BatchNorm that alone reads a layer without a bias;
    "merge": into one column that stays, where zeros beyond the border are read too.
    """
    node, weight, bias = call.node, call.weight, argument(call.node, 2, "bias")
    if uneven(node):
        return "merge" if merges(state, node) else ""
    if isinstance(bias, Node):
        return "fold" if bias in state.graph.owned and len(bias.users) == 1 else ""
    if weight not in state.graph.biasless or len(weight.users) > 1:
        return ""
    return "center" if centered(state, node) else "fold"


def centered(state: Analysis, node: Node) -> Node | None:
    """Return the running mean of the BatchNorm that alone reads a node, if nothing else reads either."""
    reader = next(iter(node.users), None)
    if len(node.users) != 1 or reader is None or base(reader) != "batch_norm" or reader in state.unknown:
        return None
    mean = reader.args[3]
    assert isinstance(mean, Node)
    return mean if mean in state.graph.owned and len(mean.users) == 1 and reader not in state.severed else None


def represent(state: Analysis, call: Call, kept: Kept) -> None:
    """Keep what stands for removed constants: one column where they merge, each of them where nothing can."""
    read = removed_constants(state, call, kept)
    known = {how: values for values, how in factors(state, call)}
    # A constant that is not the same at every position is no number to fold.
    apart = read[torch.stack([values[read].isnan() for values in known.values()]).all(0)]
    kept.add(call.columns[apart], "a constant that varies over positions")
    for how, values in known.items():
        gone, stays = read[~values[read].isnan()], kept.of(call.columns)
        if len(gone) and not how:
            kept.add(call.columns[gone], "a constant that its reader cannot absorb")
        elif len(gone) and how.startswith("merge") and representative(values, stays, gone) is None:
            kept.add(call.columns[gone[values[gone].abs().argmax()]], STANDS)


def factors(state: Analysis, call: Call) -> list[tuple[Tensor, str]]:
    """Return what a call reads that no input changes, (columns,), NaN where it is live, and where it can go.

    First constants, then factors of one map that varies over positions: what a padded mean makes of constants.
    """
    found = [(state.constants[call.node], compensation(state, call))]
    scaled = state.scaled.get(call.node.args[0])  # type: ignore[arg-type]
    return found if scaled is None else [*found, (scaled, "merge scaled")]


STANDS = "the constant that stands for others where zeros are read beside it"


def removed_constants(state: Analysis, call: Call, kept: Kept) -> Tensor:
    """Return the columns that go although an output that matters reads a constant there, other than 0."""
    axis = channel_axis(call.node)
    constant = ~by_channel(state.values[call.node], axis)[:, 0].isnan()
    used = state.used.get(call.node)
    matters = constant if used is None else constant | by_channel(used, axis).any(1)
    rows = (kept.of(call.rows) & matters).reshape(call.groups, -1, 1)
    read = (taps(state, call.node) & rows).any(1).flatten()
    return (read & ~kept.of(call.columns) & (state.constants[call.node] != 0)).nonzero()[:, 0]


def representative(constants: Tensor, stays: Tensor, gone: Tensor) -> int | None:
    """Return the kept constant that can stand for those in `gone`; one much smaller than they are would not do."""
    size = torch.where(stays & ~constants.isnan(), constants, 0.0).abs()
    best = int(size.argmax())
    return best if size[best] >= 0.1 * constants[gone].abs().max() else None


# Groups


def balance(call: Call, kept: Kept) -> None:
    """Let every group that stays keep equally many rows, and equally many columns, at least one of each."""
    if call.groups == 1:
        return
    sides = [labels.reshape(call.groups, -1) for labels in (call.rows, call.columns)]
    stays = [kept.of(labels) for labels in sides]
    used = stays[0].any(1) | stays[1].any(1)
    for labels, stay in zip(sides, stays, strict=True):
        most = max(int(stay.sum(1).max()), 1)
        for group in used.nonzero()[:, 0].tolist():
            spare = labels[group][~stay[group]]
            kept.add(spare[: most - int(stay[group].sum())], "one of a group, whose sizes must stay equal")


def kept_groups(call: Call, kept: Kept) -> Tensor:
    """Return which groups of a grouped convolution stay, (groups,)."""
    return kept.of(call.columns).reshape(call.groups, -1).any(1)
