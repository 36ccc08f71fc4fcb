"""Receding neuron importances (Suteu & Guo, 2022, arXiv 2204.06404), derived in the chapter `receding-neurons`.

    p_i = α_i (x_i − μ_i) / √(σ_i² + ε)        α_i = σ(γ_i) ∈ (0, 1): the importance of channel i; no β
    s_i = σ(γ_i + b)        R = λ Σ_i s_i (1 − log s_i)        ∂R/∂γ_i = −λ s_i (1 − s_i) log s_i ≥ 0

The pull fades both for important channels (s → 1) and for those already gone (s → 0): only the middle recedes. It is
largest, 0.26 λ, at γ_i + b = −1.18. The shift b is felt by the penalty alone; the forward pass uses σ(γ).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pruning_lib._arguments import checked
from pruning_lib.regularizers._base import Regularizer, checked_strength
from pruning_lib.regularizers._bound_batchnorm import bounded_norms
from pruning_lib.regularizers._scales import regularized_norms
from pruning_lib.units import BatchNorm, Units, bounded_scale, unwrapped


class RecedingNeurons(Regularizer):
    """Push bounded BatchNorm scales of unimportant channels toward zero, and leave important ones alone.

    Derived in the chapter `receding-neurons`.

    Parameters
    ----------
    model : nn.Module
        Its BatchNorm scales must be bounded: call `bound_batchnorm(model)` first.
    strength : float
        λ ≥ 0, the penalty's weight in the loss. The paper's code uses 1e-3 for VGG-16, 1e-4 for ResNet-56.
    shift : float
        b, where the pull is felt: it is largest at γ = −1.18 − b. 3.0 (the released code's default, used for VGG-16)
        attacks importances below 0.1; 0.0 (used for ResNet-56) pulls on nearly all. Prefer 3.0 where BatchNorms
        follow one another: see the notes.
    units : Units, optional
        Penalize only the BatchNorms of these units.

    Raises
    ------
    ValueError
        If `strength` is negative or not finite, `shift` is not finite, or no bounded BatchNorm is found.

    Notes
    -----
    Published: SGD with Nesterov momentum 0.9, ten times the learning rate for the scales and no weight decay on them
    (`receding_parameters`); then one shot, ``select(reg.importance(), units, fraction=0.5, scope="global", floor=3)``,
    with ``kinds=("inner",)`` for a ResNet, `zero`, `shrink`, and training again without the penalty.

    Where another BatchNorm follows the next layer it undoes a factor common to all scales, so that a whole layer can
    recede together at no loss, wherever the pull is felt by its best channels. In the chapter's network on digits, with
    ``shift=0.0`` (λ = 0.1) both BatchNorms that another follows end below 0.1, best channels included; with
    ``shift=3.0`` (λ = 0.3) the best of each stay above 0.3. Ranks compare within a layer alone, and `floor` is what
    keeps one that has slid.

    Examples
    --------
    >>> import torch
    >>> import pruning_lib as prl
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))
    >>> prl.bound_batchnorm(model)
    >>> _ = model[1].parametrizations.weight.original.detach().copy_(torch.tensor([-9.0, 0.0, 9.0]))
    >>> prl.RecedingNeurons(model, strength=1e-3).importance()
    {'1': tensor([1.2339e-04, 5.0000e-01, 9.9988e-01])}
    """

    def __init__(self, model: nn.Module, strength: float, *, shift: float = 3.0, units: Units | None = None) -> None:
        self.strength = checked_strength(strength, self)
        checked("RecedingNeurons", shift=shift)
        self.shift = float(shift)
        norms = regularized_norms(model, units, self)
        self._norms = {name: norm for name, norm in norms.items() if bounded_scale(norm) is not None}
        if not self._norms:
            raise ValueError(
                f"RecedingNeurons found no bounded BatchNorm in {type(unwrapped(model)).__name__}: call "
                "bound_batchnorm(model) first, before the optimizer is built."
            )

    @property
    def layers(self) -> tuple[str, ...]:
        """Return the names of the bounded BatchNorms, in the order of registration."""
        return tuple(self._norms)

    def penalty(self, outputs: Tensor) -> Tensor:
        """Return R over the living channels, a scalar."""
        gamma, dead = _all_scales(self._norms)
        x = gamma + self.shift
        return self.strength * (x.sigmoid() * (1 - F.logsigmoid(x))).masked_fill(dead, 0.0).sum()

    def importance(self) -> dict[str, Tensor]:
        """Return {BatchNorm: α = σ(γ)}, shape (channels,); 0 where dead."""
        return {name: norm.weight.detach() for name, norm in self._norms.items()}


def receding_parameters(model: nn.Module, lr: float, weight_decay: float = 1e-4) -> list[dict[str, Any]]:
    """Return the parameter groups of the paper's code: the scales at ten times the learning rate, without weight decay.

    ``SGD(receding_parameters(model, lr=0.1), lr=0.1, momentum=0.9, nesterov=True)`` is its optimizer.

    Parameters
    ----------
    model : nn.Module
        With bounded scales.
    lr : float
        Of everything else; 0.1 published.
    weight_decay : float
        Of everything else; 1e-4 published.

    Raises
    ------
    ValueError
        If no BatchNorm is bounded.

    Examples
    --------
    >>> import torch
    >>> import pruning_lib as prl
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.BatchNorm1d(16))
    >>> prl.bound_batchnorm(model)
    >>> [(len(group["params"]), group["lr"], group["weight_decay"]) for group in prl.receding_parameters(model, lr=0.5)]
    [(2, 0.5, 0.0001), (1, 5.0, 0.0)]
    """
    checked("receding_parameters", model=model, lr=lr, weight_decay=weight_decay)
    scales = [bounded[0] for norm in bounded_norms(model).values() if (bounded := bounded_scale(norm)) is not None]
    unique = {id(scale): scale for scale in scales}
    others = [parameter for parameter in model.parameters() if id(parameter) not in unique]
    return [
        {"params": others, "lr": lr, "weight_decay": weight_decay},
        {"params": list(unique.values()), "lr": 10 * lr, "weight_decay": 0.0},
    ]


def _all_scales(norms: dict[str, BatchNorm]) -> tuple[Tensor, Tensor]:
    """Return γ and the mask of dead channels of all BatchNorms, each as one vector: one chain of operators for all."""
    scales = [bounded for norm in norms.values() if (bounded := bounded_scale(norm)) is not None]
    return torch.cat([gamma for gamma, _ in scales]), torch.cat([dead for _, dead in scales])
