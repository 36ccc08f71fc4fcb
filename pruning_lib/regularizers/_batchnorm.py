"""Penalties on BatchNorm's scales: network slimming, polarization; baselines in the chapter `receding-neurons`.

    NetworkSlimming   R = λ Σ_i |γ_i|                              prox: γ ← sign(γ) max(|γ| − ηλ, 0)
    Polarization      R = λ Σ_i (t |γ_i| − |γ_i − γ̄|)              γ ← min(max(γ, 0), 1) after every step

γ_i: the scale of channel i, over all BatchNorms at once; γ̄: their mean, through which the slope passes too. Slimming
pulls on every scale alike. Polarization pulls those below the mean down and holds up those above it: on [0, 1] its R is
least where a share of ½ − t/4 is 1 and the rest 0.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from pruning_lib.regularizers._base import Regularizer, checked_choice, checked_strength, learning_rates
from pruning_lib.units import BatchNorm, Units, check_plain, fitting, unwrapped


class _Scales(Regularizer):
    """A penalty on the scales of BatchNorms."""

    def __init__(self, model: nn.Module, strength: float, units: Units | None, *, in_place: bool) -> None:
        self.strength = checked_strength(strength, self)
        self._norms = regularized_norms(model, units, self)
        if in_place:
            check_plain(self._norms, type(self).__name__)

    def importance(self) -> dict[str, Tensor]:
        """Return {BatchNorm: |γ|}, shape (channels,)."""
        return {name: norm.weight.detach().abs() for name, norm in self._norms.items()}

    def _scales(self) -> Tensor:
        """Return all scales as one vector: one chain of operators, however many layers there are."""
        return torch.cat([norm.weight for norm in self._norms.values()])

    def _trained(self, optimizer: Optimizer) -> list[tuple[Tensor, float]]:
        """Return the scales that `optimizer` trains, each with its learning rate."""
        rates = learning_rates(optimizer)
        scales = [norm.weight for norm in self._norms.values()]
        return [(scale, rates[id(scale)]) for scale in scales if scale.requires_grad and id(scale) in rates]


class NetworkSlimming(_Scales):
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
    """

    def __init__(
        self,
        model: nn.Module,
        strength: float,
        *,
        apply: Literal["loss", "prox"] = "loss",
        units: Units | None = None,
    ) -> None:
        self.apply = checked_choice(apply, "apply", ("loss", "prox"))
        super().__init__(model, strength, units, in_place=apply == "prox")

    def penalty(self, outputs: Tensor) -> Tensor:
        """Return R, or 0 where `update` applies it."""
        if self.apply == "prox":
            return outputs.new_zeros(())
        return self.strength * self._scales().abs().sum()

    @torch.no_grad()
    def update(self, optimizer: Optimizer) -> None:
        """Take the proximal step of every scale that `optimizer` trains, at its own learning rate."""
        if self.apply == "prox":
            for scale, rate in self._trained(optimizer):
                scale.copy_(F.softshrink(scale, self.strength * rate))


class Polarization(_Scales):
    """Drive the scales of all BatchNorms apart, to 0 and to 1 (Zhuang et al., 2020, NeurIPS).

    After training, ``select(reg.importance(), groups, threshold=reg.threshold())`` chooses the lower heap.

    Parameters
    ----------
    model : nn.Module
        All its BatchNorms with a scale are penalized.
    strength : float
        λ ≥ 0. The paper uses 5e-5 for ResNet-56 and 3e-5 for VGG-16, and starts every γ at 0.5.
    t : float
        In [−2, 2]: the larger, the more scales go; ½ − t/4 of them stay if the loss does not object. 1.4 for ResNet-56,
        1.5 for VGG-16; the paper's search for a budget starts at 1.2, the default here.
    units : Units, optional
        Penalize only the BatchNorms of these units.

    Raises
    ------
    ValueError
        If `strength` is negative or not finite, `t` lies outside [−2, 2], no BatchNorm with a scale is found, or a
        scale is computed, so that it could not be clamped.

    Notes
    -----
    R is negative where scales lie far apart; training minimizes it all the same. At strength 0 nothing is clamped.
    """

    def __init__(self, model: nn.Module, strength: float, *, t: float = 1.2, units: Units | None = None) -> None:
        if not -2 <= t <= 2:
            raise ValueError(f"Polarization got t={t!r}; it must be in [−2, 2], where ½ − t/4 is a share.")
        self.t = float(t)
        super().__init__(model, strength, units, in_place=True)

    def penalty(self, outputs: Tensor) -> Tensor:
        """Return R, a scalar that may be negative."""
        gamma = self._scales()
        return self.strength * (self.t * gamma.abs() - (gamma - gamma.mean()).abs()).sum()

    @torch.no_grad()
    def update(self, optimizer: Optimizer) -> None:
        """Clamp every scale that `optimizer` trains to [0, 1]."""
        if self.strength:
            for scale, _ in self._trained(optimizer):
                scale.clamp_(0, 1)

    def threshold(self) -> float:
        """Return the first valley of the histogram of all scales, in bins of 0.01: what lies below it may go.

        From the left, the lower edge of the first bin that holds no more than either neighbour (paper, section 3.3).
        The released code looks for one a layer; this is one for all, as `select` takes it.

        Raises
        ------
        ValueError
            If it lies above 0.2: the scales have not parted. The released code warns there; its script for VGG alone
            stops at 0.1.
        """
        counts = torch.histc(torch.cat(list(self.importance().values())).float().cpu(), bins=100, min=0, max=1)
        valley = (counts[1:-1] <= counts[:-2]) & (counts[1:-1] <= counts[2:])
        first = int(valley.nonzero()[0, 0]) + 1 if bool(valley.any()) else 100
        if first > 20:
            raise ValueError(
                "Polarization found no valley up to 0.2 in the histogram of the scales (the first is at "
                f"{first / 100}): they have not parted; train longer, or with a larger strength or t."
            )
        return first / 100


def regularized_norms(model: nn.Module, units: Units | None, owner: object) -> dict[str, BatchNorm]:
    """Return the BatchNorms with a scale by name, or those of `units` alone; a shared scale comes once.

    Raises
    ------
    TypeError
        If `model` is no module.
    ValueError
        If there is none, or `units` were made from another model.
    """
    name = type(owner).__name__
    if not isinstance(model, nn.Module):
        raise TypeError(f"{name} got a {type(model).__name__}; it needs the nn.Module to regularize.")
    modules = fitting(model, units.values() if units else (), name)
    wanted = set(modules) if units is None else {member.layer for group in units.values() for member in group.norms}
    found: dict[int, tuple[str, BatchNorm]] = {}
    for layer, norm in modules.items():
        if isinstance(norm, BatchNorm) and norm.affine and layer in wanted:
            # The first parameter is the scale, or what it is computed from.
            found.setdefault(id(next(norm.parameters())), (layer, norm))
    if not found:
        raise ValueError(f"{name} found no BatchNorm with a scale (affine=True) in {type(unwrapped(model)).__name__}.")
    return dict(found.values())
