"""Write down what stays of every tensor, and say why what carries nothing stays, too."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor
from torch.fx import Node

from pruning_lib.channels._compensate import creates_bias, stand_in
from pruning_lib.channels._graph import base, caller
from pruning_lib.channels._heads import counted, counts
from pruning_lib.channels._plan import Plan
from pruning_lib.channels._shapes import by_channel, distinct
from pruning_lib.channels._state import Analysis, Call, Kept, layer_of
from pruning_lib.channels.rules._attention import weights_sum_to_one
from pruning_lib.channels.rules._layers import blocks, channel_axis, kept_groups
from pruning_lib.units import Group, Units

LOST = "what they hold varies or is lost on the way"
MASKED = (
    "a mask that comes in may leave their heads nothing to attend to, so that only 0 is a constant there: "
    "`zero` makes it one by shift='drop'"
)
TINY = 1e-30  # far below what any output shows; weight decay takes weights here, and no further


def make_plan(state: Analysis, kept: Kept, units: Units, calls: dict[str, Node]) -> Plan:
    """Write down what stays of every tensor.

    Parameters
    ----------
    units : Units
        The groups of the whole network.
    calls : dict of str to Node
        The first call of each of its layers, those among them that were severed since.
    """
    return replace(
        cuts(state, kept),
        units={name: _units_left(state, kept, calls, group) for name, group in units.items()},
        created=list(dict.fromkeys(layer_of(state, call) for call in state.calls if creates_bias(state, kept, call))),
        constants={caller(state.graph, node)[0]: _stand_in_channels(state, kept, node) for node in state.severed},
        notes=[*_notes(state, kept), *_not_followed(state, units), *_nearly_zero(state, kept)],
    )


def cuts(state: Analysis, kept: Kept) -> Plan:
    """Write down the indices that stay along every axis: what a trial needs, before constants are known."""
    graph = state.graph
    masks, blocks = _masks(state, kept)
    indices = {
        node: {str(axis): _indices(mask) for axis, mask in enumerate(axes) if not bool(mask.all())}
        for node, axes in masks.items()
    }
    changed = [node for node in indices if indices[node] or node in blocks]
    return Plan(
        model=type(graph.model).__name__,
        shapes={graph.names[node]: list(graph.tensors[node].shape) for node in changed},
        kept={graph.names[node]: axes for node, axes in indices.items() if axes},
        groups=_groups_left(state, kept),
        blocks={graph.names[node]: [_indices(part) for part in stay] for node, stay in blocks.items()},
        attributes=counts(state, kept),
        counted=counted(graph.model),
    )


def _indices(mask: Tensor) -> list[int]:
    return mask.nonzero()[:, 0].tolist()


def _masks(state: Analysis, kept: Kept) -> tuple[dict[Node, list[Tensor]], dict[Node, Tensor]]:
    """Return which indices of every tensor stay, along each axis; of grouped weights axis 1 by group that stays."""
    grouped: dict[Node, Call] = {}
    for call in state.calls:
        if call.groups > 1:
            grouped |= dict.fromkeys(state.leaves[call.weight], call)
    # Weights by rows and columns; all other parameters (biases, scales, statistics) element by element.
    masks = {node: [kept.of(vector) for vector in axes] for node, axes in state.axes.items()}
    for node, labels in state.elements.items():
        masks[node] = [by_channel(kept.of(labels), axis).any(1) for axis in range(labels.ndim)]
    # In a grouped weight axis 1 counts the inputs of one group, and each group may keep others of its own.
    blocks: dict[Node, Tensor] = {}
    for node, call in grouped.items():
        if len(masks.get(node, ())) > 1:
            stay = masks[node].pop().reshape(call.groups, -1)[kept_groups(call, kept)]
            if not bool(stay.all()):
                blocks[node] = stay
    return masks, blocks


def _groups_left(state: Analysis, kept: Kept) -> dict[str, int]:
    """Return the new number of groups of each grouped convolution and GroupNorm that loses some."""
    stay: dict[str, Tensor] = {}
    for call in state.calls:
        layer = layer_of(state, call)
        # A module without the number, as a filter for whatever comes in, counts the groups for itself.
        if call.groups > 1 and getattr(state.graph.model.get_submodule(layer), "groups", None) == call.groups:
            stay[layer] = kept_groups(call, kept)
    stay |= {name: kept.of(labels) for name, labels in state.groups.items()}
    return {name: int(mask.sum()) for name, mask in stay.items() if not bool(mask.all())}


def _channels(state: Analysis, node: Node) -> Tensor:
    """Return the label of each channel that a layer returns."""
    return by_channel(state.labels_of(node), channel_axis(node))[:, 0]


def _stand_in_channels(state: Analysis, kept: Kept, node: Node) -> int:
    """Return how many constants stand in for a severed layer, negative if all of them are 0."""
    stay = kept.of(_channels(state, node))
    return int(stay.sum()) * (1 if bool(stand_in(state, node)[stay].any()) else -1)


def _units_left(state: Analysis, kept: Kept, calls: dict[str, Node], group: Group) -> list[int]:
    stay, known = torch.zeros(2, group.size, dtype=torch.bool)
    for member in group.writers:
        # The first writer of a unit tells; a unit of several channels is there as long as one of them is.
        mine = (member.index >= 0) & ~known[member.index]
        stay[member.index[mine & kept.of(_channels(state, calls[member.layer]))]] = True
        known[member.index[mine]] = True
    return _indices(stay)


# Notes


def _notes(state: Analysis, kept: Kept) -> Iterator[str]:
    """Say for each layer why units that carry nothing stay, and which layers became constants."""
    roots = state.classes.roots
    reasons = {root: f"it {why}" for root, why in state.classes.pinned.items()}
    for why, extra in kept.notes.items():
        reasons.update({root: f"it is {why}" for root in extra if root not in reasons})
    counts: dict[tuple[str, str], int] = {}
    seen: set[int] = set()
    idle = (kept.classes & ~kept.live).tolist()
    for call in state.calls:
        for root in distinct(roots[call.rows]).tolist():
            # A class is told once, of the first layer that writes it, if it stays and carries nothing.
            if root and root not in seen and idle[root]:
                key = layer_of(state, call), reasons.get(root, "it meets what stays")
                counts[key] = counts.get(key, 0) + 1
            seen.add(root)
    for (layer, why), count in counts.items():
        units = "1 dead unit stays" if count == 1 else f"{count} dead units stay"
        yield f"{layer}: {units}: {why}"
    yield from _rows_that_stay(state, kept)
    for node in state.severed:
        why = "no input changes it" if _reaches_output(node) else "nothing reads it"
        yield f"{caller(state.graph, node)[0]}: {why}, so it became a constant"


def _reaches_output(node: Node) -> bool:
    """Whether forward returns something that is made of what a node returned."""
    seen, left = {node}, [node]
    while left:
        for user in left.pop().users:
            if user.op == "output":
                return True
            if user not in seen:
                seen.add(user)
                left.append(user)
    return False


def _rows_that_stay(state: Analysis, kept: Kept) -> Iterator[str]:
    """Say which layers keep rows of zeros because others write the same channels, or pass them by."""
    constants = {
        call.node: ~by_channel(state.values_of(call.node), channel_axis(call.node))[:, 0].isnan()
        for call in state.calls
    }
    for call in state.calls:
        constant, roots = constants[call.node], state.classes.roots[call.rows]
        # The row is constant, and yet its class is live: some other layer fills the channel.
        fed = constant & kept.live[roots] & kept.classes[roots]
        if not bool(fed.any()):
            continue
        mine = torch.zeros(len(state.classes.roots), dtype=torch.bool)
        mine[roots[fed]] = True
        others = (
            layer_of(state, other)
            for other in state.calls
            if not other.depthwise and other.node is not call.node
            if bool((mine[state.classes.roots[other.rows]] & ~constants[other.node]).any())
        )
        lost = MASKED if any(_open_mask(state, node, mine) for node in state.heads) else LOST
        why = f"{other} writes the same channels" if (other := next(others, "")) else lost
        count = int(fed.sum())
        rows = "1 row of constants stays" if count == 1 else f"{count} rows of constants stay"
        yield f"{layer_of(state, call)}: {rows}: {why}"


def _open_mask(state: Analysis, node: Node, mine: Tensor) -> bool:
    """Whether an input says what heads of some classes attend to, given as a mask."""
    meant = bool(mine[state.classes.roots[state.heads[node][0]]].any())
    return meant and base(node) == "scaled_dot_product_attention" and not weights_sum_to_one(state, node)


def _nearly_zero(state: Analysis, kept: Kept) -> Iterator[str]:
    """Say which layers have rows that differ from 0 by nothing that an output could show."""
    for layer, call in {layer_of(state, call): call for call in state.calls}.items():
        weight = blocks(state.tensor(call.weight).detach(), call.node).flatten(2)
        sizes = weight.abs().amax(2).flatten().cpu() if weight.numel() else torch.zeros(0)
        count = int(((sizes > 0) & (sizes < TINY) & kept.of(call.rows)).sum())
        if count:
            rows = "1 row is" if count == 1 else f"{count} rows are"
            yield (
                f"{layer}: {rows} below {TINY:.0e} and yet not 0, so nothing was removed there: "
                "`threshold_weights` sets such weights to 0"
            )


def _not_followed(state: Analysis, units: Units) -> Iterator[str]:
    """Say which layers no rule covers at all."""
    called = {layer_of(state, call) for call in state.calls}
    for layer, why in units.fixed.items():
        if layer not in called:
            yield f"{layer}: its units stay: it {why}"
