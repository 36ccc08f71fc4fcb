"""Remove what is provably dead, and prove it: plan, cut, compensate, compare.

A channel goes when it is constant or read by nobody. A constant c that readers still need is paid for first: in the
bias, b ← b + Σ_k c_k Σ_taps W_k, where no zero padding is read; else in one constant column j that stays,
W_j ← W_j + Σ_k (c_k / c_j) W_k. Met in the chapter `serene`.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.optim import Optimizer
from torch.utils import _pytree as pytree

from pruning_lib.channels import graph, groups, liveness, rules, shapes
from pruning_lib.channels.liveness import Analysis, Kept
from pruning_lib.channels.plan import Plan, apply
from pruning_lib.units import Units

ROUNDS = 12
TOLERANCE = 1e-9
LITERAL = rules.SIZED | {"slice", "select", "narrow", "split", "split_with_sizes", "constant_pad_nd", "pad", "roll"}
ELEMENTWISE_OPTIMIZERS = ("SGD", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop", "Adagrad", "Adadelta")


@dataclass
class Shrunk:
    """What `shrink` returns.

    Parameters
    ----------
    model : nn.Module
        A smaller copy, of the same class, in the mode of the model that came in.
    optimizer : Optimizer or None
        A new optimizer over the small model's parameters, its state cut with them. Rebuild schedulers and
        regularizers, which still hold the old one.
    plan : Plan
        The units and indices that stay, and notes on why some that carry nothing stay too.
    removed : dict of str to int
        Units removed from each group.
    max_error : float
        Largest difference of the outputs in float64, relative to the largest output.
    """

    model: nn.Module
    optimizer: Optimizer | None
    plan: Plan
    removed: dict[str, int]
    max_error: float

    def __str__(self) -> str:
        lines = [f"{name}: {count} removed, {len(self.plan.units[name])} left" for name, count in self.removed.items()]
        return "\n".join([*lines, f"largest relative error {self.max_error:.1e}", *self.plan.notes])


def shrink(model: nn.Module, example: graph.Example, *, optimizer: Optimizer | None = None) -> Shrunk:
    """Remove every channel that is provably dead, and nothing else; the outputs in eval mode stay equal.

    A unit is dead if no input changes it or if nothing reads it. Exactly zero is required: 1e-15 is alive. Constants
    move into biases or into one constant channel; a layer keeps at least one unit. What no rule covers stays, with a
    line in ``.plan.notes``. In train mode equality holds without dropout and with settled statistics. Met in the
    chapter `serene`.

    Parameters
    ----------
    model : nn.Module
        It is not touched.
    example : Tensor or tuple of Tensor
        What forward takes, on the model's device and of its dtype; one sample is enough.
    optimizer : torch.optim.Optimizer, optional
        SGD, Adam or another whose update is elementwise; it is not touched either.

    Returns
    -------
    Shrunk
        With ``.model``, ``.optimizer``, ``.plan``, ``.removed``, ``.max_error``.

    Raises
    ------
    TypeError, ValueError
        If the model has no prunable layer, the example does not fit it, or the optimizer cannot be cut.
    RuntimeError
        If the forward cannot be traced, or if the outputs differ by more than 1e-9 in float64.
    """
    args = graph.check(model, example)
    if optimizer is not None:
        _check_optimizer(optimizer)
    traced = graph.trace(graph.clone(model), graph.paired(args), "shrink")
    pins: list[tuple[Node, str]] = []
    found = groups.describe(liveness.label(traced))
    for _ in range(ROUNDS):
        state = liveness.label(traced, pins)
        liveness.propagate(state)
        kept = liveness.keep(state)
        plan = make_plan(state, kept, found)
        small, wide = graph.clone(model), graph.clone(model).double()
        for copy in (small, wide):
            apply(plan, copy)
            compensate(state, kept, copy)
        failure = compare(model, small, wide, args)
        if isinstance(failure, float):
            removed = {name: group.size - len(plan.units[name]) for name, group in found.items()}
            cut = None if optimizer is None else cut_optimizer(optimizer, model, small, plan)
            return Shrunk(small, cut, plan, removed, failure)
        more = suspects(state, kept, pins, failure, small, args)
        if not more:
            break
        pins += more
    raise RuntimeError(f"`shrink` found that the outputs would change: {failure}. Nothing was changed.")


# Plan


def make_plan(state: Analysis, kept: Kept, found: Units) -> Plan:
    """Write down what stays of every tensor."""
    names = _tensor_names(state)
    dense: dict[str, list[int]] = {}
    indices: dict[str, dict[str, list[int]]] = {}
    cut = {node: [kept.of(vector) for vector in axes] for node, axes in state.axes.items()}
    for node, labels in state.elements.items():
        cut[node] = [shapes.by_channel(kept.of(labels), axis).any(1) for axis in range(labels.ndim)]
    for node, masks in cut.items():
        axes = {str(axis): mask.nonzero()[:, 0].tolist() for axis, mask in enumerate(masks) if not bool(mask.all())}
        if axes:
            indices[names[node]] = axes
            dense[names[node]] = list(state.graph.tensors[node].shape)
    layers = groups.layer_names(state)
    depthwise = {layers[call.node]: int(kept.of(call.columns).sum()) for call in state.calls if call.depthwise}
    old = {layers[call.node]: len(call.columns) for call in state.calls if call.depthwise}
    created = [layers[call.node] for call in state.calls if _creates(state, kept, call)]
    return Plan(
        type(state.graph.model).__name__,
        dense,
        indices,
        {name: _units_kept(state, kept, layers, name, group.size, found) for name, group in found.items()},
        created,
        {layer: count for layer, count in depthwise.items() if count < old[layer]},
        _notes(state, kept, layers),
    )


def _tensor_names(state: Analysis) -> dict[Node, str]:
    names: dict[int, str] = {}
    for name, _, _, tensor in graph.tensors_of(state.graph.model):
        names.setdefault(id(tensor), name)
    return {node: names[id(tensor)] for node, tensor in state.graph.tensors.items() if node in state.graph.owned}


def _units_kept(state: Analysis, kept: Kept, layers: dict[Node, str], name: str, size: int, found: Units) -> list[int]:
    first = next(member for member in found[name].writers if member.layer == name)
    call = next(call for call in state.calls if layers[call.node] == name)
    stays = torch.zeros(size, dtype=torch.bool)
    inside = first.index >= 0
    stays[first.index[inside]] = kept.of(call.rows)[inside]
    return stays.nonzero()[:, 0].tolist()


def _creates(state: Analysis, kept: Kept, call: rules.Call) -> bool:
    folds = rules.compensation(state, call) == "fold" and rules.argument(call.node, 2, "bias") is None
    return folds and bool(len(rules.removed_constants(state, call, kept)))


def _notes(state: Analysis, kept: Kept, layers: dict[Node, str]) -> list[str]:
    """Say for each layer why units that carry nothing stay."""
    live, roots = liveness.live(state), state.classes.roots
    reasons = {root: f"it {why}" for root, why in state.classes.pinned.items()}
    for why, extra in kept.notes.items():
        reasons.update({root: f"it is {why}" for root in extra if root not in reasons})
    counts: dict[tuple[str, str], int] = {}
    seen: set[int] = set()
    for call in state.calls:
        for root in shapes.distinct(roots[call.rows]).tolist():
            if root and root not in seen and not live[root] and kept.classes[root]:
                key = layers[call.node], reasons.get(root, "it meets what stays")
                counts[key] = counts.get(key, 0) + 1
            seen.add(root)
    return [
        f"{layer}: {count} unit{'s' * (count != 1)} that carr{'y' if count != 1 else 'ies'} nothing "
        f"stay{'s' * (count == 1)}: {why}"
        for (layer, why), count in counts.items()
    ]


# Constants


@torch.no_grad()
def compensate(state: Analysis, kept: Kept, small: nn.Module) -> None:
    """Pay for removed constants, in float64, in the bias or in one constant column of the small model."""
    names = _tensor_names(state)
    layers = groups.layer_names(state)
    tensors = {name: tensor for name, _, _, tensor in graph.tensors_of(small)}
    for call in state.calls:
        gone = rules.removed_constants(state, call, kept)
        if call.depthwise or not len(gone):
            continue
        constants, stays, rows = state.constants[call.node], kept.of(call.columns), kept.of(call.rows)
        columns = state.value(call.weight)[rows].index_select(1, gone).double()
        how = rules.compensation(state, call)
        if how in ("fold", "center"):
            delta = columns.reshape(*columns.shape[:2], -1).sum(-1) @ constants[gone]
            home = rules.centered(state, call.node) if how == "center" else rules.argument(call.node, 2, "bias")
            target = tensors[names[home] if isinstance(home, Node) else f"{layers[call.node]}.bias"]
            delta = (-delta if how == "center" else delta).to(target.device)
            target.copy_((target.double() + delta).to(target.dtype))
        else:
            best = rules.representative(constants, stays, gone)
            assert best is not None
            target = tensors[names[call.weight]].select(1, int(stays[:best].sum()))
            delta = (columns.movedim(1, -1) @ (constants[gone] / constants[best])).to(target.device)
            target.copy_((target.double() + delta).to(target.dtype))


# Comparison


def compare(model: nn.Module, small: nn.Module, wide: nn.Module, args: tuple[Tensor, ...]) -> float | str | Exception:
    """Return the largest relative error in float64, or what differs: a sentence, or the exception that was raised.

    `wide` is `small` cut and compensated in float64: rounding of the constants is left to the second comparison.
    """
    worst, exact = 0.0, _run_all(model, args, torch.float64)
    wide, small = wide.eval(), graph.clone(small).eval()
    for inputs, expected in exact or []:
        error = _error(expected, wide, inputs, torch.float64)
        if not isinstance(error, float):
            return error
        worst = max(worst, error)
    if worst > TOLERANCE:
        return f"by {worst:.1e} in float64"
    for i, (inputs, expected) in enumerate(_run_all(model, args, None) or []):
        error = _error(expected, small, inputs, None)
        if not isinstance(error, float):
            return error
        floats = [leaf.dtype for leaf in expected if leaf.is_floating_point()]
        eps = max((torch.finfo(dtype).eps for dtype in floats), default=0.0)
        rounding = _distance(exact[i][1], expected) if exact and i < len(exact) else 0.0
        if error > max(50 * eps, 20 * rounding):
            return f"by {error:.1e} in {floats[0] if floats else 'its own dtype'}"
        worst = worst if exact else max(worst, error)
    return worst


def _run_all(
    model: nn.Module, args: tuple[Tensor, ...], dtype: torch.dtype | None
) -> list[tuple[tuple[Tensor, ...], list[Tensor]]] | None:
    """Run the dense model on every input that it accepts; None if it does not run in this dtype at all."""
    dense = graph.clone(model).eval().to(dtype=dtype) if dtype else graph.clone(model).eval()
    found: list[tuple[tuple[Tensor, ...], list[Tensor]]] = []
    for i, inputs in enumerate(probes(args)):
        try:
            found.append((inputs, _run(dense, inputs, dtype)))
        except Exception:  # another size or dtype that the dense model itself refuses
            if not i:
                return None
    return found


def probes(args: tuple[Tensor, ...]) -> Iterator[tuple[Tensor, ...]]:
    """Yield the example, random inputs of another batch size and scale, and images of another size."""
    yield args
    generator = torch.Generator().manual_seed(0)

    def like(arg: Tensor, batch: int, scale: float, grow: int) -> Tensor:
        if not arg.is_floating_point():
            return arg[torch.arange(batch, device=arg.device) % len(arg)]
        shape = [batch, *arg.shape[1:]]
        shape[2:] = [size + grow for size in shape[2:]]
        return (scale * torch.randn(shape, generator=generator)).to(arg)

    yield tuple(like(arg, 3, 1.0, 0) for arg in args)
    yield tuple(like(arg, 5, 10.0, 0) for arg in args)
    if any(arg.ndim >= 3 for arg in args):
        yield tuple(like(arg, 2, 1.0, 5) for arg in args)


@torch.no_grad()
def _run(model: nn.Module, inputs: tuple[Tensor, ...], dtype: torch.dtype | None) -> list[Tensor]:
    cast = [x.to(dtype) if dtype and x.is_floating_point() else x for x in inputs]
    with torch.random.fork_rng(devices=sorted({x.get_device() for x in inputs if x.is_cuda})):
        torch.manual_seed(0)
        return [leaf for leaf in pytree.tree_leaves(model(*(x.clone() for x in cast))) if isinstance(leaf, Tensor)]


def _error(
    expected: list[Tensor], small: nn.Module, inputs: tuple[Tensor, ...], dtype: torch.dtype | None
) -> float | str | Exception:
    try:
        found = _run(small, inputs, dtype)
    except Exception as error:
        return error
    if [leaf.shape for leaf in found] != [leaf.shape for leaf in expected]:
        return "in shape"
    return _distance(expected, found)


def _distance(expected: list[Tensor], found: list[Tensor]) -> float:
    """Return the largest difference, relative to the largest finite value expected; NaN must meet NaN."""
    worst = 0.0
    for left, right in zip(expected, found, strict=True):
        left, right = left.double(), right.double()
        strange = ~left.isfinite()
        if not torch.equal(strange, ~right.isfinite()):
            return float("inf")
        left, right = left[~strange], right[~strange]
        if left.numel():
            scale = max(float(left.abs().max()), torch.finfo(torch.float64).tiny)
            worst = max(worst, float((left - right).abs().max()) / scale)
    return worst


# What a literal size in forward did


def suspects(
    state: Analysis,
    kept: Kept,
    pins: list[tuple[Node, str]],
    failure: str | Exception,
    small: nn.Module,
    args: tuple[Tensor, ...],
) -> list[tuple[Node, str]]:
    """Name the operators whose literal sizes may have broken the cut network, nearest to the failure first."""
    done = {node for node, _ in pins}
    candidates = {
        node
        for node in state.graph.nodes
        if node.op == "call_function" and graph.base(node) in LITERAL and node not in done and _cuts(state, kept, node)
    }
    start = _where(state, failure) if isinstance(failure, Exception) else _differing(state, kept, small, args)
    for node in start:
        near = _upstream(node, candidates)
        if near:
            return [(found, _literal(found)) for found in near]
        if isinstance(failure, Exception) and node not in done and node in state.labels:
            return [(node, f"passes code that counts its channels{_line(node)}")]
    return [(node, _literal(node)) for node in candidates]


def _cuts(state: Analysis, kept: Kept, node: Node) -> bool:
    return any(
        not bool(kept.of(labels).all())
        for each in (*node.all_input_nodes, node)
        for labels in shapes.flat(state.labels.get(each))
    )


def _literal(node: Node) -> str:
    return f"passes `{graph.base(node)}` with a literal size{_line(node)}"


def _frames(node: Node) -> list[tuple[str, int]]:
    lines = str(node.meta.get("stack_trace") or "").splitlines()
    found = [line.strip().split('"') for line in lines if line.strip().startswith("File ")]
    return [(parts[1], int(parts[2].split("line ")[1].split(",")[0])) for parts in found if len(parts) > 2]


def _line(node: Node) -> str:
    frames = [frame for frame in _frames(node) if graph.of_user(frame[0])]
    return f" ({frames[-1][0].rpartition('/')[2]}, line {frames[-1][1]})" if frames else ""


def _where(state: Analysis, error: Exception) -> list[Node]:
    """Return the nodes at, or last before, the line that raised."""
    place = graph.user_frame(error)
    if place is None:
        return []
    at = [node for node in state.graph.nodes if place in _frames(node)]
    if at:
        return at
    before = [(line, node) for node in state.graph.nodes for file, line in _frames(node) if file == place[0]]
    earlier = [(line, node) for line, node in before if line < place[1]]
    return [max(earlier, key=lambda pair: pair[0])[1]] if earlier else []


def _differing(state: Analysis, kept: Kept, small: nn.Module, args: tuple[Tensor, ...]) -> list[Node]:
    """Trace the cut network again and return the first node whose shape is not what was predicted."""
    try:
        again = graph.trace(graph.clone(small), graph.paired(args), "shrink").nodes
    except RuntimeError:
        return []
    theirs = [node for node in again if node.op == "call_function"]
    ours = [node for node in state.graph.nodes if node.op == "call_function"]
    for old, new in zip(ours, theirs, strict=False):
        labels = state.labels.get(old)
        if graph.base(old) != graph.base(new):
            return [old]
        if isinstance(labels, Tensor) and tuple(rules.cut(kept, labels).shape) != tuple(new.meta["val"].shape):
            return [old]
    return []


def _upstream(node: Node, candidates: set[Node]) -> list[Node]:
    """Return the nearest candidates at or above a node."""
    seen, layer = {node}, [node]
    while layer:
        near = [each for each in layer if each in candidates]
        if near:
            return near
        layer = [source for each in layer for source in each.all_input_nodes if source not in seen]
        seen.update(layer)
    return []


# Optimizer


def _check_optimizer(optimizer: Optimizer) -> None:
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"The optimizer must be a torch.optim.Optimizer; got {type(optimizer).__name__}.")
    kind = type(optimizer)
    if kind not in [getattr(torch.optim, name) for name in ELEMENTWISE_OPTIMIZERS]:
        raise ValueError(
            f"{kind.__name__} keeps state that cannot be cut with the weights, or that mixes them: call `shrink` "
            f"without it and build a new one; {', '.join(ELEMENTWISE_OPTIMIZERS)} can be passed."
        )


def cut_optimizer(optimizer: Optimizer, model: nn.Module, small: nn.Module, plan: Plan) -> Optimizer:
    """Return a new optimizer over the small model, its groups as before and its state cut as the weights were."""
    new = {name: tensor for name, _, _, tensor in graph.tensors_of(small)}
    names: dict[int, str] = {}
    for name, _, _, tensor in graph.tensors_of(model):
        names.setdefault(id(tensor), name)
    born = {f"{layer}.weight": f"{layer}.bias" for layer in plan.created}
    fresh: list[dict[str, Any]] = []
    for group in optimizer.param_groups:
        params = [new[names[id(p)]] if id(p) in names else p for p in group["params"]]
        params += [new[born[names[id(p)]]] for p in group["params"] if names.get(id(p)) in born]
        # Named groups would need a name for each created bias.
        fresh.append({key: value for key, value in group.items() if key not in ("params", "param_names")})
        fresh[-1]["params"] = params
    accepted = inspect.signature(type(optimizer)).parameters
    defaults = {key: value for key, value in optimizer.defaults.items() if key in accepted}
    made = type(optimizer)(fresh, **defaults)
    for group in optimizer.param_groups:
        for old in group["params"]:
            name = names.get(id(old), "")
            state = optimizer.state.get(old)
            if state:
                made.state[new.get(name, old)] = {key: _cut_state(v, old, plan, name) for key, v in state.items()}
    return made


def _cut_state(value: Any, parameter: Tensor, plan: Plan, name: str) -> Any:
    if not isinstance(value, Tensor):
        return value
    small = value.detach().clone()
    if value.shape == parameter.shape:
        for axis, index in plan.kept.get(name, {}).items():
            small = small.index_select(int(axis), torch.tensor(index, device=small.device))
    return small
