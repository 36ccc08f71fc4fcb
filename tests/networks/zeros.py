"""How to kill units, so that each has the same chance to be found."""

from __future__ import annotations

import random

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pruning_lib.units import Units, rows, weighted


@torch.no_grad()
def randomize(model: nn.Module) -> None:
    """Draw every bias, scale, shift and running statistic, so that no constant is 0 by habit."""
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.ndim == 1:
                nn.init.uniform_(parameter, 0.5, 1.5) if name == "weight" else nn.init.normal_(parameter)
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_var is not None:
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 1.5)


def leaf(layer: nn.Module) -> Tensor:
    """Return what a layer's rows are zeroed by, rows first: its weight, or the tensor that it is computed from."""
    if not parametrize.is_parametrized(layer, "weight"):
        return rows(layer)
    sources = layer.parametrizations.weight
    return sources.original0 if hasattr(sources, "original0") else sources.original


@torch.no_grad()
def plant(model: nn.Module, rng: random.Random, found: Units | None = None) -> dict[str, Tensor]:
    """Zero rows of every layer, sometimes columns or single taps; return the rows. `found` spares the last layers."""
    dead: dict[str, Tensor] = {}
    whole = rng.random() < 0.1
    for name, layer in weighted(model).items():
        weight = leaf(layer)
        if (found is not None and found.fixed.get(name) == "writes the model's output") or len(weight) < 2:
            continue
        fraction = rng.choice([0.3, 0.5, 0.5, 0.7, 1.0 if whole else 0.5])
        index = rng.sample(range(len(weight)), int(fraction * len(weight)))
        weight[index] = 0
        dead[name] = torch.zeros(len(weight), dtype=torch.bool)
        dead[name][index] = True
        if weight.ndim > 1 and weight.shape[1] > 2 and rng.random() < 0.3:
            weight[:, rng.sample(range(weight.shape[1]), weight.shape[1] // 3)] = 0
        if weight.ndim == 4 and rng.random() < 0.3:
            weight[..., 0, 0] = 0
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d) and norm.affine and rng.random() < 0.2:
            norm.weight[rng.sample(range(len(norm.weight)), len(norm.weight) // 3)] = 0
    return dead


def planted(found: Units, dead: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the units of each inner group all of whose rows were zeroed, (units,)."""
    gone: dict[str, Tensor] = {}
    for name, group in found.items():
        if group.kind == "inner":
            gone[name] = torch.ones(group.size, dtype=torch.bool)
            for member in group.writers:
                rows_of = dead.get(member.layer, torch.zeros(len(member.index), dtype=torch.bool))
                gone[name][member.index[(member.index >= 0) & ~rows_of]] = False
    return gone
