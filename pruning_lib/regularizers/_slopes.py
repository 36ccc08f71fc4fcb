"""Slopes ∂y/∂p from the graph of a forward pass, and their reduction to a number a unit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge
from torch.nn.modules.conv import _ConvNd

from pruning_lib.units import Weighted


def backward(outputs: Tensor, edges: Sequence[GradientEdge], seeds: Tensor) -> tuple[Tensor | None, ...]:
    """Return the slopes that seeds of shape (several, *outputs.shape) give, with an axis of `several` before their own.

    All in one backward pass; where that cannot take several, RuntimeError.
    """
    none: list[bool] = []

    def one(seed: Tensor) -> tuple[Tensor, ...]:
        slopes = torch.autograd.grad(outputs, edges, seed, retain_graph=True, allow_unused=True)
        none[:] = [slope is None for slope in slopes]  # vmap returns tensors alone
        return tuple(slope for slope in slopes if slope is not None)

    found = [slope[None] for slope in one(seeds[0])] if len(seeds) == 1 else list(torch.vmap(one)(seeds))
    return tuple(None if missing else found.pop(0) for missing in none)


def unit_axis(layer: Weighted) -> int:
    """Return the axis of a layer's output that counts its units: the last one of whatever multiplies by a matrix."""
    if isinstance(layer, _ConvNd):
        return 1
    return -1 if isinstance(layer, nn.Linear) or layer.weight.ndim == 2 else 1


def place_axes(ndim: int, units: int) -> list[int]:
    """Return the axes that are neither examples nor units."""
    return [axis for axis in range(1, ndim) if axis != units % ndim]


def shape_of(edge: GradientEdge) -> tuple[int, ...]:
    """Return the shape of the tensor at a place of the graph."""
    return tuple(edge.node._input_metadata[edge.output_nr].shape)


def first_of(wanted: set[Any], node: Any) -> Any:
    """Follow a chain of operators of one input each (a cast, a temperature) back to the first wanted node."""
    while node is not None and node not in wanted:
        before = [source for source, _ in node.next_functions if source is not None]
        node = before[0] if len(before) == 1 else None
    return node


def behind_pools(edges: Sequence[GradientEdge], root: Any) -> list[GradientEdge]:
    """Return each edge, or that behind the max pooling which alone takes it up, if its windows do not overlap."""
    takers: dict[tuple[Any, int], list[Any]] = {}
    met, todo = {root}, [root]
    while todo:
        node = todo.pop()
        for source in node.next_functions:
            takers.setdefault(source, []).append(node)
            if source[0] is not None and source[0] not in met:
                met.add(source[0])
                todo.append(source[0])
    moved = []
    for edge in edges:
        its = takers.get((edge.node, edge.output_nr), [])
        moved.append(GradientEdge(its[0], 0) if len(its) == 1 and _is_apart(its[0]) else edge)
    return moved


def _is_apart(node: Any) -> bool:
    """Whether a node of the graph is a max pooling whose windows share no place."""
    if node.name() != "MaxPool2DWithIndicesBackward0":
        return False
    windows, dilations = _pair(node._saved_kernel_size), _pair(node._saved_dilation)
    strides = _pair(node._saved_stride) or windows
    return all(d * (w - 1) < s for w, s, d in zip(windows, strides, dilations, strict=True))


def _pair(given: tuple[int, ...]) -> tuple[int, ...]:
    """Return a number for each axis; a tuple of one number stands for both."""
    return given * 2 if len(given) == 1 else given


def reduce_slopes(
    slope: Tensor, space: str, units: int = 1, places: int | None = None, *, overwrite: bool = False
) -> Tensor:
    """Reduce slopes ∂y/∂p of shape (examples, …, units, …) to (units,): over space, then the mean over examples.

    Parameters
    ----------
    slope : Tensor
        The examples are its first axis; what is neither examples nor units is space.
    space : {"mean", "sum", "abs-of-sum"}
        How places are joined: mean of |·|, sum of |·|, |sum of ·|.
    units : int
        The axis of the units.
    places : int, optional
        Of p, for the mean, where the slopes that are handed in are fewer: the others are zero. Default: their number.
    overwrite : bool
        `slope` is not needed any more. Two layers may share it, as before a sum: |·| of |·| is |·|.
    """
    axes = place_axes(slope.ndim, units)
    if space == "abs-of-sum" and axes:
        return slope.sum(axes, dtype=torch.float32).abs().mean(0)
    # A fresh array of a convolution's size costs more than its absolute values.
    size = slope.abs_() if overwrite and slope.is_contiguous() else slope.abs()
    total = size.sum([0, *axes], dtype=torch.float32)
    if places is None:
        places = math.prod(slope.shape[axis] for axis in axes)
    return total / (slope.shape[0] * (places if space == "mean" else 1))
