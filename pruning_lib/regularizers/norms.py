"""Norm penalties: L1, L2, group lasso; met in the chapter `serene`.

    L1           R = λ Σ_ij |w_ij|        prox: w ← sign(w) max(|w| − ηλ, 0)
    L2           R = ½λ Σ_ij w_ij²        prox: w ← w / (1 + ηλ)
    GroupLasso   R = λ Σ_i ‖w_i‖₂         prox: w_i ← w_i max(1 − ηλ / ‖w_i‖₂, 0)

w_i: the incoming weights of unit i, without bias. As a loss term no weight is ever exactly 0 after a gradient step;
the proximal step, taken after the optimizer's with that parameter's learning rate η, reaches 0 and stays there.
With momentum or Adam it is a decoupled proximal step: its threshold is ηλ in the Euclidean metric, whatever
preconditioner the gradient met.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pruning_lib.regularizers.base import (
    Regularizer,
    checked_choice,
    checked_strength,
    incoming_norms,
    learning_rates,
    regularized_layers,
    snap,
)
from pruning_lib.units import Units, rows


class _Norm(Regularizer):
    """A norm of the incoming weights, applied as a loss term or as a proximal step."""

    def __init__(self, model: nn.Module, strength: float, apply: str, units: Units | None) -> None:
        self.strength = checked_strength(strength, self)
        self.apply = checked_choice(apply, "apply", ("loss", "prox"))
        self._layers = regularized_layers(model, units, self, in_place=apply == "prox")

    def penalty(self, outputs: Tensor) -> Tensor:
        if self.apply == "prox":
            return outputs.new_zeros(())
        norms = [self._norm(rows(layer)) for layer in self._layers.values()]
        return self.strength * torch.stack(norms).sum()

    @torch.no_grad()
    def update(self, optimizer: Optimizer) -> None:
        if self.apply == "loss":
            return
        rates = learning_rates(optimizer)
        for layer in self._layers.values():
            if layer.weight.requires_grad and id(layer.weight) in rates:
                self._prox(rows(layer), self.strength * rates[id(layer.weight)])

    def importance(self) -> dict[str, Tensor]:
        return incoming_norms(self._layers)

    def _norm(self, weight: Tensor) -> Tensor:
        """Return the norm, a scalar, of a weight of shape (units, …)."""
        raise NotImplementedError

    def _prox(self, weight: Tensor, threshold: float) -> None:
        """Apply the proximal map of `threshold` times the norm, in place."""
        raise NotImplementedError


class L1(_Norm):
    """Pull every weight toward zero by the same amount: scattered zeros.

    Parameters
    ----------
    model : nn.Module
        All its linear and convolution weights are penalized, biases and normalizations are not.
    strength : float
        λ ≥ 0.
    apply : {"prox", "loss"}
        Soft threshold after the step (exact zeros), or a term of the loss (none).
    units : Units, optional
        Penalize only the writers of these units; leaves the output layer alone.

    Raises
    ------
    ValueError
        If `strength` is negative or not finite, `apply` is unknown, or no layer is found.
    """

    def __init__(
        self,
        model: nn.Module,
        strength: float,
        *,
        apply: Literal["prox", "loss"] = "prox",
        units: Units | None = None,
    ) -> None:
        super().__init__(model, strength, apply, units)

    def _norm(self, weight: Tensor) -> Tensor:
        return weight.abs().sum()

    def _prox(self, weight: Tensor, threshold: float) -> None:
        weight.copy_(torch.nn.functional.softshrink(weight, threshold))


class L2(_Norm):
    """Shrink every weight in proportion to itself: small weights everywhere, no zeros (½λ‖w‖², weight decay).

    Parameters
    ----------
    model : nn.Module
        All its linear and convolution weights are penalized, biases and normalizations are not.
    strength : float
        λ ≥ 0. Under plain SGD ``apply="loss"`` equals the optimizer's ``weight_decay=λ`` on the same weights.
    apply : {"loss", "prox"}
        A term of the loss, or w / (1 + ηλ) after the step.
    units : Units, optional
        Penalize only the writers of these units.

    Raises
    ------
    ValueError
        If `strength` is negative or not finite, `apply` is unknown, or no layer is found.
    """

    def __init__(
        self,
        model: nn.Module,
        strength: float,
        *,
        apply: Literal["loss", "prox"] = "loss",
        units: Units | None = None,
    ) -> None:
        super().__init__(model, strength, apply, units)

    def _norm(self, weight: Tensor) -> Tensor:
        return 0.5 * weight.square().sum()

    def _prox(self, weight: Tensor, threshold: float) -> None:
        snap(weight.div_(1 + threshold))


class GroupLasso(_Norm):
    """Pull each unit's incoming weights toward zero as one vector: whole units go.

    Yuan & Lin (2006); for convolutions Wen et al. (2016). Every unit costs the same, whatever its number of weights.

    Parameters
    ----------
    model : nn.Module
        The rows of its linear and convolution weights are the groups.
    strength : float
        λ ≥ 0.
    apply : {"prox", "loss"}
        Group soft threshold after the step (rows become exactly 0), or a term of the loss (they do not).
    units : Units, optional
        Penalize only the writers of these units; leaves the output layer alone.

    Raises
    ------
    ValueError
        If `strength` is negative or not finite, `apply` is unknown, or no layer is found.
    """

    def __init__(
        self,
        model: nn.Module,
        strength: float,
        *,
        apply: Literal["prox", "loss"] = "prox",
        units: Units | None = None,
    ) -> None:
        super().__init__(model, strength, apply, units)

    def _norm(self, weight: Tensor) -> Tensor:
        length: Tensor = weight.flatten(1).norm(dim=1)
        return length.sum()

    def _prox(self, weight: Tensor, threshold: float) -> None:
        length = weight.flatten(1).norm(dim=1)
        # A row at 0 divides 0 by 0; it has to stay 0.
        scale = torch.where(length > threshold, 1 - threshold / length, 0.0)
        snap(weight.mul_(scale.view(-1, *[1] * (weight.ndim - 1))))
