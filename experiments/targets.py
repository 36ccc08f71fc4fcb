"""How small a network has to become, and which of its units go for that."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from experiments.methods import Config
from pruning_lib.selection import cost, select
from pruning_lib.units import Chosen, Units

NATURAL = "natural"
"""Units die by themselves, and nothing more is zeroed."""
LOOP = "loop"
"""What verdicts call the end of SeReNe's loop, whose runs have no target."""
EPSILON = "epsilon-"
"""Begins the name of a cut that zeroes units all of whose incoming weights are smaller."""


@dataclass(frozen=True)
class Target:
    """How small a network has to become.

    ``fraction-0.5``: half of its units go; ``macs-0.25``: a quarter of its multiply-adds stays; ``widths-2-11-134``: so
    many units of each group that may be pruned, in the order of the network.
    """

    kind: str
    share: float = math.nan
    widths: tuple[int, ...] = ()

    @classmethod
    def of(cls, text: str) -> Target:
        """Read a target's name."""
        kind, *numbers = text.split("-")
        return cls(kind, widths=tuple(map(int, numbers))) if kind == "widths" else cls(kind, float(*numbers))

    def budget(self, units: Units) -> dict[str, Any]:
        """Return what `select` is to be told."""
        if self.kind == "fraction":
            return {"fraction": self.share}
        return {"max_macs": round(self.share * sum(units.macs.values()))}

    def choose(self, ranks: dict[str, Tensor], units: Units, names: set[str], **how: Any) -> Chosen:
        """Choose the units that go, by importance; `how` goes to `select`."""
        if self.kind != "widths":
            return select(ranks, units, **how, **self.budget(units))
        chosen = fewer(units, {})
        for name, width in self.uniform(units, names).items():
            alone = {layer: rank for layer, rank in ranks.items() if units.translate(layer) == name}
            chosen[name] = select(alone, units, fraction=1 - width / units[name].size)[name]
        return chosen

    def uniform(self, units: Units, names: set[str]) -> dict[str, int]:
        """Return widths of these groups as told, or scaled by one factor: the fraction, or the most within budget."""
        sizes = {name: group.size for name, group in units.items() if name in names}
        if self.kind == "widths":
            return dict(zip(sizes, self.widths, strict=True))
        if self.kind == "fraction":
            return {name: round(size * (1 - self.share)) for name, size in sizes.items()}
        first = next(iter(sizes.values()))
        budget = self.budget(units)["max_macs"]
        for n in range(first, 0, -1):
            widths = {name: max(1, round(size * n / first)) for name, size in sizes.items()}
            if cost(fewer(units, widths), units) <= budget:
                return widths
        raise ValueError(f"No uniform width meets {self.kind}-{self.share}.")


def label(target: str | None) -> str:
    """Return what people call a target, or the end of SeReNe's loop, which has none."""
    if target is None:
        return "end of the loop"
    if target == LOOP:  # of its controls
        return "as small as at the end of the loop"
    if target == NATURAL:
        return "units that died"
    if target.startswith(EPSILON):
        return f"units below {target.removeprefix(EPSILON)}"
    it = Target.of(target)
    if it.kind == "widths":
        return " · ".join(map(str, it.widths)) + " units"
    return f"{100 * it.share:g} % of the {'units removed' if it.kind == 'fraction' else 'MACs left'}"


def fewer(units: Units, widths: Mapping[str, int]) -> Chosen:
    """Return the choice that leaves so many units of each group named, and all of the others."""
    return {name: torch.arange(group.size) >= widths.get(name, group.size) for name, group in units.items()}


def kinds(config: Config) -> frozenset[Any]:
    """Return the kinds of groups that a suite prunes."""
    return frozenset(config.get("kinds", ("inner", "stream")))


def prunable(units: Units, config: Config) -> set[str]:
    """Return the names of the groups that a suite prunes, by every method alike."""
    normalized = config.get("normalized", False)
    return {name for name, group in units.items() if group.kind in kinds(config) and (group.norms or not normalized)}
