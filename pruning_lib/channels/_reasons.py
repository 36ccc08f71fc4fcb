"""Say for each layer that writes no group why its units stay: what it feeds, or who else reads its weight."""

from __future__ import annotations

from torch import nn
from torch.fx import Node

from pruning_lib.channels._graph import base, operand
from pruning_lib.channels._state import Analysis, Call, layer_of
from pruning_lib.channels.rules._layers import weighs
from pruning_lib.units import is_layer, weighted

STACKED = ("bmm", "einsum", "grouped_mm")
"""Parts of the names of products with several weights at once."""


def why_fixed(
    state: Analysis, calls: list[tuple[str, Call]], written: set[str], pinned: dict[int, str]
) -> dict[str, str]:
    """Return the reason for each layer that writes no group; layers that forward does not call have theirs, too."""
    reasons = _reasons(state, calls, written, pinned)
    # Layers of torch first, then those that somebody wrote, and torch's attention, which multiplies by weights of its
    # own; and modules that hold the weights of several layers in one tensor, as experts.
    modules = dict(state.graph.model.named_modules())
    known = {layer for layer, _ in calls} | _stacks(state)
    own = [
        layer
        for layer in reasons
        if not type(modules.get(layer)).__module__.startswith("torch.")
        or isinstance(modules[layer], nn.MultiheadAttention)
    ]
    own = [layer for layer in own if layer in known or layer not in modules or is_layer(modules[layer])]
    layers = [*weighted(state.graph.model), *(layer for layer in own if layer)]
    fixed = {layer: reasons[layer] for layer in layers if layer in reasons and layer not in written}
    called = {layer_of(state, call) for call in state.calls} | set(fixed)
    training = {name.rpartition(".")[0] for name in state.graph.awake}
    idle = {True: "runs in training mode alone", False: "is not called by forward"}
    return fixed | {layer: idle[layer in training] for layer in layers if layer not in called}


def _reasons(
    state: Analysis, calls: list[tuple[str, Call]], written: set[str], pinned: dict[int, str]
) -> dict[str, str]:
    reasons: dict[str, str] = {}
    # Layers that were followed: some class of their rows is pinned, and the pin has the reason.
    for layer, call in calls:
        if layer not in written:
            reason = next((pinned[root] for root in state.classes.roots[call.rows].tolist() if root in pinned), None)
            # A weight of the model itself goes by its own name.
            name = layer or state.graph.names.get(state.leaves[call.weight][0], layer)
            reasons.setdefault(name, reason or "has a weight that something else reads")
    # Layers whose weight forward computes, then those whose weight an operator reads that no rule covers.
    for node, why in state.unknown.items():
        for source in _origins(state, operand(node, 1)) if weighs(node) else []:
            reasons.setdefault(
                state.graph.owner(source), why.replace("feeds a layer whose weight", "has a weight that")
            )
    for node, why in state.unknown.items():
        for owner in filter(None, (_owner(state, source) for source in node.all_input_nodes)):
            reasons.setdefault(owner, f"is read by {why.removeprefix('feeds ')}" if why.startswith("feeds `") else why)
    return reasons


def _stacks(state: Analysis) -> set[str]:
    """Return the modules of which a product reads several weights at once."""
    readers = [node for node in state.unknown if any(name in base(node) for name in STACKED)]
    return {_owner(state, source) for node in readers for source in node.all_input_nodes} - {""}


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
        node = node.all_input_nodes[0]  # not its first argument: `cat([x, x])` has a list there
    return state.graph.owner(node) if node in state.graph.tensors else ""
