"""Trace a network into one static graph of ATen operators, on a copy that nothing else holds.

`torch.export` runs the user's own Python once, in eval mode, on a batch of at least two. The raw graph is read: dead
code stays in it, because the forward that is kept afterwards still executes that code.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.export.graph_signature import InputKind
from torch.fx import Node

from pruning_lib._model import first_line, of_user, place, quiet
from pruning_lib.units import weighted


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
    biasless : set of Node
        Weights of layers without a bias, where one may be created.
    opaque : set of Node
        What is changed in place while something else still looks at it.
    """

    model: nn.Module
    nodes: list[Node]
    tensors: dict[Node, Tensor]
    owned: set[Node]
    biasless: set[Node] = field(default_factory=set)
    opaque: set[Node] = field(default_factory=set)


def trace(model: nn.Module, args: tuple[Tensor, ...], what: str = "find_units") -> Graph:
    """Trace `model`, which the caller owns, on `args` in eval mode.

    Raises
    ------
    RuntimeError
        If the forward cannot be run or traced; the sentence says where.
    """
    model.eval()
    try:
        with quiet(), torch.no_grad():
            exported = torch.export.export(model, args, strict=False)
    except Exception as error:
        raise RuntimeError(_refusal(model, args, error, what)) from error
    for node in exported.graph.nodes:
        if _depends_on_values(node.meta.get("val")):
            raise RuntimeError(
                f"`{what}` could not trace {type(model).__name__}.forward: a number or a shape in it depends on a "
                f"tensor's values{line_of(node)}. Nothing was changed. Move that out of `forward`, or pass the part of "
                "the model that does without it."
            )
    # The exporter may name a module that is registered twice by its second name.
    registered: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    registered |= dict(model.named_buffers(remove_duplicate=False))
    tensors: dict[Node, Tensor] = {}
    owned: set[Node] = set()
    names = {spec.arg.name: spec for spec in exported.graph_signature.input_specs if hasattr(spec.arg, "name")}
    for node in exported.graph.nodes:
        spec = names.get(node.name) if node.op == "placeholder" else None
        if spec is None or spec.kind == InputKind.USER_INPUT:
            continue
        if spec.target in registered:
            tensors[node] = registered[spec.target]
            owned.add(node)
        elif isinstance(exported.constants.get(spec.target or ""), Tensor):
            tensors[node] = exported.constants[spec.target or ""]
    bare = {id(layer.weight) for layer in weighted(model).values() if layer.bias is None}
    biasless = {node for node in owned if id(tensors[node]) in bare}
    graph = Graph(model, list(exported.graph.nodes), tensors, owned, biasless)
    _settle_in_place(graph)
    return graph


def _refusal(model: nn.Module, args: tuple[Tensor, ...], error: BaseException, what: str) -> str:
    name = f"{type(model).__name__}.forward"
    try:
        with torch.no_grad(), quiet():
            model(*args)
    except Exception as eager:
        shapes = " and ".join(str(tuple(arg.shape)) for arg in args)
        return (
            f"`{what}` could not run {name} on the example of shape {shapes}{place(eager)}: {first_line(eager)}. "
            "Nothing was changed. Pass an example that the model accepts."
        )
    dependent = "data-dependent" in str(error) or "DataDependent" in type(error).__name__
    why = "it branches on a tensor's value" if dependent else first_line(error)
    return (
        f"`{what}` could not trace {name}: {why}{place(error)}. Nothing was changed. "
        "Move that out of `forward`, or pass the part of the model that does without it."
    )


def _depends_on_values(value: Any) -> bool:
    """Whether what a node returned is a number of unknown value, or a tensor of unknown size."""
    if isinstance(value, list | tuple):
        return any(map(_depends_on_values, value))
    sizes = value.shape if isinstance(value, Tensor) else (value,)
    return any(isinstance(size, torch.SymInt | torch.SymFloat | torch.SymBool) for size in sizes)


def frames_of(node: Node) -> list[tuple[str, int]]:
    """Return file and line of every call that led to an operator, the innermost last."""
    lines = str(node.meta.get("stack_trace") or "").splitlines()
    found = [line.strip().split('"') for line in lines if line.strip().startswith("File ")]
    return [(parts[1], int(parts[2].split("line ")[1].split(",")[0])) for parts in found if len(parts) > 2]


def line_of(node: Node) -> str:
    """Name the innermost line of the user's code that led to an operator, as " (model.py, line 41)"."""
    frames = [frame for frame in frames_of(node) if of_user(frame[0])]
    return f" ({frames[-1][0].rpartition('/')[2]}, line {frames[-1][1]})" if frames else ""


def shape_of(node: Node) -> torch.Size:
    """Return the shape of what a node returned on the example."""
    return torch.Size(node.meta["val"].shape)


def argument(node: Node, position: int, name: str, default: Any = None) -> Any:
    """Return an operator's argument, given by position or by name."""
    return node.args[position] if len(node.args) > position else node.kwargs.get(name, default)


def caller(graph: Graph, node: Node) -> tuple[str, nn.Module]:
    """Return name and module of the innermost module whose forward calls an operator."""
    stack = node.meta.get("nn_module_stack") or {"": ("", None)}
    path = str(next(reversed(stack.values()))[0])
    return path, graph.model.get_submodule(path)


def names(text: str) -> frozenset[str]:
    """Return a set of operator names, written as one line."""
    return frozenset(text.split())


def base(node: Node) -> str:
    """Return the operator's name without its overload, and without the underscore of an in-place one."""
    name = str(getattr(getattr(node.target, "overloadpacket", node.target), "__name__", node.target))
    return name[:-1] if name.endswith("_") and not name.endswith("__") else name


def in_place(node: Node) -> bool:
    """Whether the operator writes to its first argument."""
    name = str(getattr(getattr(node.target, "overloadpacket", node.target), "__name__", ""))
    return name.endswith("_") and not name.endswith("__")


ALIASES = names(
    "view reshape flatten unflatten squeeze unsqueeze permute transpose t slice select chunk split split_with_sizes "
    "unbind expand contiguous detach alias dropout feature_dropout alpha_dropout getitem narrow numpy_T to view_as "
    "expand_as unsafe_chunk movedim swapaxes"
)


def _settle_in_place(graph: Graph) -> None:
    """Let later readers of a tensor that was changed in place read the change; what has other views becomes opaque."""
    order = {node: i for i, node in enumerate(graph.nodes)}
    storage: dict[Node, list[Node]] = {}
    for node in graph.nodes:
        source = node.args[0] if node.args and isinstance(node.args[0], Node) else None
        if node.op != "call_function" or source is None:
            storage[node] = [node]
            continue
        if in_place(node):
            family = storage[source]
            late = {m for m in family for user in m.users if order[user] > order[node]} - {source}
            if late or source in graph.tensors:
                graph.opaque.update((*family, node))
            now = order[node]
            source.replace_all_uses_with(node, delete_user_cb=lambda user, now=now: order[user] > now)  # type: ignore[misc]
            storage[node] = family
            family.append(node)
        elif base(node) in ALIASES:
            storage[node] = storage[source]
            storage[source].append(node)
        else:
            storage[node] = [node]
