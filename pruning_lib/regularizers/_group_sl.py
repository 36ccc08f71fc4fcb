"""Group-SL, the sparsity learning of DepGraph (Fang et al., CVPR 2023, arXiv 2301.12900).

    ∇w += λ γ_k w        γ_k = α^((I_max − I_k) / (I_max − I_min))        α = 16

w: a weight of group k, all that goes with unit k; I_k = ‖w_k‖₂; I_max, I_min: of the units that are ranked together,
one layer's or one residual stream's. The longest group decays with λ, the shortest with αλ.

The paper writes R = λ Σ_k γ_k ‖w_k‖², whose slope is 2λγ_k w at constant γ, takes Σ‖·‖² for I_k, and 2^(4 …) for γ_k,
which is the same α. The released code adds λγ_k w, and takes the root; so does this. It also divides I_k by the largest
where the paper does not (issue 517 of Torch-Pruning); in γ_k that cancels.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn

from pruning_lib._arguments import checked
from pruning_lib.regularizers._groups import GroupPenalty, viewed
from pruning_lib.units import Units


class GroupSL(GroupPenalty):
    """Decay all that goes with a unit, faster the shorter it is among its like.

    Parameters
    ----------
    model : nn.Module
        Its weights and scales of BatchNorm are penalized, biases and shifts are not.
    strength : float
        λ ≥ 0, the decay of the longest group. The paper's code uses 5e-4 on CIFAR-10.
    units : Units
        From `pruning_lib.find_units(model, example)`: they say what goes with a unit, its row in every layer that
        writes it, its scale in every BatchNorm of the group, its columns in every layer that reads it.
    alpha : float
        α ≥ 1: how many times faster the shortest group decays than the longest.
    apply : {"gradient", "loss", "decay"}
        Add the slope to the gradients, as published; add R = ½λ Σ_k γ_k ‖w_k‖², γ held constant, to the loss; or step
        along the slope after the optimizer's step. None of them reaches exact zeros.

    Raises
    ------
    ValueError
        If `strength` is negative or not finite, `alpha` is below 1, `apply` is unknown, `units` are missing or those of
        another model, or a weight that is to be changed in place is computed from others.

    Notes
    -----
    A weight between two units is in the group of each, and both pull. Where all groups are equally long, each decays
    with λ.

    Examples
    --------
    Two units of lengths 1 and 3: the longer decays with λ, the shorter with 16 λ.

    >>> import torch
    >>> import pruning_lib as prl
    >>> model = torch.nn.Sequential(torch.nn.Linear(1, 2, bias=False), torch.nn.Linear(2, 1, bias=False))
    >>> _ = model[0].weight.detach().copy_(torch.tensor([[1.0], [3.0]]))
    >>> _ = model[1].weight.detach().zero_()
    >>> reg = prl.GroupSL(model, strength=0.1, units=prl.find_units(model, torch.zeros(1, 1)))
    >>> reg.penalty(model(torch.zeros(1, 1))).backward()
    >>> model[0].weight.grad.flatten()
    tensor([1.6000, 0.3000])
    """

    ways = ("gradient", "loss", "decay")
    choices = ("coupled",)

    def __init__(
        self,
        model: nn.Module,
        strength: float,
        *,
        units: Units | None = None,
        alpha: float = 16.0,
        apply: Literal["gradient", "loss", "decay"] = "gradient",
    ) -> None:
        checked("GroupSL", alpha=alpha)
        self.alpha = float(alpha)
        super().__init__(model, strength, apply, "coupled", units)

    def importance(self) -> dict[str, Tensor]:
        """Return {group: ‖all that goes with the unit‖₂}, shape (units,)."""
        lengths = self._lengths([module.weight.detach() for module in self._penalized])
        return {block.name: length for block, length in zip(self._blocks, lengths, strict=True)}

    def _pull(self, length: Tensor) -> Tensor:
        """Return γ of each group, shape (units,)."""
        spread = length.amax() - length.amin()
        return self.alpha ** ((length.amax() - length) / torch.where(spread > 0, spread, 1))

    def _value(self, weights: list[Tensor], lengths: list[Tensor]) -> Tensor:
        return torch.stack([(self._pull(length) * length.square()).sum() / 2 for length in lengths]).sum()

    def _slopes(self, weights: list[Tensor], lengths: list[Tensor], factor: Tensor | float) -> Iterable[Tensor]:
        pulls: dict[nn.Module, Tensor] = {}
        for block, length in zip(self._blocks, lengths, strict=True):
            pull = self._pull(length)
            for side in block.sides:
                spread = side.spread(pull, 0.0, weights[self._place[side.module]])
                pulls[side.module] = pulls[side.module] + spread if side.module in pulls else spread
        for module, weight in zip(self._penalized, weights, strict=True):
            yield viewed(torch.mul, module, weight, pulls[module]).mul_(factor)
