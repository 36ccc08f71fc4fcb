"""The order in which units go: over the whole network, within groups of one structure, or within each group."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from pruning_lib.units import Chosen, Units

Scope = Literal["global", "isomorphic", "local"]


def share_of(fraction: float, count: int) -> int:
    """Return ⌊fraction · count⌋; 0.29 of 100 is 29, although its nearest double times 100 lies below."""
    return math.floor(fraction * count + 1e-9)


class Ranking:
    """All candidates from least to most important; the `floor` best units of a group are none.

    Groups are ranked together or apart, as `scope` says. What one such class loses, in units, every other one loses as
    the same share: a candidate's place is its standing in its class, in (0, 1).
    """

    def __init__(self, scores: Mapping[str, Tensor], units: Units, scope: Scope, floor: int, round_to: int) -> None:
        self.units, self.floor, self.round_to = units, floor, round_to
        self.scores = scores
        self.order = {name: torch.argsort(score, stable=True) for name, score in scores.items()}
        self.classes: dict[str, list[str]] = {}
        for name in scores:
            self.classes.setdefault(_class_of(name, units, scope), []).append(name)
        standing = {name: place for names in self.classes.values() for name, place in self._standing(names).items()}
        free = {name: standing[name][: self.free(name)] for name in scores}
        places = torch.cat(list(free.values()))
        owner = [name for name, part in free.items() for _ in range(len(part))]
        # Stable on (order of groups, order within the group): equal standings go by index.
        self.owners = [owner[i] for i in torch.argsort(places, stable=True).tolist()]

    def free(self, name: str) -> int:
        """Return how many units of a group are candidates."""
        return max(len(self.scores[name]) - self.floor, 0)

    def _standing(self, names: list[str]) -> dict[str, Tensor]:
        """Return where each unit of these groups stands among all of theirs, in the order of each group."""
        flat = torch.cat([self.scores[name][self.order[name]] for name in names])
        places = (torch.argsort(torch.argsort(flat, stable=True)).double() + 0.5) / len(flat)
        return dict(zip(names, torch.split(places, [len(self.scores[name]) for name in names]), strict=True))

    def lowest(self, count: int) -> Chosen:
        """Choose the `count` least important candidates."""
        taken = dict.fromkeys(self.scores, 0)
        for name in self.owners[:count]:
            taken[name] += 1
        return self.masks(taken)

    def fraction(self, fraction: float) -> Chosen:
        """Choose a share of the units of every class."""
        taken = dict.fromkeys(self.scores, 0)
        wanted = 0
        for names in self.classes.values():
            count = share_of(fraction, sum(len(self.scores[name]) for name in names))
            members = set(names)
            for name in [name for name in self.owners if name in members][:count]:
                taken[name] += 1
            wanted += count
        self._report(wanted, sum(taken.values()))
        return self.masks(taken)

    def below(self, threshold: float) -> Chosen:
        """Choose the units that score less than a number."""
        wanted = {name: int((score < threshold).sum()) for name, score in self.scores.items()}
        taken = {name: min(count, self.free(name)) for name, count in wanted.items()}
        self._report(sum(wanted.values()), sum(taken.values()))
        return self.masks(taken)

    def masks(self, counts: Mapping[str, int]) -> Chosen:
        """Choose the `counts` least important units of each group, as far as `round_to` lets them go."""
        chosen = {}
        for name, group in self.units.items():
            chosen[name] = torch.zeros(group.size, dtype=torch.bool)
            if name in counts:
                stay = math.ceil((group.size - counts[name]) / self.round_to) * self.round_to
                chosen[name][self.order[name][: max(group.size - stay, 0)]] = True
        return chosen

    def _report(self, wanted: int, may_go: int) -> None:
        if wanted > may_go:
            message = f"{wanted} units were to go, but floor={self.floor} a group leaves {may_go}."
            warnings.warn(message, stacklevel=4)


def _class_of(name: str, units: Units, scope: Scope) -> str:
    """Return by what groups are told apart that are not ranked together."""
    if scope == "isomorphic":
        return units[name].structure or name
    return "" if scope == "global" else name
