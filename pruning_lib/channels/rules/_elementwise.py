"""Operators that treat each element alone: activations, sums and products of operands; and those that return a copy."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

from pruning_lib.channels._graph import argument, base, operand, shape_of, writes_first
from pruning_lib.channels._shapes import NAN, NO_CLASS, align, common, finite, narrow, reduced
from pruning_lib.channels._state import Analysis
from pruning_lib.channels.rules._registry import Rule, rule
from pruning_lib.channels.rules._signs import POSITIVE, sign

PRODUCTS = ("mul", "multiply")
NUMBERS = ("zeros", "ones", "full", "new_zeros", "new_ones", "new_full")
QUOTIENTS = ("div", "divide", "true_divide")


def functional(node: Node) -> Callable[..., Any]:
    """Return the operator itself, or the functional form of one that works in place."""
    if not writes_first(node) and callable(node.target):
        return node.target
    packet = getattr(torch.ops.aten, base(node))
    overload = str(getattr(node.target, "_overloadname", "default"))
    return getattr(packet, overload, packet)  # type: ignore[no-any-return]


# Torch tags most of these operators as pointwise; each name here is one that some release of it does not tag.
@rule(
    "absolute arctan celu divide elu fix floor_divide gelu greater greater_equal hardshrink hardsigmoid hardswish "
    "hardtanh leaky_relu less less_equal log_sigmoid masked_fill mish multiply negative relu relu6 rsub selu silu "
    "softplus softshrink special_expit subtract threshold true_divide where clamp clamp_min clamp_max",
    tag=torch.Tag.pointwise,
)
class Elementwise(Rule):
    """Operands that meet have the same channels; the result is constant where all of them are."""

    elementwise = True

    def applies(self, node: Node) -> bool:
        """Whether the call returns one tensor made of others, and draws no random numbers."""
        single = isinstance(node.meta.get("val"), Tensor) and bool(node.all_input_nodes)
        return single and torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ())

    def label(self, state: Analysis, node: Node) -> None:
        if node in state.leaves:  # part of the computation of a weight, whose channels its layer labels
            return
        shape = shape_of(node)
        sources = [source for source in node.all_input_nodes if not _one_number(state, source)] or node.all_input_nodes
        operands = [align(state.labels_of(unexpanded(state, source)), len(shape)) for source in sources]
        operands = [labels for labels in operands if labels.numel() > 1 or labels.any()] or operands
        matched: list[Tensor] = []
        for i, labels in enumerate(operands):
            others = [narrow(other) for j, other in enumerate(operands) if j != i]
            if broadcast_over_channels(labels, others, shape):
                # One channel broadcast over many is none of them: joining would make all of them one class. If it
                # varies along another axis, that axis has to stay as long in what it meets, too.
                reason = f"is broadcast over channels at `{base(node)}`"
                state.classes.pin(labels, reason)
                counted = [axis for axis, size in enumerate(narrow(labels).shape) if size > 1]
                operands[i + 1 :] = [state.classes.hold(met, counted, reason) for met in operands[i + 1 :]]
                matched = [state.classes.hold(met, counted, reason) for met in matched]
            else:
                matched.append(labels.expand(shape))
        result = matched[0] if matched else NO_CLASS.expand(shape)
        for labels in matched[1:]:
            state.classes.union(result, labels, f"meets channels that cannot go at `{base(node)}`")
            result = either(result, labels)
        state.labels[node] = result

    def value(self, state: Analysis, node: Node) -> None:
        shape = shape_of(node)
        operands = {source: align(state.values_of(source), len(shape)) for source in node.all_input_nodes}
        for axis in range(len(shape)):
            if shape[axis] and all(v.shape[axis] == 1 or v.stride(axis) == 0 for v in operands.values()):
                operands = {source: value.narrow(axis, 0, 1) for source, value in operands.items()}
        # Doubles after narrowing: a vector is converted, not a map.
        operands = {source: value.double() for source, value in operands.items()}
        live = functools.reduce(torch.logical_or, [value.isnan() for value in operands.values()])
        args: Any
        kwargs: Any
        args, kwargs = map_arg((node.args, dict(node.kwargs)), lambda source: _stand_in(source, operands[source]))
        try:
            # Live elements stand in as 1: what becomes of them is not looked at, so no operator has to pass NaN on.
            result = torch.where(live, NAN, functional(node)(*args, **kwargs).double())
        except (RuntimeError, TypeError):
            result = torch.full((), NAN).double()
        if base(node) in QUOTIENTS and sign(node.args[1]) == POSITIVE:
            result = torch.where(operands[operand(node)] == 0, 0.0, result)
        if base(node) in PRODUCTS:  # 0 times whatever comes in is 0, so a closed gate makes its channel constant
            for value in operands.values():
                result = torch.where(value == 0, 0.0, result)
        state.values[node] = finite(result).expand(shape)

    def use(self, state: Analysis, node: Node) -> None:
        live = state.live_use(node)
        for source in node.all_input_nodes:
            if source in state.labels:
                state.mark(source, reduced(live, shape_of(source)))


def unexpanded(state: Analysis, node: Node) -> Node:
    """Return what was repeated explicitly, where it would have been broadcast otherwise.

    One number for all channels, as the length that `F.normalize` divides by, is the channel of none of them.
    """
    while base(node) in ("expand", "expand_as") and not bool(narrow(state.labels_of(node)).any()):
        node = operand(node)
    return node


def _one_number(state: Analysis, node: Node) -> bool:
    """Whether an operand is one number written many times: it fits any channels, if forward computes how many."""
    return base(node) in NUMBERS and not bool(narrow(state.labels_of(node)).any())


def either(left: Tensor, right: Tensor) -> Tensor:
    """Return the labels of either operand, now one class: those that repeat more, so that positions stay positions."""
    for labels in sorted((left, right), key=lambda each: narrow(each).numel()):
        if bool((narrow(labels) > 0).all()):
            return labels
    # Where one operand has no class, as a literal, the result has the class of the other.
    first, second = common(left, right)
    return torch.maximum(first, second).expand(left.shape)


def broadcast_over_channels(labels: Tensor, others: list[Tensor], shape: torch.Size) -> bool:
    """Whether an operand has size 1 along an axis on which another one has different labels."""
    return any(
        size == 1 < shape[axis] and any(other.shape[axis] > 1 for other in others)
        for axis, size in enumerate(labels.shape)
    )


def _stand_in(source: Node, value: Tensor) -> Tensor:
    """Return an operand with live elements replaced, in its own kind of number; floating point in float64."""
    dtype = source.meta["val"].dtype
    known = torch.where(value.isnan(), 1.0, value)
    return known if dtype.is_floating_point else known.to(dtype)


@rule("contiguous clone detach alias lift_fresh_copy to _to_copy positive")
# Both return their operand itself where there is nothing to do, and no schema says so.
@rule("dropout feature_dropout alpha_dropout feature_alpha_dropout type_as", view=True)
class Identity(Rule):
    """Operators whose result is their operand, in eval mode, up to floating-point type."""

    elementwise = True

    def label(self, state: Analysis, node: Node) -> None:
        source = operand(node)
        random = "dropout" in base(node) and bool(argument(node, 2, "train", False))
        before, after = (each.meta["val"].dtype for each in (source, node))
        if random or (before != after and not after.is_floating_point) or after.is_complex:
            state.give_up(node)
        elif node not in state.leaves:
            state.labels[node] = state.labels_of(source).expand(shape_of(node))

    def value(self, state: Analysis, node: Node) -> None:
        state.values[node] = state.values_of(operand(node))

    def use(self, state: Analysis, node: Node) -> None:
        state.mark(operand(node), state.used_of(node))
