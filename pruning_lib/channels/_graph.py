"""A traced network, and how to read its nodes: an operator's name, its operands, what it writes, where it stands."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node

from pruning_lib._model import of_user, tensors_of
from pruning_lib.units import weighted

PARAMETRIZED = ".parametrizations."


@dataclass
class Graph:
    """A traced network.

    Parameters
    ----------
    model : nn.Module
        The traced copy, in eval mode.
    nodes : list of Node
        In the order of computation.
    tensors : dict of Node to Tensor
        The parameters, buffers and literals that enter the graph.
    owned : set of Node
        Those of `tensors` that a module registers; the others are literals in the forward and keep their size.
    opaque : dict of Node to str
        What is changed in place while something else still looks at it, and the operator that does it.
    words : list of int
        Of each input, how many entries the table has in which its numbers are looked up; 0 if in none.
    awake : list of str
        Parameters that training mode alone reads.
    training : dict of str to list of Tensor
        Of each parameter that training mode needs whole, in part: which indices along each axis, as bool tensors.
    cautious : bool
        Whether constants other than 0 are not trusted behind operators that may do something else at another size.
    uncounted : set of str
        Operators that may multiply matrices, and whose multiply-adds nobody can count.
    """

    model: nn.Module
    nodes: list[Node]
    tensors: dict[Node, Tensor]
    owned: set[Node]
    opaque: dict[Node, str] = field(default_factory=dict)
    words: list[int] = field(default_factory=list)
    awake: list[str] = field(default_factory=list)
    training: dict[str, list[Tensor]] = field(default_factory=dict)
    cautious: bool = False
    uncounted: set[str] = field(default_factory=set)

    @functools.cached_property
    def biasless(self) -> set[Node]:
        """Weights of layers without a bias, where one may be created."""
        bare = {id(layer.weight) for layer in weighted(self.model).values() if layer.bias is None}
        return {node for node in self.owned if id(self.tensors[node]) in bare}

    @functools.cached_property
    def names(self) -> dict[Node, str]:
        """The full name of every owned tensor, the first one if it is registered twice."""
        full: dict[int, str] = {}
        for name, _, _, tensor in tensors_of(self.model):
            full.setdefault(id(tensor), name)
        return {node: full[id(tensor)] for node, tensor in self.tensors.items() if node in self.owned}

    @functools.cached_property
    def layers(self) -> dict[int, str]:
        """The name of the linear or convolution layer that holds a weight, by the weight's id."""
        plain = weighted(self.model).items()
        return {id(weight): name for name, layer in plain if (weight := layer._parameters.get("weight")) is not None}

    def owner(self, node: Node) -> str:
        """Return the name of the layer that registers a tensor, for which a parametrization may compute; "" if none.

        A weight that an embedding shares is named by the linear layer.
        """
        first = self.names.get(node, "").rpartition(".")[0].split(PARAMETRIZED)[0]
        return self.layers.get(id(self.tensors[node]), first) if node in self.tensors else first

    @property
    def inputs(self) -> list[Node]:
        """The tensors among what the caller passes to forward."""
        return [node for node in self.nodes if self.is_input(node) and isinstance(node.meta.get("val"), Tensor)]

    def is_input(self, node: Node) -> bool:
        """Whether a node is what the caller passes to forward, neither a tensor of the model nor computed."""
        return node.op == "placeholder" and node not in self.tensors


def computes(node: Node) -> bool:
    """Whether a node is an operator, not an input, a tensor of the model, or the output."""
    return node.op == "call_function"


@functools.lru_cache(4096)
def _packet_name(target: object) -> str:
    return str(getattr(getattr(target, "overloadpacket", target), "__name__", target))


def writes_first(node: Node) -> bool:
    """Whether the operator changes its first argument and returns it, as ``relu_`` does."""
    # `__and__` and its kin are not in place.
    name = _packet_name(node.target)
    return name.endswith("_") and not name.endswith("__")


def base(node: Node) -> str:
    """Return the operator's name without its overload, and without the underscore of an in-place one.

    ATen's operators and Python's own, as ``getitem``, go by their bare name. Others keep their namespace, as
    ``"mine::gelu"``: what a stranger calls ``gelu`` need not be one.
    """
    name = _packet_name(node.target)
    name = name[:-1] if writes_first(node) else name
    space = getattr(node.target, "namespace", "aten")
    return name if space == "aten" else f"{space}::{name}"


def written(node: Node) -> list[Node]:
    """Return the operands that the operator changes, as its schema declares; empty for most operators."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return []
    names = [spec.name for spec in schema.arguments if spec.alias_info is not None and spec.alias_info.is_write]
    positions = {spec.name: i for i, spec in enumerate(schema.arguments)}
    targets = [argument(node, positions[name], name) for name in names]
    flat = [each for target in targets for each in (target if isinstance(target, list | tuple) else [target])]
    return [target for target in flat if isinstance(target, Node)]


def declares_view(node: Node) -> bool:
    """Whether the operator's schema says that its result shares memory with an operand."""
    schema = getattr(node.target, "_schema", None)
    return schema is not None and any(result.alias_info is not None for result in schema.returns)


def operand(node: Node, position: int = 0) -> Node:
    """Return an argument that has to be a tensor."""
    source = node.args[position]
    assert isinstance(source, Node), f"argument {position} of {node.format_node()} is not a tensor"
    return source


def argument(node: Node, position: int, name: str, default: Any = None) -> Any:
    """Return an operator's argument, given by position or by name."""
    return node.args[position] if len(node.args) > position else node.kwargs.get(name, default)


def shape_of(node: Node) -> torch.Size:
    """Return the shape of what a node returned on the example."""
    return torch.Size(node.meta["val"].shape)


def caller(graph: Graph, node: Node) -> tuple[str, nn.Module]:
    """Return name and module of the innermost module whose forward calls an operator."""
    # What runs in no submodule runs in the model itself, whose name is "".
    path = next(reversed(_stack(node)), "")
    return path, graph.model.get_submodule(path)


def callers(node: Node) -> set[str]:
    """Return the names of all modules inside whose forward an operator is called."""
    return set(_stack(node))


def _stack(node: Node) -> list[str]:
    """Return the names of the modules inside whose forward an operator is called, the innermost last."""
    entries = (node.meta.get("nn_module_stack") or {}).items()
    # What a pass of the exporter adds, such as a check of a dtype, stands in no module; torch 2.8 writes this then.
    return [str(path) for key, (path, _) in entries if key != "_empty_nn_module_stack_from_metadata_hook"]


def frames_of(node: Node) -> list[tuple[str, int]]:
    """Return file and line of every call that led to an operator, the innermost last."""
    lines = str(node.meta.get("stack_trace") or "").splitlines()
    calls = [line.strip().split('"') for line in lines if line.strip().startswith("File ")]
    return [(words[1], int(words[2].split("line ")[1].split(",")[0])) for words in calls if len(words) > 2]


def line_of(node: Node) -> str:
    """Name the innermost line of the user's code that led to an operator, as " (model.py, line 41)"."""
    frames = [frame for frame in frames_of(node) if of_user(frame[0])]
    return f" ({frames[-1][0].rpartition('/')[2]}, line {frames[-1][1]})" if frames else ""


def avoidable(graph: Graph, cuts: list[set[Node]]) -> set[int]:
    """Return the numbers of those sets of nodes that some path from an input to the output avoids."""
    everything = (1 << len(cuts)) - 1
    blocks: dict[Node, int] = {}
    for i, nodes in enumerate(cuts):
        for node in nodes:
            blocks[node] = blocks.get(node, 0) | 1 << i
    # One pass serves all sets: bit i of `avoids[node]` says that some path to the node avoids set i.
    avoids: dict[Node, int] = {}
    for node in graph.nodes:
        arriving = everything if graph.is_input(node) else 0
        for source in node.all_input_nodes:
            arriving |= avoids[source]
        avoids[node] = arriving & ~blocks.get(node, 0)
    return {i for i in range(len(cuts)) if avoids[graph.nodes[-1]] >> i & 1}
