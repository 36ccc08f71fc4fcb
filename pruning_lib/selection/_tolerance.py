"""How much a validation loss can spare: what `select` and `threshold_weights` share."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from pruning_lib._arguments import a_, checked
from pruning_lib._model import REFUSALS, first_line, place


def checked_tolerance(tolerance: float, owner: str) -> float:
    """Return `tolerance`, or raise one sentence if it is no number, negative or not finite."""
    checked(owner, tolerance=tolerance)
    return float(tolerance)


def loss_of(loss_fn: Callable[[nn.Module], float], model: nn.Module) -> float:
    """Return a model's loss as a number, or raise TypeError if it is none."""
    return _number(loss_fn(model))


def finite_loss(loss_fn: Callable[[nn.Module], float], model: nn.Module) -> float:
    """Return the loss before anything is zeroed, or raise ValueError if there is none or it is not a finite number.

    In training mode a forward moves statistics before it fails: they are put back.
    """
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        loss = loss_fn(model)
    except torch.OutOfMemoryError:
        raise
    except REFUSALS as error:
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
        raise ValueError(f"loss_fn cannot compute the model's loss: {first_line(error)}{place(error)}.") from error
    number = _number(loss)
    if not math.isfinite(number):
        raise ValueError(f"loss_fn returned {number} for the model as it is; it must be a finite validation loss.")
    return number


def _number(loss: float) -> float:
    try:
        return float(loss)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"loss_fn returned {a_(loss)}; it must return the validation loss, a number.") from error


def largest(holds: Callable[[int], bool], most: int) -> int:
    """Return a count in [0, most] that holds while the next one does not; 0 is taken to hold."""
    low, high = 0, most + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
