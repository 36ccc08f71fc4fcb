"""Steer a strength toward a size: once an epoch, from where units will be, not from how many are zero now.

`_forecast.py` beside this file says which strength λ_i each unit needs to be gone after F more of Σ_t η_t.

Nothing is zero until Σ_t η_t λ reaches the first distance, so a strength steered by a count of zeros would come too
late. The next strength is the smallest λ for which enough of the λ_i lie below it, with F up to the time given, later
half of what is left; or, if that is smaller, the one by which the next epoch takes no more than a part of what is
missing: what has gone stays gone.

Near zero, the noise of the batches revives units that would have gone by their mean speed. So later in the training,
the strength of a proximal step that took much less than was expected of it grows faster than the λ_i say. Where the
learning rate falls it makes up for that, too, until the target is expected. But such an epoch is never given what is
expected to take half of what shall stay, and none more than three times the strength of the one before.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from pruning_lib._arguments import checked, optional
from pruning_lib.regularizers import Regularizer
from pruning_lib.selection import Hold, expected_cost, zero
from pruning_lib.training._callbacks import Callback, Run
from pruning_lib.training._distances import masks, spared
from pruning_lib.training._forecast import STILL, Forecast
from pruning_lib.training._pull import missed, pull_of
from pruning_lib.training._reach import drifts, largest_rate
from pruning_lib.training._schedules import Schedule, check_schedules, constant
from pruning_lib.units import Chosen, Units, fitting

PART = 0.6  # of what is missing that one epoch may take
# Times the strength of an epoch that took less than this part of what was expected of it.
FASTER = {0.25: 1.5, 0.5: 1.3}
MISSED = 0.05  # of the units or multiply-adds: more than that beside the target is said
LITTLE = 0.05  # of what is missing: an epoch of which no more was expected tells nothing


class TargetSize(Callback):
    """Train toward a share of units or multiply-adds instead of at a strength.

    Units at zero (or within `threshold` of it) are zeroed with all that writes them and held there, so that what has
    gone stays gone; once enough have, the strength is 0 and the rest trains undisturbed. No unit is ranked: which ones
    go is between the penalty and the loss. `shrink` removes them.

    Give it to `fit` as a callback, which then says the plan; or tell the plan and call `step()` after every epoch of
    your own loop.

    Parameters
    ----------
    model : nn.Module
    reg : Regularizer
        Its strength is set here. What GroupLasso, L1, NetworkSlimming, Guided with a base of these and other methods
        with `distance` move is known; by ``apply="prox"`` units become exactly zero. Any other method is steered by how
        fast its units became shorter: their rows, or their scales where BatchNorms follow, which the method has to act
        on. It needs a `threshold`, and a first guess of its strength, from a tenth of which the training starts.
    optimizer : Optimizer
    units : Units
        From `pruning_lib.find_units(model, example)`.
    units_left, macs_left : float, optional
        In (0, 1): the share of all units, or of the multiply-adds as `measure` counts them, that stays. Exactly
        one of them.
    epochs, steps : int, optional
        Calls of `step`, and optimizer steps in all; not for `fit`.
    schedule : callable, optional
        Progress in [0, 1) → factor on the learning rate, of your own loop.
    within : float
        In (0, 1]: the share of the training, counted in Σ_t η_t, after which the size is to be reached.
    threshold : float
        Distance from zero within which a unit has gone: the length of its row, its |γ|. A term of the loss makes no
        exact zeros, and needs one; so does a method whose pull is not known. Most units have to be longer at the start.

    Attributes
    ----------
    log : list of dict
        An entry an epoch: epochs done, strength of the epoch that follows, share left, share expected after that epoch.

    Raises
    ------
    TypeError
        If the method acts on no unit's length, or the optimizer divides a known pull by its own size.
    ValueError
        If numbers are missing or out of range, or the units are another model's.

    Warns
    -----
    UserWarning
        If all units of a group have gone, or the training ends more than 5 points beside the target.

    Examples
    --------
    >>> import torch
    >>> import pruning_lib as prl
    >>> _ = torch.manual_seed(0)
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2))
    >>> x = torch.randn(256, 8)
    >>> data = x, (x[:, 0] > 0).long()
    >>> units = prl.find_units(model, x)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> reg = prl.GroupLasso(model, strength=0.0, units=units)
    >>> size = prl.TargetSize(model, reg, optimizer, units, units_left=0.25)
    >>> history = prl.fit(
    ...     model, data, data, epochs=40, optimizer=optimizer, regularizer=reg, callbacks=[size], batch_size=32,
    ...     progress=False,
    ... )
    >>> prl.shrink(model, x).widths["0"][1] in range(7, 10)  # 8 are a quarter; within 5 points
    True
    """

    def __init__(
        self,
        model: nn.Module,
        reg: Regularizer,
        optimizer: Optimizer,
        units: Units,
        *,
        units_left: float | None = None,
        macs_left: float | None = None,
        epochs: int | None = None,
        steps: int | None = None,
        schedule: Schedule | None = None,
        within: float = 0.7,
        threshold: float = 0.0,
    ) -> None:
        checked("TargetSize", model=model, reg=reg, optimizer=optimizer, units=units)
        checked("TargetSize", within=within, threshold=threshold)
        optional("TargetSize", units_left=units_left, macs_left=macs_left, epochs=epochs, steps=steps)
        check_schedules("TargetSize", schedule=schedule)
        if not units:
            raise ValueError("TargetSize got units of no group: there is nothing to steer.")
        if (units_left is None) == (macs_left is None):
            raise ValueError("TargetSize needs exactly one of units_left and macs_left, between 0 and 1.")
        if (epochs is None) != (steps is None):
            raise ValueError("TargetSize needs epochs and steps, both, or neither where `fit` knows them.")
        self.units_left, self.macs_left, self.within, self.threshold = units_left, macs_left, within, threshold
        self.log: list[dict[str, float]] = []
        self._model, self._reg, self._optimizer, self._units = model, reg, optimizer, units
        self._modules = fitting(model, units.values(), "TargetSize")
        self._pull = pull_of(reg, optimizer, units, self._modules, threshold)
        self._rate = largest_rate(reg, optimizer)
        self._forecast = Forecast(self._pull)
        self._drifts: list[float] = []  # Σ_t η_t of each epoch
        self._factors: list[float] = []  # of each epoch's strength, once it is found
        self._hold: Hold | None = None
        self._restored = False  # since then, no training has begun
        every = {name: torch.ones_like(gone) for name, gone in self._forecast.gone().items()}
        if (least := self._left(every)) > self._target:
            raise ValueError(
                f"TargetSize cannot reach {self._target}: {least:.3g} stays with every unit at zero that "
                f"{type(reg).__name__} pulls on. Ask for a larger share, or penalize more layers."
            )
        if threshold and (there := self.left) < self._target / 2:
            raise ValueError(
                f"TargetSize got threshold={threshold:g}, within which {1 - there:.0%} of what can go lies already: "
                "give a smaller one, of the length at which a unit no longer matters."
            )
        if epochs is not None and steps is not None:
            self._plan(epochs, steps, schedule or constant)

    def step(self) -> float:
        """Look at the units after an epoch, set the strength of the next one, and return it."""
        if not 1 <= len(self.log) <= len(self._drifts):
            raise RuntimeError("TargetSize has no plan for this epoch: give it epochs and steps, or give it to `fit`.")
        self._forecast.look(self._strength, self._drifts[len(self.log) - 1])
        self._clear()
        return self._set()

    @property
    def left(self) -> float:
        """The share of units or multiply-adds that is left, as the weights are now."""
        return self._left({name: distance <= self._pull.edge for name, distance in self._pull.distances().items()})

    @property
    def _strength(self) -> float:
        """The strength of the last epoch, as it is steered."""
        return self._reg.strength / self._factors[len(self.log) - 1]

    @property
    def _target(self) -> float:
        return self.units_left or self.macs_left or 0.0

    def _plan(self, epochs: int, steps: int, schedule: Schedule) -> None:
        self._drifts = drifts(self._rate, epochs, steps, schedule)
        # λ a step is λ / η a unit of Σ_t η_t: then that is steered, and multiplied by the mean rate over the largest.
        per_step = getattr(self._reg, "per_step", False)
        most = self._rate * (steps // epochs)
        self._factors = [max(drift / most, STILL) if per_step else 1.0 for drift in self._drifts]
        if not self.log:
            self._set()

    def _set(self) -> float:
        """Set the strength of the next epoch from where the units are."""
        done = len(self.log)
        left = expected = self._left(self._forecast.gone())
        strength = 0.0
        if left > self._target + self._pull.slack and any(self._drifts[done:]):
            # Counted in Σ_t η_t, as under a falling rate the last epochs move little; later, always half of the rest.
            soon, half = self.within * sum(self._drifts) - sum(self._drifts[:done]), sum(self._drifts[done:]) / 2
            strength = self._smallest(max(soon, half), self._target)
            moves = self._drifts[done] > STILL
            if moves and done + 1 < len(self._drifts):
                strength = min(strength, self._smallest(self._drifts[done], left - PART * (left - self._target)))
            if moves and done and soon < half and self._pull.timely:
                strength = max(strength, self._hurried(self._haste(left)))
            given = (e["strength"] / f for e, f in zip(self.log, self._factors, strict=False) if e["strength"])
            last = [math.inf, *given][-1]
            strength = self._pull.bounded(strength, last, left < 1)
            needed = self._forecast.needed(self._drifts[done])
            expected = self._left({name: need <= strength for name, need in needed.items()})
            strength *= self._factors[done]
        if done == len(self._drifts) and abs(left - self._target) > MISSED:
            strengths = [entry["strength"] for entry in self.log]
            text = missed(self._reg, self._target, left, strengths, known=self._pull.known)
            warnings.warn(text, stacklevel=4)
        self._reg.strength = strength
        self.log.append({"epoch": done, "strength": strength, "left": left, "expected": expected})
        return strength

    def _hurried(self, times: float) -> float:
        """Return the strength after an epoch that took too little: so many times its own, at most what may be expected.

        Where the rate falls, the same strength moves less. What makes up for that is given too, up to the target.
        """
        done, pull = len(self.log), times * self._strength
        drift = self._drifts[done]
        level = pull * self._drifts[done - 1] / max(drift, STILL)
        return max(min(pull, self._smallest(drift, self._target / 2)), min(level, self._smallest(drift, self._target)))

    def _haste(self, left: float) -> float:
        """Return by what to multiply the strength of an epoch that took too little of what was expected and missing."""
        last = self.log[-1]
        took, expected, missing = last["left"] - left, last["left"] - last["expected"], last["left"] - self._target
        if took >= PART * (left - self._target) or expected < LITTLE * missing:
            return 0.0
        return next((times for part, times in FASTER.items() if took < part * expected), 0.0)

    def _smallest(self, drift: float, target: float) -> float:
        """Return the smallest strength that leaves at most this share after so much of Σ_t η_t."""
        return self._forecast.smallest(drift, target, self._left)

    def _left(self, gone: Chosen) -> float:
        """Return the share of units or multiply-adds that these leave."""
        every = {name: gone.get(name, torch.zeros(group.size, dtype=torch.bool)) for name, group in self._units.items()}
        if self.macs_left is not None:
            return expected_cost(every, self._units) / sum(self._units.macs.values())
        return 1 - sum(int(mask.sum()) for mask in every.values()) / sum(group.size for group in self._units.values())

    def _clear(self) -> None:
        """Zero what has gone with all that writes it, and hold it there."""
        gone = spared(self._forecast.gone(), self._units)
        zero(self._model, gone, self._units, optimizer=self._optimizer)
        self.close()
        self._hold = Hold(list(masks(gone, self._units, self._modules)), self._optimizer)

    def start(self, run: Run) -> None:
        """Take the plan of a run; after a resume, hold what has gone."""
        if run.regularizer is not self._reg or run.optimizer is not self._optimizer:
            raise ValueError("TargetSize steers another regularizer or optimizer than those of this run.")
        self._plan(run.epochs, run.epochs * run.batches, run.schedule)
        if len(self.log) > 1:
            if not self._restored:
                raise RuntimeError("TargetSize has steered a training already: build a new one for another.")
            self._go_on()
        self._restored = False

    def _go_on(self) -> None:
        """Hold what had gone, and take the strength of the next epoch, after a state was restored."""
        self._clear()
        self._reg.strength = self.log[-1]["strength"]

    def after_epoch(self, run: Run) -> None:
        """Take a step."""
        self.step()

    def close(self) -> None:
        """Release what was held."""
        if self._hold is not None:
            self._hold.remove()
            self._hold = None

    def state_dict(self) -> dict[str, Any]:
        """Return the log, where units are, what the loss resists with, and how that grows."""
        return {"log": [dict(entry) for entry in self.log], **self._forecast.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore them, before or after the model, the optimizer and the regularizer; the strength is set.

        Raises
        ------
        KeyError, TypeError, ValueError
            If they are not what `state_dict` returned.
        """
        log = [dict(entry) for entry in state["log"]]
        if any({*entry} != {"epoch", "strength", "left", "expected"} for entry in log):
            raise TypeError("TargetSize got the state of another callback.")
        if not all(math.isfinite(value) for entry in log for value in entry.values()):
            raise ValueError("TargetSize got a state with numbers that are not finite.")
        before = self._forecast.state_dict()
        self._forecast.load_state_dict(state)
        if self._drifts and not (log and self._forecast.fits()):
            self._forecast.load_state_dict(before)
            raise ValueError("TargetSize got the state of other units, or of a training that had not begun.")
        self.log, self._restored = log, True
        if self._drifts:  # of a loop of one's own; `fit` starts later
            self._go_on()

    def fits(self, run: Run) -> bool:
        """Whether what was restored is about the same units."""
        return self._forecast.fits()
