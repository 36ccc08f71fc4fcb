"""Remove what is provably dead, and prove it: plan, cut, compensate, compare.

A channel goes when it is constant or read by nobody. A constant c that readers still need is paid for first: in the
bias, b ← b + Σ_k c_k Σ_taps W_k, where no zero padding is read; else in one constant column j that stays,
W_j ← W_j + Σ_k (c_k / c_j) W_k. Derived in the chapter `from-zeros-to-smaller`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.nn.utils import parametrize
from torch.optim import Optimizer
from torch.utils import _pytree as pytree

from pruning_lib._model import HOOKS, Example, check, clone, paired, tensors_of, user_frame
from pruning_lib.channels import (
    _find as groups,
)
from pruning_lib.channels import (
    _layers as layers,
)
from pruning_lib.channels import (
    _liveness as liveness,
)
from pruning_lib.channels import (
    _rules as rules,
)
from pruning_lib.channels import (
    _shapes as shapes,
)
from pruning_lib.channels import (
    _trace as graph,
)
from pruning_lib.channels._constant import REPLACEABLE
from pruning_lib.channels._layers import Call
from pruning_lib.channels._liveness import Analysis, Kept
from pruning_lib.channels._plan import Plan, apply, cut
from pruning_lib.units import Group, Units

_Runs = list[tuple[tuple[Tensor, ...], list[Tensor]]]
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


def shrink(model: nn.Module, example: Example, *, optimizer: Optimizer | None = None) -> Shrunk:
    """Remove every channel that is provably dead, and nothing else; the outputs in eval mode stay equal.

    A unit is dead if no input changes it or if nothing reads it. Exactly zero is required: 1e-15 is alive. Constants
    move into biases or into one constant channel; a layer on the only way to the output keeps at least one unit, one
    that something bypasses becomes a `Constant`. What no rule covers stays, with a line in ``.plan.notes``; so do
    channels that ``forward`` counts, unless the module defines ``after_shrink(kept)`` and adapts. In train mode
    equality holds without dropout and with settled statistics; under further training the two networks are different.
    Derived in the chapter `from-zeros-to-smaller`; all rules on one page: *What shrink promises*.

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
    args = check(model, example)
    if optimizer is not None:
        _check_optimizer(optimizer)
    traced = graph.trace(clone(model, share=True), paired(args), "shrink")
    found, homes = groups.describe(first := liveness.label(traced)), groups.homes(first)
    pins: list[tuple[Node, str]] = []
    failure: float | str | Exception = ""
    for _ in range(ROUNDS):
        state, kept = _decide(traced, pins)
        plan = make_plan(state, kept, found, homes)
        failure = compare(model, lambda dtype: _cut(model, state, kept, plan, dtype), args)  # noqa: B023
        if isinstance(failure, float):
            small = _cut(model, state, kept, plan, None)
            removed = {name: group.size - len(plan.units[name]) for name, group in found.items()}
            cut = None if optimizer is None else cut_optimizer(optimizer, model, small, plan)
            return Shrunk(small, cut, plan, removed, failure)
        more = suspects(state, kept, pins, failure, _cut(model, state, kept, plan, None), args)
        if not more:
            break
        pins += more
    raise RuntimeError(f"`shrink` found that the outputs would change: {failure}. Nothing was changed.")


def _decide(traced: graph.Graph, pins: list[tuple[Node, str]]) -> tuple[Analysis, Kept]:
    """Find what stays; layers that emit constants alone are severed from their inputs, which may then go too."""
    severed: dict[Node, Tensor] = {}
    while True:
        state = liveness.label(traced, pins, severed)
        liveness.propagate(state)
        kept = liveness.keep(state)
        more = {
            node: found
            for node in state.graph.nodes
            if node not in severed and _replaceable(state, node)
            if (found := liveness.constant(state, kept, node)) is not None
        }
        # On the only way to the output a layer keeps its one unit: a network of constants alone is no network.
        avoided = groups.avoidable(state, [{node} for node in more])
        if not avoided:
            return state, kept
        severed |= {node: found for i, (node, found) in enumerate(more.items()) if i in avoided}


def _replaceable(state: Analysis, node: Node) -> bool:
    """Whether an operator is the one call of a plain layer, so that another module can stand in its place."""
    if node.op != "call_function" or node in state.unknown or not isinstance(state.labels.get(node), Tensor):
        return False
    own = node.args[3] if graph.base(node) == "batch_norm" else node.args[1] if layers.weighs(node) else None
    if not isinstance(own, Node) or own not in state.graph.owned or len(own.users) > 1:
        return False
    name, module = graph.caller(state.graph, node)
    tensor = state.graph.tensors[own]
    hooked = any(getattr(module, hooks, None) for hooks in HOOKS)
    mine = any(tensor is each for each in (getattr(module, "weight", None), getattr(module, "running_mean", None)))
    # A bounded scale makes a class of its own out of its BatchNorm's.
    kind = type(module).__bases__[0] if parametrize.is_parametrized(module) else type(module)
    return bool(name) and kind in REPLACEABLE and mine and not hooked


def _cut(model: nn.Module, state: Analysis, kept: Kept, plan: Plan, dtype: torch.dtype | None) -> nn.Module:
    """Return a smaller copy of the model, its floating-point tensors in another dtype if one is given."""
    small = clone(model, share=True)
    apply(plan, small, dtype)
    compensate(state, kept, small)
    return small


# Plan


def make_plan(state: Analysis, kept: Kept, found: Units, homes: dict[str, Node]) -> Plan:
    """Write down what stays of every tensor."""
    names = _tensor_names(state)
    dense: dict[str, list[int]] = {}
    indices: dict[str, dict[str, list[int]]] = {}
    grouped = {leaf: call for call in state.calls if call.groups > 1 for leaf in state.leaves[call.weight]}
    cut = {node: [kept.of(vector) for vector in axes] for node, axes in state.axes.items()}
    for node, labels in state.elements.items():
        cut[node] = [shapes.by_channel(kept.of(labels), axis).any(1) for axis in range(labels.ndim)]
    blocks: dict[str, list[list[int]]] = {}
    for node, masks in cut.items():
        if node in grouped and len(masks) > 1:
            masks, parts = masks[:1], masks[1].reshape(grouped[node].groups, -1)
            stay = parts[layers.kept_groups(grouped[node], kept)]
            if not bool(stay.all()):
                blocks[names[node]] = [part.nonzero()[:, 0].tolist() for part in stay]
        axes = {str(axis): mask.nonzero()[:, 0].tolist() for axis, mask in enumerate(masks) if not bool(mask.all())}
        if axes:
            indices[names[node]] = axes
        if axes or names[node] in blocks:
            dense[names[node]] = list(state.graph.tensors[node].shape)
    called = groups.layer_names(state)
    return Plan(
        type(state.graph.model).__name__,
        dense,
        indices,
        {name: _units_kept(state, kept, homes[name], group) for name, group in found.items()},
        [called[call.node] for call in state.calls if _creates(state, kept, call)],
        _groups_kept(state, kept, called),
        blocks,
        {graph.caller(state.graph, node)[0]: _constants(state, kept, node) for node in state.severed},
        _notes(state, kept, called) + _not_followed(found, called),
    )


def _groups_kept(state: Analysis, kept: Kept, called: dict[Node, str]) -> dict[str, int]:
    """Return the new number of groups of each grouped convolution and GroupNorm that loses some."""
    stay = {called[call.node]: layers.kept_groups(call, kept) for call in state.calls if call.groups > 1}
    stay |= {name: kept.of(labels) for name, labels in state.groups.items()}
    return {name: int(mask.sum()) for name, mask in stay.items() if not bool(mask.all())}


def _channels(state: Analysis, node: Node) -> Tensor:
    """Return the label of each channel that a layer returns."""
    return shapes.by_channel(state.labels[node], liveness.channel_axis(node))[:, 0]


def _constants(state: Analysis, kept: Kept, node: Node) -> int:
    stay = kept.of(_channels(state, node))
    return int(stay.sum()) * (1 if bool(_emitted(state, node)[stay].any()) else -1)


def _emitted(state: Analysis, node: Node) -> Tensor:
    """Return the constants of a severed layer, (channels,); zeros where other severed layers alone follow."""
    vector = state.severed[node]
    return torch.zeros_like(vector) if all(user in state.severed for user in node.users) else vector


def _tensor_names(state: Analysis) -> dict[Node, str]:
    names: dict[int, str] = {}
    for name, _, _, tensor in tensors_of(state.graph.model):
        names.setdefault(id(tensor), name)
    return {node: names[id(tensor)] for node, tensor in state.graph.tensors.items() if node in state.graph.owned}


def _units_kept(state: Analysis, kept: Kept, home: Node, group: Group) -> list[int]:
    index = next(member for member in group.writers if member.layer == group.name).index
    stays = torch.zeros(group.size, dtype=torch.bool)
    stays[index[index >= 0]] = kept.of(_channels(state, home))[index >= 0]
    return stays.nonzero()[:, 0].tolist()


def _creates(state: Analysis, kept: Kept, call: Call) -> bool:
    if layers.compensation(state, call) != "fold" or graph.argument(call.node, 2, "bias") is not None:
        return False
    gone = layers.removed_constants(state, call, kept)
    return not bool(state.constants[call.node][gone].isnan().all())


def _notes(state: Analysis, kept: Kept, called: dict[Node, str]) -> list[str]:
    """Say for each layer why units that carry nothing stay, and which layers became constants."""
    live, roots = kept.live, state.classes.roots
    reasons = {root: f"it {why}" for root, why in state.classes.pinned.items()}
    for why, extra in kept.notes.items():
        reasons.update({root: f"it is {why}" for root in extra if root not in reasons})
    counts: dict[tuple[str, str], int] = {}
    seen: set[int] = set()
    for call in state.calls:
        for root in shapes.distinct(roots[call.rows]).tolist():
            if root and root not in seen and not live[root] and kept.classes[root]:
                key = called[call.node], reasons.get(root, "it meets what stays")
                counts[key] = counts.get(key, 0) + 1
            seen.add(root)
    return [
        f"{layer}: {count} unit{'s' * (count != 1)} that carr{'y' if count != 1 else 'ies'} nothing "
        f"stay{'s' * (count == 1)}: {why}"
        for (layer, why), count in counts.items()
    ] + [*_rows_that_stay(state, kept, called, live), *_became_constant(state)]


def _rows_that_stay(state: Analysis, kept: Kept, called: dict[Node, str], live: Tensor) -> Iterator[str]:
    """Say which layers keep rows of zeros because others write the same channels, or pass them by."""
    for call in state.calls:
        constant = ~shapes.by_channel(state.values[call.node], layers.channel_axis(call.node))[:, 0].isnan()
        roots = state.classes.roots[call.rows]
        fed = constant & live[roots] & kept.classes[roots]
        if not bool(fed.any()):
            continue
        others = [
            called[other.node]
            for other in state.calls
            if not other.depthwise and other.node is not call.node
            if bool(torch.isin(state.classes.roots[other.rows], roots[fed]).any())
        ]
        why = f"{others[0]} writes the same channels" if others else "what they hold varies or is lost on the way"
        count = int(fed.sum())
        yield f"{called[call.node]}: {count} row{'s' * (count != 1)} of constants stay{'s' * (count == 1)}: {why}"


def _not_followed(found: Units, called: dict[Node, str]) -> list[str]:
    """Say which layers no rule covers at all."""
    return [f"{layer}: its units stay: it {why}" for layer, why in found.fixed.items() if layer not in called.values()]


def _became_constant(state: Analysis) -> Iterator[str]:
    for node in state.severed:
        yield f"{graph.caller(state.graph, node)[0]}: no input changes it, so it became a constant"


# Constants


@torch.no_grad()
def compensate(state: Analysis, kept: Kept, small: nn.Module) -> None:
    """Pay for removed constants, in float64, in the bias or in one constant column of the small model."""
    names = _tensor_names(state)
    called = groups.layer_names(state)
    tensors = {name: tensor for name, _, _, tensor in tensors_of(small)}
    for call in state.calls:
        read = layers.removed_constants(state, call, kept)
        stays, rows = kept.of(call.columns), kept.of(call.rows)
        for constants, how in layers.factors(state, call):
            gone = read[~constants[read].isnan()]
            if not len(gone):
                continue
            if how in ("fold", "center"):
                delta = layers.dot(state, call.node, _only(constants, gone))[rows]
                home = layers.centered(state, call.node) if how == "center" else graph.argument(call.node, 2, "bias")
                target = tensors[names[home] if isinstance(home, Node) else f"{called[call.node]}.bias"]
                _add(target, -delta if how == "center" else delta)
                continue
            best = layers.representative(constants, stays, gone)
            assert best is not None
            weight = state.tensor(call.weight).detach()
            axis = 0 if layers.transposed(call.node) else 1
            columns = (
                weight.index_select(axis, gone.to(weight.device)).movedim(axis, -1)[rows.to(weight.device)].double()
            )
            place = tensors[names[call.weight]].select(axis, int(stays[:best].sum()))
            _add(place, columns @ (constants[gone] / constants[best]).to(weight.device))
    for node in state.severed:
        stub = small.get_submodule(graph.caller(state.graph, node)[0])
        assert isinstance(stub.bias, Tensor)
        stub.bias.copy_(_emitted(state, node)[kept.of(_channels(state, node))])
    _still(state, kept, names, tensors)


def _only(constants: Tensor, index: Tensor) -> Tensor:
    """Return the constants at `index`, 0 elsewhere."""
    return torch.zeros_like(constants).index_copy_(0, index, constants[index])


def _add(target: Tensor, delta: Tensor) -> None:
    target.copy_((target.double() + delta.to(target.device)).to(target.dtype))


def _still(state: Analysis, kept: Kept, names: dict[Node, str], tensors: dict[str, Tensor]) -> None:
    """Give representatives behind a BatchNorm γ = 0 and β = c: the same constant while training, and no gradient."""
    stand = torch.tensor(sorted(kept.notes.get(layers.STANDS, ())), dtype=torch.int64)
    for node, labels in state.norms:
        parameters = [node.args[1], node.args[2]]
        plain = all(isinstance(p, Node) and p in state.graph.owned and len(p.users) == 1 for p in parameters)
        values = shapes.uniform(state.values[node], 1)
        mine = torch.isin(state.classes.roots[labels], stand) & ~values.isnan()
        if plain and bool(mine.any()):
            stays = kept.of(labels)
            gamma, beta = (tensors[names[p]] for p in parameters)  # type: ignore[index]
            gamma[mine[stays].to(gamma.device)] = 0
            beta[mine[stays].to(beta.device)] = values[mine & stays].to(beta)


# Comparison


def compare(
    model: nn.Module, make: Callable[[torch.dtype | None], nn.Module], args: tuple[Tensor, ...]
) -> float | str | Exception:
    """Return the largest relative error in float64, or what differs: a sentence, or the exception that was raised.

    `make` cuts and compensates the model in a dtype: rounding of the constants is left to the second comparison.
    """
    exact = _run_all(model, args, torch.float64)  # outputs alone are kept: never two models in float64 at once
    worst = 0.0 if exact is None else _worst(make(torch.float64), exact, torch.float64)
    if not isinstance(worst, float):
        return worst
    if worst > TOLERANCE:
        return f"by {worst:.1e} in float64"
    native = _run_all(model, args, None) or []
    small = make(None).eval()
    for i, (inputs, expected) in enumerate(native):
        error = _error(expected, small, inputs, None)
        if not isinstance(error, float):
            return error
        floats = [leaf.dtype for leaf in expected if leaf.is_floating_point()]
        eps = max((torch.finfo(dtype).eps for dtype in floats), default=0.0)
        rounding = _distance(exact[i][1], expected) if exact and i < len(exact) else 0.0
        if error > max(50 * eps, 20 * rounding, TOLERANCE if eps < TOLERANCE else 0.0):
            return f"by {error:.1e} in {floats[0] if floats else 'its own dtype'}"
        worst = worst if exact else max(worst, error)
    return worst


def _worst(wide: nn.Module, exact: _Runs, dtype: torch.dtype) -> float | str | Exception:
    worst, wide = 0.0, wide.eval()
    for inputs, expected in exact:
        error = _error(expected, wide, inputs, dtype)
        if not isinstance(error, float):
            return error
        worst = max(worst, error)
    return worst


def _run_all(model: nn.Module, args: tuple[Tensor, ...], dtype: torch.dtype | None) -> _Runs | None:
    """Run the dense model on every input that it accepts; None if it does not run in this dtype at all."""
    dense = clone(model, share=True)
    if dtype:
        apply(Plan(""), dense, dtype)
    dense.eval()
    found: _Runs = []
    for i, choices in enumerate(probes(args)):
        for inputs in choices:
            try:
                found.append((inputs, _run(dense, inputs, dtype)))
                break
            except Exception:  # another size or dtype that the dense model itself refuses
                if not i:
                    return None
    return found


def probes(args: tuple[Tensor, ...]) -> Iterator[list[tuple[Tensor, ...]]]:
    """Yield the example, random inputs of another batch and scale, and images of another size, small if may be."""
    yield [args]
    generator = torch.Generator().manual_seed(0)

    def like(arg: Tensor, scales: list[float], size: Callable[[int], int]) -> Tensor:
        if not arg.is_floating_point():
            return arg[torch.arange(len(scales), device=arg.device) % len(arg)]
        shape = [len(scales), *arg.shape[1:]]
        shape[2:] = map(size, shape[2:])
        factors = torch.tensor(scales).reshape(-1, *[1] * (arg.ndim - 1))
        return (factors * torch.randn(shape, generator=generator)).to(arg)

    yield [tuple(like(arg, [1.0, 1.0, 10.0], lambda length: length) for arg in args)]
    if any(arg.ndim >= 3 for arg in args):
        yield [tuple(like(arg, [1.0, 10.0], other) for arg in args) for other in (_smaller, _larger)]


def _smaller(length: int) -> int:
    return length // 2 + 5 if length >= 64 else length + 5


def _larger(length: int) -> int:
    return length + 5


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
    if here := [node for node in start if node in candidates]:
        return [(node, _literal(node)) for node in here]
    for node in start:
        if near := _upstream(node, candidates):
            return [(found, _literal(found)) for found in near]
        if isinstance(failure, Exception) and node not in done and node in state.labels:
            break
    if isinstance(failure, Exception):
        for counting in (start, _around(state, start)):
            if more := [node for node in counting if node not in done and node in state.labels]:
                return [(node, f"passes code that counts its channels{graph.line_of(start[0])}") for node in more]
    return [(node, _literal(node)) for node in candidates]


def _around(state: Analysis, start: list[Node]) -> list[Node]:
    """Return all that the module around a line computes or reads: the line may use a size that it took earlier."""
    paths = {graph.caller(state.graph, node)[0] for node in start}
    inside = [node for node in state.graph.nodes if node.op == "call_function" and paths & _modules(node)]
    return [*inside, *(source for node in inside for source in node.all_input_nodes)]


def _modules(node: Node) -> set[str]:
    return {str(path) for path, _ in (node.meta.get("nn_module_stack") or {}).values()}


def _cuts(state: Analysis, kept: Kept, node: Node) -> bool:
    return any(
        not bool(kept.of(labels).all())
        for each in (*node.all_input_nodes, node)
        for labels in shapes.flat(state.labels.get(each))
    )


def _literal(node: Node) -> str:
    return f"passes `{graph.base(node)}` with a literal size{graph.line_of(node)}"


def _where(state: Analysis, error: Exception) -> list[Node]:
    """Return the nodes at, or last before, the line that raised."""
    place = user_frame(error)
    if place is None:
        return []
    at = [node for node in state.graph.nodes if place in graph.frames_of(node)]
    if at:
        return at
    before = [(line, node) for node in state.graph.nodes for file, line in graph.frames_of(node) if file == place[0]]
    earlier = [(line, node) for line, node in before if line < place[1]]
    return [max(earlier, key=lambda pair: pair[0])[1]] if earlier else []


def _differing(state: Analysis, kept: Kept, small: nn.Module, args: tuple[Tensor, ...]) -> list[Node]:
    """Trace the cut network again and return the first node whose shape is not what was predicted."""
    try:
        again = graph.trace(clone(small), paired(args), "shrink").nodes
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
    new = {name: tensor for name, _, _, tensor in tensors_of(small)}
    names: dict[int, str] = {}
    for name, _, _, tensor in tensors_of(model):
        names.setdefault(id(tensor), name)
    born = {f"{layer}.weight": f"{layer}.bias" for layer in (*plan.created, *plan.constants)}
    replaced = {name for name in names.values() if name.rpartition(".")[0] in plan.constants}
    fresh: list[dict[str, Any]] = []
    for group in optimizer.param_groups:
        stays = [p for p in group["params"] if names.get(id(p)) not in replaced]
        params = [new[names[id(p)]] if id(p) in names else p for p in stays]
        params += [new[born[name]] for p in group["params"] if born.get(name := names.get(id(p), "")) in new]
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
            if state and name not in replaced:
                made.state[new.get(name, old)] = {key: _cut_state(v, old, plan, name) for key, v in state.items()}
    return made


def _cut_state(value: Any, parameter: Tensor, plan: Plan, name: str) -> Any:
    if not isinstance(value, Tensor):
        return value
    if value.shape != parameter.shape:
        return value.detach().clone()
    return cut(value, plan.kept.get(name, {}), plan.blocks.get(name, []))
