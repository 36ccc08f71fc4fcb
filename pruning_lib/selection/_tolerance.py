"""How much a validation loss can spare: what `select` and `threshold_weights` share."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import nn


def checked_tolerance(tolerance: float) -> float:
    """Return `tolerance`, or raise ValueError if it is negative or not finite."""
    if not math.isfinite(tolerance) or tolerance < 0:
        raise ValueError(f"tolerance={tolerance!r}; it must be a finite share ≥ 0 by which the loss may grow.")
    return float(tolerance)


def finite_loss(loss_fn: Callable[[nn.Module], float], model: nn.Module) -> float:
    """Return the loss before anything is zeroed, or raise ValueError if it is not a finite number."""
    loss = float(loss_fn(model))
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
