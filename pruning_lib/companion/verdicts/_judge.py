"""The first rule of this book, dense-level and better than the controls at once, over the rows of a suite.

It asks more than the papers claim; `claim_met` and `reason` ask their question and ours apart.

At a budget, over paired seeds, with 95 % intervals of mean differences of test error, a method is

- *dense-level* if it exceeds each of the whole networks, trained without a penalty and (where a suite has it) with L2,
  by at most a margin, the upper end of the interval included;
- *better than the controls* if it is below each of them, every interval excluding 0. Controls are random units of the
  network without a penalty, and all networks of the budget that were trained from their first step; but none that does
  over a tenth more work than the method's, as budgets that are shares of units allow.

Both: it holds. The second alone: in part. Else it does not hold here. Strengths are chosen on validation data.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from statistics import fmean
from typing import NamedTuple

from pruning_lib.companion.records import Row, choose, interval, paired

HOLDS, IN_PART, FAILS, UNTESTED = "holds", "in part", "does not hold here", "not tested here"
SEEDS = 3
"""Fewer are no test."""
MOST_WORK = 1.1
"""The multiply-adds that a control may have, as a multiple of the method's."""
Interval = tuple[float, float]


class Verdict(NamedTuple):
    """What the rule says of a method at a budget.

    Parameters
    ----------
    word : str
        `HOLDS`, `IN_PART`, `FAILS` or `UNTESTED`.
    seeds : int
        How many everything that is compared has in common.
    above : dict of str to tuple of float
        Mean and half width of the points of test error above each whole network; empty if untested.
    against : dict of str to tuple of float
        The same for each control; negative: better than it.
    work : dict of str to float
        The multiply-adds of each network of the budget that could be a control, as a multiple of the method's. Those
        with more than `MOST_WORK` are none.
    """

    word: str
    seeds: int
    above: dict[str, Interval]
    against: dict[str, Interval]
    work: dict[str, float]

    @property
    def above_dense(self) -> Interval:
        """The distance to the whole network that is harder to reach: mean and half width, in points."""
        return max(self.above.values(), key=sum, default=(math.nan, math.nan))

    @property
    def hardest(self) -> str:
        """The control at which the method fails, worse than it rather than not told apart; of these by the mean."""

        def hardness(name: str) -> tuple[int, float]:
            return ("better than", "not told apart from", "worse than").index(self.told(name)), self.against[name][0]

        return max(self.against, key=hardness, default="")

    def told(self, control: str) -> str:
        """Return ``"better than"``, ``"worse than"`` or ``"not told apart from"``; of none, ``"not compared with"``."""
        return told(*self.against[control]) if control in self.against else "not compared with"


def judge(rows: Iterable[Row], method: str, target: str, margin: float) -> Verdict:
    """Return the verdict on a method, its units ranked by its own importance, at a budget.

    It is `UNTESTED` below three seeds that the method, all controls and the whole networks have in common; random
    units, uniform width and the whole network without a penalty have to be there. So is what is dense-level where no
    control does as little work.

    Parameters
    ----------
    rows : iterable of Row
        All rows of a suite, as `records.load` gives them.
    method, target : str
        For example ``"rni"`` and ``"fraction-0.5"``.
    margin : float
        Points of test error that count as no loss: `records.about` gives the suite's.
    """
    rows = list(rows)
    chosen = choose(rows)
    ours = pick(chosen, method, target)
    theirs, wholes = controls(chosen, target), whole(rows)
    needed = (ours, theirs.get("uniform", []), theirs.get("random units", []), wholes.get("dense", []))
    compared = (*needed, *theirs.values(), *wholes.values())
    seeds = len(set.intersection(*({row["seed"] for row in found} for found in compared)))
    if seeds < SEEDS:
        return Verdict(UNTESTED, seeds, {}, {}, {})
    above = {name: above_whole(ours, found) for name, found in wholes.items()}
    work = {name: _macs(found) / _macs(ours) for name, found in theirs.items()}
    against = {name: paired(ours, found, "test_error")[:2] for name, found in theirs.items() if work[name] <= MOST_WORK}
    level = all(sum(distance) <= margin for distance in above.values())
    better = bool(against) and all(sum(difference) < 0 for difference in against.values())
    word = (HOLDS if level else IN_PART) if better else UNTESTED if level and not against else FAILS
    return Verdict(word, seeds, above, against, work)


def _macs(rows: list[Row]) -> float:
    return fmean(row["macs"] for row in rows)


def pick(
    rows: Iterable[Row], method: str, target: str, criterion: str | None = "own", recipe: str = "prune"
) -> list[Row]:
    """Return the rows of a method at a budget: of chosen rows one a seed."""
    wanted = (recipe, method, criterion, target)
    return [row for row in rows if (row["recipe"], row["method"], row["criterion"], row["target"]) == wanted]


def controls(rows: Iterable[Row], target: str) -> dict[str, list[Row]]:
    """Return what a method has to beat at a budget, by name, from chosen rows."""
    rows = list(rows)
    names = sorted({row["method"] for row in rows if row["recipe"] == "control"})
    found = {name: pick(rows, name, target, None, "control") for name in names}
    found["random units"] = pick(rows, "dense", target, "random")
    return {name: its for name, its in found.items() if its}


def whole(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Return the whole networks without a penalty and with L2, a row a seed, by name: ``"dense"``, ``"l2"``.

    Of L2's strengths it is the one with the least validation error of the *whole* network, mean over seeds, so that
    neither the test data nor any pruning chooses it.
    """
    runs = {}  # one row a run, whatever was pruned from it
    for row in rows:
        if row["recipe"] == "prune" and row["method"] in ("dense", "l2") and row["criterion"] == "own":
            case = (row["method"], row["strength"], row["seed"])
            runs[case] = row | {"target": "whole", "val_error": row["trained_val_error"]}
    found: dict[str, list[Row]] = {}
    for row in choose(runs.values()):
        found.setdefault(row["method"], []).append(row)
    return found


def above_whole(ours: Iterable[Row], wholes: Iterable[Row]) -> Interval:
    """Return mean and half width of: test error of pruned networks − test error of whole ones, by seed, in points."""
    errors = {row["seed"]: row["trained_test_error"] for row in wholes}
    return interval(row["test_error"] - errors[row["seed"]] for row in ours if row["seed"] in errors)


def told(difference: float, half: float) -> str:
    """Return in words what an interval of ours − theirs, in points of error, says: better, worse, or neither."""
    return "not told apart from" if abs(difference) <= half else "better than" if difference < 0 else "worse than"
