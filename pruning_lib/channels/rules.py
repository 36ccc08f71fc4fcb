"""What each operator does to channels: one rule a family, in one table. What is not in the table keeps its channels.

A rule has three parts: `label` says which channels are the same, `value` which elements are constant, `use` what the
operator reads of its inputs. Constants are carried by running the operator itself on values where NaN means live;
this is sound only for operators that pass NaN on, so the table is a whitelist.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

from pruning_lib.channels.graph import base, names
from pruning_lib.channels.shapes import NAN, align, by_channel, common, finite, flat, narrow, spread, uniform

if TYPE_CHECKING:
    from pruning_lib.channels.liveness import Analysis, Kept


@dataclass(frozen=True)
class Rule:
    """How one family of operators treats labels and values (forward) and uses (backward)."""

    label: Callable[[Analysis, Node], None]
    value: Callable[[Analysis, Node], None]
    use: Callable[[Analysis, Node], None]


@dataclass
class Call:
    """One call of a linear or convolution layer: the node, its weight, and the classes on both of its sides."""

    node: Node
    weight: Node
    rows: Tensor
    columns: Tensor
    depthwise: bool


def shape_of(node: Node) -> torch.Size:
    """Return the shape of what a node returned on the example."""
    return torch.Size(node.meta["val"].shape)


# Linear and convolution layers

SPATIAL = {"linear": 0, "conv1d": 1, "conv2d": 2, "conv3d": 3}


def weighs(node: Node) -> bool:
    """Whether the node multiplies by a weight whose rows are units."""
    return node.op == "call_function" and base(node) in SPATIAL


def argument(node: Node, position: int, name: str, default: Any = None) -> Any:
    """Return an operator's argument, given by position or by name."""
    return node.args[position] if len(node.args) > position else node.kwargs.get(name, default)


def channel_axis(node: Node) -> int:
    """Return the axis of the input and the output that holds channels."""
    return len(shape_of(node)) - 1 - SPATIAL[base(node)]


def padded(node: Node) -> bool:
    """Whether a convolution reads zeros beyond the border."""
    padding = argument(node, 4, "padding", 0) if base(node) != "linear" else 0
    if isinstance(padding, str):
        return padding != "valid"
    return any(padding) if isinstance(padding, list | tuple) else bool(padding)


def groups_of(node: Node) -> int:
    """Return a convolution's number of groups."""
    return int(argument(node, 6, "groups", 1)) if base(node) != "linear" else 1


def find_leaves(state: Analysis, node: Node) -> None:
    """Find the tensors that a layer's weight is computed from element by element, and label them by axis."""
    weight = node.args[1]
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
    if weight.op != "call_function" or base(weight) not in ELEMENTWISE | IDENTITY or weight in state.graph.opaque:
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


def _weigh_label(state: Analysis, node: Node) -> None:
    source, weight, bias = node.args[0], node.args[1], argument(node, 2, "bias")
    assert isinstance(source, Node)
    assert isinstance(weight, Node)
    groups, axis = groups_of(node), channel_axis(node)
    depthwise = groups > 1 and shape_of(weight)[1] == 1 and groups == shape_of(source)[axis]
    if weight not in state.leaves:
        state.give_up(node, "has a weight that forward computes")
        return
    if groups > 1 and not depthwise:
        state.give_up(node, f"meets `{base(node)}` with {groups} groups, whose sizes must stay equal")
        return
    rows = state.axis(weight, 0)
    reason = "has a weight that something else reads" if not rows.any() else "reads values that cannot shrink"
    inputs = by_channel(state.of(source), axis)
    if depthwise:
        columns = rows.reshape(groups, -1)[:, 0]
        state.classes.union(rows.reshape(groups, -1, 1), inputs[:, None, :], reason)
    else:
        columns = state.axis(weight, 1)
        state.classes.union(columns[:, None], inputs, reason)
    if isinstance(bias, Node):
        state.classes.union(rows, state.of(bias, vector=True), "has a bias that cannot shrink")
    state.labels[node] = spread(rows, axis, shape_of(node))
    state.calls.append(Call(node, weight, rows, columns, depthwise))


def taps(state: Analysis, node: Node) -> Tensor:
    """Return a bool matrix (outputs, inputs): whether any tap of the kernel between them differs from 0."""
    weight = node.args[1]
    if weight not in state.taps:
        value = state.value(weight)
        state.taps[weight] = (value != 0).flatten(2).any(-1) if value.ndim > 2 else value != 0
    return state.taps[weight]


def _weigh_value(state: Analysis, node: Node) -> None:
    source, bias = node.args[0], argument(node, 2, "bias")
    axis, reads = channel_axis(node), taps(state, node)
    constants = uniform(state.value(source), axis)
    live = constants.isnan() | (padded(node) & (constants != 0))
    shift = finite(state.value(bias).double()) if isinstance(bias, Node) else torch.zeros(len(reads)).double()
    weight = state.value(node.args[1])
    if groups_of(node) > 1:
        each = len(reads) // len(live)
        fixed = ~(reads[:, 0] & live.repeat_interleave(each))
        sums = weight.flatten(1).double().sum(1) * constants.nan_to_num().repeat_interleave(each)
    else:
        fixed = ~reads[:, live].any(1)
        index = (~live & (constants != 0)).nonzero()[:, 0]
        sums = _dot(weight, index, constants[index])
    state.constants[node] = constants
    state.values[node] = spread(torch.where(fixed, finite(shift + sums), NAN), axis, shape_of(node))


def _dot(weight: Tensor, index: Tensor, constants: Tensor) -> Tensor:
    """Return Σ c w over the inputs in `index` and all taps, in float64, without a copy of the whole weight."""
    if not len(index):
        return torch.zeros(len(weight)).double()
    part = weight.index_select(1, index).double()
    return (part.flatten(2).sum(-1) if part.ndim > 2 else part) @ constants


def _weigh_use(state: Analysis, node: Node) -> None:
    source, axis = node.args[0], channel_axis(node)
    assert isinstance(source, Node)
    rows = by_channel(state.used[node], axis).any(1)
    reads = taps(state, node)
    many = groups_of(node) > 1
    read = (reads[:, 0] & rows).reshape(groups_of(node), -1).any(1) if many else reads[rows].any(0)
    state.mark(source, spread(read, axis, shape_of(source)))


def compensation(state: Analysis, call: Call) -> str:
    """Say where a constant that `call` reads can go; "" if nowhere.

    "fold": into the bias; "center": into the running mean of the BatchNorm that alone reads a layer without a bias;
    "merge": into one column that stays, where zeros beyond the border are read too.
    """
    node, weight, bias = call.node, call.weight, argument(call.node, 2, "bias")
    if call.depthwise:
        return ""
    owned = state.graph.owned
    alone = weight in owned and len(weight.users) == 1
    if padded(node):
        return "merge" if alone else ""
    if isinstance(bias, Node):
        return "fold" if bias in owned and len(bias.users) == 1 else ""
    if not alone or weight not in state.graph.biasless:
        return ""
    return "center" if centered(state, node) else "fold"


def centered(state: Analysis, node: Node) -> Node | None:
    """Return the running mean of the BatchNorm that alone reads a node, if nothing else reads either."""
    reader = next(iter(node.users), None)
    if len(node.users) != 1 or reader is None or base(reader) != "batch_norm" or reader in state.unknown:
        return None
    mean = reader.args[3]
    assert isinstance(mean, Node)
    return mean if mean in state.graph.owned and len(mean.users) == 1 else None


def represent(state: Analysis, call: Call, kept: Kept) -> None:
    """Keep what stands for removed constants: one column where they merge, each of them where nothing can."""
    constants, stays = state.constants[call.node], kept.of(call.columns)
    gone = removed_constants(state, call, kept)
    # A constant that is not the same at every position is no number to fold.
    apart = gone[constants[gone].isnan()]
    kept.add(call.columns[apart], "a constant that varies over positions")
    gone = gone[~constants[gone].isnan()]
    if not len(gone):
        return
    how = compensation(state, call)
    if not how:
        kept.add(call.columns[gone], "a constant that its reader cannot absorb")
    elif how == "merge" and representative(constants, stays, gone) is None:
        best = gone[constants[gone].abs().argmax()]
        kept.add(call.columns[best], "the constant that stands for others before a zero-padded convolution")


def removed_constants(state: Analysis, call: Call, kept: Kept) -> Tensor:
    """Return the columns that go although an output that matters reads a constant there, other than 0."""
    if call.depthwise:
        return torch.zeros(0, dtype=torch.int64)
    gone = (~kept.of(call.columns) & (state.constants[call.node] != 0)).nonzero()[:, 0]
    return gone[read_by_kept(state, call, kept)[:, gone].any(0)]


def read_by_kept(state: Analysis, call: Call, kept: Kept) -> Tensor:
    """Return which inputs each output that matters reads, as (outputs, inputs)."""
    axis = channel_axis(call.node)
    constant = ~by_channel(state.values[call.node], axis)[:, 0].isnan()
    used = state.used.get(call.node)
    matters = constant if used is None else constant | by_channel(used, axis).any(1)
    return taps(state, call.node)[kept.of(call.rows) & matters]


def representative(constants: Tensor, stays: Tensor, gone: Tensor) -> int | None:
    """Return the kept constant that can stand for those in `gone`; one much smaller than they are would not do."""
    size = torch.where(stays & ~constants.isnan(), constants, 0.0).abs()
    best = int(size.argmax())
    return best if size[best] >= 0.1 * constants[gone].abs().max() else None


# Elementwise operators: all of these pass NaN on.

ELEMENTWISE = names(
    "add sub rsub mul div maximum minimum neg abs square sqrt rsqrt exp expm1 log1p sin cos tanh sigmoid relu relu6 "
    "leaky_relu elu selu celu gelu silu mish hardswish hardsigmoid hardtanh clamp clamp_min clamp_max softplus "
    "threshold softshrink hardshrink log_sigmoid erf reciprocal atan"
)
IDENTITY = names(
    "dropout feature_dropout alpha_dropout feature_alpha_dropout contiguous clone detach alias lift_fresh_copy "
    "native_dropout_identity to _to_copy positive"
)


def functional(node: Node) -> Callable[..., Any]:
    """Return the operator itself, or the functional form of one that works in place."""
    packet = getattr(torch.ops.aten, base(node))
    overload = str(getattr(node.target, "_overloadname", "default"))
    return getattr(packet, overload, packet)  # type: ignore[no-any-return]


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
            state.classes.pin(labels, f"is broadcast over channels at `{base(node)}`")
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
    args: Any
    kwargs: Any
    args, kwargs = map_arg((node.args, dict(node.kwargs)), lambda source: operands[source])
    found = functional(node)(*args, **kwargs)
    if base(node) == "mul":
        for value in operands.values():
            found = torch.where(value == 0, 0.0, found)
    state.values[node] = finite(found).expand(shape)


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
    random = "dropout" in base(node) and bool(argument(node, 2, "train", False))
    kinds = {value.meta["val"].dtype.is_floating_point for value in (node, source) if isinstance(value, Node)}
    if random or kinds != {True}:
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


def _norm_value(state: Analysis, node: Node) -> None:
    value, eps = state.value(node.args[0]), argument(node, 7, "eps", 1e-5)
    thin = narrow(value)

    def vector(position: int) -> Tensor | None:
        source = node.args[position]
        return None if source is None else state.value(source).double().reshape([1, -1] + [1] * (thin.ndim - 2))

    weight, bias, mean, var = vector(1), vector(2), vector(3), vector(4)
    assert mean is not None
    assert var is not None
    found = (thin - mean) / (var + eps).sqrt()
    if weight is not None:
        # A scale of 0 makes its channel constant, whatever comes in.
        found = torch.where(weight == 0, 0.0, found * weight)
    state.values[node] = finite(found if bias is None else found + bias).expand(value.shape)


def _prelu_value(state: Analysis, node: Node) -> None:
    value, slope = state.value(node.args[0]), state.value(node.args[1]).double()
    thin = narrow(value)
    slope = slope.reshape([1, -1] + [1] * (thin.ndim - 2)) if slope.numel() > 1 else slope
    state.values[node] = finite(torch.where(thin > 0, thin, slope * thin)).expand(value.shape)


def _channelwise_use(state: Analysis, node: Node) -> None:
    used, value = common(state.used[node], state.values[node])
    state.mark(node.args[0], (used & value.isnan()).expand(shape_of(node)))


# Pooling, reductions over positions, upsampling: one channel in, the same channel out.

POOL = {f"{kind}_pool{d}d": d for d in (1, 2, 3) for kind in ("max", "avg", "adaptive_avg", "adaptive_max")}
POOL |= {"upsample_nearest1d": 1, "upsample_nearest2d": 2, "upsample_nearest3d": 3, "upsample_linear1d": 1}
POOL |= {"upsample_bilinear2d": 2, "upsample_bicubic2d": 2, "upsample_trilinear3d": 3}
REDUCE = names("mean amax amin")


def _pooled(node: Node) -> tuple[list[int], bool]:
    """Return the axes that are pooled and whether they are still there afterwards."""
    source = node.args[0]
    assert isinstance(source, Node)
    dims = len(shape_of(source))
    if base(node) in POOL:
        return list(range(dims - POOL[base(node)], dims)), True
    axes = argument(node, 1, "dim", None)
    axes = list(range(dims)) if axes is None or axes == [] else [axes] if isinstance(axes, int) else list(axes)
    return [axis % dims for axis in axes], bool(argument(node, 2, "keepdim", False))


def _flatten_positions(tensor: Tensor, axes: Sequence[int], stays: bool) -> Tensor:
    """Take the first element along each of the pooled axes."""
    for axis in sorted(axes, reverse=True):
        tensor = tensor.narrow(axis, 0, 1) if stays else tensor.select(axis, 0)
    return tensor


def _varies(tensor: Tensor, axes: Sequence[int]) -> Tensor:
    """Whether a tensor varies along the axes, which become size 1; NaN varies."""
    thin = narrow(tensor)
    first = _flatten_positions(thin, axes, True)
    return (thin != first).any(dim=list(axes), keepdim=True)


def _pool_label(state: Analysis, node: Node) -> None:
    axes, stays = _pooled(node)
    labels = state.of(node.args[0])
    second = any(base(user) == "getitem" and user.args[1] == 1 and user.users for user in node.users)
    if bool(_varies(labels, axes).any()) or second or (base(node) in REDUCE and node.kwargs.get("dtype")):
        state.give_up(node)
        return
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
        # Zeros beyond the border enter the mean: only 0 stays constant, at whatever size was traced.
        live = live | (first != 0)
    found = _flatten_positions(torch.where(live, NAN, first), axes, stays)
    labels = state.labels[node]
    several = isinstance(labels, list)
    found = found.expand((labels[0] if several else labels).shape)
    state.values[node] = [found, torch.full((), NAN).double().expand(found.shape)] if several else found


def _uneven(node: Node) -> bool:
    padding, ceil = argument(node, 3, "padding", 0), argument(node, 4, "ceil_mode", False)
    pads = any(padding) if isinstance(padding, list | tuple) else bool(padding)
    return pads or bool(ceil) or argument(node, 6, "divisor_override") is not None


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


def _move(node: Node, operands: dict[Node, Tensor], fill: Any = 0) -> Any:
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
        return F.pad(args[0], args[1], value=fill)
    if name == "pad":
        return F.pad(args[0].double(), args[1], mode=args[2]).to(args[0].dtype)
    return functional(node)(*args, **kwargs)


def _listed(found: Any) -> Any:
    return list(found) if isinstance(found, list | tuple) else found


def _move_label(state: Analysis, node: Node) -> None:
    try:
        state.labels[node] = _listed(_move(node, {source: state.of(source) for source in node.all_input_nodes}))
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
        after = flat(_listed(_move(node, {source: cut(kept, labels) for source, labels in before.items()})))
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

TABLE: dict[str, Rule] = {
    **dict.fromkeys(ELEMENTWISE, _EACH),
    **dict.fromkeys(IDENTITY, _SAME),
    **dict.fromkeys([*POOL, *REDUCE], _POOL),
    **dict.fromkeys(MOVEMENT, _MOVE),
    **dict.fromkeys(SPATIAL, Rule(_weigh_label, _weigh_value, _weigh_use)),
    "batch_norm": Rule(_norm_label, _norm_value, _channelwise_use),
    "prelu": Rule(_channelwise_label, _prelu_value, _channelwise_use),
    "cat": Rule(_cat_label, _cat_value, _cat_use),
    "getitem": Rule(_item_label, _item_value, _item_use),
    "_assert_tensor_metadata": Rule(_nothing, _nothing, _nothing),  # the exporter's note of a dtype
}


def find(node: Node) -> Rule:
    """Return the rule for a node's operator."""
    return TABLE.get(base(node), UNKNOWN)
