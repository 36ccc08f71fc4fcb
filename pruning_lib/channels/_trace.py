"""Trace a network into one static graph of ATen operators, on a copy that nothing else holds.

`torch.export` runs the user's own Python once, in eval mode, on a batch of at least two. The raw graph is read: dead
code stays in it, because the forward that is kept afterwards still executes that code.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx import Node

from pruning_lib._model import first_line, place, quiet
from pruning_lib.channels import rules
from pruning_lib.channels._graph import Graph, computes, line_of, writes_first, written


def trace(model: nn.Module, args: tuple[Tensor, ...], what: str) -> Graph:
    """Trace `model`, which the caller owns, on `args` in eval mode, for the function called `what`.

    Raises
    ------
    RuntimeError
        If the forward cannot be run or traced; the sentence says where.
    """
    # Not strict: the forward is run as it is, with stand-ins for tensors, instead of being analysed as bytecode.
    model.eval()
    try:
        with quiet(), torch.no_grad():
            exported = torch.export.export(model, args, strict=False)
    except Exception as error:
        raise RuntimeError(_refusal(model, args, error, what)) from error
    # Shapes that depend on values would be symbols, and labels have to have a shape.
    for node in exported.graph.nodes:
        if _depends_on_values(node.meta.get("val")):
            raise RuntimeError(
                f"`{what}` could not trace {type(model).__name__}.forward: a number or a shape in it depends on a "
                f"tensor's values{line_of(node)}. Nothing was changed. Move that out of `forward`, or pass the part of "
                "the model that does without it."
            )
    graph = Graph(model, list(exported.graph.nodes), *_tensors(model, exported))
    _settle_in_place(graph)
    return graph


def _tensors(model: nn.Module, exported: ExportedProgram) -> tuple[dict[Node, Tensor], set[Node]]:
    """Return the tensors that enter the graph beside the inputs, and which of them a module registers."""
    # The exporter may name a module that is registered twice by its second name.
    registered: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    registered |= dict(model.named_buffers(remove_duplicate=False))
    tensors: dict[Node, Tensor] = {}
    owned: set[Node] = set()
    specs = {spec.arg.name: spec for spec in exported.graph_signature.input_specs if hasattr(spec.arg, "name")}
    for node in exported.graph.nodes:
        spec = specs.get(node.name) if node.op == "placeholder" else None
        if spec is None or spec.kind == InputKind.USER_INPUT:
            continue
        if spec.target in registered:
            tensors[node] = registered[spec.target]
            owned.add(node)
        elif isinstance(literal := exported.constants.get(spec.target or ""), Tensor):
            tensors[node] = literal
    return tensors, owned


def _refusal(model: nn.Module, args: tuple[Tensor, ...], error: BaseException, what: str) -> str:
    name = f"{type(model).__name__}.forward"
    # Does it run at all? Then it is the exporter that minds, and otherwise the user's own error says more.
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


def _settle_in_place(graph: Graph) -> None:
    """Let later readers of a tensor that was changed in place read the change; what has other views becomes opaque.

    The rules know no memory: to them, a node is a value that never changes. ``relu_(x)`` fits if all who read x later
    read the node of ``relu_`` instead. It does not fit if a view of x, taken before, is read afterwards: then nothing
    that shares this memory is followed at all.
    """
    order = {node: i for i, node in enumerate(graph.nodes)}
    sharing: dict[Node, list[Node]] = {}  # of each node, those whose memory it shares, itself among them
    for node in graph.nodes:
        targets = written(node) if computes(node) else []
        source = node.args[0] if node.args and isinstance(node.args[0], Node) else None
        if targets and (not writes_first(node) or targets != [source]):
            sharing[node] = [node]
            for target in targets:  # as an operator of another library, or one that was given `out=`
                graph.opaque.update((*sharing[target], node))
        elif targets and source is not None:
            family = sharing[source]
            # Other views of the same memory that somebody reads after the change: they see it, and the graph does not.
            late = {member for member in family for user in member.users if order[user] > order[node]} - {source}
            if late or source in graph.tensors:
                graph.opaque.update((*family, node))
            # Readers before the change keep the old node, which is what they saw.
            now = order[node]
            source.replace_all_uses_with(node, delete_user_cb=lambda user, now=now: order[user] > now)  # type: ignore[misc]
            sharing[node] = family
            family.append(node)
        elif computes(node) and source is not None and rules.is_view(node):
            sharing[node] = sharing[source]
            sharing[source].append(node)
        else:
            sharing[node] = [node]
