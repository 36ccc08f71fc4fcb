"""The order in which units go: over the whole network, within groups of one structure, or within each group."""

from __future__ import annotations

import itertools
import math
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pruning_lib.units import Chosen, Group, Units

Scope = Literal["global", "isomorphic", "local"]


def share_of(fraction: float, count: int) -> int:
    """Return ⌊fraction · count⌋; 0.29 of 100 is 29, although its nearest double times 100 lies below."""
    return math.floor(fraction * count + 1e-9)


@dataclass(frozen=True)
class Blocks:
    """A group's units as what goes at once, least important first: one of each bound set, or one alone.

    Parameters
    ----------
    order : Tensor
        int64, the units block by block.
    ends : list of int
        How many of them have gone after so many blocks; it begins with 0.
    means : Tensor
        The mean score of each block, (blocks,).
    """

    order: Tensor
    ends: list[int]
    means: Tensor

    @classmethod
    def of(cls, score: Tensor, group: Group, floor: int) -> Blocks:
        """Rank a group's blocks."""
        if not group.even:
            order = torch.argsort(score, stable=True)
            return cls(order, list(range(len(order) + 1)), score[order])
        single = torch.ones(group.size, dtype=torch.bool)
        blocks: list[Tensor] = []
        for sets in group.even:
            ranked = [part[torch.argsort(score[part], stable=True)] for part in sets]
            single[torch.cat(ranked)] = False
            # One of each set stays unless all may go: a chunk has no empty halves.
            blocks += [torch.stack(block) for block in zip(*ranked, strict=False)][: -1 if floor else None]
        blocks += list(single.nonzero())
        means = torch.stack([score[block].mean() for block in blocks]) if blocks else score[:0]
        blocks = [blocks[i] for i in torch.argsort(means, stable=True).tolist()]
        order = torch.cat(blocks) if blocks else torch.zeros(0, dtype=torch.int64)
        return cls(order, [0, *itertools.accumulate(map(len, blocks))], means.sort(stable=True).values)

    def __len__(self) -> int:
        return len(self.means)


class Ranking:
    """All candidates from least to most important: single units, and blocks of bound units, one of each set.

    Groups are ranked together or apart, as `scope` says. What one such class loses, in units, every other one loses as
    the same share: a candidate's place is its standing in its class, in (0, 1). A block scores the mean of its units.
    """

    def __init__(self, scores: Mapping[str, Tensor], units: Units, scope: Scope, floor: int, round_to: int) -> None:
        self.units, self.floor, self.round_to = units, floor, round_to
        self.blocks = {name: Blocks.of(score, units[name], floor) for name, score in scores.items()}
        self.classes: dict[str, list[str]] = {}
        for name in scores:
            self.classes.setdefault(_class_of(name, units, scope), []).append(name)
        standing = {name: place for names in self.classes.values() for name, place in self._standing(names).items()}
        self.free = {
            name: max(sum(units[name].size - end >= floor for end in blocks.ends) - 1, 0)
            for name, blocks in self.blocks.items()
        }
        owner = [name for name, count in self.free.items() for _ in range(count)]
        places = torch.cat([standing[name][:count] for name, count in self.free.items()])
        # Stable on (order of groups, order within the group): equal standings go by index.
        self.owners = [owner[i] for i in torch.argsort(places, stable=True).tolist()]

    def _standing(self, names: list[str]) -> dict[str, Tensor]:
        """Return where each block of these groups stands among all units of theirs, in the order of each group."""
        order = torch.argsort(torch.cat([self.blocks[name].means for name in names]), stable=True)
        sizes = torch.cat([torch.tensor(self.blocks[name].ends).diff() for name in names]).double()
        places = torch.empty_like(sizes)
        places[order] = (sizes[order].cumsum(0) - sizes[order] / 2) / sum(self.units[name].size for name in names)
        return dict(zip(names, torch.split(places, [len(self.blocks[name]) for name in names]), strict=True))

    def lowest(self, count: int, owners: Sequence[str] | None = None) -> Chosen:
        """Choose the `count` least important candidates, of all or of those that are left."""
        return self.masks(Counter((self.owners if owners is None else owners)[:count]))

    def fraction(self, fraction: float) -> Chosen:
        """Choose a share of the units of every class."""
        taken: Counter[str] = Counter()
        wanted = may_go = 0
        for names in self.classes.values():
            left = count = share_of(fraction, sum(self.units[name].size for name in names))
            for name in (name for name in self.owners if name in names):
                ends = self.blocks[name].ends
                left -= ends[taken[name] + 1] - ends[taken[name]]
                if left < 0:
                    break
                taken[name] += 1
            wanted += count
            may_go += min(count, sum(self.blocks[name].ends[self.free[name]] for name in names))
        self._report(wanted, may_go)
        return self.masks(taken)

    def below(self, threshold: float) -> Chosen:
        """Choose the units, or blocks, that score less than a number."""
        low = {name: int((blocks.means < threshold).sum()) for name, blocks in self.blocks.items()}
        taken = {name: min(count, self.free[name]) for name, count in low.items()}
        wanted, may_go = (sum(self.blocks[name].ends[n] for name, n in each.items()) for each in (low, taken))
        self._report(wanted, may_go)
        return self.masks(taken)

    def masks(self, taken: Mapping[str, int]) -> Chosen:
        """Choose the `taken` least important blocks of each group, as far as `round_to` lets them go."""
        chosen = {name: torch.zeros(group.size, dtype=torch.bool) for name, group in self.units.items()}
        for name, blocks in self.blocks.items():
            group, count = self.units[name], taken.get(name, 0)
            step = 1 if group.kind == "heads" else self.round_to  # a head has many channels already
            # Of the rounded widths: units that stay although they are zeroed are part of them, and others go instead.
            stays = group.stays if step > 1 and count else 0
            held = stays * len(group.parts)
            ends = blocks.ends[: min(count + stays, self.free[name]) + 1]
            fitting = (end for end in ends if end > held and (group.size - end + held) % step == 0)
            chosen[name][blocks.order[: max(fitting, default=0)]] = True
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
