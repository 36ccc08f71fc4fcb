"""From importances of layers to one score a unit: what `select` ranks."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pruning_lib._arguments import checked, numbers
from pruning_lib.units import Kind, Units


def scores_by_group(importance: Mapping[str, Tensor], units: Units, kinds: frozenset[Kind]) -> dict[str, Tensor]:
    """Return {group: (units,)} on the CPU, in graph order; layers of one group are averaged unit by unit."""
    checked("select", importance=importance)
    collected: dict[str, list[Tensor]] = {}
    for layer, given in importance.items():
        if layer in units.fixed:
            continue
        score = numbers(given, f"importance of '{layer}'")
        name = _group_of(layer, units)
        group = units[name]
        index = next(member.index for member in (*group.writers, *group.norms) if member.layer == layer)
        if layer == name and score.shape == (group.size,):  # of units, where the layer may have other channels too
            index = torch.arange(group.size)
        if score.shape != index.shape:
            raise ValueError(
                f"importance of '{layer}' has shape {tuple(score.shape)}; the layer has {len(index)} units."
            )
        if score.isnan().any():
            raise ValueError(f"importance of '{layer}' holds NaN: look whether the training diverged.")
        if group.kind in kinds and group.stays < group.size:
            collected.setdefault(name, []).append(unit_mean(score.detach().cpu().double(), index.cpu(), group.size))
    if not units:
        layer, reason = next(iter(units.fixed.items()), ("", ""))
        why = f"every layer stays, as '{layer}', which {reason}" if layer else "there are none"
        raise ValueError(f"select found no units to choose from: {why}.")
    if not collected:
        raise ValueError(
            "select found no group to choose from: importance names none, kinds excludes all of them, or of those that "
            f"are left all units would stay, zeroed or not ({', '.join(list(units)[:5])})."
        )
    return {name: torch.stack(collected[name]).nanmean(0) for name in units if name in collected}


def _group_of(layer: str, units: Units) -> str:
    """Return the group that a layer with importance belongs to."""
    try:
        return units.translate(layer)
    except ValueError:
        raise ValueError(
            f"select got importance of '{layer}', which writes and rescales no group: its units cannot go, or it is of "
            "another network. Leave it out, or build the method with units=units, which does. The groups are "
            f"{', '.join(units) or 'none'}."
        ) from None


def unit_mean(score: Tensor, index: Tensor, size: int) -> Tensor:
    """Average a layer's score over the channels of each unit; NaN for units it does not write."""
    known = index >= 0
    total = score.new_zeros(size).index_add_(0, index[known], score[known])
    return total / score.new_zeros(size).index_add_(0, index[known], torch.ones_like(score[known]))
