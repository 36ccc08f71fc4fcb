"""Group lasso (Yuan & Lin, 2006; for convolutions Wen et al., 2016); derived in the chapter `what-a-penalty-does`.

    R = λ Σ_i ‖w_i‖₂        ∂R/∂w_i = λ w_i / ‖w_i‖, 0 where w_i is 0        prox: w_i ← w_i max(1 − ηλ / ‖w_i‖₂, 0)

w_i: the weights of unit i without bias, by default those that it reads.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn

from pruning_lib._model import before_batchnorm
from pruning_lib.regularizers._base import snap
from pruning_lib.regularizers._groups import GroupPenalty, viewed
from pruning_lib.regularizers._weights import Apply
from pruning_lib.units import Units, grouped_view

Over = Literal["rows", "columns", "coupled"]


class GroupLasso(GroupPenalty):
    """Pull all weights of a unit toward zero as one vector: whole units go.

    Every unit costs the same, whatever its number of weights.

    Parameters
    ----------
    model : nn.Module
        Its linear and convolution weights are penalized, biases are not.
    strength : float
        λ ≥ 0.
    apply : {"prox", "loss", "gradient", "decay"}
        Group soft threshold after the step (groups become exactly 0); a term of the loss, its gradient alone, or a step
        along it after the optimizer's, none of which reaches zero.
    over : {"rows", "columns", "coupled"}
        What a group is. ``"rows"``: what one layer's unit reads, the row of its weight; with `units`, of a head of
        attention all rows of its queries, keys and values. ``"columns"``: what one layer
        reads from a unit; several channels behind a flatten are one group. ``"coupled"``: all that goes with the unit,
        as one group: its row in every layer that writes it, its scale γ in every BatchNorm of the group, its columns in
        every layer that reads it; no bias, no shift β. The weight between two units is then in the group of each.
    units : Units, optional
        Penalize only the writers of these units (the readers, for columns); required but for rows.

    Raises
    ------
    ValueError
        If `strength` is negative or not finite, a choice is unknown, no layer is found, `units` are missing or those of
        another model, or a weight that is to be changed in place is computed from others.

    Notes
    -----
    A BatchNorm behind a row divides by its length, so that the penalty costs nothing there; a warning names the first
    such layer. To do so on purpose, ``warnings.filterwarnings("ignore", message=".*BatchNorm divides")``.

    The proximal map is exact for every group, also where its parts have learning rates of their own, as γ may: each
    part then shrinks by n/(n + ηλ), with n the length that the group is left with. Coupled groups of neighbouring
    layers overlap, and are mapped one after another in the order of computation, which is the map of their sum up to
    terms of (ηλ)². What is frozen counts in the length of its group and stays, so that such a group does not go.

    Examples
    --------
    Rows of length 5 and 0.5 meet a threshold of 0.1 · 10 = 1: the first keeps four fifths, the second goes.

    >>> import torch
    >>> import pruning_lib as prl
    >>> layer = torch.nn.Linear(2, 2, bias=False)
    >>> _ = layer.weight.detach().copy_(torch.tensor([[3.0, 4.0], [0.3, 0.4]]))
    >>> prl.GroupLasso(layer, strength=10.0).update(torch.optim.SGD(layer.parameters(), lr=0.1))
    >>> layer.weight.detach()
    tensor([[2.4000, 3.2000],
            [0.0000, 0.0000]])
    """

    choices = ("rows", "columns", "coupled")

    def __init__(
        self,
        model: nn.Module,
        strength: float,
        *,
        apply: Apply = "prox",
        over: Over = "rows",
        units: Units | None = None,
    ) -> None:
        super().__init__(model, strength, apply, over, units)
        if over == "rows" and (layer := before_batchnorm(model, self.importance(), units)):
            warnings.warn(
                f"GroupLasso penalizes the length of rows, and behind '{layer}' a BatchNorm divides by it: rows shrink "
                "there at no cost, whether they matter or not. Penalize scales (NetworkSlimming), or take "
                "over='coupled' with units=.",
                stacklevel=2,
            )

    def importance(self) -> dict[str, Tensor]:
        """Return {layer: ‖incoming weights‖₂}; by group, the length of its units' columns, or of the coupled groups."""
        if self.over == "rows":
            return super().importance()
        weights = [module.weight.detach() for module in self._penalized]
        squares: dict[str, Tensor] = {}
        for block, length in zip(self._blocks, self._lengths(weights), strict=True):
            square = length.square()
            squares[block.name] = squares[block.name] + square if block.name in squares else square
        return {name: square.sqrt() for name, square in squares.items()}

    def distance(self) -> dict[str, Tensor]:
        """Return the lengths of the groups; of a unit that is several groups, the longest."""
        lengths = self._lengths([module.weight.detach() for module in self._penalized])
        found: dict[str, Tensor] = {}
        for block, length in zip(self._blocks, lengths, strict=True):
            found[block.name] = torch.maximum(found[block.name], length) if block.name in found else length
        return found

    def _value(self, weights: list[Tensor], lengths: list[Tensor]) -> Tensor:
        return torch.stack([length.sum() for length in lengths]).sum()

    def _slopes(self, weights: list[Tensor], lengths: list[Tensor], factor: Tensor | float) -> Iterable[Tensor]:
        divisors: dict[nn.Module, Tensor] = {}
        for block, length in zip(self._blocks, lengths, strict=True):
            # What is 0 has slope 0; what belongs to no unit is divided by infinity.
            divisor = torch.where(length > 0, length, 1)
            for side in block.sides:
                spread = side.spread(divisor, torch.inf, weights[self._place[side.module]])
                other = divisors.get(side.module)
                # A weight in two groups is pulled by both: w/a + w/b.
                divisors[side.module] = spread if other is None else 1 / (1 / spread + 1 / other)
        for module, weight in zip(self._penalized, weights, strict=True):
            yield viewed(torch.div, module, weight, divisors[module]).mul_(factor)

    def _prox(self, weights: list[Tensor], steps: list[float]) -> None:
        for block in self._blocks:
            reaches = [steps[self._place[side.module]] for side in block.sides]
            parts = self._parts(block, weights)
            shares = _shares(parts, block.length(parts), reaches)
            for side, share, reach in zip(block.sides, shares, reaches, strict=True):
                if reach:
                    weight = weights[self._place[side.module]]
                    grouped_view(side.module, weight).mul_(side.spread(share, 1.0, weight))
                    snap(weight)


def _shares(parts: list[Tensor], length: Tensor, reaches: list[float]) -> list[Tensor]:
    """Return what the proximal map leaves of each part, as factors of shape (units,).

    n/(n + r) of a part of reach r = ηλ, with n the group's length afterwards: Σ_k ‖v_k‖²/(n + r_k)² = 1.
    """
    if len(set(reaches)) == 1:
        # n = ‖v‖ − r. A group at 0 divides 0 by 0; it has to stay 0.
        reach = reaches[0]
        return [torch.where(length > reach, 1 - reach / length, 0.0)] * len(parts)
    part = torch.stack(parts)
    each = part.new_tensor(reaches).unsqueeze(1)
    # Each part alone asks for at least so much; Newton's method on 1/‖·‖, nearly a line, rises from there.
    n = (part - each).amax(0).clamp(min=1e-12)
    vanishes = torch.where(part > 0, part / each, 0.0).square().sum(0) <= 1
    for _ in range(8):
        ratio = part / (n + each)
        norm = ratio.square().sum(0).sqrt().clamp(min=1e-12)
        n = n + (norm - 1) * norm.square() / (ratio.square() / (n + each)).sum(0).clamp(min=1e-12)
    return list(torch.where(vanishes & (each > 0), 0.0, n / (n + each)))
