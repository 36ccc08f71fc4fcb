"""L1, the lasso (Tibshirani, 1996); derived in the chapter `what-a-penalty-does`.

R = λ Σ_ij |w_ij|        ∂R/∂w = λ sign(w), 0 where w is 0        prox: w ← sign(w) max(|w| − ηλ, 0)
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pruning_lib.regularizers._weights import Apply, WeightPenalty
from pruning_lib.units import Units, rows


class L1(WeightPenalty):
    """Pull every weight toward zero by the same amount: scattered zeros.

    Parameters
    ----------
    model : nn.Module
        All its linear and convolution weights are penalized, biases and normalizations are not.
    strength : float
        λ ≥ 0.
    apply : {"prox", "loss", "gradient", "decay"}
        Soft threshold after the step (exact zeros); a term of the loss, its gradient alone, or a step along it after
        the optimizer's, none of which reaches zero.
    units : Units, optional
        Penalize only the writers of these units; leaves the output layer alone.

    Raises
    ------
    ValueError
        If `strength` is negative or not finite, `apply` is unknown, no layer is found, or a weight that is to be
        changed in place is computed from others.

    Examples
    --------
    At a learning rate of 0.5 and a strength of 1, every weight moves by 0.5, and none beyond zero.

    >>> import torch
    >>> import pruning_lib as prl
    >>> layer = torch.nn.Linear(3, 1, bias=False)
    >>> _ = layer.weight.detach().copy_(torch.tensor([[2.0, -1.0, 0.25]]))
    >>> prl.L1(layer, strength=1.0).update(torch.optim.SGD(layer.parameters(), lr=0.5))
    >>> layer.weight.detach()
    tensor([[ 1.5000, -0.5000,  0.0000]])
    """

    def __init__(self, model: nn.Module, strength: float, *, apply: Apply = "prox", units: Units | None = None) -> None:
        super().__init__(model, strength, apply, units)

    @torch.no_grad()
    def distance(self) -> dict[str, Tensor]:
        """Return the largest |w| that each unit reads."""
        return {name: rows(layer).abs().flatten(1).amax(1) for name, layer in self._layers.items()}

    def _value(self, weights: list[Tensor], lengths: list[Tensor]) -> Tensor:
        return torch.stack([weight.abs().sum() for weight in weights]).sum()

    def _slopes(self, weights: list[Tensor], lengths: list[Tensor], factor: Tensor | float) -> Iterable[Tensor]:
        return (weight.sign().mul_(factor) for weight in weights)

    def _prox(self, weights: list[Tensor], steps: list[float]) -> None:
        for weight, step in zip(weights, steps, strict=True):
            if step:
                weight.copy_(F.softshrink(weight, step))
