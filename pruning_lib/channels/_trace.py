"""Trace a network into one static graph of ATen operators, on a copy that nothing else holds.

`torch.export` runs the user's own Python once, in eval mode, on a batch of at least two. The raw graph is read: dead
code stays in it, because the forward that is kept afterwards still executes that code.
"""

from __future__ import annotations

import contextlib
import inspect
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx import Node

from pruning_lib._inputs import LABELS, Inputs, paired, tensors_in
from pruning_lib._model import clone, first_line, place, quiet, rewrites_itself
from pruning_lib.channels import rules
from pruning_lib.channels._graph import Graph, base, computes, line_of, operand, shape_of, writes_first, written

MOVES = {
    *("view", "reshape", "flatten", "unsqueeze", "squeeze", "expand", "slice", "select", "transpose", "permute", "t"),
    *("contiguous", "clone", "detach", "alias", "to", "_to_copy", "type_as", "lift_fresh_copy"),
}  # operators behind which an input's numbers are the same
UNCHANGED = "Nothing was changed."


def trace_pair(model: nn.Module, inputs: Inputs, what: str, *, training: bool = False) -> Graph:
    """Trace on a batch of at least two; on the example as it is where the model takes no other batch."""
    if (double := paired(inputs)) is not inputs:
        with contextlib.suppress(RuntimeError):
            return trace(model, double, what, training=training)
    return trace(model, inputs, what, training=training)


def trace(model: nn.Module, inputs: Inputs, what: str, *, training: bool = False) -> Graph:
    """Trace `model`, which the caller owns, on `inputs`, in eval mode or in training mode, for the function `what`.

    Raises
    ------
    RuntimeError
        If the forward cannot be run or traced; the sentence says where.
    """
    # Not strict: the forward is run as it is, with stand-ins for tensors, instead of being analysed as bytecode.
    model.train(training)
    try:
        exported = _export(model, inputs)
    except Exception as error:
        raise RuntimeError(_refusal(model, inputs, error, what)) from error
    # Shapes that depend on values would be symbols, and labels have to have a shape.
    for node in exported.graph.nodes:
        if _depends_on_values(node.meta.get("val")):
            raise RuntimeError(
                f"`{what}` could not trace {type(model).__name__}.forward: a number or a shape in it depends on a "
                f"tensor's values{line_of(node)}. {UNCHANGED} Move that out of `forward`, or pass the part of the "
                "model that does without it."
            )
    tensors, owned = _tensors(model, exported)
    _name_linear(exported.graph, owned)
    graph = Graph(model, list(exported.graph.nodes), tensors, owned)
    graph.words = [_words(node) for node in graph.inputs]
    _settle_in_place(graph)
    if not graph.nodes[-1].all_input_nodes:
        raise RuntimeError(
            f"`{what}` found no tensor in what {type(model).__name__}.forward returns. {UNCHANGED} Let it return its "
            "outputs as tensors, or as a tuple, list or dict of them."
        )
    return graph


def _export(model: nn.Module, inputs: Inputs) -> ExportedProgram:
    # Torch exports containers that it knows, alone; what counts are the tensors in them.
    handle = model.register_forward_hook(lambda module, args, outputs: tensors_in(outputs))
    try:
        with quiet(), torch.no_grad(), torch.random.fork_rng(devices=[]):
            return torch.export.export(model, inputs.args, inputs.kwargs or None, strict=False)
    finally:
        handle.remove()


def _words(source: Node) -> int:
    """Return how many entries the smallest table has in which an input's numbers are looked up; 0 if in none."""
    found: list[int] = []
    left, seen = [source], {source}
    while left:
        node = left.pop()
        for user in node.users:
            if computes(user) and base(user) == "embedding" and user.args[1] is node:
                found.append(shape_of(operand(user))[0])
            elif user not in seen and computes(user) and base(user) in MOVES and user.all_input_nodes == [node]:
                seen.add(user)
                left.append(user)
    return min(found, default=0)


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


def _name_linear(traced: torch.fx.Graph, owned: set[Node]) -> None:
    """Write a product with a weight, or with a transposed one, as the linear layer that it is.

    One with a weight (inputs, outputs) is marked "inputs first".
    """
    for node in list(traced.nodes):
        name = base(node) if computes(node) else ""
        bias, (source, factor) = None, (*node.args, None, None)[:2]
        if name == "addmm" and not node.kwargs:
            bias, source, factor = node.args
        elif name not in ("matmul", "mm"):
            continue
        weight = factor if factor in owned else _transposed(factor)
        if weight not in owned or weight.meta["val"].ndim != 2 or source.meta["val"].ndim < 2:
            continue
        if bias is not None and not _is_bias(bias, factor, owned):
            continue
        last = node
        if bias is None and (added := _added(node, factor, owned)) is not None:
            last, bias = next(iter(node.users)), added
        with traced.inserting_before(last):
            linear = traced.call_function(torch.ops.aten.linear.default, (source, weight, bias))
        linear.meta = {**node.meta, **({"inputs first": True} if weight is factor else {})}
        last.replace_all_uses_with(linear)
        for gone in dict.fromkeys((last, node, *([] if weight is factor or len(factor.users) > 1 else [factor]))):
            traced.erase_node(gone)


def _transposed(node: Any) -> Any:
    """Return the matrix of which a node is the transposed one, None if of none."""
    if not isinstance(node, Node) or not computes(node) or node.meta["val"].ndim != 2:
        return None
    if base(node) in ("t", "numpy_T", "mT"):
        return node.args[0]
    axes: Any = node.args[1] if base(node) == "permute" else node.args[1:3]
    swapped = {"permute": [[1, 0]], "transpose": [[0, 1], [1, 0]], "swapaxes": [[0, 1], [1, 0]]}
    return node.args[0] if [axis % 2 for axis in axes] in swapped.get(base(node), []) else None


def _is_bias(value: Any, weight: Node, owned: set[Node]) -> bool:
    return isinstance(value, Node) and value in owned and value.meta["val"].shape == weight.meta["val"].shape[1:]


def _added(product: Node, weight: Node, owned: set[Node]) -> Node | None:
    """Return the bias that is added to a product and nothing else is done with it."""
    user = next(iter(product.users), None)
    if user is None or len(product.users) > 1 or not computes(user) or base(user) != "add" or user.kwargs:
        return None
    return next((other for other in user.args if _is_bias(other, weight, owned)), None)  # type: ignore[return-value]


def _refusal(model: nn.Module, inputs: Inputs, error: BaseException, what: str) -> str:
    name = f"{type(model).__name__}.forward"
    # Does it run at all? Then it is the exporter that minds, and otherwise the user's own error says more.
    eager = clone(model)  # forward may change its own weights, which the traced model shares with the user's
    try:
        with torch.no_grad(), quiet(), torch.random.fork_rng(devices=[]):
            inputs.call(eager)
    except Exception as raised:
        return (
            f"`{what}` could not run {name} on the example of shape {inputs}{place(raised)}: {first_line(raised)}. "
            f"{UNCHANGED} Pass an example that the model accepts, without labels{_instead(model, inputs)}."
        )
    if why := rewrites_itself(model, eager):
        return f"`{what}` cannot follow {name}: {why}. {UNCHANGED} Move that out of `forward`."
    dependent = "data-dependent" in str(error) or "DataDependent" in type(error).__name__
    why = "it branches on a tensor's value" if dependent else first_line(error)
    return (
        f"`{what}` could not trace {name}: {why}{place(error)}. {UNCHANGED} "
        "Move that out of `forward`, or pass the part of the model that does without it."
    )


def _instead(model: nn.Module, inputs: Inputs) -> str:
    """Say what to pass instead of labels where forward takes some and got none."""
    try:
        names = inspect.signature(model.forward).parameters
    except (TypeError, ValueError):  # of compiled code
        return ""
    missing = any(name in names and name not in inputs.kwargs for name in LABELS)
    return "; if it makes inputs from them (decoder_input_ids in Transformers), pass those" if missing else ""


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
                graph.opaque |= dict.fromkeys((*sharing[target], node), base(node))
        elif targets and source is not None:
            family = sharing[source]
            # Other views of the same memory that somebody reads after the change: they see it, and the graph does not.
            late = {member for member in family for user in member.users if order[user] > order[node]} - {source}
            if late or source in graph.tensors:
                graph.opaque |= dict.fromkeys((*family, node), base(node))
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
