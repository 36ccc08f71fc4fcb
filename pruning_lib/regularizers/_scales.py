"""Penalties on the scales γ of BatchNorms: what network slimming and polarization share."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pruning_lib._arguments import checked, optional
from pruning_lib.regularizers._base import Regularizer, checked_strength, learning_rates
from pruning_lib.units import BatchNorm, Units, check_plain, fitting, unwrapped


class ScalePenalty(Regularizer):
    """A penalty on the scales of BatchNorms."""

    def __init__(self, model: nn.Module, strength: float, units: Units | None, *, in_place: bool) -> None:
        self.strength = checked_strength(strength, self)
        self._norms = regularized_norms(model, units, self)
        if in_place:
            check_plain(self._norms, type(self).__name__)

    @property
    def layers(self) -> tuple[str, ...]:
        """Return the names of the penalized BatchNorms, in the order of registration."""
        return tuple(self._norms)

    def importance(self) -> dict[str, Tensor]:
        """Return {BatchNorm: |γ|}, shape (channels,)."""
        return {name: norm.weight.detach().abs() for name, norm in self._norms.items()}

    def _scales(self) -> Tensor:
        """Return all scales as one vector: one chain of operators, however many layers there are."""
        return torch.cat([norm.weight for norm in self._norms.values()])

    def _trained(self, optimizer: Optimizer) -> list[tuple[Tensor, float]]:
        """Return the scales that `optimizer` trains, each with its learning rate."""
        scales = [norm.weight for norm in self._norms.values()]
        rates = learning_rates(optimizer, self, scales)
        return [(scale, rates[id(scale)]) for scale in scales if scale.requires_grad and id(scale) in rates]


def regularized_norms(model: nn.Module, units: Units | None, owner: object) -> dict[str, BatchNorm]:
    """Return the BatchNorms with a scale by name, or those of `units` alone; a shared scale comes once.

    Raises
    ------
    TypeError
        If `model` is not a module, or `units` are none.
    ValueError
        If there is none, or `units` were made from another model.
    """
    name = type(owner).__name__
    checked(name, model=model)
    optional(name, units=units)
    modules = fitting(model, units.values() if units else (), name)
    wanted = set(modules) if units is None else {member.layer for group in units.values() for member in group.norms}
    by_scale: dict[int, tuple[str, BatchNorm]] = {}
    for layer, norm in modules.items():
        if isinstance(norm, BatchNorm) and norm.affine and layer in wanted:
            # The first parameter is the scale, or what it is computed from.
            by_scale.setdefault(id(next(norm.parameters())), (layer, norm))
    if not by_scale:
        raise ValueError(f"{name} found no BatchNorm with a scale (affine=True) in {type(unwrapped(model)).__name__}.")
    return dict(by_scale.values())
