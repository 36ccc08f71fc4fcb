"""Which ranking is safe? The rule, written down before the first run, and the table that it is applied to.

A dense network is cut to a share of its multiply-adds by each ranking, over some seeds: a *case* is a network, a share
and a seed. By validation data alone:

1. A case *collapses* if a layer is left with under 5 % of its units, or if the network, its BatchNorm statistics
   computed anew and nothing else, has lost nine tenths of what training had gained: e ≥ c − (c − d)/10, with e its
   error, d that of the dense network and c that of a constant answer. Training on from there is training anew, with a
   smaller network than anybody asked for.
2. Only rankings that never collapse may win. If there is none, those that collapse in the fewest cases may.
3. Of these wins the one with the lowest mean rank, over networks and shares, of the validation error after
   fine-tuning, mean over seeds; equal errors share their ranks.

It becomes the default of `select` and `prune`. Units drawn at random, in equal shares, are ranked along, to compare
with, and cannot win.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from scipy import stats

from experiments.suites import SUITES
from experiments.suites.rankings import SUITES as RANKED
from experiments.tables import called, line, plus_minus
from pruning_lib.companion.records import Record, interval, judged_by, read

FEWEST = 0.05
"""Of a layer's units; with less it has collapsed."""
LOST = 0.9
"""Of what training had gained over a constant answer; who loses more has collapsed."""
CHANCE = {"mnist": 90.0, "fashion-mnist": 90.0, "cifar10": 90.0, "chest-xrays": 200 / 3, "nuclei": 78.8}
"""Validation error of a constant answer in percent: one of ten classes, of three, and every pixel a nucleus."""
COMPARED = "random-local"
"""Ranked along, and no candidate."""
WITHOUT_DATA = ("own", "folded")
"""Rankings by weights and statistics alone."""
RULE = (
    "A dense network is cut to a share of its multiply-adds by each ranking; a case is a network, a share and a "
    "seed. The rule is older than the runs, and reads validation data alone. A case collapses if a layer is "
    f"left with under {100 * FEWEST:.0f} % of its units, or if the network, its BatchNorm statistics computed "
    f"anew and nothing else, has lost {100 * LOST:.0f} % of what training had gained over a constant answer. "
    "Only rankings that never collapse may win, or, if there is none, those that collapse in the fewest cases. "
    "Of these wins the one with the lowest mean rank of the error after fine-tuning, over networks and shares. "
    "Errors are in percent of validation data; ± is the 95 % interval over seeds. Random units are ranked "
    "along, and cannot win."
)
"""In the book's words."""
Setting = tuple[str, str]  # suite, target


class Case(NamedTuple):
    """What a ranking did to one network.

    Parameters
    ----------
    cut, recalibrated, finetuned : float
        Validation error in percent, at each stage; without BatchNorm nothing is recalibrated.
    thinnest : float
        The least share of its units that a layer is left with.
    collapsed : bool
        By point 1 of the rule.
    """

    cut: float
    recalibrated: float
    finetuned: float
    thinnest: float
    collapsed: bool


@dataclass(frozen=True)
class Standing:
    """Where a ranking stands.

    Parameters
    ----------
    cases : dict
        {(suite, target): its cases, one a seed}.
    rank : float
        The mean rank over all settings.
    """

    cases: Mapping[Setting, list[Case]]
    rank: float

    @property
    def collapses(self) -> int:
        """How many cases collapsed."""
        return sum(case.collapsed for its in self.cases.values() for case in its)


def cases(records: Iterable[Record]) -> dict[str, dict[str, list[Case]]]:
    """Return {ranking: {target: cases}} of a suite's records, one case a seed."""
    found: dict[str, dict[str, list[Case]]] = {}
    for record in records:
        score = f"val_{judged_by(record['config'])}"
        dense = record["stages"]["trained"]
        for pruning in record["prunings"]:
            errors = {stage: 100 * (1 - it[score]) for stage, it in pruning["stages"].items()}
            left = pruning["stages"]["shrunk"]["units"]
            thinnest = min(left[layer] / count for layer, count in dense["units"].items() if count)
            again = errors.get("recalibrated", errors["shrunk"])
            chance = CHANCE[record["config"]["data"]]
            lost = again >= chance - (1 - LOST) * (chance - 100 * (1 - dense[score]))
            case = Case(errors["shrunk"], again, errors["finetuned"], thinnest, thinnest < FEWEST or lost)
            found.setdefault(pruning["criterion"], {}).setdefault(pruning["target"], []).append(case)
    return found


def standings(found: Mapping[str, Mapping[str, Mapping[str, list[Case]]]]) -> dict[str, Standing]:
    """Return where each ranking stands, the winner first; `found` is {suite: what `cases` returned}."""
    ranks: dict[str, list[float]] = {}
    its: dict[str, dict[Setting, list[Case]]] = {}
    for suite, by_ranking in found.items():
        for target in dict.fromkeys(target for by in by_ranking.values() for target in by):
            names = [name for name, by in by_ranking.items() if target in by]
            errors = [statistics.fmean(case.finetuned for case in by_ranking[name][target]) for name in names]
            for name, rank in zip(names, stats.rankdata(errors), strict=True):
                ranks.setdefault(name, []).append(float(rank))
                its.setdefault(name, {})[suite, target] = by_ranking[name][target]
    all_of = {name: Standing(its[name], statistics.fmean(ranks[name])) for name in its}
    order = sorted(all_of, key=lambda name: (name == COMPARED, all_of[name].collapses, all_of[name].rank))
    return {name: all_of[name] for name in order}


def table(records: Path) -> str:
    """Return the standings, and under them what each ranking did to each network, in Markdown."""
    found = {suite.name: cases(read(suite.name, records)) for suite in RANKED}
    found = {name: by for name, by in found.items() if by}
    if not found:
        return "There are no runs yet."
    order = standings(found)
    parts = [_chosen(order, whole=len(found) == len(RANKED)), _standings(order)]
    for suite, by_ranking in found.items():
        parts += [f"## {SUITES[suite].title}", _suite(suite, {name: by_ranking[name] for name in order})]
    missing = [suite.title for suite in RANKED if suite.name not in found]
    if missing:
        parts.append(f"Not run yet: {'; '.join(missing)}.")
    return "\n\n".join(parts)


def _chosen(order: Mapping[str, Standing], *, whole: bool) -> str:
    """Say which ranking the rule chooses, and which of those that need no data."""
    first = next(iter(order))
    without = next(name for name in order if name != COMPARED and name.split("-")[0] in WITHOUT_DATA)
    text = f"The rule chooses {'' if whole else 'so far '}**{_label(first)}**"
    return f"{text}, and **{_label(without)}** among those that need no data." if without != first else f"{text}."


def _label(name: str) -> str:
    return called(RANKED[0].head(), name)


def _standings(order: Mapping[str, Standing]) -> str:
    lines = [line(["ranking", "cases", "collapses", "mean rank", "where it collapses"]), line(["---"] * 5)]
    for name, it in order.items():
        where = [
            f"{SUITES[suite].title.removesuffix(', rankings')}, {called(SUITES[suite].head(), target)}"
            for (suite, target), cases in it.cases.items()
            if any(case.collapsed for case in cases)
        ]
        count = sum(map(len, it.cases.values()))
        lines.append(line([_label(name), str(count), str(it.collapses), f"{it.rank:.2f}", "; ".join(where)]))
    return "\n".join(lines)


def _suite(suite: str, by_ranking: Mapping[str, Mapping[str, list[Case]]]) -> str:
    columns = ["ranking", "size", "seeds", "thinnest layer", "cut", "recalibrated", "fine-tuned", "collapses"]
    lines = [line(columns), line(["---"] * len(columns))]
    for target in SUITES[suite].protocol.targets:
        for name, by in by_ranking.items():
            if its := by.get(target):
                errors = [plus_minus("{:.2f}", *interval(case[i] for case in its)) for i in range(3)]
                thinnest = f"{100 * min(case.thinnest for case in its):.1f} %"
                count = str(sum(case.collapsed for case in its))
                size = called(SUITES[suite].head(), target)
                lines.append(line([_label(name), size, str(len(its)), thinnest, *errors, count]))
    return "\n".join(lines)
