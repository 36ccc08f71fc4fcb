"""Where removed constants go: into a bias, into a running mean, or into one constant column that stays.

A channel that always is c adds c·ΣW to what its readers compute, ΣW over the taps that reach it. Removing the channel
removes this sum, so it is added elsewhere first. Where no zeros are read beside the input, the sum is the same at every
position and fits into the bias, or, if a BatchNorm follows, into its running mean with the other sign. At a border of
zeros fewer taps count, and no bias can say that: there a column of another constant c_j, which stays, takes over:
W_j ← W_j + (c / c_j) W, and the border treats it as it treated the one that went. Derived in the chapter
`from-zeros-to-smaller`.

`represent` decides, while it is solved what stays; `compensate` does it, on the small model.
"""

from __future__ import annotations

from typing import Literal, TypeGuard

import torch
from torch import Tensor, nn
from torch.fx import Node

from pruning_lib._model import tensors_of
from pruning_lib.channels._graph import argument, base, caller, operand
from pruning_lib.channels._shapes import NAN, by_channel, distinct, uniform
from pruning_lib.channels._state import Analysis, Call, Kept
from pruning_lib.channels.rules._layers import (
    channel_axis,
    kept_groups,
    reads_zeros,
    taps,
    transposed,
    weighted_sum,
)

Home = Literal["fold", "center", "merge", "merge scaled", ""]
"""Into the bias; into the running mean; into a column; into a column, of maps equal up to a factor; nowhere."""
STANDS = "the representative of the constants that went, since its reader pads with zeros"
CONSTANT = "a constant that"  # so begins why something stays that is one
SMALL = 0.1  # a constant under a tenth of the one that it would stand for would multiply its weights by ten and more


def home(state: Analysis, call: Call, kept: Kept) -> Home:
    """Say where a constant that `call` reads can go."""
    node, weight, bias = call.node, call.weight, argument(call.node, 2, "bias")
    calls = {each.node for each in siblings(state, call)}
    # At the border fewer taps meet the constant, and a bias is the same everywhere: only another column does.
    if reads_zeros(node):
        alone = set(weight.users) == calls and weight in state.graph.owned
        # A grouped convolution of which one group is left is a plain one.
        single = call.groups == 1 or (not transposed(node) and int(kept_groups(call, kept).sum()) == 1)
        return "merge" if alone and single else ""
    # A bias that something else reads, as a second layer, would change there as well.
    if isinstance(bias, Node):
        return "fold" if bias in state.graph.owned and set(bias.users) == calls else ""
    if weight not in state.graph.biasless or set(weight.users) != calls:
        return ""
    # A BatchNorm subtracts its mean from what this layer returns; to lower the mean is to raise what it returns, and
    # saves a bias that training would not need.
    return "center" if len(calls) == 1 and running_mean(state, node) else "fold"


def siblings(state: Analysis, call: Call) -> list[Call]:
    """Return all calls of the layer that `call` calls: it may be called for several inputs, or several times over."""
    if len(call.weight.users) == 1:
        return [call]
    return [each for each in state.calls if each.weight is call.weight]


def running_mean(state: Analysis, node: Node) -> Node | None:
    """Return the running mean of the BatchNorm that alone reads a node, if nothing else reads either."""
    reader = next(iter(node.users), None)
    if len(node.users) != 1 or reader is None or base(reader) != "batch_norm" or reader in state.unknown:
        return None
    mean = operand(reader, 3)
    return mean if mean in state.graph.owned and len(mean.users) == 1 and reader not in state.severed else None


def factors(state: Analysis, call: Call, kept: Kept) -> list[tuple[Tensor, Home]]:
    """Return what a call reads that no input changes, (columns,), NaN where it is live, and where it can go.

    First constants, then factors of one map that varies over positions: what a padded mean makes of constants.
    """
    reads = [state.read[each.node] for each in siblings(state, call)]
    alike = torch.stack([read == reads[0] for read in reads]).all(0)  # one weight cannot make up for two constants
    constants: list[tuple[Tensor, Home]] = [(torch.where(alike, reads[0], NAN), home(state, call, kept))]
    scaled = state.scaled.get(operand(call.node))
    return constants if scaled is None else [*constants, (scaled, "merge scaled")]


def removed_constants(state: Analysis, call: Call, kept: Kept) -> Tensor:
    """Return the columns that go although an output that matters reads a constant there, other than 0, in any call."""
    found = [_removed_in(state, each, kept) for each in siblings(state, call)]
    return found[0] if len(found) == 1 else distinct(torch.cat(found))


def _removed_in(state: Analysis, call: Call, kept: Kept) -> Tensor:
    """Return the columns that go although one call reads constants there."""
    gone = ~kept.of(call.columns) & (state.read[call.node] != 0)
    if not bool(gone.any()):
        return gone.nonzero()[:, 0]
    axis = channel_axis(call.node)
    constant = ~by_channel(state.values_of(call.node), axis)[:, 0].isnan()
    # No use is marked of a constant output, and yet its readers count on its value.
    matters = constant
    if call.node in state.used:
        matters = matters | by_channel(state.used_of(call.node), axis).any(1)
    rows, known = kept.of(call.rows) & matters, taps(state, call.node)
    if call.groups == 1:  # nearly all; to look at some rows is half the work
        return (known[0, rows].any(0) & gone).nonzero()[:, 0]
    return ((known & rows.reshape(call.groups, -1, 1)).any(1).flatten() & gone).nonzero()[:, 0]


def representative(constants: Tensor, stays: Tensor, removed: Tensor) -> int | None:
    """Return the kept constant that can stand for those in `removed`; one much smaller than they are would not do."""
    size = torch.where(stays & ~constants.isnan(), constants, 0.0).abs()
    # The largest: the weights of the others are multiplied by c_k / c_j, and rounding grows with the factor.
    best = int(size.argmax())
    return best if size[best] >= SMALL * constants[removed].abs().max() else None


def represent(state: Analysis, call: Call, kept: Kept) -> None:
    """Keep what stands for removed constants: one column where they merge, each of them where nothing can."""
    read = removed_constants(state, call, kept)
    known = {where: values for values, where in factors(state, call, kept)}
    # A constant that is not the same at every position is not one number, and fits into no bias.
    apart = read[torch.stack([values[read].isnan() for values in known.values()]).all(0)]
    once = len(siblings(state, call)) == 1
    kept.add(call.columns[apart], f"{CONSTANT} varies over {'positions' if once else 'positions or calls'}")
    for where, values in known.items():
        # Anew for each kind: what was kept for the one may stand for constants of the other.
        removed, stays = read[~values[read].isnan()], kept.of(call.columns)
        if len(removed) and not where:
            kept.add(call.columns[removed], f"{CONSTANT} its reader cannot absorb")
        elif len(removed) and where.startswith("merge") and representative(values, stays, removed) is None:
            kept.add(call.columns[removed[values[removed].abs().argmax()]], STANDS)


def creates_bias(state: Analysis, kept: Kept, call: Call) -> bool:
    """Whether a layer gets a bias, to hold constants that were removed in front of it."""
    if home(state, call, kept) != "fold" or argument(call.node, 2, "bias") is not None:
        return False
    removed = removed_constants(state, call, kept)
    # NaN are maps that vary, which merge instead.
    return not bool(state.read[call.node][removed].isnan().all())


def stand_in(state: Analysis, node: Node) -> Tensor:
    """Return the constants that a severed layer is replaced by, (channels,); zeros if severed layers alone follow."""
    # Whatever a severed layer is given, it returns its constants, so zeros in front of it do, and cost no parameter.
    vector = state.severed[node]
    return torch.zeros_like(vector) if all(user in state.severed for user in node.users) else vector


@torch.no_grad()
def compensate(state: Analysis, kept: Kept, small: nn.Module) -> None:
    """Add what removed constants contributed to the small model's biases, running means and columns, in float64."""
    tensors = {name: tensor for name, _, _, tensor in tensors_of(small)}
    for call in state.calls:
        if call is not siblings(state, call)[0]:  # what a layer reads in every call is added once
            continue
        read = removed_constants(state, call, kept)
        for constants, where in factors(state, call, kept):
            removed = read[~constants[read].isnan()]
            if len(removed) and where in ("fold", "center"):
                _shift(state, kept, call, _only(constants, removed), tensors)
            elif len(removed):
                _merge(state, kept, call, constants, removed, tensors)
    # `apply` has put a `Constant` in the place of each severed layer, of zeros so far.
    for node in state.severed:
        stub = small.get_submodule(caller(state.graph, node)[0])
        channels = by_channel(state.labels_of(node), channel_axis(node))[:, 0]
        assert isinstance(stub.bias, Tensor)
        stub.bias.copy_(stand_in(state, node)[kept.of(channels)])
    _freeze_representatives(state, kept, tensors)


def _shift(state: Analysis, kept: Kept, call: Call, constants: Tensor, tensors: dict[str, Tensor]) -> None:
    """Add c·ΣW to the bias, or take it from the mean that a BatchNorm subtracts."""
    names, delta = state.graph.names, weighted_sum(state, call.node, constants)[kept.of(call.rows)]
    if home(state, call, kept) == "center":
        mean = running_mean(state, call.node)
        assert mean is not None
        _add(tensors[names[mean]], -delta)
    else:
        bias = argument(call.node, 2, "bias")
        # A bias that did not exist has no node; the plan created it under the layer's name.
        layer = state.graph.owner(state.leaves[call.weight][0])
        _add(tensors[names[bias] if isinstance(bias, Node) else f"{layer}.bias"], delta)


def _merge(
    state: Analysis, kept: Kept, call: Call, constants: Tensor, removed: Tensor, tensors: dict[str, Tensor]
) -> None:
    """Add columns of constants that go to the column of one that stays."""
    stays, rows = kept.of(call.columns), kept.of(call.rows)
    best = representative(constants, stays, removed)
    assert best is not None
    weight = state.tensor(call.weight).detach()
    axis = 0 if transposed(call.node) else 1
    # Of a grouped weight one group is left, and its columns are counted from the group's first.
    places = removed if transposed(call.node) else removed % weight.shape[axis]
    columns = weight.index_select(axis, places.to(weight.device)).movedim(axis, -1)[rows.to(weight.device)].double()
    # Column `best` of the dense weight is this one of the small weight: as many as stay lie before it.
    column = tensors[state.graph.names[call.weight]].select(axis, int(stays[:best].sum()))
    _add(column, columns @ (constants[removed] / constants[best]).to(weight.device))


def _only(constants: Tensor, index: Tensor) -> Tensor:
    """Return the constants at `index`, 0 elsewhere."""
    return torch.zeros_like(constants).index_copy_(0, index, constants[index])


def _add(target: Tensor, delta: Tensor) -> None:
    # Added in float64 and rounded once: in half precision a sum of many small constants would lose all of them.
    target.copy_((target.double() + delta.to(target.device)).to(target.dtype))


def _freeze_representatives(state: Analysis, kept: Kept, tensors: dict[str, Tensor]) -> None:
    """Freeze each kept constant channel behind a BatchNorm: γ = 0, β = c.

    While it trains, its statistics would otherwise be those of the batch, and what stands for a constant would move.
    With γ = 0 it is the same constant in both modes, and no gradient reaches the row that writes it.
    """
    names = state.graph.names
    stand = torch.tensor(sorted(kept.notes.get(STANDS, ())), dtype=torch.int64)
    for node, labels in state.norms:
        gamma, beta = node.args[1], node.args[2]
        values = uniform(state.values_of(node), 1)
        mine = torch.isin(state.classes.roots[labels], stand) & ~values.isnan()
        if _plain(gamma, state) and _plain(beta, state) and bool(mine.any()):
            stays = kept.of(labels)
            scale, shift = tensors[names[gamma]], tensors[names[beta]]
            scale[mine[stays].to(scale.device)] = 0
            shift[mine[stays].to(shift.device)] = values[mine & stays].to(shift)


def _plain(parameter: object, state: Analysis) -> TypeGuard[Node]:
    """Whether a parameter is registered, and read here alone."""
    return isinstance(parameter, Node) and parameter in state.graph.owned and len(parameter.users) == 1
