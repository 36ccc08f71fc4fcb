"""How far units are from zero, by what a method shortens, and what holds them there: for `TargetSize`."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from pruning_lib.regularizers import Regularizer
from pruning_lib.units import Chosen, Group, Member, Units, bounded_scale, is_layer, rows, unit_axis


def distances(reg: Regularizer, units: Units, modules: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return how far each unit is from zero: (units,) for each group that the method can bring there.

    Parameters
    ----------
    reg : Regularizer
        With `distance`.
    modules : mapping of str to nn.Module
        The layers of the model by name.
    """
    own = reg.distance()
    found: dict[str, Tensor] = {}
    for name, group in units.items():
        for members in (group.writers, () if any(m.exposed for m in group.writers) else group.norms):
            if members and all(m.layer in own and own[m.layer].shape == m.index.shape for m in members):
                far = [_by_unit(own[m.layer].detach().float().cpu(), m.index.cpu(), group.size) for m in members]
                found[name] = torch.stack(far).amax(0)  # a unit is gone where all of it is
                break
        else:
            if name in own and own[name].shape == (group.size,):
                found[name] = own[name].detach().float().cpu()
    # What still reads a unit that nothing writes may move on, and is no distance: coupled groups hold it, too.
    return {name: far.masked_fill(_unwritten(units[name], modules), 0) for name, far in found.items()}


def lengths(units: Units, modules: Mapping[str, Any], held: Collection[int]) -> dict[str, Tensor]:
    """Return how long each unit is, (units,): its largest |γ| where BatchNorms follow, or else its longest row.

    Left out are groups of which `held`, ids of parameters, has not all that is measured: no pull shortens them.
    """
    found: dict[str, Tensor] = {}
    for name, group in units.items():
        scaled = group.norms and not any(member.exposed for member in group.writers)
        members = group.norms if scaled else group.writers
        # The first parameter of a BatchNorm is the scale, or what it is computed from.
        own = [next(modules[m.layer].parameters(), None) if scaled else modules[m.layer].weight for m in members]
        if own and all(id(parameter) in held for parameter in own):
            found[name] = _longest(group, members, modules)
    return found


def _longest(group: Group, members: Iterable[Member], modules: Mapping[str, Any]) -> Tensor:
    """Return the largest |γ| or length of a row of each unit among its channels in these members, (units,)."""
    far = []
    for member in members:
        module = modules[member.layer]
        row = rows(module) if is_layer(module) else module.weight.unsqueeze(1)
        far.append(_by_unit(row.detach().flatten(1).norm(dim=1).float().cpu(), member.index.cpu(), group.size))
    return torch.stack(far).amax(0)


def _unwritten(group: Group, modules: Mapping[str, Any]) -> Tensor:
    """Return which units no layer writes any more, (units,)."""
    return _longest(group, group.writers, modules) == 0


def _by_unit(distance: Tensor, index: Tensor, size: int) -> Tensor:
    """Return the largest distance among the channels of each unit."""
    known = index >= 0
    return distance.new_zeros(size).scatter_reduce_(0, index[known], distance[known], "amax")


def spared(gone: Chosen, units: Units) -> Chosen:
    """Return what has gone of the groups that lose units, but for the last unit of one that would lose all."""
    for name, mask in gone.items():
        if mask.all() and not units[name].bypassed:
            warnings.warn(f"all {len(mask)} units of '{name}' have gone: the penalty is too strong", stacklevel=4)
            mask[units[name].size - 1] = False  # something has to reach the output
    return {name: mask for name, mask in gone.items() if mask.any()}


def masks(gone: Chosen, units: Units, modules: Mapping[str, Any]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield each weight that writes or scales units, with 0 for what has gone and 1 for the rest, to hold it."""
    for name, mask in gone.items():
        for member in (*units[name].writers, *units[name].norms):
            module = modules[member.layer]
            if module.weight is None or bounded_scale(module) is not None:
                continue  # no scale, or `zero` has set the mask that holds it
            lives = ~((member.index >= 0) & mask[member.index.clamp(min=0)]).to(module.weight.device)
            shape = [1] * module.weight.ndim
            shape[unit_axis(module) if module.weight.ndim > 1 else 0] = -1
            yield module.weight, lives.to(module.weight.dtype).view(shape)
