"""Layers that run in training mode alone, as heads of deep supervision do: what they read has to stay.

The network is traced in eval mode, in which they stand idle. If training mode reads an idle parameter, that mode is
traced as well, and what its layers bind together there is held in the first trace, by the names of the parameters.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from pruning_lib._inputs import Inputs
from pruning_lib._model import clone, tensors_of
from pruning_lib.channels._graph import Graph, argument, base, computes
from pruning_lib.channels._shapes import distinct
from pruning_lib.channels._solve import label
from pruning_lib.channels._state import Analysis
from pruning_lib.channels._trace import UNCHANGED, trace_pair


def hold_for_training(graph: Graph, inputs: Inputs, what: str, *, always: bool = False) -> None:
    """Hold in `graph`, which was traced in eval mode, what training mode needs of each parameter.

    Parameters
    ----------
    always : bool
        Trace training mode even if it reads no parameter more.

    Raises
    ------
    RuntimeError
        If layers run in training mode alone, and that mode cannot be traced; they are named.
    """
    # A shared parameter has a node for each of its names, and forward may read it by another one.
    read = {name for node, name in graph.names.items() if node.users}
    idle = {name for name, _ in graph.model.named_parameters()} & set(graph.names.values()) - read
    graph.awake = awake = _awake(graph.model, inputs, idle) if idle else []
    if not awake and not always:
        return
    try:
        trained = _trained(graph, inputs, what)
    except RuntimeError as error:
        parameters = dict(graph.model.named_parameters())
        if not always and all(parameters[name].ndim < 2 for name in awake):
            return  # no layer's, as the vector that masks a sound at random: the comparison in training mode will tell
        layers = ", ".join(f"'{name}'" for name in dict.fromkeys(name.rpartition(".")[0] or name for name in awake))
        raise RuntimeError(
            f"`{what}` found that {layers or 'some layers'} run in training mode alone, and could not trace that mode. "
            f"{UNCHANGED} Remove them first, as by setting them to None, if the network is not trained further."
        ) from error
    state = label(_like_eval(trained))
    pinned = torch.tensor([0, *state.classes.pinned, *_classes(state, set(awake))])
    for node, axes in _axes(state).items():
        masks = [torch.isin(state.classes.roots[labels], pinned) for labels in axes]
        if any(bool(mask.any()) for mask in masks):
            graph.training[trained.names[node]] = masks


def _trained(graph: Graph, inputs: Inputs, what: str) -> Graph:
    """Trace training mode, on the example or on two of it."""
    try:
        return trace_pair(clone(graph.model), inputs, what, training=True)
    except RuntimeError:
        return trace_pair(clone(graph.model), _twice(inputs), what, training=True)


def _twice(inputs: Inputs) -> Inputs:
    """Return a batch twice as large: BatchNorm does not train on a single number a channel."""
    return inputs.map(lambda x: torch.cat([x, x]) if x.ndim and len(x) == inputs.batch else x)


def _awake(model: nn.Module, inputs: Inputs, idle: set[str]) -> list[str]:
    """Return which of the parameters that eval mode does not read training mode does, in the order of their use."""
    for example in (inputs, _twice(inputs)):
        trained = clone(model).train()
        spy = _Spy({id(tensor): name for name, _, _, tensor in tensors_of(trained) if name in idle})
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]), spy:
                example.call(trained)
        except Exception:  # it does not train on this example, and on no other if it refuses both
            continue
        return list(spy.seen)
    return []


class _Spy(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes which of some tensors any operator reads."""

    def __init__(self, names: dict[int, str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names, self.seen = names, dict[str, None]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for leaf in pytree.tree_leaves((args, kwargs)):
            if id(leaf) in self.names:
                self.seen[self.names[id(leaf)]] = None
        return func(*args, **(kwargs or {}))


def _like_eval(graph: Graph) -> Graph:
    """Let BatchNorm and dropout say that they run in eval mode: they bind the same channels, and rules follow that."""
    for node in graph.nodes:
        if not computes(node):
            continue
        if base(node) == "batch_norm" and argument(node, 3, "running_mean") is not None:
            node.update_arg(5, False)
        elif "dropout" in base(node) and len(node.args) > 2:
            node.update_arg(2, False)
    return graph


def _axes(state: Analysis) -> dict[Node, list[Tensor]]:
    """Return the labels along each axis of every parameter that has labels along axes."""
    return {node: axes for node, axes in state.axes.items() if node in state.graph.names}


def _classes(state: Analysis, names: set[str]) -> list[int]:
    """Return the classes of channels that some parameters take part in."""
    mine = [labels for node, axes in _axes(state).items() for labels in axes if state.graph.names[node] in names]
    mine += [labels for node, labels in state.elements.items() if state.graph.names.get(node) in names]
    return [root for labels in mine for root in distinct(state.classes.roots[labels.flatten()]).tolist()]
