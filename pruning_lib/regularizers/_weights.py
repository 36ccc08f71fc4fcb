"""Penalties on weights, and four ways to apply them: what L1, L2, group lasso, Group-HS and guided penalties share.

    "loss"       R joins the loss, and the optimizer steps along its slope with that of the data
    "gradient"   the same slope without the value, which costs a pass over the weights: penalty() returns 0
    "decay"      after the optimizer's step, w ← w − η ∂R/∂w
    "prox"       after the optimizer's step, the w that minimizes R + ‖w − w′‖²/2η from where it stands, w′

L1 and the group lasso reach exactly 0 by "prox" alone: the others step over 0, back and forth. η is each parameter's
own learning rate. With momentum or Adam, "decay" and "prox" are decoupled: their steps are those of plain gradient
descent, whatever preconditioner the gradient met.

"gradient" adds to `.grad` inside the backward pass, through the term that `penalty` returns. So it is scaled, unscaled
and skipped by a GradScaler with everything else, weighed under accumulation as the loss that it stands in, and reduced
by DistributedDataParallel. A hook on the parameters would see none of these factors, and would add R once a backward.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.optim import Optimizer

from pruning_lib._arguments import one_of
from pruning_lib.regularizers._base import (
    Regularizer,
    checked_strength,
    incoming_norms,
    learning_rates,
    nothing,
    regularized_layers,
    snap,
)
from pruning_lib.units import BatchNorm, Units, Weighted

Apply = Literal["loss", "gradient", "prox", "decay"]


def _check_precision(layers: Mapping[str, Weighted], owner: object) -> None:
    """Refuse steps that rounding undoes: bfloat16 knows no weight between 1 and 1 − 2⁻⁸."""
    for name, layer in layers.items():
        if layer.weight.requires_grad and layer.weight.dtype in (torch.float16, torch.bfloat16):
            raise ValueError(
                f"{type(owner).__name__} takes small steps after the optimizer's, which {layer.weight.dtype} rounds "
                f"away in '{name}'; keep the weights in float32 and use torch.autocast."
            )


class WeightPenalty(Regularizer):
    """A function of weights whose slope is known, applied in one of the ways at the top of this file.

    A subclass gives `_value` and `_slopes`, `_prox` if it offers that way, and `_lengths` if both need norms of groups.
    """

    ways: tuple[str, ...] = ("loss", "gradient", "prox", "decay")

    def __init__(self, model: nn.Module, strength: float, apply: str, units: Units | None) -> None:
        self.strength = checked_strength(strength, self)
        self.apply = one_of(apply, "apply", self.ways)
        self._layers = regularized_layers(model, units, self, in_place=apply in ("prox", "decay"))
        if apply in ("prox", "decay"):
            _check_precision(self._layers, self)
        self._penalized: list[Weighted | BatchNorm] = list(self._layers.values())

    @property
    def layers(self) -> tuple[str, ...]:
        """Return the names of the penalized layers, in the order of registration."""
        return tuple(self._layers)

    def penalty(self, outputs: Tensor) -> Tensor:
        """Return R; 0 with the slope of R under ``apply="gradient"``; plain 0 where `update` applies it."""
        if self.apply in ("prox", "decay"):
            return nothing(outputs, self)
        value: Tensor = _Term.apply(self, *(module.weight for module in self._penalized))
        return self.strength * value

    @torch.no_grad()
    def update(self, optimizer: Optimizer) -> None:
        """Take the step of ``apply="prox"`` or ``"decay"`` for every weight that `optimizer` trains."""
        if self.apply in ("loss", "gradient"):
            return
        weights = [module.weight for module in self._penalized]
        rates = learning_rates(optimizer, self, weights)
        steps = [self.strength * rates.get(id(w), 0.0) if w.requires_grad else 0.0 for w in weights]
        if self.apply == "prox":
            self._prox(weights, steps)
        else:
            slopes = self._slopes(weights, self._lengths(weights), 1.0)
            for weight, slope, step in zip(weights, slopes, steps, strict=True):
                if step:
                    snap(weight.sub_(slope, alpha=step))

    def importance(self) -> dict[str, Tensor]:
        """Return {layer: ‖incoming weights‖₂}, shape (units,); a BatchNorm that follows divides it out."""
        return incoming_norms(self._layers)

    def _lengths(self, weights: list[Tensor]) -> list[Tensor]:
        """Return the lengths of groups that value and slopes are made of, if there are groups."""
        return []

    def _value(self, weights: list[Tensor], lengths: list[Tensor]) -> Tensor:
        """Return R/λ, a scalar."""
        raise NotImplementedError

    def _slopes(self, weights: list[Tensor], lengths: list[Tensor], factor: Tensor | float) -> Iterable[Tensor]:
        """Yield factor · ∂(R/λ)/∂w of each weight, in its shape."""
        raise NotImplementedError

    def _prox(self, weights: list[Tensor], steps: list[float]) -> None:
        """Apply the proximal map of R/λ, in place, with a step for each weight; 0 leaves it."""
        raise NotImplementedError


class _Term(torch.autograd.Function):
    """R/λ, or 0 in its place, with a slope that takes a pass over the weights where autograd would take several."""

    @staticmethod
    def forward(ctx: Any, method: WeightPenalty, *weights: Tensor) -> Tensor:
        lengths = method._lengths(list(weights))
        ctx.save_for_backward(*weights, *lengths)
        ctx.method, ctx.count = method, len(weights)
        return weights[0].new_zeros(()) if method.apply == "gradient" else method._value(list(weights), lengths)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor | None, ...]:
        weights, lengths = ctx.saved_tensors[: ctx.count], ctx.saved_tensors[ctx.count :]
        return None, *ctx.method._slopes(list(weights), list(lengths), factor)
