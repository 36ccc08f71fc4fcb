"""At which strength each unit will have gone, from how units moved in the epochs before; for `TargetSize`.

A penalty that pulls on every unit alike moves it by c λ − g_i for each unit of Σ_t η_t, where c is 1, or 1/(1 − m) in
the gradient, and g_i is what the loss resists with: as measured in the last epochs and, after a proximal step, with
what it grows by until then. At distance d_i from zero it is gone after F more of Σ_t η_t if

    λ ≥ λ_i = (d_i / F + g_i) / c

Of methods that pull in another way, c and the distances are measured: `_pull.py` beside this file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from pruning_lib.training._pull import MEMORY, Pull
from pruning_lib.units import Chosen

STILL = 1e-12  # the least Σ_t η_t to divide by: an epoch at a learning rate of 0 moves nothing


class Forecast:
    """Where units are, how the loss resists, and when each of them will have gone.

    Parameters
    ----------
    pull : Pull
        What a strength moves.

    Attributes
    ----------
    distances : dict of str to Tensor
        d, (units,) by group, as `look` found them last.
    """

    def __init__(self, pull: Pull) -> None:
        self.pull, self.distances = pull, pull.distances()
        self._resistance: dict[str, Tensor] = {}
        self._growth: dict[str, float] = {}  # of the resistance of a group's units, a unit of Σ_t η_t

    def look(self, strength: float, drift: float) -> None:
        """Learn from an epoch of this strength, in which Σ_t η_t grew by `drift`; nothing, where that is 0."""
        now = self.pull.distances()
        if drift <= STILL:
            self.distances = now
            return
        speeds = {name: (self.distances[name] - distance) / drift for name, distance in now.items()}
        self.pull.learn(strength, speeds, {name: ~gone for name, gone in self.gone().items()})
        for name, speed in speeds.items():
            resistance = self.pull.gain * strength - speed
            known = self._resistance.get(name, resistance)
            self._resistance[name] = MEMORY * known + (1 - MEMORY) * resistance
            if self.pull.timely:  # momentum shows a new strength late, which would look like growth
                self._grow(name, (self._resistance[name] - known) / drift)
        self.distances = now

    def _grow(self, name: str, more: Tensor) -> None:
        """Follow how the resistance of living units grows as they shrink: its median, since single units are noisy."""
        alive = self.distances[name] > self.pull.edge
        growth = float(more[alive].median()) if alive.any() else 0.0
        self._growth[name] = MEMORY * self._growth.get(name, 0.0) + (1 - MEMORY) * growth

    def gone(self) -> Chosen:
        """Return which units have gone."""
        return {name: distance <= self.pull.edge for name, distance in self.distances.items()}

    def needed(self, drift: float) -> dict[str, Tensor]:
        """Return the strength λ_i at which each unit is gone after so much of Σ_t η_t."""
        gone, drift, needed = self.gone(), max(drift, STILL), {}
        for name, distance in self.distances.items():
            resistance = self._resistance.get(name, 0) + max(self._growth.get(name, 0.0), 0.0) * drift
            needed[name] = torch.where(gone[name], -math.inf, (distance / drift + resistance) / self.pull.gain)
        return needed

    def smallest(self, drift: float, target: float, left: Callable[[Chosen], float]) -> float:
        """Return the smallest strength after which, by then, what has gone leaves at most this share."""
        needed = self.needed(drift)
        levels = torch.cat(list(needed.values())).sort().values
        low, high = -1, len(levels) - 1
        while high - low > 1:
            middle = (low + high) // 2
            enough = left({name: need <= levels[middle] for name, need in needed.items()}) <= target
            low, high = (low, middle) if enough else (middle, high)
        return float(levels[high])

    def state_dict(self) -> dict[str, Any]:
        """Return where units are, what the loss resists with, how that grows, and what a strength moves."""
        return {
            "distances": dict(self.distances),
            "resistance": dict(self._resistance),
            "growth": dict(self._growth),
            "gain": self.pull.gain,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore it.

        Raises
        ------
        KeyError, TypeError, ValueError
            If it is not what `state_dict` returned.
        """
        # With the distances it does not matter whether the model is loaded before or after.
        found = state.get("distances", self.pull.distances())  # a state of before 0.2 has none
        distances = {name: distance.cpu() for name, distance in dict(found).items()}
        resistance = {name: value.cpu() for name, value in dict(state["resistance"]).items()}
        growth = {name: float(value) for name, value in dict(state["growth"]).items()}
        gain = self.pull.gain if self.pull.known else float(state["gain"])
        if not all(map(math.isfinite, [gain, *growth.values()])):
            raise ValueError("TargetSize got a state with numbers that are not finite.")
        self.distances, self._resistance, self._growth, self.pull.gain = distances, resistance, growth, gain

    def fits(self) -> bool:
        """Whether what was restored is about the same units."""
        own = {name: distance.shape for name, distance in self.pull.distances().items()}
        restored = (*self.distances.items(), *self._resistance.items())
        return self.distances.keys() == own.keys() and all(own.get(name) == value.shape for name, value in restored)
