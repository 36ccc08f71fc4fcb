"""Polarization (Zhuang et al., 2020, NeurIPS); derived in the chapter `scales-as-gates`.

    R = λ Σ_i (t |γ_i| − |γ_i − γ̄|)        γ ← min(max(γ, 0), 1) after every step

γ_i: the scale of channel i, over all BatchNorms at once; γ̄: their mean, through which the slope passes too. Scales
below the mean are pulled down and those above it held up: on [0, 1] R is least where a share of ½ − t/4 is 1 and the
rest 0.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pruning_lib._arguments import checked
from pruning_lib.regularizers._scales import ScalePenalty
from pruning_lib.units import Units


class Polarization(ScalePenalty):
    """Drive the scales of all BatchNorms apart, to 0 and to 1 (Zhuang et al., 2020, NeurIPS).

    After training, ``select(reg.importance(), units, threshold=reg.threshold())`` chooses the lower heap.

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

    Examples
    --------
    With a mean of 0.5, t = 1 and λ = 1: (0 − 0.5) + (1 − 0.5) + (0.5 − 0).

    >>> import torch
    >>> import pruning_lib as prl
    >>> norm = torch.nn.BatchNorm1d(3)
    >>> _ = norm.weight.detach().copy_(torch.tensor([0.0, 1.0, 0.5]))
    >>> prl.Polarization(norm, strength=1.0, t=1.0).penalty(torch.zeros(1, 3)).item()
    0.5
    """

    def __init__(self, model: nn.Module, strength: float, *, t: float = 1.2, units: Units | None = None) -> None:
        checked("Polarization", t=t)
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
