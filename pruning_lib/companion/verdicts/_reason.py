"""Question two, whether the method is the reason.

A method is compared, at its size, with what anybody could have had instead: a network of uniform width and the same
small network, both trained from their first step for as long (and, Scratch-B, for as many multiply-adds), and random
units of a network without a penalty. Each comparison is an unpaired Welch test; Holm corrects them for their number.
Work is counted in multiply-adds: a control with over a tenth more than the method is none, and to be better than one
with over a tenth less proves nothing, while to be worse than it does.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from pruning_lib.companion.records import Row, choose
from pruning_lib.companion.verdicts._claims import FRACTION, OWN, RETRAINED, is_budget, runs_of
from pruning_lib.companion.verdicts._pick import MOST_WORK, SEEDS, pick
from pruning_lib.companion.verdicts._welch import LEVEL, compare, holm

SHORTER = "The controls trained for fewer epochs than the method, which was retrained as long as it was trained."
BETTER, NO_DIFFERENCE, WORSE, UNDECIDED = "better", "no difference seen", "worse", "not tested"
RANDOM = "random units"
KINDS = {"uniform": "uniform width", RANDOM: RANDOM, "scratch-e": "Scratch-E", "scratch-b": "Scratch-B"}
"""The standard controls, by the beginnings of their names, and what people call them."""


class Control(NamedTuple):
    """What a method is, compared with a control.

    Parameters
    ----------
    word : str
        `BETTER`, `NO_DIFFERENCE` or `WORSE`.
    difference, half : float
        Points of test error, ours − theirs, and half the width of the 95 % interval of this one difference.
    p : float
        Corrected for the number of controls.
    detectable : float
        The smallest true difference in points that these seeds would have shown with a power of 80 %, at the level that
        the correction leaves to one of the controls.
    work : float
        The control's multiply-adds, as a multiple of the method's.
    """

    word: str
    difference: float
    half: float
    p: float
    detectable: float
    work: float


@dataclass(frozen=True)
class Reason:
    """Whether the method is the reason.

    Parameters
    ----------
    word : str
        `BETTER` than every control, `WORSE` than at least one, else `NO_DIFFERENCE`; `UNDECIDED` below three seeds,
        without any control, or where it would be better and a standard control is missing.
    seeds : int
        Of the method.
    controls : dict of str to Control
        By name; ``"random units"`` for those.
    missing : tuple of str
        Which standard controls are not there, or not with about the method's work, in words.
    departs : tuple of str
        How the controls depart from the rule.
    """

    word: str
    seeds: int = 0
    controls: Mapping[str, Control] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    departs: tuple[str, ...] = ()

    @property
    def deciding(self) -> str:
        """The name of the control that decides: the one that beats the method most clearly, or is hardest to beat."""
        order = (BETTER, NO_DIFFERENCE, WORSE)
        of = self.controls
        return max(of, key=lambda name: (order.index(of[name].word), of[name].difference), default="")


def reason(
    rows: Iterable[Row],
    method: str,
    target: str,
    *,
    removed: float | None = None,
    stage: str = "",
    criterion: str = OWN,
) -> Reason:
    """Return whether a method is the reason for what its small networks do.

    All that was done counts: the test error is that of the last stage, on both sides.

    Parameters
    ----------
    rows : iterable of Row
        All rows of a suite, as `records.load` gives them.
    method, target : str
        For example ``"rni"`` and ``"fraction-0.5"``; ``"natural"`` or ``"epsilon-…"`` where units die by themselves;
        ``"loop"``.
    removed : float, optional
        The share of units that a claim says goes: the strength is chosen among those that remove as much.
    stage : str
        Whose validation error chooses the strength, as a claim names it; default: the last one.
    criterion : str
        By what its units are ranked: ``"own"``, or ``"own-retrained"`` where it is then retrained as long.

    Examples
    --------
    >>> from pruning_lib.companion import records
    >>> found = reason(records.load("mnist-lenet300"), "group-lasso", "fraction-0.5")
    >>> found.word, found.deciding, round(found.controls[found.deciding].difference, 2)
    ('no difference seen', 'scratch-b-group-lasso', 0.1)
    """
    rows = list(rows)
    claim = {"method": method, "target": target, "removed": removed, "stage": stage, "criterion": criterion}
    ours = runs_of(rows, claim).rows
    if len(ours) < SEEDS:
        return Reason(UNDECIDED, len(ours))
    theirs = opponents(rows, method, target, removed)
    work = {name: _macs(its) / _macs(ours) for name, its in theirs.items()}
    missing = _missing(work)
    small = {name: its for name, its in theirs.items() if work[name] <= MOST_WORK}
    errors = [row["test_error"] for row in ours]
    seen = {name: compare(errors, [row["test_error"] for row in its]) for name, its in small.items()}
    corrected = holm({name: it.p for name, it in seen.items()})
    controls = {
        name: Control(
            word=_word(it.difference, corrected[name]),
            difference=it.difference,
            half=it.half,
            p=corrected[name],
            detectable=it.detectable(LEVEL / len(seen)),
            work=work[name],
        )
        for name, it in seen.items()
    }
    words = {control.word for control in controls.values()}
    word = WORSE if WORSE in words else BETTER if words == {BETTER} else NO_DIFFERENCE
    if not controls or (word == BETTER and missing):
        word = UNDECIDED
    departs = _departures(theirs, ours, method) + ((SHORTER,) if criterion.endswith(RETRAINED) else ())
    return Reason(word, len(ours), controls, missing, departs)


def _word(difference: float, p: float) -> str:
    return NO_DIFFERENCE if p >= LEVEL else BETTER if difference < 0 else WORSE


def _macs(rows: list[Row]) -> float:
    return statistics.fmean(row["macs"] for row in rows)


def opponents(rows: Iterable[Row], method: str, target: str, removed: float | None = None) -> dict[str, list[Row]]:
    """Return the controls of a method at a size, by name, with at least three seeds each; one row a seed.

    Networks from their first step are of uniform width and of the method's own widths; where a suite has none of
    these, of the widths that other methods found at the same budget. Where units die by themselves, random units are
    as many of each layer, or else as many as the claim says.
    """
    chosen = choose(rows)
    here = [row for row in chosen if row["recipe"] == "control" and row["target"] == target]
    if not is_budget(target):  # each method ends at a size of its own
        here = [row for row in here if row["method"] in {f"{kind}-{method}" for kind in (*KINDS, "random")}]
    found = {name: [row for row in here if row["method"] == name] for name in sorted({row["method"] for row in here})}
    for kind in ("scratch-e", "scratch-b"):
        if (own := f"{kind}-{method}") in found:
            found = {name: its for name, its in found.items() if name == own or not name.startswith(kind)}
    fraction = target if removed is None or target.startswith(FRACTION) else f"{FRACTION}{removed:g}"
    found[RANDOM] = found.pop(f"random-{method}", []) or pick(chosen, "dense", fraction, "random")
    return {name: its for name, its in found.items() if len(its) >= SEEDS}


def _kind(control: str) -> str:
    """Return which standard control one is."""
    if control == "scratch":  # of published widths, trained as long
        return "scratch-e"
    return next(kind for kind in KINDS if control.startswith(kind))


def _missing(work: Mapping[str, float]) -> tuple[str, ...]:
    """Return which standard controls are not among those with this work, or not with about the method's, in words."""
    missing = []
    for kind, words in KINDS.items():
        of_kind = [work[name] for name in work if _kind(name) == kind]
        if not of_kind:
            missing.append(words)
        elif not any(1 / MOST_WORK <= times <= MOST_WORK for times in of_kind):
            missing.append(f"{words} ({' and '.join(f'{times:.2f}' for times in of_kind)} times its work)")
    return tuple(missing)


def _departures(theirs: Mapping[str, list[Row]], ours: list[Row], method: str) -> tuple[str, ...]:
    """Return which small networks are not the method's own, because they were made from another strength."""
    widths = {row["seed"]: row["units"] for row in ours}
    return tuple(
        f"{words} has the widths of another strength."
        for kind, words in KINDS.items()
        for row in theirs.get(f"{kind}-{method}", [])[:1]
        if kind.startswith("scratch") and widths.get(row["seed"], row["units"]) != row["units"]
    )
