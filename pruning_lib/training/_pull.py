"""What `TargetSize` asks of a method: how far its units are from zero, and how a strength moves them there.

    known       the method has `distance`, how much pull brings each unit to zero: a strength λ is a pull of c λ in each
                unit of Σ_t η_t, with c known from the optimizer
    measured    it has not: the way is log(length / threshold), in which a decay keeps its speed, and c λ is the speed
                of the fastest units in the last epochs; what the others lack of it is what the loss resists with

The measured length of a unit is that of the longest row that writes it, or its largest |γ| where BatchNorms follow,
which divide the length of a row out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim import Optimizer

from pruning_lib._arguments import checked
from pruning_lib._model import parameters_in
from pruning_lib.regularizers import Regularizer
from pruning_lib.training._distances import distances, lengths
from pruning_lib.training._reach import check_steered, gain, in_gradient
from pruning_lib.units import Units

FASTEST = 0.9  # the quantile of the speeds of living units that tells what a strength moves
MEMORY = 0.5  # the weight of what was measured before, against the last epoch
LEAST = 1e-9  # a gain of which nothing is known yet
NEAR = 0.01  # units that are left over the target, of which the next epoch might take many more than are missing
START = 0.1  # of the first guess: what an epoch takes too much does not come back
MOST = 3.0  # times the strength of the epoch before
FIRM = 1.5  # the same for what is measured, once units go: their lengths follow each change of the strength
RANGE = 1000.0  # times the first guess: beyond it, it is not the strength that is missing


class Pull(Protocol):
    """What the strategies have in common.

    Attributes
    ----------
    gain : float
        c: how far a strength of 1 moves each unit in a unit of time, if nothing resists.
    edge : float
        A unit has gone where its distance is at most that.
    timely : bool
        Whether an epoch shows what its own strength did.
    known : bool
        Whether the gain is known from the start.
    slack : float
        Of the share: so near to the target nothing more is to go.
    """

    gain: float
    edge: float
    timely: bool
    known: bool
    slack: float

    def distances(self) -> dict[str, Tensor]:
        """Return how far each unit is from zero, (units,) for each group that can go."""
        ...

    def learn(self, strength: float, speeds: Mapping[str, Tensor], alive: Mapping[str, Tensor]) -> None:
        """Learn from the speeds of the units in an epoch of this strength."""
        ...

    def bounded(self, strength: float, last: float, begun: bool) -> float:
        """Return the strength that the next epoch may have after this one (inf: none); `begun`: whether units go."""
        ...


class Known:
    """The pull of a method with `distance`: nothing to be learned."""

    known, slack = True, 0.0

    def __init__(
        self, reg: Regularizer, optimizer: Optimizer, units: Units, modules: Mapping[str, Any], threshold: float
    ) -> None:
        check_steered(reg, optimizer, threshold)
        self.gain, self.edge, self.timely = gain(reg, optimizer), threshold, not in_gradient(reg)
        self._of = reg, units, modules

    def distances(self) -> dict[str, Tensor]:
        return distances(*self._of)

    def learn(self, strength: float, speeds: Mapping[str, Tensor], alive: Mapping[str, Tensor]) -> None:
        return

    def bounded(self, strength: float, last: float, begun: bool) -> float:
        return max(min(strength, MOST * last), 0.0)


class Measured:
    """The pull of any other method, as the fastest units show it."""

    edge, timely, known, slack = 0.0, True, False, NEAR

    def __init__(self, reg: Regularizer, units: Units, modules: Mapping[str, Any], threshold: float) -> None:
        name = type(reg).__name__
        if not threshold:
            raise ValueError(
                f"{name} is steered by how fast units become shorter, and need not bring any to exactly zero: give "
                "TargetSize a threshold > 0, the length within which a unit has gone."
            )
        if not reg.strength:
            raise ValueError(
                f"{name} came to TargetSize with the strength 0, and how far a strength moves its units is measured, "
                "not known: build it with a first guess > 0; a tenth of that is where the training starts."
            )
        self.gain, self._start, self._limit = LEAST, START * reg.strength, _largest(reg)
        self._units, self._modules, self._threshold = units, modules, threshold
        self._held = {id(parameter) for parameter in parameters_in(reg)}
        if not self.distances():
            raise TypeError(
                f"{name} acts on no unit whose length says how near to zero it is: behind rows, a BatchNorm divides "
                "their length out. Take a method that acts on its scales, or call TargetSize with the units of others."
            )

    def distances(self) -> dict[str, Tensor]:
        found = lengths(self._units, self._modules, self._held)
        return {name: (length / self._threshold).log().clamp(min=0) for name, length in found.items()}

    def learn(self, strength: float, speeds: Mapping[str, Tensor], alive: Mapping[str, Tensor]) -> None:
        living = torch.cat([speed[alive[name]] for name, speed in speeds.items()])
        if not strength or not len(living):
            return
        now = max(float(living.quantile(FASTEST)) / strength, LEAST)
        self.gain = now if self.gain == LEAST else MEMORY * self.gain + (1 - MEMORY) * now

    def bounded(self, strength: float, last: float, begun: bool) -> float:
        if math.isinf(last):
            return self._start
        return max(min(strength, (FIRM if begun else MOST) * last, self._limit), 0.0)


def pull_of(reg: Regularizer, optimizer: Optimizer, units: Units, modules: Mapping[str, Any], threshold: float) -> Pull:
    """Return the pull of a method, measured where it is not known."""
    try:
        reg.distance()
    except TypeError:
        return Measured(reg, units, modules, threshold)
    return Known(reg, optimizer, units, modules, threshold)


def missed(reg: Regularizer, target: float, left: float, strengths: Iterable[float], *, known: bool) -> str:
    """Say that another size than the target was reached."""
    text = (
        f"{type(reg).__name__} was to leave {target:.1%} and leaves {left:.1%}, after strengths of up to "
        f"{max(strengths):.3g}: "
    )
    if known:
        return f"{text}give it more epochs, so that it can follow what it measures."
    if left < target:
        return f"{text}more units went in an epoch than their speeds had said. Build it with a smaller first guess."
    return f"{text}build it with a larger first guess, give a larger threshold or more epochs, or take another method."


def _largest(reg: Regularizer) -> float:
    """Return the largest strength to steer to: some allow only shares below 1."""
    limit = RANGE * reg.strength
    while limit > reg.strength:
        try:
            checked(type(reg).__name__, strength=limit)
            break
        except ValueError:
            limit /= 2
    return limit
