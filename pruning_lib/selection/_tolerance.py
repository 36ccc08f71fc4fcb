"""How much a validation loss can spare: what `select` and `threshold_weights` share."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import nn

from pruning_lib._arguments import a_, checked


def checked_tolerance(tolerance: float, owner: str) -> float:
    """Return `tolerance`, or raise one sentence if it is no number, negative or not finite."""
    checked(owner, tolerance=tolerance)
    return float(tolerance)


def loss_of(loss_fn: Callable[[nn.Module], float], model: nn.Module) -> float:
    """Return a model's loss as a number, or raise TypeError if it is none."""
    loss = loss_fn(model)
    try:
        return float(loss)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"loss_fn returned {a_(loss)}; it must return the validation loss, a number.") from error


def finite_loss(loss_fn: Callable[[nn.Module], float], model: nn.Module) -> float:
    """Return the loss before anything is zeroed, or raise ValueError if it is not a finite number."""
    loss = loss_of(loss_fn, model)
    if not math.isfinite(loss):
        raise ValueError(f"loss_fn returned {loss} for the model as it is; it must be a finite validation loss.")
    return loss


def largest(holds: Callable[[int], bool], most: int) -> int:
    """Return a count in [0, most] that holds while the next one does not; 0 is taken to hold."""
    low, high = 0, most + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
