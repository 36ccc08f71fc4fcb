"""What units cost, and the order in which they go to meet a number or a budget."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping

import torch
from torch import Tensor

from pruning_lib.units import Chosen, Units


def cost(chosen: Mapping[str, Tensor], units: Units) -> int:
    """Return the multiply-adds for one example that are left once `chosen` is removed.

    A layer costs in proportion to the channels it writes and to those it reads; a depthwise one is a writer alone.

    Parameters
    ----------
    chosen : mapping of str to Tensor
        {group: bool (units,)}, True = prune, for every group of `units`.
    units : Units
        From `pruning_lib.find_units(model, example)`.

    Examples
    --------
    >>> import torch
    >>> import pruning_lib as prl
    >>> from pruning_lib.selection import cost
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.ReLU(), torch.nn.Linear(4, 3))
    >>> units = prl.find_units(model, torch.zeros(1, 8))
    >>> cost({"0": torch.tensor([True, False, False, False])}, units)  # 8 · 3 + 3 · 3
    33
    """
    share = {layer: [1.0, 1.0] for layer in units.macs}
    for name, group in units.items():
        pruned = chosen[name].cpu()
        for side, members in enumerate((group.writers, group.readers)):
            for member in members:
                if member.layer in share:
                    known = member.index >= 0
                    lost = pruned[member.index[known]].sum().item()
                    share[member.layer][side] -= lost / len(member.index)
    return round(sum(units.macs[layer] * write * read for layer, (write, read) in share.items()))


def share_of(fraction: float, count: int) -> int:
    """Return ⌊fraction · count⌋; 0.29 of 100 is 29, although its nearest double times 100 lies below."""
    return math.floor(fraction * count + 1e-9)


def quantiles(score: Tensor) -> Tensor:
    """Return where each unit stands among its group, in (0, 1); ties by index."""
    return (torch.argsort(torch.argsort(score, stable=True)) + 0.5) / len(score)


class Ranking:
    """All candidate units from least to most important; a group's `floor` best are no candidates."""

    def __init__(self, scores: Mapping[str, Tensor], units: Units, floor: int, round_to: int) -> None:
        self.scores, self.units, self.floor, self.round_to = scores, units, floor, round_to
        self.total = sum(len(score) for score in scores.values())
        self.order = {name: torch.argsort(score, stable=True) for name, score in scores.items()}
        names = list(scores)
        free = [self.order[name][: max(len(scores[name]) - floor, 0)] for name in names]
        flat = torch.cat([scores[name][indices] for name, indices in zip(names, free, strict=True)])
        owner = torch.cat([torch.full((len(indices),), i) for i, indices in enumerate(free)])
        # Stable on (group order, order within the group): equal scores go by index.
        self.owners = [names[int(i)] for i in owner[torch.argsort(flat, stable=True)]]

    def lowest(self, count: int, warn: bool = False) -> Chosen:
        """Choose the `count` least important candidates."""
        if warn:
            self._report(count, len(self.owners))
        taken = dict.fromkeys(self.scores, 0)
        for name in self.owners[:count]:
            taken[name] += 1
        return self.masks(taken)

    def masks(self, counts: Mapping[str, int], warn: bool = False) -> Chosen:
        """Choose the `counts` least important units of each group, as far as `floor` and `round_to` let them go."""
        if warn:
            free = {name: max(len(score) - self.floor, 0) for name, score in self.scores.items()}
            self._report(sum(counts.values()), sum(min(counts[name], free[name]) for name in counts))
        chosen = {}
        for name, group in self.units.items():
            chosen[name] = torch.zeros(group.size, dtype=torch.bool)
            if name in counts:
                stay = max(group.size - counts[name], min(self.floor, group.size))
                stay = min(math.ceil(stay / self.round_to) * self.round_to, group.size)
                chosen[name][self.order[name][: group.size - stay]] = True
        return chosen

    def _report(self, wanted: int, may_go: int) -> None:
        if wanted > may_go:
            message = f"{wanted} units were to go, but floor={self.floor} a group leaves {may_go}."
            warnings.warn(message, stacklevel=4)


def within_budget(ranking: Ranking, units: Units, macs: int) -> Chosen:
    """Choose as few of the least important units as bring the cost to `macs`."""
    most = ranking.lowest(len(ranking.owners))
    if cost(most, units) > macs:
        raise ValueError(
            f"macs={macs} cannot be met: with floor={ranking.floor} the smallest network costs {cost(most, units)}."
        )
    low, high = -1, len(ranking.owners)  # high meets the budget, low does not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if cost(ranking.lowest(middle), units) <= macs else (middle, high)
    return ranking.lowest(high)
