"""Fill `Units`: name each class of channels by its first writer, and say who writes, rescales and reads it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.nn.modules.conv import _ConvNd

from pruning_lib.channels._binding import bind
from pruning_lib.channels._costs import count_macs, products
from pruning_lib.channels._graph import avoidable, operand
from pruning_lib.channels._reasons import why_fixed
from pruning_lib.channels._shapes import distinct
from pruning_lib.channels._state import Analysis, Call, layer_of
from pruning_lib.channels._tables import find_tables
from pruning_lib.channels.rules._layers import transposed, weighs
from pruning_lib.units import Group, Member, Units, Weighted, inputs_first, is_layer, weighted

SHARED = "writes heads that take the same values, so that none is constant when its queries are"


def describe(state: Analysis, *, to_zero: bool = False) -> tuple[Units, dict[str, Tensor]]:
    """Turn the classes of a labelled network into groups; return which classes each has, too, by unit.

    A group is named by the first layer that writes one of its classes, and numbers its units in the order in which that
    layer's rows name them. `to_zero` leaves out what `zero` could not make removable.
    """
    calls = [(layer, call) for call in state.calls for layer in [layer_of(state, call)] if not _passes(state, call)]
    bound = bind(state)
    components = bound[:, 0].tolist()
    roots, pinned = state.classes.roots, {**_strangers(state, calls), **state.classes.pinned}
    numbers: dict[str, int] = {}  # of each group, by its name
    names: dict[int, str] = {}  # of the group that a component of bound classes is in
    place = torch.full((len(roots), 2), -1)  # of each class: its group, its unit there
    placed: list[tuple[int, int, int]] = []
    sizes: list[int] = []
    free = torch.ones(len(roots), dtype=torch.bool)  # class 0 is none, and a pinned class cannot go
    free[torch.tensor([0, *pinned])] = False
    for layer, call in calls:
        # A class that has a place was written by a layer before.
        rows = roots[call.rows] if writes(call) else roots[:0]
        for root in dict.fromkeys(rows[free[rows]].tolist()):
            name = names.setdefault(components[root], layer) if components[root] >= 0 else layer
            if numbers.setdefault(name, len(sizes)) == len(sizes):
                sizes.append(0)
            placed.append((root, numbers[name], sizes[numbers[name]]))
            sizes[numbers[name]] += 1
        free[rows] = False
    if placed:
        which, groups_of, units_of = torch.tensor(placed).unbind(1)
        place[which] = torch.stack([groups_of, units_of], dim=1)
    even = [_even(place, bound, i) for i in range(len(sizes))]
    groups = _groups(state, calls, list(numbers), sizes, place[roots], even)
    if to_zero:  # a group goes whole, so that those that stay are numbered as they are by `shrink`
        shared = {int(place[root, 0]) for root in _shared(state)}
        groups = [group for i, group in enumerate(groups) if i not in shared]
        left_out = [root for root, i in enumerate(place[:, 0].tolist()) if i >= 0 and i in shared]
        pinned = {**dict.fromkeys(left_out, SHARED), **pinned}
    written = {member.layer for group in groups for member in group.writers}
    units = Units(groups, why_fixed(state, calls, written, pinned), count_macs(state, _layers(state)))
    classes = {name: torch.full((size,), 0) for name, size in zip(numbers, sizes, strict=True)}
    by_number = list(classes.values())
    for root, i, unit in placed:
        by_number[i][unit] = root
    return units, {name: classes[name] for name in units}


def _even(place: Tensor, bound: Tensor, group: int) -> tuple[tuple[Tensor, ...], ...]:
    """Return the sets of a group's units that lose equally many each, by component and cell."""
    mine = (place[:, 0] == group) & (bound[:, 0] >= 0)
    units, cells = place[mine, 1], bound[mine]
    return tuple(
        tuple(units[(cells == torch.tensor([component, cell])).all(1)].sort().values for cell in inside)
        for component in distinct(cells[:, 0]).tolist()
        for inside in [distinct(cells[cells[:, 0] == component, 1]).tolist()]
    )


def _strangers(state: Analysis, calls: list[tuple[str, Call]]) -> dict[int, str]:
    """Return the classes that a weight writes which no method could find, and why they stay."""
    found: dict[int, str] = {}
    for _, call in calls:
        if writes(call) and not _is_own(state, call):
            name = state.graph.names.get(state.leaves[call.weight][0], "a tensor in forward")
            reason = f"is written by '{name}', which is not the `weight` of a linear layer or a convolution"
            found.update(dict.fromkeys(distinct(state.classes.roots[call.rows]).tolist(), reason))
    return found


def _shared(state: Analysis) -> list[int]:
    """Return the classes of heads that all take the same values: without queries, one returns their mean."""
    found = (distinct(state.classes.roots[line]).tolist() for line in state.shared)
    return [root for roots in found for root in roots if root]


def _passes(state: Analysis, call: Call) -> bool:
    """Whether a depthwise weight belongs to no layer of its own, as a filter that blurs: its channels pass it."""
    leaf = state.leaves[call.weight][0]
    return call.depthwise and not (_is_own(state, call) and isinstance(state.graph.tensors.get(leaf), nn.Parameter))


def _is_own(state: Analysis, call: Call) -> bool:
    """Whether a module that can be zeroed, penalized and ranked holds the weight of a call."""
    module = state.graph.model.get_submodule(layer_of(state, call))
    if isinstance(module, Weighted):
        return True
    own = module._parameters.get("weight") is state.graph.tensors[state.leaves[call.weight][0]]
    return is_layer(module) and own and ("inputs first" in call.node.meta) == inputs_first(module)


def writes(call: Call) -> bool:
    """Whether the call's rows are rows of its weight: in a grouped transposed convolution they are parts of rows."""
    return call.groups == 1 or not transposed(call.node)


def first_calls(state: Analysis) -> dict[str, Node]:
    """Return the first call of each layer, by the layer's name."""
    first: dict[str, Node] = {}
    for call in state.calls:
        first.setdefault(layer_of(state, call), call.node)
    return first


@dataclass(frozen=True)
class _Members:
    """Who writes, normalizes and reads the units of one group, by layer; and what is needed to say its kind."""

    writers: dict[str, Member] = field(default_factory=dict)
    norms: dict[str, Member] = field(default_factory=dict)
    readers: dict[str, Member] = field(default_factory=dict)
    nodes: set[Node] = field(default_factory=set)
    plain: set[str] = field(default_factory=set)  # writers that are not depthwise: two of them make a stream


def _members(state: Analysis, calls: list[tuple[str, Call]], place: Tensor, count: int) -> list[_Members]:
    """Return the members of each of `count` groups; `place` holds group and unit of every label."""
    groups = [_Members() for _ in range(count)]
    writers, norms, readers = ([getattr(g, name) for g in groups] for name in ("writers", "norms", "readers"))
    # What a BatchNorm or a depthwise layer returns does not show the bias in front of it as it was: see `exposed`.
    erasing = {node for node, _ in state.norms} | {call.node for _, call in calls if call.depthwise}
    exposed = {layer for layer, call in calls if not _erased(call.node, erasing)}
    for layer, call in calls:
        for i in _enter(writers, layer, place[call.rows], layer in exposed) if writes(call) else []:
            groups[i].nodes.add(call.node)
            groups[i].plain.update(() if call.depthwise else (layer,))
        if not call.depthwise:  # its columns are its rows, and count once
            _enter(readers, layer, place[call.columns])
    for node, labels in state.norms:
        _enter(norms, state.graph.owner(operand(node, 3)), place[labels])
    return groups


def _groups(
    state: Analysis,
    calls: list[tuple[str, Call]],
    names: list[str],
    sizes: list[int],
    place: Tensor,
    even: list[tuple[tuple[Tensor, ...], ...]],
) -> list[Group]:
    """Build the groups; `place` holds group and unit of every label, `even` what is bound in each group."""
    members = _members(state, calls, place, len(names))
    made = _products(state, place, len(names))
    heads = {i for labels, _ in state.heads.values() for i in distinct(place[labels][:, 0]).tolist()}
    avoided = avoidable(state.graph, [group.nodes for group in members])
    tables = list(find_tables(state, place))
    return [
        Group(
            name=name,
            size=sizes[i],
            kind="heads" if i in heads else "inner" if len(members[i].plain) == 1 else "stream",
            writers=tuple(members[i].writers.values()),
            norms=tuple(members[i].norms.values()),
            readers=tuple(members[i].readers.values()),
            bypassed=i in avoided,
            tables=tuple(table for number, table in tables if number == i),
            products=tuple(made[i]),
            even=even[i],
            structure=_structure(state.graph.model, (members[i].writers, members[i].norms, members[i].readers)),
        )
        for i, name in enumerate(names)
    ]


def _products(state: Analysis, place: Tensor, count: int) -> list[list[Member]]:
    """Return for each group the products beside its layers that are made for its units."""
    made: list[list[Member]] = [[] for _ in range(count)]
    for product, labels in products(state, _layers(state)):
        line = place[labels]
        for i in distinct(line[:, 0]).tolist():
            if i >= 0:
                made[i].append(Member(product, torch.where(line[:, 0] == i, line[:, 1], -1)))
    return made


def _structure(model: nn.Module, sides: Iterable[Iterable[str]]) -> str:
    """Return the types and kernel sizes of the layers of a group, side by side, in no order."""
    return " → ".join(" + ".join(sorted(_layer_type(model.get_submodule(layer)) for layer in side)) for side in sides)


def _layer_type(module: nn.Module) -> str:
    """Return a layer's type and kernel size, and whether it is grouped."""
    words = [type(module).__name__]
    if isinstance(module, _ConvNd):
        words.append("×".join(map(str, module.kernel_size)))
        words += ["depthwise" if module.groups == module.in_channels else "grouped"] if module.groups > 1 else []
    return " ".join(words)


def _enter(members: list[dict[str, Member]], layer: str, place: Tensor, exposed: bool = False) -> list[int]:
    """Enter a layer in every group that it has units of, and return these groups."""
    groups = [i for i in distinct(place[:, 0]).tolist() if i >= 0]
    for i in groups:
        members[i].setdefault(layer, Member(layer, torch.where(place[:, 0] == i, place[:, 1], -1), exposed))
    return groups


def _erased(node: Node, erasing: set[Node]) -> bool:
    """Whether everything that reads a node's result reads it through one of `erasing`."""
    seen, left = {node}, [node]
    while left:
        for user in left.pop().users:
            if user.op == "output" or (weighs(user) and user not in erasing):
                return False
            if user not in erasing and user not in seen:
                seen.add(user)
                left.append(user)
    return True


def _layers(state: Analysis) -> list[str]:
    """Return the names of all layers, also of those that somebody wrote."""
    own = (layer_of(state, call) for call in state.calls if _is_own(state, call))
    return list(dict.fromkeys([*weighted(state.graph.model), *own]))
