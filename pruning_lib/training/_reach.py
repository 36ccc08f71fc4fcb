"""How far a strength can move units within the steps that are planned: arithmetic, before anything is trained.

    prox, decay                                  Γ = λ Σ_t η_t
    loss, gradient; SGD with momentum m          Γ = λ Σ_t η_t / (1 − m)
    loss, gradient; Adam and its like            Γ ≤ Σ_t η_t, about, whatever λ: the step is divided by its own size

A penalty that pulls on every unit alike brings to zero at most those whose distance is below Γ. The loss pulls back.
Groups that share weights also shorten each other: there Γ is what a unit's own pull moves, and more units may go.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, NAdam, Optimizer, RAdam

from pruning_lib._arguments import checked
from pruning_lib._model import parameters_in
from pruning_lib.regularizers import Regularizer
from pruning_lib.training._schedules import Schedule, check_schedules, constant, factor

ADAM = (Adam, AdamW, NAdam, RAdam)


@dataclass(frozen=True, eq=False)
class Reach:
    """What `reach` returns; print it.

    Parameters
    ----------
    strength : float
        λ.
    drift : float
        Γ: how far it moves a unit at most; where groups overlap, what a unit's own pull moves.
    steps : int
        Within so many steps.
    distances : Tensor
        How far each unit is from zero now, shape (units,), ascending.
    bound : float
        What Γ cannot exceed, whatever λ: infinite but for Adam and its like under a term of the loss.
    overlapping : bool
        Whether weights belong to several units, as in coupled groups.
    decayed : bool
        Whether the optimizer's own weight decay shortens units, too.

    Examples
    --------
    >>> import torch
    >>> print(Reach(0.1, 2.0, 200, torch.tensor([0.5, 2.5, 4.0, 8.0])))
    λ = 0.1 moves a unit by at most 2 in 200 steps: 1 of 4 units (25.0 %) could reach zero. To bring half of all \
units there, λ would have to be 0.125 or more.
    """

    strength: float
    drift: float
    steps: int
    distances: Tensor
    bound: float = math.inf
    overlapping: bool = False
    decayed: bool = False

    @property
    def share(self) -> float:
        """The share of units that could reach zero if the loss did not resist."""
        return int((self.distances <= self.drift).sum()) / len(self.distances)

    def strength_for(self, share: float) -> float:
        """Return the smallest λ by which this share of units could reach zero; infinite if none can.

        Raises
        ------
        ValueError
            If the share lies outside (0, 1], or nothing was to be moved: λ is 0, or there are no steps.
        """
        checked("strength_for", share=share)
        if not self.drift:
            raise ValueError("strength_for cannot scale a strength of 0, or one without steps; ask `reach` of another.")
        needed = self.distances[math.ceil(share * len(self.distances) - 1e-9) - 1].item()
        return self.strength * needed / self.drift if needed <= self.bound else math.inf

    def __str__(self) -> str:
        count = round(self.share * len(self.distances))
        most = "about" if self.overlapping or self.decayed else "at most"
        text = (
            f"λ = {self.strength:g} moves a unit by {most} {self.drift:.3g} in {self.steps:,} steps: {count:,} of "
            f"{len(self.distances):,} units ({100 * self.share:.1f} %) could reach zero."
        )
        if self.overlapping:
            text += " Units share weights and shorten each other, so more than these may reach zero."
        if self.decayed:
            text += " The optimizer's own weight decay is not counted: with it, more may reach zero."
        if self.share >= 0.5 or not self.drift:
            return text
        needed = self.strength_for(0.5)
        if math.isinf(needed):
            return (
                f"{text} No λ could bring half of all units there: train longer, at a higher rate, or by apply='prox'."
            )
        if self.overlapping:
            return f"{text} To bring half of all units there, λ would have to be about {needed:.3g}."
        return f"{text} To bring half of all units there, λ would have to be {needed:.3g} or more."


def reach(reg: Regularizer, optimizer: Optimizer, steps: int, schedule: Schedule | None = None) -> Reach:
    """Say how many units a penalty could at most bring to zero in a training, before it begins.

    Parameters
    ----------
    reg : GroupLasso, L1, NetworkSlimming, or Guided with GroupLasso or L1 as its base
        Pulls on every unit alike. Its units are those of the layers that it works on.
    optimizer : Optimizer
        Of the training. Where its groups have learning rates of their own, the largest counts.
    steps : int
        Optimizer steps that are planned.
    schedule : callable, optional
        Progress in [0, 1) → factor on the learning rate, as `fit` takes it; times that of the strength if there is one.

    Returns
    -------
    Reach
        With ``.share``, ``.strength_for(share)`` and a sentence to print.

    Raises
    ------
    TypeError
        If no such number is known of the method, or of its term of the loss under this optimizer.
    ValueError
        If `steps` is below 1, or the optimizer holds none of the penalized parameters.

    Examples
    --------
    A scale of 1 loses 0.01 · 0.5 a step under a threshold, and ten times as much by a term of the loss with momentum.

    >>> import torch
    >>> import pruning_lib as prl
    >>> norm = torch.nn.BatchNorm1d(4)
    >>> optimizer = torch.optim.SGD(norm.parameters(), lr=0.01, momentum=0.9)
    >>> print(prl.reach(prl.NetworkSlimming(norm, 0.5, apply="prox"), optimizer, steps=100))
    λ = 0.5 moves a unit by at most 0.5 in 100 steps: 0 of 4 units (0.0 %) could reach zero. To bring half of all \
units there, λ would have to be 1 or more.
    >>> prl.reach(prl.NetworkSlimming(norm, 0.5), optimizer, steps=100).share
    1.0
    """
    checked("reach", reg=reg, optimizer=optimizer, steps=steps)
    check_schedules("reach", schedule=schedule)
    factors = (factor("reach", "schedule", schedule or constant, step / steps) for step in range(steps))
    rates = largest_rate(reg, optimizer) * sum(factors)
    distances = torch.cat([distance.detach().flatten().cpu() for distance in reg.distance().values()]).sort().values
    more = {
        "overlapping": bool(getattr(reg, "overlapping", False)),
        "decayed": any(group.get("weight_decay", 0) > 0 for group in _groups(reg, optimizer)),
    }
    if saturates(reg, optimizer):
        return Reach(reg.strength, rates if reg.strength else 0.0, steps, distances, rates, **more)
    return Reach(reg.strength, reg.strength * rates * gain(reg, optimizer), steps, distances, **more)


def largest_rate(reg: Regularizer, optimizer: Optimizer) -> float:
    """Return the largest learning rate among the parameters that a method holds."""
    return max(float(group["lr"]) for group in _groups(reg, optimizer))


def _groups(reg: Regularizer, optimizer: Optimizer) -> list[dict[str, Any]]:
    """Return the parameter groups that hold something a method works on."""
    own = {id(parameter) for parameter in parameters_in(reg)}
    groups = [group for group in optimizer.param_groups if own & {id(p) for p in group["params"]}]
    if not groups:
        raise ValueError(f"The {type(optimizer).__name__} holds no parameter that {type(reg).__name__} works on.")
    return groups


def drifts(rate: float, epochs: int, steps: int, schedule: Schedule) -> list[float]:
    """Return Σ_t η_t of each epoch."""
    count = steps // epochs
    if count < 1:
        raise ValueError(f"TargetSize got {steps} steps in {epochs} epochs; it needs at least one an epoch.")
    factors = [factor("TargetSize", "schedule", schedule, i / (count * epochs)) for i in range(count * epochs)]
    return [rate * sum(factors[i * count : (i + 1) * count]) for i in range(epochs)]


def in_gradient(reg: Regularizer) -> bool:
    """Whether a method's pull passes through the optimizer."""
    return getattr(reg, "apply", "loss") in ("loss", "gradient")


def saturates(reg: Regularizer, optimizer: Optimizer) -> bool:
    """Whether the optimizer divides the pull by its own size."""
    return in_gradient(reg) and isinstance(optimizer, ADAM)


def gain(reg: Regularizer, optimizer: Optimizer) -> float:
    """Return by what a pull of λη is multiplied: 1 after the step; 1/(1 − m) in the gradient of SGD."""
    if not in_gradient(reg):
        return 1.0
    if not isinstance(optimizer, SGD):
        name = type(optimizer).__name__
        raise TypeError(f"What a term of the loss moves under {name} is not known; under SGD, Adam and its like it is.")
    groups = _groups(reg, optimizer)
    factors = [(1 - g["dampening"] * bool(g["momentum"])) / (1 - g["momentum"]) for g in groups]
    return float(max(factors))


def check_steered(reg: Regularizer, optimizer: Optimizer, threshold: float) -> None:
    """Raise one sentence for a method that no strength steers to zeros."""
    if getattr(reg, "apply", "loss") != "prox" and not threshold:
        raise ValueError("A term of the loss makes no exact zeros: use apply='prox', or give TargetSize a threshold.")
    if saturates(reg, optimizer):
        raise TypeError("Adam divides a pull in the gradient by its own size, so no strength steers it: use 'prox'.")
