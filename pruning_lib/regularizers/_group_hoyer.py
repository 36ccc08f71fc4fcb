"""DeepHoyer's Group-HS (Yang, Wen & Li, 2020, arXiv 1908.09979).

    R = λ Σ_l (Σ_i ‖w_i‖₂)² / Σ_i ‖w_i‖₂² = λ Σ_l a²/q        ∂R/∂w_i = 2λ (a/q) (1/‖w_i‖₂ − a/q) w_i

w_i: the weights of group i of layer l; a, q: the sums of their lengths, and of the squares of these, in the layer.
a²/q says how many groups there are: k groups of equal length and nothing else give k. A layer times a number has the
same, so no layer is shortened as a whole: groups shorter than q/a are pulled down, and the others are lifted.

L0 by hard-concrete gates (Louizos et al., 2018) is not here: it is not a penalty on weights, but draws a gate for every
unit in the forward pass, and trains parameters that the gates have of their own.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn

from pruning_lib.regularizers._groups import GroupPenalty, viewed
from pruning_lib.units import Units


class GroupHoyer(GroupPenalty):
    """Concentrate the length of each layer in few groups, without shortening the layer as a whole.

    Parameters
    ----------
    model : nn.Module
        Its linear and convolution weights are penalized, biases are not.
    strength : float
        λ ≥ 0.
    apply : {"loss", "gradient", "decay"}
        A term of the loss, as published; its gradient alone; or a step along it after the optimizer's. None of them
        reaches exact zeros: select by a fraction, a budget or a threshold afterwards, as the paper does.
    over : {"rows", "columns", "both"}
        What a group is: what one layer's unit reads; what one layer reads from a unit, several channels behind a
        flatten being one group; or both, each with its own term, as published.
    units : Units, optional
        Penalize only the rows that write these units and the columns that read them; required but for rows.

    Raises
    ------
    ValueError
        If `strength` is negative or not finite, a choice is unknown, no layer is found, `units` are missing or those of
        another model, or a weight that is to be changed in place is computed from others.

    Notes
    -----
    The released code sums over the columns of the first layer as well: the inputs. Here only units are groups. q is the
    sum over the groups penalized, which is ‖W‖² where they are the whole layer.

    Examples
    --------
    Two rows of equal length and one of zeros count as two groups, however long they are.

    >>> import torch
    >>> import pruning_lib as prl
    >>> layer = torch.nn.Linear(2, 3, bias=False)
    >>> _ = layer.weight.detach().copy_(torch.tensor([[3.0, 4.0], [0.0, 5.0], [0.0, 0.0]]))
    >>> prl.GroupHoyer(layer, strength=1.0).penalty(layer(torch.zeros(1, 2))).item()
    2.0
    """

    ways = ("loss", "gradient", "decay")
    choices = ("rows", "columns", "both")

    def __init__(
        self,
        model: nn.Module,
        strength: float,
        *,
        apply: Literal["loss", "gradient", "decay"] = "loss",
        over: Literal["rows", "columns", "both"] = "rows",
        units: Units | None = None,
    ) -> None:
        super().__init__(model, strength, apply, over, units)

    def _value(self, weights: list[Tensor], lengths: list[Tensor]) -> Tensor:
        # A block that is all 0 counts 0.
        parts = [(a.sum().square(), a.square().sum()) for a in lengths]
        return torch.stack([top / torch.where(bottom > 0, bottom, 1) for top, bottom in parts]).sum()

    def _slopes(self, weights: list[Tensor], lengths: list[Tensor], factor: Tensor | float) -> Iterable[Tensor]:
        pulls: dict[nn.Module, Tensor] = {}
        for block, length in zip(self._blocks, lengths, strict=True):
            side = block.sides[0]
            ratio = length.sum() / length.square().sum()
            # What is 0 has slope 0.
            pull = torch.where(length > 0, 2 * factor * ratio * (1 / length - ratio), 0)
            spread = side.spread(pull, 0.0, weights[self._place[side.module]])
            # A weight in a row and a column is pulled by both.
            pulls[side.module] = pulls[side.module] + spread if side.module in pulls else spread
        for module, weight in zip(self._penalized, weights, strict=True):
            yield viewed(torch.mul, module, weight, pulls[module])
