"""Question one, whether the published claim is met.

The test error of the small network is compared with that of its own dense network before the cut, and with that of a
dense network trained as long as all that was done to the small one. With d the larger mean difference in points,
`loss` the published one (0 where there is none) and m = 2 standard deviations of the dense networks over seeds:

    met                     d ≤ loss + m
    met at a slight loss    d ≤ loss + m + slight
    not met                 else, or if fewer units go than the paper says, or if a rival that should err more does not

m is this book's rule, as are the points that `slight` allows. The strength is chosen on validation data, among those
that remove as many units as the claim says.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from pruning_lib.companion.records import Row, interval
from pruning_lib.companion.verdicts._pick import SEEDS
from pruning_lib.companion.verdicts._welch import compare

MET, SLIGHT, NOT_MET = "met", "met at a slight loss", "not met"
NOT_TESTED, REPORTED = "not tested at this size", "reported, not judged"
SPREADS = 2.0
"""The margin, in standard deviations of the test error of dense networks over seeds."""
LOOP, NATURAL, EPSILON, FRACTION = "loop", "natural", "epsilon-", "fraction-"
OWN = "own"
ROUNDING = 1e-9  # so that a margin that is just met is met
RETRAINED = "-retrained"
"""Ends the name of a criterion by which a network is retrained as long as it was trained."""
LONG, TWICE, AS_LONG_AS_THE_LOOP = "dense-long", "dense-twice", "dense-loop"
"""Dense networks trained as long as the pipeline, twice as long, and as long as SeReNe's loop."""
SHORT = "Dense was trained for as long as the network was before the cut, not for the fine-tuning as well."
SHORTER = {
    TWICE: "Dense was trained for fewer epochs than the network, which was retrained as long as it was trained.",
    AS_LONG_AS_THE_LOOP: "Dense was trained for fewer epochs than the loop takes.",
}


class Runs(NamedTuple):
    """The runs that a claim is about, of the strength that validation data chose.

    Parameters
    ----------
    rows : list of Row
        One a seed; empty where there are none.
    removed : float
        The mean share of the units that went.
    enough : bool
        Whether that is as much as the claim says. If no strength removes so much, these are the runs that come closest.
    """

    rows: list[Row]
    removed: float
    enough: bool


@dataclass(frozen=True)
class Answer:
    """Whether a claim is met.

    Parameters
    ----------
    word : str
        `MET`, `SLIGHT`, `NOT_MET`; `REPORTED` where fewer than three seeds are no test; `NOT_TESTED` without any run.
    why : str
        The reason in a sentence.
    seeds : int
        Of the small network.
    strength, removed : float or None
        Which strength was chosen, and the mean share of the units that went.
    own, dense : tuple of float, or None
        Points of test error above the own network before the cut, and above dense: mean and half width of the 95 %
        interval.
    margin : float or None
        Points that count as no loss.
    departs : tuple of str
        How the comparison departs from the rule.
    """

    word: str
    why: str
    seeds: int = 0
    strength: float | None = None
    removed: float | None = None
    own: tuple[float, float] | None = None
    dense: tuple[float, float] | None = None
    margin: float | None = None
    departs: tuple[str, ...] = ()


def claim_met(rows: Iterable[Row], claim: Mapping[str, Any]) -> Answer:
    """Return whether a published claim is met by the rows of the suite that tests it.

    Parameters
    ----------
    rows : iterable of Row
        All rows of the suite, as `records.load` gives them.
    claim : mapping
        One of the claims that `records.about` gives: ``method``, ``target``, ``stage``, ``removed``, ``loss``,
        ``slight``; ``criterion``, by default ``"own"``; ``rival``, by default none.

    Returns
    -------
    Answer
        The word, the numbers that it rests on, and the reason in a sentence.

    Examples
    --------
    >>> from pruning_lib.companion import records
    >>> claim = {"method": "rni", "target": "fraction-0.5", "stage": "finetuned"}
    >>> claim |= {"removed": 0.5, "loss": None, "slight": 0.5}
    >>> answer = claim_met(records.load("cifar10-resnet20"), claim)
    >>> answer.word, answer.seeds, round(answer.margin, 2)
    ('not met', 3, 2.09)
    """
    rows = list(rows)
    runs = runs_of(rows, claim)
    ours = runs.rows
    if not ours:
        return Answer(NOT_TESTED, "There are no runs of it.")
    errors = [row[_column(claim, "test")] for row in ours]
    own = interval(error - row["trained_test_error"] for error, row in zip(errors, ours, strict=True))
    dense, departs = dense_errors(rows, dense_of(claim))
    known: dict[str, Any] = {"seeds": len(ours), "strength": ours[0]["strength"], "removed": runs.removed, "own": own}
    known |= {"dense": _above(errors, dense), "departs": departs}
    if min(len(ours), len(dense)) < SEEDS:
        which = f"{len(ours)} of {SEEDS} seeds" if len(ours) < SEEDS else f"{len(dense)} of {SEEDS} seeds of dense"
        return Answer(REPORTED, f"There are {which}.", **known)
    margin = SPREADS * statistics.stdev(dense)
    known["margin"] = margin
    if not runs.enough:
        went = f"At most {100 * runs.removed:.0f} % of the units {'went' if _cut(claim) else 'died'}"
        return Answer(NOT_MET, f"{went}, where the claim says {100 * claim['removed']:.0f} %.", **known)
    if rival := claim.get("rival"):
        theirs = [row[_column(claim, "test")] for row in runs_of(rows, {**claim, "method": rival}).rows]
        if len(theirs) < SEEDS:
            return Answer(
                REPORTED, f"There are {len(theirs)} of {SEEDS} seeds of {rival}, which should err more.", **known
            )
        if (lead := compare(errors, theirs)).difference >= 0:
            said = f"{lead.difference:+.2f} ± {lead.half:.2f} points from {rival}, which should err more."
            return Answer(NOT_MET, said, **known)
    return Answer(*_word(max(own[0], known["dense"][0]), margin, claim), **known)


def _above(errors: list[float], dense: list[float]) -> tuple[float, float] | None:
    """Return the difference of the means and half its interval, which takes two seeds of each to be finite."""
    if min(len(errors), len(dense)) < 2:
        return (statistics.fmean(errors) - statistics.fmean(dense), math.inf) if dense else None
    above = compare(errors, dense)
    return above.difference, above.half


def _word(lost: float, margin: float, claim: Mapping[str, Any]) -> tuple[str, str]:
    published = claim["loss"] or 0.0
    allowed = published + margin
    text = f"{lost:+.2f} points, where {allowed:.2f} are no more than claimed"
    if lost <= allowed + ROUNDING:
        return MET, f"{text}."
    if lost <= allowed + claim["slight"] + ROUNDING:
        return SLIGHT, f"{text} and {allowed + claim['slight']:.2f} are slight."
    return NOT_MET, f"{text} and {allowed + claim['slight']:.2f} are slight."


def runs_of(rows: Iterable[Row], claim: Mapping[str, Any]) -> Runs:
    """Return the runs that a claim is about; `claim` needs ``method``, ``target``, ``stage`` and ``removed``.

    Without a stage, ``""``, it is the last one whose validation error chooses; without a ``criterion``, units are
    ranked by the method's own importance.
    """
    rows, target = list(rows), claim["target"]
    chooses = _column(claim, "val")
    recipe = LOOP if target == LOOP else "prune" if _cut(claim) else "natural"
    criterion = claim.get("criterion", OWN)
    case = (recipe, claim["method"], *((None, None) if target == LOOP else (target, criterion)))
    strengths: dict[float, list[Row]] = {}
    for row in rows:
        same = (row["recipe"], row["method"], row["target"], row["criterion"]) == case
        if same and row[chooses] is not None:
            strengths.setdefault(row["strength"], []).append(row)
    if not strengths:
        return Runs([], 0.0, False)
    most = max(map(len, strengths.values()))
    finished = [its for its in strengths.values() if len(its) == most]
    whole = [max(layer) for layer in zip(*(row["units"] for row in rows), strict=True)]
    shares = [_removed(its, target, whole) for its in finished]
    wanted = claim["removed"] or 0.0
    reach = [i for i, share in enumerate(shares) if share >= wanted - ROUNDING]
    best = min(reach, key=lambda i: statistics.fmean(row[chooses] for row in finished[i]), default=None)
    if best is None:
        best = max(range(len(shares)), key=shares.__getitem__)
    return Runs(finished[best], shares[best], bool(reach))


def _column(claim: Mapping[str, Any], part: str) -> str:
    return f"{claim['stage']}_{part}_error" if claim["stage"] else f"{part}_error"


def _cut(claim: Mapping[str, Any]) -> bool:
    """Whether units are ranked and cut, and do not die by themselves or in SeReNe's loop."""
    return is_budget(claim["target"])


def is_budget(target: str) -> bool:
    """Whether a target is a size that units are ranked and cut for."""
    return not (target in (LOOP, NATURAL) or target.startswith(EPSILON))


def dense_of(claim: Mapping[str, Any]) -> str:
    """Return which dense network was trained as long as all that a claim does."""
    if claim["target"] == LOOP:
        return AS_LONG_AS_THE_LOOP
    return TWICE if claim.get("criterion", OWN).endswith(RETRAINED) else LONG


def _removed(rows: list[Row], target: str, whole: list[int]) -> float:
    """Return the mean share of units that went; a budget of units names it, and counts those that may be pruned."""
    if target.startswith(FRACTION):
        return float(target.removeprefix(FRACTION))
    return statistics.fmean(1 - sum(row["units"]) / sum(whole) for row in rows)


def dense_errors(rows: Iterable[Row], method: str = LONG) -> tuple[list[float], tuple[str, ...]]:
    """Return the test errors of the dense networks of a suite, one a seed, and how they depart from the rule.

    They are those trained as long as all that is done to a small one, by default for the epochs of training and
    fine-tuning together, their weight decay chosen on validation data. Where a suite has none of these, or fewer than
    three, they are the next shorter ones; the shortest are those before the cut of the runs without a penalty.
    """
    rows = list(rows)
    long: dict[float, list[Row]] = {}
    short: dict[int, float] = {}
    for row in rows:
        if row["method"] == method:
            long.setdefault(row["strength"], []).append(row)
        elif row["method"] == "dense" and row["recipe"] in ("prune", "natural"):
            short[row["seed"]] = row["trained_test_error"]
    most = max(map(len, long.values()), default=0)
    finished = [its for its in long.values() if len(its) == most]
    if finished and (most >= SEEDS or most >= len(short)):
        best = min(finished, key=lambda its: statistics.fmean(row["val_error"] for row in its))
        return [row["test_error"] for row in best], ()
    if method in SHORTER:
        errors, departs = dense_errors(rows)
        return errors, (*departs, SHORTER[method])
    return list(short.values()), (SHORT,)
