"""What each operator does to channels: one rule a family, in one table. What is not in the table keeps its channels.

A rule has three parts: `label` says which channels are the same, `value` which elements are constant, `use` what the
operator reads of its inputs. Constants are carried by running the operator itself on values where NaN means live.
Linear and convolution layers have a file of their own, `layers.py`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import Node
from torch.fx.node import map_arg

from pruning_lib.channels import _layers as layers
from pruning_lib.channels._shapes import (
    NAN,
    align,
    by_channel,
    common,
    finite,
    flat,
    narrow,
    parts,
    repeated,
    spread,
    uniform,
)
from pruning_lib.channels._trace import argument, base, caller, names, shape_of

if TYPE_CHECKING:
    from pruning_lib.channels._liveness import Analysis, Kept


@dataclass(frozen=True)
class Rule:
    """How one family of operators treats labels and values (forward) and uses (backward)."""

    label: Callable[[Analysis, Node], None]
    value: Callable[[Analysis, Node], None]
    use: Callable[[Analysis, Node], None]


# Elementwise operators


IDENTITY = names(
    "dropout feature_dropout alpha_dropout feature_alpha_dropout contiguous clone detach alias lift_fresh_copy "
    "native_dropout_identity to _to_copy type_as positive"
)


# What some release of torch does not tag as pointwise.
UNTAGGED = names(
    "absolute arctan celu divide elu fix floor_divide gelu greater greater_equal hardshrink hardsigmoid hardswish "
    "hardtanh leaky_relu less less_equal log_sigmoid masked_fill mish multiply negative relu relu6 rsub selu silu "
    "softplus softshrink special_expit subtract threshold true_divide where clamp clamp_min clamp_max"
)


def elementwise(node: Node) -> bool:
    """Whether the operator treats each element alone and by no chance."""
    tags = getattr(node.target, "tags", ())
    listed = torch.Tag.pointwise in tags or base(node) in UNTAGGED
    single = isinstance(node.meta.get("val"), Tensor) and bool(node.all_input_nodes)
    return listed and single and torch.Tag.nondeterministic_seeded not in tags


def functional(node: Node) -> Callable[..., Any]:
    """Return the operator itself, or the functional form of one that works in place."""
    packet = getattr(torch.ops.aten, base(node))
    overload = str(getattr(node.target, "_overloadname", "default"))
    return getattr(packet, overload, packet)  # type: ignore[no-any-return]


def find_leaves(state: Analysis, node: Node) -> None:
    """Find the tensors that a layer's weight is computed from element by element, and label them by axis."""
    weight = node.args[0 if base(node) == "embedding" else 1]
    assert isinstance(weight, Node)
    chain: list[Node] = []
    leaves = _leaves(state, weight, chain)
    if leaves:
        for link in chain:
            state.leaves[link] = leaves


def _leaves(state: Analysis, weight: Node, chain: list[Node]) -> list[Node] | None:
    chain.append(weight)
    if weight in state.graph.tensors:
        return [weight]
    plain = weight.op == "call_function" and (elementwise(weight) or base(weight) in IDENTITY)
    if not plain or weight in state.graph.opaque:
        return None
    found: list[Node] = []
    for source in weight.all_input_nodes:
        if shape_of(source) == shape_of(weight):
            part = _leaves(state, source, chain)
            if part is None:
                return None
            found += [leaf for leaf in part if leaf not in found]
        elif shape_of(source).numel() > 1:
            return None
    return found or None


def _each_label(state: Analysis, node: Node) -> None:
    if node in state.leaves:
        return
    shape = shape_of(node)
    operands = [align(state.of(source), len(shape)) for source in node.all_input_nodes]
    operands = [labels for labels in operands if labels.numel() > 1 or labels.any()] or operands
    thin = [narrow(labels) for labels in operands]
    reason = f"meets channels that cannot go at `{base(node)}`"
    joined: list[Tensor] = []
    for i, labels in enumerate(operands):
        others = [other for j, other in enumerate(thin) if j != i]
        # One channel broadcast over many is none of them: joining would make all of them one class.
        if any(
            size == 1 < shape[a] and any(other.shape[a] > 1 for other in others) for a, size in enumerate(labels.shape)
        ):
            # If it varies along another axis, that axis has to stay in what it meets, too.
            for met in [labels, *(others if thin[i].numel() > 1 else [])]:
                state.classes.pin(met, f"is broadcast over channels at `{base(node)}`")
        else:
            joined.append(labels.expand(shape))
    found = joined[0] if joined else torch.zeros((), dtype=torch.int64).expand(shape)
    for labels in joined[1:]:
        state.classes.union(found, labels, reason)
        first, second = common(found, labels)
        found = torch.maximum(first, second).expand(shape)
    state.labels[node] = found


def _each_value(state: Analysis, node: Node) -> None:
    shape = shape_of(node)
    operands = {source: align(state.value(source), len(shape)) for source in node.all_input_nodes}
    for axis in range(len(shape)):
        if all(value.shape[axis] == 1 or value.stride(axis) == 0 for value in operands.values()):
            operands = {source: value.narrow(axis, 0, 1) for source, value in operands.items()}
    operands = {source: value.double() for source, value in operands.items()}
    live = functools.reduce(torch.logical_or, [value.isnan() for value in operands.values()])
    args: Any
    kwargs: Any
    args, kwargs = map_arg((node.args, dict(node.kwargs)), lambda source: _known(source, operands[source]))
    try:
        # Live elements stand in as 1: what becomes of them is not looked at, so no operator has to pass NaN on.
        found = torch.where(live, NAN, functional(node)(*args, **kwargs).double())
    except (RuntimeError, TypeError):
        found = torch.full((), NAN).double()
    if base(node) in ("mul", "multiply"):
        for value in operands.values():
            found = torch.where(value == 0, 0.0, found)
    state.values[node] = finite(found).expand(shape)


def _known(source: Node, value: Tensor) -> Tensor:
    """Return an operand with live elements replaced, in its own kind of number; floating point in float64."""
    dtype = source.meta["val"].dtype
    known = torch.where(value.isnan(), 1.0, value)
    return known if dtype.is_floating_point else known.to(dtype)


def _each_use(state: Analysis, node: Node) -> None:
    used, value = common(state.used[node], state.values[node])
    live = used & value.isnan()
    for source in node.all_input_nodes:
        if source in state.labels:
            shape = shape_of(source)
            lead = live.ndim - len(shape)
            part = live.any(dim=list(range(lead))) if lead else live
            for axis, size in enumerate(shape):
                part = part.any(dim=axis, keepdim=True) if size == 1 < part.shape[axis] else part
            state.mark(source, part.expand(shape))


def _same_label(state: Analysis, node: Node) -> None:
    source = node.args[0]
    assert isinstance(source, Node)
    random = "dropout" in base(node) and bool(argument(node, 2, "train", False))
    before, after = (each.meta["val"].dtype for each in (source, node))
    if random or (before != after and not after.is_floating_point) or after.is_complex:
        state.give_up(node)
    elif node not in state.leaves:
        state.labels[node] = state.of(source).expand(shape_of(node))


def _same_value(state: Analysis, node: Node) -> None:
    state.values[node] = state.value(node.args[0])


def _same_use(state: Analysis, node: Node) -> None:
    state.mark(node.args[0], state.used[node])


# Operators with one parameter for each channel


def _norm_label(state: Analysis, node: Node) -> None:
    if argument(node, 5, "training", False) or argument(node, 3, "running_mean") is None:
        state.give_up(node, "feeds a BatchNorm without running statistics")
        return
    _channelwise_label(state, node)
    state.norms.append((node, by_channel(state.labels[node], 1)[:, 0]))


def _channelwise_label(state: Analysis, node: Node) -> None:
    labels = state.of(node.args[0])
    for vector in node.args[1:5]:
        if isinstance(vector, Node) and (base(node) != "prelu" or shape_of(vector).numel() > 1):
            reason = f"meets parameters of `{base(node)}` that cannot shrink"
            state.classes.union(by_channel(labels, 1), state.of(vector, vector=True)[:, None], reason)
    state.labels[node] = labels


def _vector(state: Analysis, node: Node, position: int, dims: int) -> Tensor | None:
    """Return one of a normalization's parameters, shaped to meet a tensor of `dims` axes, channels second."""
    source = node.args[position] if len(node.args) > position else None
    return None if source is None else state.value(source).double().reshape([1, -1] + [1] * (dims - 2))


def _scaled(found: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """Apply scale and shift; a scale of 0 makes its channel constant, whatever comes in."""
    if weight is not None:
        found = torch.where(weight == 0, 0.0, found * weight)
    return finite(found if bias is None else found + bias)


def _norm_value(state: Analysis, node: Node) -> None:
    value, eps = state.value(node.args[0]), argument(node, 7, "eps", 1e-5)
    thin = narrow(value)
    weight, bias, mean, var = (_vector(state, node, position, thin.ndim) for position in (1, 2, 3, 4))
    assert mean is not None
    assert var is not None
    state.values[node] = _scaled((thin - mean) / (var + eps).sqrt(), weight, bias).expand(value.shape)


def _prelu_value(state: Analysis, node: Node) -> None:
    value, slope = state.value(node.args[0]), state.value(node.args[1]).double()
    thin = narrow(value)
    slope = slope.reshape([1, -1] + [1] * (thin.ndim - 2)) if slope.numel() > 1 else slope
    state.values[node] = finite(torch.where(thin > 0, thin, slope * thin)).expand(value.shape)


def _channelwise_use(state: Analysis, node: Node) -> None:
    used, value = common(state.used[node], state.values[node])
    state.mark(node.args[0], (used & value.isnan()).expand(shape_of(node)))


# Normalization by statistics of the example itself: what shares statistics stays or goes together.


def _group_norm_label(state: Analysis, node: Node) -> None:
    count = int(argument(node, 1, "num_groups"))
    name, module = caller(state.graph, node)
    if not isinstance(module, nn.GroupNorm) or module.num_groups != count:
        state.give_up(node, "feeds `group_norm` called with a literal number of groups")
        return
    labels = by_channel(state.of(node.args[0]), 1)
    reason = "shares the statistics of a GroupNorm with channels that cannot go"
    for part in parts(labels, count):
        state.classes.union(part[:1, :1], part, reason)
    for vector in node.args[2:4]:
        if isinstance(vector, Node):
            state.classes.union(labels, state.of(vector, vector=True)[:, None], reason)
    state.labels[node] = state.of(node.args[0])
    state.groups.setdefault(name, parts(labels[:, 0], count)[:, 0])


def _group_norm_value(state: Analysis, node: Node) -> None:
    value, eps = state.value(node.args[0]), argument(node, 4, "eps", 1e-5)
    thin = narrow(value)
    thin = thin.expand(thin.shape[0], value.shape[1], *thin.shape[2:])
    count = int(argument(node, 1, "num_groups"))
    axes = range(2, thin.ndim)
    constants = torch.where(_varies(thin, axes), NAN, _flatten_positions(thin, axes, True))
    shared = parts(constants, count, 1)
    centred = shared - shared.mean(2, keepdim=True)
    found = (centred / (centred.square().mean(2, keepdim=True) + eps).sqrt()).flatten(1, 2)
    weight, bias = (_vector(state, node, position, thin.ndim) for position in (2, 3))
    state.values[node] = _scaled(found, weight, bias).expand(value.shape)


def _group_norm_use(state: Analysis, node: Node) -> None:
    used, value = common(state.used[node], state.values[node])
    live = by_channel((used & value.isnan()).expand(shape_of(node)), 1).any(1)
    live = parts(live, int(argument(node, 1, "num_groups")))
    state.mark(node.args[0], spread(live.any(1, keepdim=True).expand(live.shape).flatten(), 1, shape_of(node)))


def _instance_norm_value(state: Analysis, node: Node) -> None:
    value, eps = state.value(node.args[0]), argument(node, 7, "eps", 1e-5)
    thin = narrow(value)
    weight, bias, mean, var = (_vector(state, node, position, thin.ndim) for position in (1, 2, 3, 4))
    if argument(node, 5, "use_input_stats", True):
        # A constant is its own mean; what varies is live.
        found = torch.where(_varies(thin, range(2, thin.ndim)), NAN, 0.0)
    else:
        assert mean is not None
        assert var is not None
        found = (thin - mean) / (var + eps).sqrt()
    state.values[node] = _scaled(found, weight, bias).expand(value.shape)


def _over_axes(node: Node) -> list[int]:
    """Return the axes over which softmax or a normalization works."""
    dims = len(shape_of(node))
    if base(node) in ("layer_norm", "rms_norm"):
        return list(range(dims - len(argument(node, 1, "normalized_shape")), dims))
    return [int(argument(node, 1, "dim")) % dims]


def _over_label(state: Analysis, node: Node) -> None:
    labels = state.of(node.args[0])
    if bool(_varies(labels, _over_axes(node)).any()):
        state.give_up(node, f"feeds `{base(node)}`, whose statistics count every channel")
    else:
        state.labels[node] = labels


def _over_value(state: Analysis, node: Node) -> None:
    state.values[node] = torch.full((), NAN).double().expand(shape_of(node))


def _over_use(state: Analysis, node: Node) -> None:
    used = common(state.used[node])[0].any(dim=_over_axes(node), keepdim=True)
    state.mark(node.args[0], used.expand(shape_of(node)))


# Tensors made from numbers, and gates


def _made_label(state: Analysis, node: Node) -> None:
    # zeros_like and its kin follow the channels of what they look like; a size given as numbers is a literal.
    follows = base(node).endswith("_like") and isinstance(node.args[0], Node)
    empty = torch.zeros((), dtype=torch.int64).expand(shape_of(node))
    state.labels[node] = state.of(node.args[0]).expand(shape_of(node)) if follows else empty


def _made_value(state: Analysis, node: Node) -> None:
    shape, name = shape_of(node), base(node).removeprefix("new_").removesuffix("_like")
    if name == "full":
        fill = torch.tensor(float(node.args[1])).double()  # type: ignore[arg-type]
    elif name == "scalar_tensor":
        fill = torch.tensor(float(node.args[0])).double()  # type: ignore[arg-type]
    else:
        fill = torch.tensor({"zeros": 0.0, "ones": 1.0}[name]).double()
    state.values[node] = fill.expand(shape)


MADE = names("zeros ones full scalar_tensor zeros_like ones_like full_like new_zeros new_ones new_full")


def _glu_label(state: Analysis, node: Node) -> None:
    left, right = state.of(node.args[0]).chunk(2, _glu_axis(node))
    state.classes.union(left, right, "gates channels that cannot go")
    state.labels[node] = left


def _glu_axis(node: Node) -> int:
    return int(argument(node, 1, "dim", -1)) % len(shape_of(node))


def _glu_value(state: Analysis, node: Node) -> None:
    left, right = state.value(node.args[0]).chunk(2, _glu_axis(node))
    state.values[node] = torch.where(left == 0, 0.0, left * right.sigmoid())


def _glu_use(state: Analysis, node: Node) -> None:
    used, value = common(state.used[node], state.values[node])
    live = (used & value.isnan()).expand(shape_of(node))
    state.mark(node.args[0], torch.cat([live, live], _glu_axis(node)))


# Embeddings: each column of the table is a channel of the output.


def _embed_label(state: Analysis, node: Node) -> None:
    table = node.args[0]
    if table not in state.leaves:
        state.give_up(node, "has a weight that forward computes")
        return
    state.classes.pin(state.axis(table, 0), "counts the entries of an embedding")
    state.labels[node] = spread(state.axis(table, 1), len(shape_of(node)) - 1, shape_of(node))


def _embed_value(state: Analysis, node: Node) -> None:
    table = state.value(node.args[0])
    constant = torch.where((table == table[:1]).all(0), table[0].double(), NAN)
    state.values[node] = spread(finite(constant), len(shape_of(node)) - 1, shape_of(node))


# Pooling, reductions over positions, upsampling: one channel in, the same channel out.

POOL = {f"{kind}_pool{d}d": d for d in (1, 2, 3) for kind in ("max", "avg", "adaptive_avg", "adaptive_max")}
POOL |= {"upsample_nearest1d": 1, "upsample_nearest2d": 2, "upsample_nearest3d": 3, "upsample_linear1d": 1}
POOL |= {"upsample_bilinear2d": 2, "upsample_bicubic2d": 2, "upsample_trilinear3d": 3}
POOL |= {"_upsample_bilinear2d_aa": 2, "_upsample_bicubic2d_aa": 2}
REDUCE = names("mean amax amin sum linalg_vector_norm norm var std logsumexp any all prod")
COUNTS = REDUCE - names(
    "mean amax amin any all var std"
)  # of a constant they return what depends on the number of positions
AXES = {"linalg_vector_norm": 2, "norm": 2}


def _pooled(node: Node) -> tuple[list[int], bool]:
    """Return the axes that are pooled and whether they are still there afterwards."""
    source = node.args[0]
    assert isinstance(source, Node)
    dims = len(shape_of(source))
    if base(node) in POOL:
        return list(range(dims - POOL[base(node)], dims)), True
    at = AXES.get(base(node), 1)
    axes = argument(node, at, "dim", None)
    axes = list(range(dims)) if axes is None or axes == [] else [axes] if isinstance(axes, int) else list(axes)
    keeps = node.meta["val"].ndim == dims if isinstance(node.meta["val"], Tensor) else False
    return [axis % dims for axis in axes], keeps


def _flatten_positions(tensor: Tensor, axes: Sequence[int], stays: bool) -> Tensor:
    """Take the first element along each of the pooled axes."""
    for axis in sorted(axes, reverse=True):
        tensor = tensor.narrow(axis, 0, 1) if stays else tensor.select(axis, 0)
    return tensor


def _varies(tensor: Tensor, axes: Sequence[int]) -> Tensor:
    """Whether a tensor varies along the axes, which become size 1; NaN varies."""
    thin = narrow(tensor)
    differs = thin != _flatten_positions(thin, axes, True)
    return differs.any(dim=list(axes), keepdim=True) if axes else differs


def _pool_label(state: Analysis, node: Node) -> None:
    axes, stays = _pooled(node)
    labels = state.of(node.args[0])
    second = any(base(user) == "getitem" and user.args[1] == 1 and user.users for user in node.users)
    if second or node.kwargs.get("dtype") or (base(node) in POOL and bool(_varies(labels, axes).any())):
        state.give_up(node)
        return
    if bool(_varies(labels, axes).any()):  # what is summed, over branches say, stays or goes as one
        first = narrow(_flatten_positions(labels, axes, True))
        state.classes.union(first, narrow(labels), f"meets channels that cannot go at `{base(node)}`")
    value = node.meta["val"]
    several = isinstance(value, list | tuple)
    found = _flatten_positions(labels, axes, stays).expand(value[0].shape if several else value.shape)
    state.labels[node] = [found, torch.zeros((), dtype=torch.int64).expand(found.shape)] if several else found


def _pool_value(state: Analysis, node: Node) -> None:
    axes, stays = _pooled(node)
    value = state.value(node.args[0])
    first = _flatten_positions(value, axes, True)
    live = _varies(value, axes).expand(first.shape)
    if base(node).startswith("avg_pool") and _uneven(node):
        # Zeros beyond the border enter the mean: only 0 stays constant, at whatever size was traced. Any other constant
        # becomes the same map up to that factor, which readers of this map alone can merge.
        if all(layers.merges(state, user) and user.args[0] is node for user in node.users):
            scale = uniform(value, 1)
            state.scaled[node] = torch.where(scale == 0, NAN, scale)
        live = live | (first != 0)
    if base(node) in COUNTS:
        live = live | (first != 0) | torch.tensor(base(node) in ("logsumexp", "prod"))
    if base(node) in ("var", "std"):
        first = torch.zeros_like(first)
    found = _flatten_positions(torch.where(live, NAN, first), axes, stays)
    labels = state.labels[node]
    several = isinstance(labels, list)
    found = found.expand((labels[0] if several else labels).shape)
    state.values[node] = [found, torch.full((), NAN).double().expand(found.shape)] if several else found


def _uneven(node: Node) -> bool:
    padding, ceil = argument(node, 3, "padding", 0), argument(node, 4, "ceil_mode", False)
    pads = any(padding) if isinstance(padding, list | tuple) else bool(padding)
    clipped = (pads or bool(ceil)) and bool(argument(node, 5, "count_include_pad", True))
    return clipped or argument(node, 6, "divisor_override") is not None


def _pool_use(state: Analysis, node: Node) -> None:
    axes, stays = _pooled(node)
    source = node.args[0]
    assert isinstance(source, Node)
    several = isinstance(state.used[node], list)
    used, value = (state.used[node][0], state.values[node][0]) if several else (state.used[node], state.values[node])
    used, value = common(used, value)
    live = used & value.isnan()
    if stays:
        live = live.any(dim=axes, keepdim=True)
    else:
        for axis in sorted(axes):
            live = live.unsqueeze(axis)
    state.mark(source, live.expand(shape_of(source)))


# Movement: elements change place and nothing else; run on labels, on values, and backward on their own indices.

MOVEMENT = names(
    "view reshape flatten unflatten squeeze unsqueeze permute transpose t slice select chunk split split_with_sizes "
    "unbind flip roll expand repeat pixel_shuffle pixel_unshuffle channel_shuffle constant_pad_nd pad narrow stack "
    "movedim swapaxes view_as expand_as reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d "
    "unsafe_chunk tile"
)
SIZED = names("view reshape flatten unflatten expand repeat view_as expand_as tile")


def _move(node: Node, operands: dict[Node, Tensor], fill: Any = 0, labels: bool = False) -> Any:
    """Run a movement on stand-ins for its operands."""
    args: Any
    kwargs: Any
    args, kwargs = map_arg((node.args, dict(node.kwargs)), lambda source: operands[source])
    name = base(node)
    if name == "view" and not isinstance(args[1], list | tuple):
        raise NotImplementedError(name)
    if name == "view":
        return args[0].reshape(args[1])
    if name == "constant_pad_nd" or (name == "pad" and argument(node, 2, "mode", "constant") == "constant"):
        return _pad_labels(args[0], args[1]) if labels else F.pad(args[0], args[1], value=fill)
    if name == "pad":
        return F.pad(args[0].double(), args[1], mode=args[2]).to(args[0].dtype)
    return functional(node)(*args, **kwargs)


def _pad_labels(labels: Tensor, amounts: Sequence[int]) -> Tensor:
    """Pad labels by 0, no class, along axes of channels; along others what is padded belongs to the channel there."""
    pairs = list(zip(amounts[::2], amounts[1::2], strict=True))[::-1]
    pairs = [(0, 0)] * (labels.ndim - len(pairs)) + pairs
    thin = narrow(repeated(labels))
    shape = [size + sum(pair) for size, pair in zip(labels.shape, pairs, strict=True)]
    varied = [
        pair if size == thin.shape[axis] else (0, 0)
        for axis, (size, pair) in enumerate(zip(labels.shape, pairs, strict=True))
    ]
    return F.pad(thin, [amount for pair in varied[::-1] for amount in pair]).expand(shape)


def _listed(found: Any) -> Any:
    return list(found) if isinstance(found, list | tuple) else found


def _move_label(state: Analysis, node: Node) -> None:
    try:
        found = _listed(_move(node, {source: state.of(source) for source in node.all_input_nodes}, labels=True))
        # A copy has forgotten along which axes its channels repeat.
        state.labels[node] = [repeated(part) for part in found] if isinstance(found, list) else repeated(found)
    except (RuntimeError, NotImplementedError, TypeError):
        state.give_up(node)


def _move_value(state: Analysis, node: Node) -> None:
    operands = {source: state.value(source).double() for source in node.all_input_nodes}
    name, fill = base(node), 0.0
    if name in ("constant_pad_nd", "pad"):
        fill = float(argument(node, 2 if name == "constant_pad_nd" else 3, "value", 0.0) or 0.0)
    found = _listed(_move(node, operands, fill))
    if name in ("constant_pad_nd", "pad"):
        axes = [axis for axis in range(found.ndim) if not bool(_varies(state.labels[node], [axis]).any())]
        # The border differs from the inside, at another size elsewhere: a constant only where both are equal.
        found = torch.where(_varies(found, axes), NAN, found) if axes else found
    assert flat(found)
    state.values[node] = found


def _move_use(state: Analysis, node: Node) -> None:
    sources = {source: torch.zeros(shape_of(source), dtype=torch.int64) for source in node.all_input_nodes}
    used = flat(state.used[node])
    for source in node.all_input_nodes:
        if source not in state.labels:
            continue
        count = shape_of(source).numel()
        index = torch.arange(1, count + 1).reshape(shape_of(source))
        found = torch.zeros(count + 1, dtype=torch.bool)
        for part, mask in zip(flat(_listed(_move(node, {**sources, source: index}))), used, strict=True):
            found[part[mask]] = True
        state.mark(source, found[1:].reshape(shape_of(source)))


def keep_order(state: Analysis, node: Node, kept: Kept) -> None:
    """Keep all channels of a movement that, run on the kept ones alone, would put them elsewhere."""
    name = base(node)
    if node.op != "call_function" or name not in MOVEMENT - SIZED or node in state.unknown:
        return
    before = {source: state.of(source) for source in node.all_input_nodes}
    if all(bool(kept.of(labels).all()) for labels in before.values()):
        return
    try:
        left = {source: cut(kept, labels) for source, labels in before.items()}
        after = flat(_listed(_move(node, left, labels=True)))
        expected = [cut(kept, labels) for labels in flat(state.labels[node])]
        same = len(after) == len(expected) and all(map(torch.equal, after, expected))
    except (RuntimeError, IndexError):
        same = False
    if not same:
        for labels in before.values():
            kept.add(labels, f"moved by `{name}` in a way that counts channels")


def cut(kept: Kept, labels: Tensor) -> Tensor:
    """Return the labels that are left of a tensor."""
    stay = kept.of(labels)
    for axis in range(labels.ndim):
        if labels.stride(axis) and labels.shape[axis] > 1:
            line = by_channel(stay, axis).any(1)
            labels = labels.index_select(axis, line.nonzero()[:, 0])
    return labels


def _cat_axis(node: Node) -> int:
    return int(argument(node, 1, "dim", 0)) % len(shape_of(node))


def _cat(parts: Sequence[Tensor], axis: int, shape: torch.Size) -> Tensor:
    """Concatenate without spelling out what repeats."""
    for other in range(len(shape)):
        if other != axis and all(part.shape[other] == 1 or part.stride(other) == 0 for part in parts):
            parts = [part.narrow(other, 0, 1) for part in parts]
    return torch.cat(list(parts), axis).expand(shape)


def _cat_label(state: Analysis, node: Node) -> None:
    sources = list(node.args[0])  # type: ignore[arg-type]
    if any(len(shape_of(source)) != len(shape_of(node)) for source in sources):
        state.give_up(node)
        return
    state.labels[node] = _cat([state.of(source) for source in sources], _cat_axis(node), shape_of(node))


def _cat_value(state: Analysis, node: Node) -> None:
    parts = [state.value(source).double() for source in node.args[0]]  # type: ignore[union-attr]
    state.values[node] = _cat(parts, _cat_axis(node), shape_of(node))


def _cat_use(state: Analysis, node: Node) -> None:
    axis, start = _cat_axis(node), 0
    for source in node.args[0]:  # type: ignore[union-attr]
        size = shape_of(source)[axis]  # type: ignore[arg-type]
        state.mark(source, state.used[node].narrow(axis, start, size))
        start += size


def _item_label(state: Analysis, node: Node) -> None:
    found = state.labels.get(node.args[0])  # type: ignore[arg-type]
    part = found[node.args[1]] if isinstance(found, list) and isinstance(node.args[1], int) else None
    if part is None:
        state.give_up(node)
    else:
        state.labels[node] = part


def _item_value(state: Analysis, node: Node) -> None:
    state.values[node] = state.values[node.args[0]][node.args[1]]  # type: ignore[index]


def _item_use(state: Analysis, node: Node) -> None:
    source, part = node.args[0], node.args[1]
    assert isinstance(source, Node)
    assert isinstance(part, int)
    if not isinstance(state.labels[source], list):
        return
    if source not in state.used:
        state.used[source] = [torch.zeros((), dtype=torch.bool).expand(p.shape) for p in state.labels[source]]
    state.used[source][part] = state.used[source][part] | state.used[node]


def _nothing(state: Analysis, node: Node) -> None:
    pass


def _unknown(state: Analysis, node: Node) -> None:
    state.give_up(node)


UNKNOWN = Rule(_unknown, _nothing, _nothing)
_EACH = Rule(_each_label, _each_value, _each_use)
_SAME = Rule(_same_label, _same_value, _same_use)
_POOL = Rule(_pool_label, _pool_value, _pool_use)
_MOVE = Rule(_move_label, _move_value, _move_use)

_OVER = Rule(_over_label, _over_value, _over_use)

TABLE: dict[str, Rule] = {
    **dict.fromkeys(IDENTITY, _SAME),
    **dict.fromkeys([*POOL, *REDUCE], _POOL),
    **dict.fromkeys(MOVEMENT, _MOVE),
    **dict.fromkeys(layers.SPATIAL, Rule(layers.weigh_label, layers.weigh_value, layers.weigh_use)),
    "batch_norm": Rule(_norm_label, _norm_value, _channelwise_use),
    "group_norm": Rule(_group_norm_label, _group_norm_value, _group_norm_use),
    "instance_norm": Rule(_channelwise_label, _instance_norm_value, _channelwise_use),
    **dict.fromkeys(["layer_norm", "rms_norm", "softmax", "log_softmax"], _OVER),
    "prelu": Rule(_channelwise_label, _prelu_value, _channelwise_use),
    **dict.fromkeys(MADE, Rule(_made_label, _made_value, _nothing)),
    "glu": Rule(_glu_label, _glu_value, _glu_use),
    "embedding": Rule(_embed_label, _embed_value, _nothing),
    "cat": Rule(_cat_label, _cat_value, _cat_use),
    "getitem": Rule(_item_label, _item_value, _item_use),
    "_assert_tensor_metadata": Rule(_nothing, _nothing, _nothing),  # the exporter's note of a dtype
}


def find(node: Node) -> Rule:
    """Return the rule for a node's operator."""
    return TABLE.get(base(node), _EACH if elementwise(node) else UNKNOWN)
