"""Tensors that repeat: labels, values and uses have stride 0 along every axis on which they do not vary.

A label of a channel holds at every position of a map. Spelled out, the labels of one activation would be as large as
the activation; with stride 0 along the positions they are a vector, whatever the size of the image. `narrow` drops the
repetition, `expand` brings it back, and what is computed in between costs no more than the vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

Labels: TypeAlias = "Tensor | list[Labels] | None"
"""What is said about a node: a tensor, a list for an operator that returns several, None for what is not a tensor."""
NAN = float("nan")
NO_CLASS = torch.zeros((), dtype=torch.int64)


def narrow(tensor: Tensor) -> Tensor:
    """Drop repetition: each axis of stride 0 becomes an axis of size 1."""
    for axis, (size, stride) in enumerate(zip(tensor.shape, tensor.stride(), strict=True)):
        if stride == 0 and size > 1:
            tensor = tensor.narrow(axis, 0, 1)
    return tensor


def repeated(tensor: Tensor) -> Tensor:
    """Give stride 0 to every axis along which a tensor is the same."""
    thin = narrow(tensor)
    # Axis by axis, each on what is left of the one before: the first axes that collapse make the rest cheap.
    for axis, size in enumerate(thin.shape):
        if size > 1 and bool((thin == (first := thin.narrow(axis, 0, 1))).all()):
            thin = first
    return thin.expand(tensor.shape)


def common(*tensors: Tensor) -> list[Tensor]:
    """Narrow tensors of one shape on the axes where all of them repeat."""
    thin = list(tensors)
    for axis in range(tensors[0].ndim):
        if tensors[0].shape[axis] > 1 and all(tensor.stride(axis) == 0 for tensor in tensors):
            thin = [tensor.narrow(axis, 0, 1) for tensor in thin]
    return thin


def distinct(labels: Tensor) -> Tensor:
    """Return the rows that differ, sorted."""
    return labels.unique(dim=0) if labels.ndim > 1 else labels.unique()  # type: ignore[no-any-return, no-untyped-call]


def flat(labels: Labels | tuple[Any, ...]) -> list[Tensor]:
    """Return the tensors in a node's labels, values or uses."""
    if isinstance(labels, Tensor):
        return [labels]
    return [tensor for part in labels for tensor in flat(part)] if isinstance(labels, list | tuple) else []


def in_groups(tensor: Tensor, count: int, axis: int = 0) -> Tensor:
    """Split an axis in two: `count` groups, and what is in a group."""
    return tensor.reshape(*tensor.shape[:axis], count, -1, *tensor.shape[axis + 1 :])


def like(value: Any, fill: Any, dtype: torch.dtype) -> Labels:
    """Return labels, values or uses of one fill, in the shape of what a node returned."""
    if isinstance(value, Tensor):
        return torch.full((), fill, dtype=dtype).expand(value.shape)
    return [like(part, fill, dtype) for part in value] if isinstance(value, list | tuple) else None


def by_channel(tensor: Tensor, axis: int) -> Tensor:
    """Return the tensor as (channels, positions), repeated positions once."""
    thin = narrow(tensor)
    sizes = [tensor.shape[a] if a == axis else size for a, size in enumerate(thin.shape)]
    return thin.expand(sizes).movedim(axis, 0).flatten(1) if len(sizes) > 1 else thin.expand(sizes)[:, None]


def spread(vector: Tensor, axis: int, shape: Sequence[int]) -> Tensor:
    """Repeat a vector of one value a channel over a shape."""
    return vector.reshape([-1 if a == axis else 1 for a in range(len(shape))]).expand(shape)


def uniform(values: Tensor, axis: int) -> Tensor:
    """Return each channel's constant, NaN where it is live or not the same at every position."""
    # NaN equals nothing, so a channel that is live somewhere is live.
    rows = by_channel(values, axis)
    if not rows.numel():  # what is empty is of no use to anybody
        return torch.full((len(rows),), NAN).double()
    return torch.where((rows == rows[:, :1]).all(1), rows[:, 0], NAN)


def first_along(tensor: Tensor, axes: Sequence[int], *, keepdim: bool) -> Tensor:
    """Take the first element along each of some axes."""
    # From the last axis on, as `select` moves those behind it.
    for axis in sorted(axes, reverse=True):
        tensor = tensor.narrow(axis, 0, min(1, tensor.shape[axis])) if keepdim else tensor.select(axis, 0)
    return tensor


def varies(tensor: Tensor, axes: Sequence[int]) -> Tensor:
    """Whether a tensor varies along the axes, which become size 1; NaN varies, as it equals not even itself."""
    thin = narrow(tensor)
    differs = thin != first_along(thin, axes, keepdim=True)
    return differs.any(dim=list(axes), keepdim=True) if axes else differs


def finite(values: Tensor) -> Tensor:
    """Call an infinite constant live: no bias can hold it."""
    return values.masked_fill(~values.isfinite(), NAN)


def reduced(used: Tensor, shape: Sequence[int]) -> Tensor:
    """Return what is used of an operand that was broadcast: an element is if any of those that it met is."""
    lead = used.ndim - len(shape)
    part = used.any(dim=list(range(lead))) if lead else used
    for axis, size in enumerate(shape):
        part = part.any(dim=axis, keepdim=True) if size == 1 < part.shape[axis] else part
    return part.expand(shape)


def align(tensor: Tensor, dims: int) -> Tensor:
    """Give a broadcast operand the leading axes that it lacks."""
    return tensor.reshape((1,) * (dims - tensor.ndim) + tuple(tensor.shape)) if tensor.ndim < dims else tensor
