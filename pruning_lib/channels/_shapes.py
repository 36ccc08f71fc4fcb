"""Tensors that repeat: labels, values and uses have stride 0 along every axis on which they do not vary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

Labels = Any  # a Tensor, or a list of Tensors for an operator that returns several
NAN = float("nan")


def narrow(tensor: Tensor) -> Tensor:
    """Drop repetition: each axis of stride 0 becomes an axis of size 1."""
    for axis, (size, stride) in enumerate(zip(tensor.shape, tensor.stride(), strict=True)):
        if stride == 0 and size > 1:
            tensor = tensor.narrow(axis, 0, 1)
    return tensor


def repeated(tensor: Tensor) -> Tensor:
    """Give stride 0 to every axis along which a tensor is the same."""
    thin = narrow(tensor)
    for axis, size in enumerate(thin.shape):
        first = thin.narrow(axis, 0, 1)
        if size > 1 and bool((thin == first).all()):
            thin = first
    return thin.expand(tensor.shape)


def common(*tensors: Tensor) -> list[Tensor]:
    """Narrow tensors of one shape on the axes where all of them repeat."""
    found = list(tensors)
    for axis in range(tensors[0].ndim):
        if tensors[0].shape[axis] > 1 and all(tensor.stride(axis) == 0 for tensor in tensors):
            found = [tensor.narrow(axis, 0, 1) for tensor in found]
    return found


def distinct(labels: Tensor) -> Tensor:
    """Return the rows that differ, sorted."""
    return labels.unique(dim=0) if labels.ndim > 1 else labels.unique()  # type: ignore[no-any-return, no-untyped-call]


def flat(labels: Labels) -> list[Tensor]:
    """Return the tensors in a node's labels, values or uses."""
    if isinstance(labels, Tensor):
        return [labels]
    return [found for part in labels for found in flat(part)] if isinstance(labels, list | tuple) else []


def parts(tensor: Tensor, count: int, axis: int = 0) -> Tensor:
    """Split an axis in two: `count` parts, and what is in a part."""
    return tensor.reshape(*tensor.shape[:axis], count, -1, *tensor.shape[axis + 1 :])


def like(value: Any, fill: Any, dtype: torch.dtype) -> Labels:
    """Return labels or values of one fill in the shape of what a node returned."""
    if isinstance(value, Tensor):
        return torch.full((), fill, dtype=dtype).expand(value.shape)
    return [like(part, fill, dtype) for part in value] if isinstance(value, list | tuple) else None


def by_channel(tensor: Tensor, axis: int) -> Tensor:
    """Return the tensor as (channels, positions), repeated positions once."""
    thin = narrow(tensor)
    sizes = [tensor.shape[a] if a == axis else size for a, size in enumerate(thin.shape)]
    return thin.expand(sizes).movedim(axis, 0).reshape(tensor.shape[axis], -1)


def spread(vector: Tensor, axis: int, shape: Sequence[int]) -> Tensor:
    """Repeat a vector of one value a channel over a shape."""
    return vector.reshape([-1 if a == axis else 1 for a in range(len(shape))]).expand(shape)


def uniform(values: Tensor, axis: int) -> Tensor:
    """Return each channel's constant, NaN where it is live or not the same at every position."""
    rows = by_channel(values, axis)
    return torch.where((rows == rows[:, :1]).all(1), rows[:, 0], NAN)


def finite(values: Tensor) -> Tensor:
    """Call an infinite constant live."""
    return values.masked_fill(~values.isfinite(), NAN)


def align(tensor: Tensor, dims: int) -> Tensor:
    """Give a broadcast operand the leading axes that it lacks."""
    return tensor.reshape((1,) * (dims - tensor.ndim) + tuple(tensor.shape)) if tensor.ndim < dims else tensor
