"""Network slimming (Liu et al., 2017, arXiv 1708.06519); derived in the chapter `scales-as-gates`.

    R = λ Σ_i |γ_i|        ∂R/∂γ_i = λ sign(γ_i)        prox: γ ← sign(γ) max(|γ| − ηλ, 0)

γ_i: the scale of channel i, over all BatchNorms at once. Every scale is pulled on alike.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from pruning_lib._arguments import one_of
from pruning_lib.regularizers._base import nothing
from pruning_lib.regularizers._scales import ScalePenalty
from pruning_lib.units import Units


class NetworkSlimming(ScalePenalty):
    """Pull every scale of every BatchNorm toward zero by the same amount (Liu et al., 2017, arXiv 1708.06519).

    Parameters
    ----------
    model : nn.Module
        All its BatchNorms with a scale are penalized; with bounded scales (`bound_batchnorm`) it is |σ(γ)|.
    strength : float
        λ ≥ 0. Its authors use 1e-4 for VGG, 1e-5 for ResNet-164, and start every γ at 0.5.
    apply : {"loss", "prox"}
        A term of the loss, as published (no scale becomes exactly 0), or a soft threshold of ηλ after the step (they
        do). Momentum of 0.9 multiplies what a loss term does by ten, and leaves the threshold alone.
    units : Units, optional
        Penalize only the BatchNorms of these units.

    Raises
    ------
    ValueError
        If `strength` is negative or not finite, `apply` is unknown, no BatchNorm with a scale is found, or a proximal
        step meets a scale that is computed.

    Examples
    --------
    >>> import torch
    >>> import pruning_lib as prl
    >>> norm = torch.nn.BatchNorm1d(3)
    >>> _ = norm.weight.detach().copy_(torch.tensor([0.5, -0.25, 0.0]))
    >>> reg = prl.NetworkSlimming(norm, strength=2.0)
    >>> reg.penalty(torch.zeros(1, 3)).item()
    1.5
    >>> reg.importance()
    {'': tensor([0.5000, 0.2500, 0.0000])}
    """

    def __init__(
        self,
        model: nn.Module,
        strength: float,
        *,
        apply: Literal["loss", "prox"] = "loss",
        units: Units | None = None,
    ) -> None:
        self.apply = one_of(apply, "apply", ("loss", "prox"))
        super().__init__(model, strength, units, in_place=apply == "prox")

    def penalty(self, outputs: Tensor) -> Tensor:
        """Return R, or 0 where `update` applies it."""
        if self.apply == "prox":
            return nothing(outputs, self)
        return self.strength * self._scales().abs().sum()

    def distance(self) -> dict[str, Tensor]:
        """Return |γ|."""
        return self.importance()

    @torch.no_grad()
    def update(self, optimizer: Optimizer) -> None:
        """Take the proximal step of every scale that `optimizer` trains, at its own learning rate."""
        if self.apply == "prox":
            for scale, rate in self._trained(optimizer):
                scale.copy_(F.softshrink(scale, self.strength * rate))
