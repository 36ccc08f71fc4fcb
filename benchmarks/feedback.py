"""Methods that `TargetSize` steers by what it measures, or by their guidance, for `benchmarks.target_size`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from pruning_lib import (
    L2,
    GroupHoyer,
    GroupLasso,
    GroupSL,
    Guided,
    Polarization,
    RecedingNeurons,
    Regularizer,
    SeReNe,
    StochasticPruning,
    Units,
    bound_batchnorm,
    receding_parameters,
)

Built = Callable[[nn.Module, float, Units], Regularizer]


@dataclass(frozen=True)
class Feedback:
    """A method, and what `TargetSize` needs of its user.

    Parameters
    ----------
    build : callable
        (model, strength, units) → method.
    guess : float
        The first guess of its strength on LeNet-300, the same for all seeds; 0 where none is needed.
    threshold : float
        The length of a row, or the |γ|, within which a unit has gone.
    normalized, bounded : bool
        Whether the network has BatchNorms, and whether their scales are bounded.
    """

    build: Built
    guess: float
    threshold: float = 0.05
    normalized: bool = False
    bounded: bool = False


FEEDBACK = {
    "l2": Feedback(lambda model, strength, units: L2(model, strength, units=units), 3e-2),
    "serene": Feedback(lambda model, strength, units: SeReNe(model, strength, units=units), 1e-2),
    "stochastic-l2": Feedback(lambda model, strength, units: StochasticPruning(model, strength, units=units), 3e-2),
    "group-hoyer": Feedback(lambda model, strength, units: GroupHoyer(model, strength, units=units), 3e-3),
    "group-sl": Feedback(lambda model, strength, units: GroupSL(model, strength, units=units), 5e-4),
    "guided-group-lasso": Feedback(
        lambda model, strength, units: Guided(model, strength, base=GroupLasso, units=units), 0.0, 0.0
    ),
    "guided-l2": Feedback(lambda model, strength, units: Guided(model, strength, units=units), 1e-2),
    "polarization": Feedback(
        lambda model, strength, units: Polarization(model, strength, units=units), 1e-3, normalized=True
    ),
    "receding": Feedback(
        lambda model, strength, units: RecedingNeurons(model, strength, units=units),
        1e-1, normalized=True, bounded=True,
    ),
    "serene-bn": Feedback(
        lambda model, strength, units: SeReNe(model, strength, units=units), 1e-2, normalized=True
    ),
    "group-sl-bn": Feedback(
        lambda model, strength, units: GroupSL(model, strength, units=units), 5e-4, normalized=True
    ),
}  # fmt: skip


def optimizer_of(method: str, model: nn.Module, rate: float) -> torch.optim.Optimizer:
    """Return SGD as everywhere in this benchmark; bounded scales are trained as published, without weight decay."""
    bounded = method in FEEDBACK and FEEDBACK[method].bounded
    if bounded:
        bound_batchnorm(model)
    parameters = receding_parameters(model, rate, 5e-4) if bounded else model.parameters()
    return torch.optim.SGD(parameters, lr=rate, momentum=0.9, weight_decay=5e-4)
