"""Pooling, upsampling, reductions over positions: one channel in, the same channel out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.fx import Node

from pruning_lib.channels._graph import argument, base, operand, shape_of
from pruning_lib.channels._shapes import NAN, NO_CLASS, Labels, common, first_along, narrow, repeated, uniform, varies
from pruning_lib.channels._state import Analysis, Kept
from pruning_lib.channels.rules._layers import merges
from pruning_lib.channels.rules._registry import Rule, rule

CHANNELS = 1


class Pooled(Rule):
    """What pooling in windows and over whole axes have in common."""

    def axes(self, node: Node) -> list[int]:
        """Return the axes that are pooled."""
        raise NotImplementedError

    def stay(self, node: Node) -> bool:
        """Whether these axes are still there afterwards."""
        raise NotImplementedError

    def pooled(self, state: Analysis, node: Node, constant: Tensor, live: Tensor) -> Tensor:
        """Return what becomes of each channel's constant, NaN where it is live; both have size 1 along the axes."""
        raise NotImplementedError

    def join(self, state: Analysis, node: Node) -> None:
        """Let what is pooled, branches that are summed or the pixels of one map, stay or go as one."""
        labels, axes = state.labels_of(operand(node)), self.axes(node)
        if bool(varies(labels, axes).any()):
            first = narrow(first_along(labels, axes, keepdim=True))
            state.classes.union(first, narrow(labels), f"meets channels that cannot go at `{base(node)}`")

    def label(self, state: Analysis, node: Node) -> None:
        labels = first_along(state.labels_of(operand(node)), self.axes(node), keepdim=self.stay(node))
        value = node.meta["val"]
        if isinstance(value, list | tuple):  # the maximum, and where it was found
            labels = labels.expand(value[0].shape)
            state.labels[node] = [labels, NO_CLASS.expand(labels.shape)]
        else:
            state.labels[node] = labels.expand(value.shape)

    def value(self, state: Analysis, node: Node) -> None:
        axes, value = self.axes(node), state.values_of(operand(node))
        constant = first_along(value, axes, keepdim=True)
        result = self.pooled(state, node, constant, varies(value, axes).expand(constant.shape))
        result = first_along(result, axes, keepdim=self.stay(node)).expand(_first(state.labels[node]).shape)
        positions = torch.full((), NAN).double().expand(result.shape)
        state.values[node] = [result, positions] if isinstance(state.labels[node], list) else result

    def use(self, state: Analysis, node: Node) -> None:
        source, axes = operand(node), self.axes(node)
        used, values = common(_first(state.used[node]), _first(state.values[node]))
        live = used & values.isnan()
        # Windows are not looked at one by one: what is used anywhere uses its whole channel.
        if self.stay(node):
            live = live.any(dim=axes, keepdim=True)
        else:
            for axis in sorted(axes):
                live = live.unsqueeze(axis)
        state.mark(source, live.expand(shape_of(source)))


def _first(labels: Labels) -> Tensor:
    """Return the tensor, or the first of several."""
    first = labels[0] if isinstance(labels, list) else labels
    assert isinstance(first, Tensor)
    return first


@rule(
    "max_pool1d max_pool1d_with_indices "
    "avg_pool1d adaptive_avg_pool1d adaptive_max_pool1d upsample_nearest1d upsample_linear1d",
    space=1,
)
@rule(
    "max_pool2d max_pool2d_with_indices "
    "avg_pool2d adaptive_avg_pool2d adaptive_max_pool2d upsample_nearest2d upsample_bilinear2d "
    "upsample_bicubic2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa",
    space=2,
)
@rule(
    "max_pool3d max_pool3d_with_indices "
    "avg_pool3d adaptive_avg_pool3d adaptive_max_pool3d upsample_nearest3d upsample_trilinear3d",
    space=3,
)
@dataclass(frozen=True)
class Windows(Pooled):
    """Windows over the last `space` axes, which must hold positions."""

    space: int

    def axes(self, node: Node) -> list[int]:
        dims = len(shape_of(operand(node)))
        return list(range(dims - self.space, dims))

    def stay(self, node: Node) -> bool:
        return True

    def label(self, state: Analysis, node: Node) -> None:
        if any(base(user) == "getitem" and user.args[1] == 1 and user.users for user in node.users):
            state.give_up(node, f"feeds `{base(node)}`, whose positions are read")
            return
        self.join(state, node)
        super().label(state, node)

    def pooled(self, state: Analysis, node: Node, constant: Tensor, live: Tensor) -> Tensor:
        if base(node).startswith("avg_pool") and _mean_depends_on_position(node):
            # Zeros beyond the border enter the mean: only 0 stays constant, at whatever size was traced. Any other
            # constant becomes the same map up to that factor, which readers of this map alone can merge.
            if all(merges(state, user) and user.args[0] is node for user in node.users):
                factor = uniform(state.values_of(operand(node)), CHANNELS)
                state.scaled[node] = torch.where(factor == 0, NAN, factor)
            live = live | (constant != 0)
        return torch.where(live, NAN, constant)


def _mean_depends_on_position(node: Node) -> bool:
    """Whether a mean over windows makes of a constant something else at the border, or everywhere."""
    padding, ceil = argument(node, 3, "padding", 0), argument(node, 4, "ceil_mode", False)
    pads = any(padding) if isinstance(padding, list | tuple) else bool(padding)
    counts_zeros = (pads or bool(ceil)) and bool(argument(node, 5, "count_include_pad", True))
    return counts_zeros or argument(node, 6, "divisor_override") is not None


@rule("mean amax amin any all", constant="same")
@rule("var std", constant="zero")
@rule("sum", constant="only zero", adds=True)
@rule("linalg_vector_norm norm", constant="only zero", position=2, adds=True)
@rule("logsumexp prod", constant="live")
@dataclass(frozen=True)
class Reduction(Pooled):
    """Whole axes become one number.

    Parameters
    ----------
    constant : {"same", "zero", "only zero", "live"}
        What becomes of a constant: the same, 0, the same if it is 0, or something that depends on how many positions
        there are, so that it may be another at another size of image.
    position : int
        Where the axes stand among the arguments.
    adds : bool
        Whether a channel of zeros makes no difference when channels are summed.
    """

    constant: Literal["same", "zero", "only zero", "live"]
    position: int = 1
    adds: bool = False

    def axes(self, node: Node) -> list[int]:
        dims = len(shape_of(operand(node)))
        axes = argument(node, self.position, "dim", None)
        axes = list(range(dims)) if axes is None or axes == [] else [axes] if isinstance(axes, int) else list(axes)
        return [axis % dims for axis in axes]

    def stay(self, node: Node) -> bool:
        return len(shape_of(node)) == len(shape_of(operand(node)))

    def label(self, state: Analysis, node: Node) -> None:
        if not self.over_channels(state, node):
            self.join(state, node)
            super().label(state, node)
        elif self.without_zeros(node):
            state.labels[node] = NO_CLASS.expand(shape_of(node))
        else:
            state.give_up(node, f"feeds `{base(node)}`, which counts every channel")

    def over_channels(self, state: Analysis, node: Node) -> bool:
        """Whether channels are reduced to one number, not branches that have the same channels."""
        labels, axes = state.labels_of(operand(node)), self.axes(node)
        left = first_along(labels, axes, keepdim=True)
        return bool(varies(labels, axes).any()) and left.ndim > 0 and narrow(repeated(left)).numel() == 1

    def without_zeros(self, node: Node) -> bool:
        """Whether the result is the same without the channels that are 0."""
        order = argument(node, 1, "ord", 2) if self.position == 2 else 1
        return self.adds and isinstance(order, int | float) and order >= 0

    def keep(self, state: Analysis, node: Node, kept: Kept) -> None:
        if node in state.unknown or not self.over_channels(state, node):
            return
        labels, values = common(state.labels_of(operand(node)), state.values_of(operand(node)))
        counted = ~values.isnan() & (values != 0)
        kept.add(labels.expand(counted.shape)[counted], f"a constant that `{base(node)}` adds")

    def pooled(self, state: Analysis, node: Node, constant: Tensor, live: Tensor) -> Tensor:
        if self.constant == "live":
            live = torch.ones_like(live)
        elif self.constant == "only zero":
            live = live | (constant != 0)
        elif self.constant == "zero":
            constant = torch.zeros_like(constant)
        return torch.where(live, NAN, constant)
