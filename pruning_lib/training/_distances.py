"""How far units are from zero, by what a method shortens: for `TargetSize`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pruning_lib.regularizers import Regularizer
from pruning_lib.units import Group, Units, rows


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


def _unwritten(group: Group, modules: Mapping[str, Any]) -> Tensor:
    """Return which units no layer writes any more, (units,)."""
    read = {member: rows(modules[member.layer]).detach().flatten(1) for member in group.writers}
    lengths = [_by_unit(row.norm(dim=1).float().cpu(), member.index.cpu(), group.size) for member, row in read.items()]
    return torch.stack(lengths).amax(0) == 0


def _by_unit(distance: Tensor, index: Tensor, size: int) -> Tensor:
    """Return the largest distance among the channels of each unit."""
    known = index >= 0
    return distance.new_zeros(size).scatter_reduce_(0, index[known], distance[known], "amax")
