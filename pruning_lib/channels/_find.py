"""Fill `Units`: name each class of channels by its first writer, and say who writes, rescales and reads it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.fx import Node

from pruning_lib._model import Example, check, clone, paired, tensors_of
from pruning_lib.channels import _layers as layers
from pruning_lib.channels import _liveness as liveness
from pruning_lib.channels import _shapes as shapes
from pruning_lib.channels import _trace as graph
from pruning_lib.channels._layers import Call
from pruning_lib.channels._liveness import Analysis
from pruning_lib.units import Group, Member, Units, unwrapped, weighted

NESTED = ".parametrizations."


def find_units(model: nn.Module, example: Example) -> Units:
    """Find the units of a network that can be pruned: who writes them, rescales them and reads them.

    Met in the chapter `serene`. The model is traced in eval mode on a copy; it is not touched.

    Parameters
    ----------
    model : nn.Module
        A network with at least one linear or convolution layer. Its forward must not branch on values.
    example : Tensor or tuple of Tensor
        What forward takes, on the model's device and of its dtype; one sample is enough.

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
    """
    args = check(model, example)
    return describe(liveness.label(graph.trace(clone(unwrapped(model)), paired(args), "find_units")))


def describe(state: Analysis) -> Units:
    """Turn the classes of a labelled network into groups."""
    named = layer_names(state)
    writers = [(named[call.node], call) for call in state.calls]
    roots, pinned = state.classes.roots, state.classes.pinned
    home: dict[str, int] = {}
    number = torch.full((len(roots), 2), -1)  # of each class: its group, its place in the group
    sizes: list[int] = []
    for layer, call in writers:
        for root in roots[call.rows].tolist() if writes(call) else []:
            if root and root not in pinned and number[root, 0] < 0:
                if home.setdefault(layer, len(sizes)) == len(sizes):
                    sizes.append(0)
                number[root] = torch.tensor([home[layer], sizes[home[layer]]])
                sizes[home[layer]] += 1
    built = _groups(state, writers, home, sizes, number[roots])
    written = {member.layer for group in built for member in group.writers}
    return Units(built, _fixed(state, writers, written), _macs(state, writers))


def writes(call: Call) -> bool:
    """Whether the call's rows are rows of its weight: in a grouped transposed convolution they are parts of rows."""
    return call.groups == 1 or not layers.transposed(call.node)


def layer_names(state: Analysis) -> dict[Node, str]:
    """Return the name of the layer that each call multiplies by."""
    names = _names(state)
    return {call.node: names[id(state.graph.tensors[state.leaves[call.weight][0]])] for call in state.calls}


def homes(state: Analysis) -> dict[str, Node]:
    """Return the first call of each layer."""
    found: dict[str, Node] = {}
    for node, layer in layer_names(state).items():
        found.setdefault(layer, node)
    return found


def _names(state: Analysis) -> dict[int, str]:
    """Return the first module name of each tensor, by id."""
    names: dict[int, str] = {}
    for full, _, attribute, tensor in tensors_of(state.graph.model):
        module = full.removesuffix(attribute).removesuffix(".")
        names.setdefault(id(tensor), module.split(NESTED)[0])
    return names


def _groups(
    state: Analysis, calls: list[tuple[str, Call]], home: dict[str, int], sizes: list[int], number: Tensor
) -> list[Group]:
    """Build the groups; `number` holds group and place of every label."""
    names = _names(state)
    writers: list[dict[str, Member]] = [{} for _ in home]
    norms: list[dict[str, Member]] = [{} for _ in home]
    readers: list[dict[str, Member]] = [{} for _ in home]
    nodes: list[set[Node]] = [set() for _ in home]
    plain: list[set[str]] = [set() for _ in home]
    erasing = {node for node, _ in state.norms} | {call.node for _, call in calls if call.depthwise}
    exposed = {layer for layer, call in calls if not _erased(call.node, erasing)}
    for layer, call in calls:
        for i in _enter(writers, layer, number[call.rows], layer in exposed) if writes(call) else []:
            nodes[i].add(call.node)
            plain[i] |= set() if call.depthwise else {layer}
        if not call.depthwise:  # its columns are its rows, and count once
            _enter(readers, layer, number[call.columns])
    for node, labels in state.norms:
        statistics = node.args[3]
        assert isinstance(statistics, Node)
        _enter(norms, names[id(state.graph.tensors[statistics])], number[labels])
    avoided = avoidable(state, nodes)
    return [
        Group(
            name,
            sizes[i],
            "inner" if len(plain[i]) == 1 else "stream",
            tuple(writers[i].values()),
            tuple(norms[i].values()),
            tuple(readers[i].values()),
            bypassed=i in avoided,
        )
        for name, i in home.items()
    ]


def _enter(members: list[dict[str, Member]], layer: str, number: Tensor, exposed: bool = False) -> list[int]:
    """Enter a layer in every group that it has units of, and return these groups."""
    found = [i for i in shapes.distinct(number[:, 0]).tolist() if i >= 0]
    for i in found:
        members[i].setdefault(layer, Member(layer, torch.where(number[:, 0] == i, number[:, 1], -1), exposed))
    return found


def _erased(node: Node, erasing: set[Node]) -> bool:
    """Whether everything that reads a node's result reads it through one of `erasing`."""
    seen, left = {node}, [node]
    while left:
        for user in left.pop().users:
            if user.op == "output" or (layers.weighs(user) and user not in erasing):
                return False
            if user not in erasing and user not in seen:
                seen.add(user)
                left.append(user)
    return True


def avoidable(state: Analysis, nodes: list[set[Node]]) -> set[int]:
    """Return which groups some path from an input to an output avoids; `nodes` holds the writers of each group."""
    everything = (1 << len(nodes)) - 1
    blocked: dict[Node, int] = {}
    for i, writers in enumerate(nodes):
        for node in writers:
            blocked[node] = blocked.get(node, 0) | 1 << i
    reached: dict[Node, int] = {}  # of each node, the groups that some path to it avoids, as bits
    for node in state.graph.nodes:
        found = everything if node.op == "placeholder" and node not in state.graph.tensors else 0
        for source in node.all_input_nodes:
            found |= reached[source]
        reached[node] = found & ~blocked.get(node, 0)
    output = reached[state.graph.nodes[-1]]
    return {i for i in range(len(nodes)) if output >> i & 1}


def _fixed(state: Analysis, calls: list[tuple[str, Call]], written: set[str]) -> dict[str, str]:
    """Say for each layer that writes no group why its units stay."""
    reasons: dict[str, str] = {}
    for layer, call in calls:
        if layer not in written:
            reason = next((state.classes.pinned.get(root) for root in state.classes.roots[call.rows].tolist()), None)
            reasons.setdefault(layer, reason or "has a weight that something else reads")
    names = _names(state)
    for node, why in state.unknown.items():
        for source in node.all_input_nodes:
            if source in state.graph.tensors and node.op == "call_function":
                layer = names.get(id(state.graph.tensors[source]), "")
                reasons.setdefault(layer, why if layers.weighs(node) else f"is read by {why.removeprefix('feeds ')}")
    modules = weighted(state.graph.model)
    found = {layer: reasons[layer] for layer in modules if layer in reasons and layer not in written}
    called = {layer for layer, _ in calls} | set(found)
    return found | {layer: "is not called by forward" for layer in modules if layer not in called}


def _macs(state: Analysis, calls: list[tuple[str, Call]]) -> dict[str, int]:
    """Count multiply-adds for one sample: outputs times the taps that each of them reads."""
    macs = dict.fromkeys(weighted(state.graph.model), 0)
    names = _names(state)
    batch = next(
        graph.shape_of(node)[0]
        for node in state.graph.nodes
        if node.op == "placeholder" and node not in state.graph.tensors
    )
    for node in state.graph.nodes:
        if layers.weighs(node):
            weight = node.args[1]
            assert isinstance(weight, Node)
            leaf = state.leaves.get(weight, [weight])[0]
            layer = names.get(id(state.graph.tensors[leaf]), "") if leaf in state.graph.tensors else ""
            if layer in macs:
                # Every input of a transposed convolution meets every tap, as every output of the others does.
                counted = node.args[0] if layers.transposed(node) else node
                assert isinstance(counted, Node)
                macs[layer] += graph.shape_of(counted).numel() // batch * graph.shape_of(weight)[1:].numel()
    return macs
