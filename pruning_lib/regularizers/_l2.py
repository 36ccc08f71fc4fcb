"""L2, or weight decay; derived in the chapter `what-a-penalty-does`.

R = ½λ Σ_ij w_ij²        ∂R/∂w = λ w        prox: w ← w / (1 + ηλ)        decay: w ← w (1 − ηλ), as in AdamW
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from pruning_lib.regularizers._base import snap
from pruning_lib.regularizers._weights import Apply, WeightPenalty
from pruning_lib.units import Units


class L2(WeightPenalty):
    """Shrink every weight in proportion to itself: small weights everywhere, no zeros (½λ‖w‖², weight decay).

    Parameters
    ----------
    model : nn.Module
        All its linear and convolution weights are penalized, biases and normalizations are not.
    strength : float
        λ ≥ 0. Under plain SGD ``apply="loss"`` equals the optimizer's ``weight_decay=λ`` on the same weights.
    apply : {"loss", "gradient", "prox", "decay"}
        A term of the loss, or its gradient alone; w / (1 + ηλ) or, as in AdamW, w (1 − ηλ) after the step.
    units : Units, optional
        Penalize only the writers of these units.

    Raises
    ------
    ValueError
        If `strength` is negative or not finite, `apply` is unknown, no layer is found, or a weight that is to be
        changed in place is computed from others.

    Examples
    --------
    >>> import torch
    >>> import pruning_lib as prl
    >>> layer = torch.nn.Linear(2, 1, bias=False)
    >>> _ = layer.weight.detach().copy_(torch.tensor([[3.0, -4.0]]))
    >>> prl.L2(layer, strength=0.5).penalty(layer(torch.zeros(1, 2))).item()  # ½ · 0.5 · (9 + 16)
    6.25
    """

    def __init__(self, model: nn.Module, strength: float, *, apply: Apply = "loss", units: Units | None = None) -> None:
        super().__init__(model, strength, apply, units)

    def _value(self, weights: list[Tensor], lengths: list[Tensor]) -> Tensor:
        return 0.5 * torch.stack([torch.linalg.vector_norm(weight) for weight in weights]).square().sum()

    def _slopes(self, weights: list[Tensor], lengths: list[Tensor], factor: Tensor | float) -> Iterable[Tensor]:
        return (weight * factor for weight in weights)

    def _prox(self, weights: list[Tensor], steps: list[float]) -> None:
        for weight, step in zip(weights, steps, strict=True):
            if step:
                snap(weight.div_(1 + step))
