"""Trace a network into one static graph of ATen operators, on a copy that nothing else holds.

`torch.export` runs the user's own Python once, in eval mode, on a batch of at least two. The raw graph is read: dead
code stays in it, because the forward that is kept afterwards still executes that code.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import logging
import os
import sysconfig
import traceback
import types
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.export.graph_signature import InputKind
from torch.fx import Node

from pruning_lib.units import weighted

Example = Tensor | tuple[Tensor, ...]
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


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


def tensors_of(model: nn.Module) -> Iterator[tuple[str, nn.Module, str, Tensor]]:
    """Yield (full name, owner, attribute, tensor) for each registered tensor, once for every name it has."""
    for prefix, module in model.named_modules(remove_duplicate=True):
        for attribute, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None:
                yield f"{prefix}.{attribute}" if prefix else attribute, module, attribute, tensor


def arguments(example: Example) -> tuple[Tensor, ...]:
    """Return the example as a tuple of positional arguments."""
    args = tuple(example) if isinstance(example, tuple | list) else (example,)
    for arg in args:
        if not isinstance(arg, Tensor):
            raise TypeError(
                f"The example must be a tensor or a tuple of tensors, as forward takes them; got {type(arg).__name__}."
            )
    if not args or any(arg.ndim == 0 or arg.numel() == 0 for arg in args):
        raise ValueError("The example must hold at least one sample in every tensor; it is empty or has no batch axis.")
    return args


def check(model: nn.Module, example: Example) -> tuple[Tensor, ...]:
    """Return the example's tensors, or raise one sentence if model and example do not fit together."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"The model must be a torch.nn.Module; got {type(model).__name__}.")
    args = arguments(example)
    lazy = [name for name, _, _, tensor in tensors_of(model) if nn.parameter.is_lazy(tensor)]
    if lazy:
        raise ValueError(f"'{lazy[0]}' has no shape yet: run the model once on the example, then try again.")
    if not weighted(model):
        raise ValueError(
            f"{type(model).__name__} has no prunable layer: no nn.Linear and no convolution was found in it."
        )
    parameter = next(iter(weighted(model).values())).weight
    floating = [arg for arg in args if arg.is_floating_point()]
    for arg in args:
        if arg.device != parameter.device:
            raise ValueError(
                f"The example is on {arg.device}, the model on {parameter.device}: move the example there first."
            )
    if floating and all(arg.dtype != parameter.dtype for arg in floating):
        raise ValueError(
            f"The example is {floating[0].dtype}, the model {parameter.dtype}: convert the example, "
            f"as in example.to({parameter.dtype})."
        )
    return args


def paired(args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Repeat a batch of one: traced at one, an axis of size one and a broadcast axis would look the same."""
    return tuple(torch.cat([arg, arg]) for arg in args) if all(len(arg) == 1 for arg in args) else args


def clone(model: nn.Module, share: bool = False) -> nn.Module:
    """Deep-copy the model without the hooks that this library's observers have put on it; `share` its parameters."""
    memo: dict[int, Any] = {id(p): p for p in model.parameters()} if share else {}
    for module in model.modules():
        for name in HOOKS:
            hooks = getattr(module, name, None)
            if hooks and any(_ours(hook) for hook in hooks.values()):
                memo[id(hooks)] = OrderedDict((k, copy.deepcopy(h)) for k, h in hooks.items() if not _ours(h))
        for value in module.__dict__.values():
            if isinstance(value, Tensor) and value.grad_fn is not None:  # what forward stored; torch copies leaves only
                memo[id(value)] = value.detach().clone()
    try:
        return copy.deepcopy(model, memo)
    except (RuntimeError, TypeError) as error:
        raise RuntimeError(
            f"{type(model).__name__} cannot be copied ({_line(error)}): detach what its modules store or remove its "
            f"hooks, then try again."
        ) from error


def _ours(hook: Any) -> bool:
    while isinstance(hook, functools.partial):
        hook = hook.func
    owner = type(hook.__self__) if isinstance(hook, types.MethodType) else hook
    return str(getattr(owner, "__module__", "")).startswith("pruning_lib.")


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200].rstrip(".")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the exporter's log out of the caller's: what matters comes back as an exception."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), open(os.devnull, "w") as sink:
            warnings.simplefilter("ignore")
            with contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
                yield
    finally:
        logging.disable(level)


def place(error: BaseException) -> str:
    """Name the innermost line of the user's code in an exception's traceback, as " (model.py, line 41)"."""
    frame = user_frame(error)
    return f" ({os.path.basename(frame[0])}, line {frame[1]})" if frame else ""


def user_frame(error: BaseException) -> tuple[str, int] | None:
    """Return file and line of the innermost frame outside torch and this package, if there is one."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.lineno and of_user(frame.filename):
            return frame.filename, frame.lineno
    return None


def of_user(file: str) -> bool:
    """Whether a source file belongs neither to Python, nor to torch, nor to this package."""
    roots = (os.path.dirname(torch.__file__), os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    shipped = file.startswith(sysconfig.get_path("stdlib")) and "site-packages" not in file
    return not shipped and not file.startswith((*(root + os.sep for root in roots), "<frozen", "<string"))


def trace(model: nn.Module, args: tuple[Tensor, ...], what: str = "units") -> Graph:
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
            f"`{what}` could not run {name} on the example of shape {shapes}{place(eager)}: {_line(eager)}. "
            "Nothing was changed. Pass an example that the model accepts."
        )
    dependent = "data-dependent" in str(error) or "DataDependent" in type(error).__name__
    why = "it branches on a tensor's value" if dependent else _line(error)
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
