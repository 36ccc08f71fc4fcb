"""Fill `Units`: name each class of channels by its first writer, and say who writes, rescales and reads it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node

from pruning_lib._model import check, clone
from pruning_lib.channels._constants import stands_in
from pruning_lib.channels._graph import avoidable, base, operand, shape_of
from pruning_lib.channels._shapes import distinct
from pruning_lib.channels._solve import label
from pruning_lib.channels._state import Analysis, Call
from pruning_lib.channels._tables import find_tables
from pruning_lib.channels._trace import trace_pair
from pruning_lib.channels._training import hold_for_training
from pruning_lib.channels.rules._layers import transposed, weighs
from pruning_lib.units import Group, Member, Units, Weighted, inputs_first, is_layer, unwrapped, weighted

STACKED = ("bmm", "einsum", "grouped_mm")
"""Parts of the names of products with several weights at once."""


def find_units(model: nn.Module, example: Any) -> Units:
    """Find the units of a network that can be pruned: who writes them, rescales them and reads them.

    Met in the chapter `serene`. The model is traced in eval mode on a copy; it is not touched.

    Parameters
    ----------
    model : nn.Module
        A network with at least one linear or convolution layer. Its forward must not branch on values.
    example : Tensor, tuple, mapping or Inputs
        What forward takes, as `pruning_lib.inputs` says, on the model's device and of its dtype; one sample is enough.

    Returns
    -------
    Units
        Groups by the name of their first writer, in the order of computation. Layers whose units cannot go stand in
        ``.fixed`` with the reason; ``.macs`` holds the multiply-adds of every layer for one sample.

    Raises
    ------
    TypeError, ValueError
        If the model has no prunable layer, or if the example does not fit it.
    RuntimeError
        If the forward cannot be traced; the sentence names the line.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> import pruning_lib as prl
    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3))
    >>> units = prl.find_units(model, torch.ones(1, 1, 8, 8))
    >>> units
    0 → 1 → 3, 4 units, inner
    3 stays: it writes the model's output
    >>> units.macs  # 4·1·3·3 taps at 6·6 positions, 2·4·3·3 at 4·4
    {'0': 1296, '3': 1152}
    """
    model = unwrapped(model)
    inputs = check(model, example, prunable=not stands_in(model))
    graph = trace_pair(clone(model), inputs, "find_units")
    hold_for_training(graph, inputs, "find_units")
    return describe(label(graph))


def describe(state: Analysis) -> Units:
    """Turn the classes of a labelled network into groups.

    A group is named by the first layer that writes one of its classes, and numbers its units in the order in which that
    layer's rows name them.
    """
    calls = [(layer, call) for call in state.calls for layer in [layer_of(state, call)] if not _passes(state, call)]
    roots, pinned = state.classes.roots, {**_strangers(state, calls), **state.classes.pinned}
    numbers: dict[str, int] = {}  # of each group, by its name
    place = torch.full((len(roots), 2), -1)  # of each class: its group, its unit there
    sizes: list[int] = []
    free = torch.ones(len(roots), dtype=torch.bool)  # class 0 is none, and a pinned class cannot go
    free[torch.tensor([0, *pinned])] = False
    for layer, call in calls:
        # A class that has a place was written by a layer before.
        rows = roots[call.rows]
        fresh = list(dict.fromkeys(rows[free[rows]].tolist())) if writes(call) else []
        if fresh:
            if numbers.setdefault(layer, len(sizes)) == len(sizes):
                sizes.append(0)
            group = numbers[layer]
            place[fresh, 0], place[fresh, 1] = group, torch.arange(sizes[group], sizes[group] + len(fresh))
            free[fresh] = False
            sizes[group] += len(fresh)
    groups = _groups(state, calls, list(numbers), sizes, place[roots])
    written = {member.layer for group in groups for member in group.writers}
    return Units(groups, _fixed(state, calls, written, pinned), _macs(state))


def _strangers(state: Analysis, calls: list[tuple[str, Call]]) -> dict[int, str]:
    """Return the classes that a weight writes which no method could find, and why they stay."""
    found: dict[int, str] = {}
    for _, call in calls:
        if writes(call) and not _is_own(state, call):
            name = state.graph.names.get(state.leaves[call.weight][0], "a tensor in forward")
            reason = f"is written by '{name}', which is not the `weight` of a linear layer or a convolution"
            found.update(dict.fromkeys(distinct(state.classes.roots[call.rows]).tolist(), reason))
    return found


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


def layer_of(state: Analysis, call: Call) -> str:
    """Return the name of the layer that a call multiplies by."""
    return state.graph.owner(state.leaves[call.weight][0])


def first_calls(state: Analysis) -> dict[str, Node]:
    """Return the first call of each layer, by the layer's name."""
    first: dict[str, Node] = {}
    for call in state.calls:
        first.setdefault(layer_of(state, call), call.node)
    return first


def _groups(
    state: Analysis, calls: list[tuple[str, Call]], names: list[str], sizes: list[int], place: Tensor
) -> list[Group]:
    """Build the groups; `place` holds group and unit of every label."""
    writers: list[dict[str, Member]] = [{} for _ in names]
    norms: list[dict[str, Member]] = [{} for _ in names]
    readers: list[dict[str, Member]] = [{} for _ in names]
    nodes: list[set[Node]] = [set() for _ in names]
    plain: list[set[str]] = [set() for _ in names]  # writers that are not depthwise: two of them make a stream
    # What a BatchNorm or a depthwise layer returns does not show the bias in front of it as it was: see `exposed`.
    erasing = {node for node, _ in state.norms} | {call.node for _, call in calls if call.depthwise}
    exposed = {layer for layer, call in calls if not _erased(call.node, erasing)}
    for layer, call in calls:
        for i in _enter(writers, layer, place[call.rows], layer in exposed) if writes(call) else []:
            nodes[i].add(call.node)
            plain[i] |= set() if call.depthwise else {layer}
        if not call.depthwise:  # its columns are its rows, and count once
            _enter(readers, layer, place[call.columns])
    for node, labels in state.norms:
        _enter(norms, state.graph.owner(operand(node, 3)), place[labels])
    avoided = avoidable(state.graph, nodes)
    tables = list(find_tables(state, place))
    return [
        Group(
            name=name,
            size=sizes[i],
            kind="inner" if len(plain[i]) == 1 else "stream",
            writers=tuple(writers[i].values()),
            norms=tuple(norms[i].values()),
            readers=tuple(readers[i].values()),
            bypassed=i in avoided,
            tables=tuple(table for number, table in tables if number == i),
        )
        for i, name in enumerate(names)
    ]


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


def _fixed(state: Analysis, calls: list[tuple[str, Call]], written: set[str], pinned: dict[int, str]) -> dict[str, str]:
    """Say for each layer that writes no group why its units stay."""
    reasons: dict[str, str] = {}
    # Layers that were followed: some class of their rows is pinned, and the pin has the reason.
    for layer, call in calls:
        if layer not in written:
            reason = next((pinned[root] for root in state.classes.roots[call.rows].tolist() if root in pinned), None)
            # A weight of the model itself goes by its own name.
            name = layer or state.graph.names.get(state.leaves[call.weight][0], layer)
            reasons.setdefault(name, reason or "has a weight that something else reads")
    # Layers whose weight forward computes, then those whose weight an operator reads that no rule covers.
    stacks = set[str]()  # modules that hold the weights of several layers in one tensor, as experts
    for node, why in state.unknown.items():
        for source in _origins(state, operand(node, 1)) if weighs(node) else []:
            reasons.setdefault(
                state.graph.owner(source), why.replace("feeds a layer whose weight", "has a weight that")
            )
        if any(name in base(node) for name in STACKED):
            stacks |= {_owner(state, source) for source in node.all_input_nodes} - {""}
    for node, why in state.unknown.items():
        for source in node.all_input_nodes:
            if owner := _owner(state, source):
                reasons.setdefault(
                    owner, f"is read by {why.removeprefix('feeds ')}" if why.startswith("feeds `") else why
                )
    # Then layers that somebody wrote.
    modules = dict(state.graph.model.named_modules())
    known = {layer for layer, _ in calls} | stacks
    own = [layer for layer in reasons if not type(modules.get(layer)).__module__.startswith("torch.")]
    own = [layer for layer in own if layer in known or layer not in modules or is_layer(modules[layer])]
    layers = [*weighted(state.graph.model), *(layer for layer in own if layer)]
    fixed = {layer: reasons[layer] for layer in layers if layer in reasons and layer not in written}
    called = {layer_of(state, call) for call in state.calls} | set(fixed)
    training = {name.rpartition(".")[0] for name in state.graph.awake}
    idle = {True: "runs in training mode alone", False: "is not called by forward"}
    return fixed | {layer: idle[layer in training] for layer in layers if layer not in called}


def _origins(state: Analysis, node: Node) -> set[Node]:
    """Return the tensors of the model that a node is computed from, none if an input has a part in it."""
    found, left = set[Node](), [node]
    while left:
        node = left.pop()
        if node not in found:
            found.add(node)
            left += node.all_input_nodes
    return set() if any(state.graph.is_input(each) for each in found) else found & state.graph.owned


def _owner(state: Analysis, node: Node) -> str:
    """Return the module whose tensor a node is or moves, "" if it is anything else."""
    while node not in state.graph.tensors and len(node.all_input_nodes) == 1:
        node = operand(node)
    return state.graph.owner(node) if node in state.graph.tensors else ""


def _macs(state: Analysis) -> dict[str, int]:
    """Count multiply-adds for one sample: outputs times the taps that each of them reads."""
    graph = state.graph
    macs = dict.fromkeys(
        [*weighted(graph.model), *(layer_of(state, each) for each in state.calls if _is_own(state, each))], 0
    )
    # The graph was traced on a whole batch.
    batch = next(shape_of(node)[0] for node in graph.inputs if shape_of(node))
    for node in graph.nodes:
        if weighs(node):
            weight = operand(node, 1)
            layer = graph.owner(state.leaves.get(weight, [weight])[0])
            if layer in macs:
                # Every input of a transposed convolution meets every tap, as every output of the others does.
                counted = operand(node) if transposed(node) else node
                macs[layer] += shape_of(counted).numel() // batch * shape_of(weight)[1:].numel()
    return macs
