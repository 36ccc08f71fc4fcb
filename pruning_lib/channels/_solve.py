"""What stays: labels forward, constants forward, uses backward, then the smallest network that carries what is left.

1. `label` asks every rule which channels are the same.
2. `propagate` finds what is constant, from inputs to outputs, and what is used, from outputs to inputs. A channel is
   needed if some element of it is both live and used.
3. `keep` starts from the needed classes and adds what removal could not do without: every tensor has to remain a box of
   whole rows and columns, no layer may lose its last unit, and a constant needs a place to go.
4. `decide` repeats all of it: a layer of which only constants are left is cut off from its inputs ("severed"), and what
   fed it alone may go, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.fx.node import map_arg
from torch.nn.utils import parametrize

from pruning_lib._model import HOOKS
from pruning_lib.channels import rules
from pruning_lib.channels._compensate import represent
from pruning_lib.channels._constants import REPLACEABLE
from pruning_lib.channels._graph import Graph, avoidable, base, caller, computes, operand, shape_of
from pruning_lib.channels._lengths import keep_lengths, settle_values
from pruning_lib.channels._shapes import NAN, Labels, by_channel, common, flat, like, narrow, spread, uniform
from pruning_lib.channels._state import Analysis, Kept
from pruning_lib.channels.rules._elementwise import functional
from pruning_lib.channels.rules._layers import balance, channel_axis, weighs
from pruning_lib.channels.rules._sources import looks_up
from pruning_lib.units import OUTPUT

Pins = list[tuple[Node, str]]
"""Nodes whose channels have to stay, each with the reason."""


def decide(graph: Graph, pins: Pins) -> tuple[Analysis, Kept]:
    """Find what stays; layers that emit constants alone are severed from their inputs, which may then go too."""
    severed: dict[Node, Tensor] = {}
    while True:
        state = label(graph, pins, severed)
        propagate(state)
        kept = keep(state)
        # Only a layer whose kept channels are all constant can be replaced; the last unit of a dead one is such.
        more = {
            node: constants
            for node in graph.nodes
            if node not in severed and _replaceable(state, node)
            if (constants := emitted(state, kept, node)) is not None
        }
        # On the only way to the output a layer keeps its one unit: a network of constants alone is not a network.
        avoided = avoidable(graph, [{node} for node in more])
        if not avoided:
            return state, kept
        severed |= {node: constants for i, (node, constants) in enumerate(more.items()) if i in avoided}


def label(
    graph: Graph, pins: Iterable[tuple[Node, str]] = (), severed: Mapping[Node, Tensor] | None = None
) -> Analysis:
    """Find which channels belong together, and which of them no removal may touch."""
    state = Analysis(graph, severed=dict(severed or {}))
    # First of all what is a weight: who reads one otherwise than by its axes has to be refused, wherever it stands.
    for node in graph.nodes:
        if node in graph.opaque and node in graph.tensors:
            state.frozen[node] = "is changed in place by forward"
        if node not in state.severed and (weighs(node) or looks_up(node)):
            _find_leaves(state, operand(node, 0 if looks_up(node) else 1))
    for node in graph.nodes:
        if node.op == "placeholder":
            if graph.is_input(node):
                state.labels[node] = like(node.meta.get("val"), 0, torch.int64)
        elif node.op == "output":
            for source in node.all_input_nodes:
                state.freeze(source, OUTPUT)
        elif node in state.severed:
            # New labels, joined with nothing in front: what a constant stands in for has no inputs any more.
            vector = state.classes.new(len(state.severed[node]))
            state.labels[node] = spread(vector, channel_axis(node), shape_of(node))
        elif node in graph.opaque:
            state.give_up(node, f"is changed in place by `{graph.opaque[node]}`, through a view")
        else:
            rules.find(node).label(state, node)
    # What an earlier round was wrong about.
    for node, reason in pins:
        state.freeze(node, reason)
    for node in graph.owned:
        for labels, mask in zip(state.axes.get(node, ()), graph.training.get(graph.names[node], ()), strict=False):
            state.classes.pin(labels[mask], "is needed by what runs in training mode alone")
    keep_lengths(state)
    return state


def _find_leaves(state: Analysis, weight: Node) -> None:
    """Find the tensors that a layer's weight is computed from element by element: they are labelled by axis.

    So a mask, a weight norm or any parametrization of this kind is cut along with the weight.
    """
    chain: list[Node] = []
    if leaves := _leaves(state, weight, chain):
        for link in chain:
            state.leaves[link] = leaves


def _leaves(state: Analysis, weight: Node, chain: list[Node]) -> list[Node] | None:
    """Return the leaves of a weight and add what lies between to `chain`; None if it is computed in another way."""
    chain.append(weight)
    if weight in state.graph.tensors:
        return [weight]
    if not computes(weight) or not rules.find(weight).elementwise or weight in state.graph.opaque:
        return None
    leaves: list[Node] = []
    for source in weight.all_input_nodes:
        if shape_of(source) == shape_of(weight):
            more = _leaves(state, source, chain)
            if more is None:
                return None
            leaves += [leaf for leaf in more if leaf not in leaves]
        elif shape_of(source).numel() > 1:  # broadcast along an axis; its own axes would be other ones
            return None
    return leaves or None


def propagate(state: Analysis) -> None:
    """Find the constants, forward, then what is used, backward."""
    find_constants(state)
    find_uses(state)


def find_constants(state: Analysis, zeroed: Mapping[Node, Tensor] | None = None) -> None:
    """Find what no input changes, from inputs to outputs.

    What is set in a mask of `zeroed`, in the shape of the node, is taken to be 0.
    """
    graph = state.graph
    # Values come from parameters and literals; whatever depends on an input is live.
    fixed = set(graph.tensors)  # what no input has a part in
    sized = set[Node]()  # nor any tensor: what follows from the sizes of the input, as a causal mask
    for node in graph.nodes:
        if computes(node) and sized.issuperset(node.all_input_nodes):
            sized.add(node)
        changed = node in graph.tensors and node in graph.opaque
        if node in sized and node in state.unknown and node not in graph.opaque and not _complex(node):
            state.values[node] = _computed(state, node)
        elif graph.is_input(node) or changed or node in state.unknown or _complex(node):
            state.values[node] = like(node.meta.get("val"), NAN, torch.float64)
            if weighs(node) and node not in state.unknown:  # of complex numbers, none of which is known
                state.read[node] = torch.full((shape_of(operand(node))[channel_axis(node)],), NAN).double()
        elif node in state.severed:
            state.values[node] = spread(state.severed[node], channel_axis(node), shape_of(node))
        elif computes(node):
            rules.find(node).value(state, node)
            if graph.cautious and _depends_on_sizes(node):
                state.values[node] = _only_zeros(state.values[node])
                state.scaled.pop(node, None)
            if node.all_input_nodes and fixed.issuperset(node.all_input_nodes):
                fixed.add(node)
        if node in fixed:
            settle_values(state, node)
        if zeroed and node in zeroed:
            mask, values = common(zeroed[node], state.values_of(node))
            state.values[node] = torch.where(mask, 0.0, values).expand(zeroed[node].shape)


def find_uses(state: Analysis) -> None:
    """Find what is used of each node, from outputs to inputs."""
    # Backwards, every reader of a node has spoken before the node is asked. What nobody used asks for nothing, so dead
    # code uses nothing, and a severed layer's inputs are of no use.
    for node in reversed(state.graph.nodes):
        if node.op == "output" or node in state.unknown:
            for source in node.all_input_nodes:
                state.mark_all(source)
        elif computes(node) and node in state.used and node not in state.severed:
            rules.find(node).use(state, node)


def _computed(state: Analysis, node: Node) -> Labels:
    """Run an operator without a rule on what it reads, if all of that is known and nothing in it is random."""
    live = like(node.meta.get("val"), NAN, torch.float64)
    random = torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
    sources = {source: state.values[source] for source in node.all_input_nodes}
    known = {source: value for source, value in sources.items() if isinstance(value, Tensor)}
    if random or "empty" in base(node) or state.graph.cautious or not isinstance(live, Tensor):
        return live
    if len(known) < len(sources) or any(bool(narrow(value).isnan().any()) for value in known.values()):
        return live
    # Values are on the CPU, whatever device the forward asked for.
    options = {name: "cpu" if name == "device" else value for name, value in node.kwargs.items()}
    args: Any
    kwargs: Any
    args, kwargs = map_arg((node.args, options), lambda source: known[source].to(source.meta["val"].dtype))
    try:
        result: Tensor = functional(node)(*args, **kwargs).double()
    except (RuntimeError, TypeError, IndexError):
        return live
    return result


def _depends_on_sizes(node: Node) -> bool:
    """Whether an operator may do something else at another size: all but layers and what treats elements alone."""
    return not (rules.find(node).elementwise or weighs(node) or base(node) in ("batch_norm", "getitem"))


def _only_zeros(values: Labels) -> Labels:
    """Return values in which every constant other than 0 is live."""
    if isinstance(values, Tensor):
        return torch.where(narrow(values) == 0, 0.0, NAN).double().expand(values.shape)
    return [_only_zeros(part) for part in values] if isinstance(values, list) else values


def _complex(node: Node) -> bool:
    """Whether an operator returns complex numbers, which no value here can hold."""
    value = node.meta.get("val")
    return computes(node) and isinstance(value, Tensor) and value.is_complex()


def live_classes(state: Analysis) -> Tensor:
    """Return a mask over classes: some element is live and used."""
    roots = state.classes.roots
    mask = torch.zeros(len(roots), dtype=torch.bool)
    for node, used in state.used.items():
        for labels, values, uses in zip(flat(state.labels[node]), flat(state.values[node]), flat(used), strict=True):
            if node in state.scaled:
                # A map that is another channel's map times a factor is as good as constant: one stands for all.
                lives = state.scaled[node].isnan().reshape(1, -1, *[1] * (values.ndim - 2))
                values = torch.where(lives, narrow(values), 0.0).expand(values.shape)
            if labels.ndim:
                classes, value, use = common(labels, values, uses)
                lives, classes = value.isnan() & use, narrow(classes)
                if positions := [axis for axis in range(lives.ndim) if classes.shape[axis] < lives.shape[axis]]:
                    lives = lives.any(dim=positions, keepdim=True)
                mask[roots[classes[lives]]] = True
    return mask


def keep(state: Analysis) -> Kept:
    """Grow what is needed until every tensor that is left is a box: whole rows, whole columns, none of them empty.

    Each round can only add classes, so this ends. What it adds is kept with the reason, for `Plan.notes`.
    """
    # Label 0 stays, what is pinned stays, and what is both live and used.
    live = live_classes(state)
    kept = Kept(state.classes.roots, live.clone(), live)
    kept.classes[torch.tensor([0, *state.classes.pinned], dtype=torch.int64)] = True
    grow(state, kept)
    return kept


def grow(state: Analysis, kept: Kept, *, constants: bool = True) -> None:
    """Add to what stays until nothing is missing; without `constants` what goes is taken to leave none behind."""
    tensors = [narrow(labels) for node in state.labels for labels in flat(state.labels[node]) if labels.ndim]
    tensors += [*state.elements.values(), *(vector for axes in state.axes.values() for vector in axes)]
    tensors = [labels for labels in tensors if labels.any()]
    # One rule's addition may be another's reason: a column that stands for others needs its row, the row its group.
    while True:
        before = int(kept.classes.sum())
        for call in state.calls:
            if constants:
                represent(state, call, kept)
            balance(call, kept)
        for labels in tensors:
            _box(kept, labels)
        for node in filter(computes, state.graph.nodes):
            rules.find(node).keep(state, node, kept)
        if int(kept.classes.sum()) == before:
            return


def _box(kept: Kept, labels: Tensor) -> None:
    """Keep at least one unit, and every element that lies on a kept row and a kept column at once."""
    if not kept.of(labels).any():
        kept.add(labels.reshape(-1)[:1], "the last unit of a layer")
    stay = kept.of(labels)
    # A tensor is cut axis by axis, so where row 1 and column 2 stay, element (1, 2) stays whether it is needed or not.
    if sum(size > 1 for size in stay.shape) > 1 and not stay.all():
        box = torch.ones((), dtype=torch.bool)
        for axis in range(stay.ndim):
            others = [other for other in range(stay.ndim) if other != axis]
            box = box & stay.any(dim=others).reshape([-1 if other == axis else 1 for other in range(stay.ndim)])
        kept.add(labels[box], "part of a block of channels that is cut as a whole")


def emitted(state: Analysis, kept: Kept, node: Node) -> Tensor | None:
    """Return what a layer or a BatchNorm emits, (channels,), if no kept channel is both live and used; else None."""
    axis = channel_axis(node)
    stay = kept.of(by_channel(state.labels_of(node), axis)[:, 0])
    used = by_channel(state.used_of(node), axis).any(1) if node in state.used else torch.zeros_like(stay)
    values = uniform(state.values_of(node), axis)
    return None if bool((stay & used & values.isnan()).any()) else torch.where(values.isnan(), 0.0, values)


def _replaceable(state: Analysis, node: Node) -> bool:
    """Whether an operator is the one call of a plain layer, so that another module can stand in its place."""
    if not computes(node) or node in state.unknown or not isinstance(state.labels.get(node), Tensor):
        return False
    own = node.args[3] if base(node) == "batch_norm" else node.args[1] if weighs(node) else None
    # A layer that is called twice, or shares its weight, may be constant in one place and live in the other.
    if not isinstance(own, Node) or own not in state.graph.owned or len(own.users) > 1:
        return False
    name, module = caller(state.graph, node)
    tensor = state.graph.tensors[own]
    # `F.linear` in the forward of a module that does more cannot be replaced; a hook may do anything.
    mine = any(tensor is each for each in (getattr(module, "weight", None), getattr(module, "running_mean", None)))
    hooked = any(getattr(module, hooks, None) for hooks in HOOKS)
    return bool(name) and _kind(module) in REPLACEABLE and mine and not hooked


def _kind(module: nn.Module) -> type:
    """Return a layer's class; a parametrization, as a bounded scale, makes a class of its own out of it."""
    return type(module).__bases__[0] if parametrize.is_parametrized(module) else type(module)
