"""What the functions of this room check of their arguments, before anything changes."""

from __future__ import annotations

from numbers import Real
from typing import Any, TypeGuard

from torch import nn
from torch.optim import Optimizer

from pruning_lib._model import check_same_model
from pruning_lib.units import Units


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a real number, which a truth value or a tensor is not."""
    return isinstance(value, Real) and not isinstance(value, bool)


def is_count(value: object, least: int) -> bool:
    """Whether a value is a whole number of at least so much."""
    return is_number(value) and value >= least and value == int(value)


def check_kinds(owner: str, *, model: Any = None, units: Any = None) -> None:
    """Raise TypeError if a model or units are none."""
    if model is not None and not isinstance(model, nn.Module):
        raise TypeError(f"{owner} got a {type(model).__name__} for model; it needs a torch.nn.Module.")
    if units is not None and not isinstance(units, Units):
        raise TypeError(
            f"{owner} got a {type(units).__name__} for units; it needs what `find_units(model, example)` returned."
        )


def check_optimizer(optimizer: Any, model: nn.Module, owner: str) -> None:
    """Raise one sentence unless an optimizer is None or holds parameters of the model."""
    if optimizer is None:
        return
    if not isinstance(optimizer, Optimizer):
        raise TypeError(
            f"{owner} got a {type(optimizer).__name__} for optimizer; it needs the torch.optim.Optimizer or None."
        )
    check_same_model(owner, model, optimizer=optimizer)
