"""Tidy columns for `pruning_lib.companion.pictures`, from the records of some suites.

Methods have the names that they have everywhere, not those of one suite, so that a method is one curve in all facets.
"""

from __future__ import annotations

import math
import statistics
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from experiments import tables
from experiments.methods import label
from experiments.suites import Claim, Suite
from experiments.tables import cases
from pruning_lib.companion.pictures import MOST, Columns, plot_forest, plot_heatmap, plot_lines
from pruning_lib.companion.records import Record, Row, architecture, choose, interval, load, read
from pruning_lib.companion.verdicts import claim_met, compare, dense_errors, dense_of, opponents, reason, runs_of

MAIN = ("dense", "uniform", "group-lasso", "stochastic-l2", "guided-group-lasso", "serene-sampled", "rni")
"""What is drawn where no methods are named: as many as there are colours."""
LEFT, ERROR, EPOCH, DEAD = "percent of the dense network", "test error in percent", "epoch", "dead units in percent"
WORK, TIME = "MACs", "time in ONNX Runtime"
"""What is counted in percent of the dense network."""
VALIDATION = "validation error in percent"
GAP = "points above dense"


def _columns(entries: Iterable[dict[str, Any]]) -> Columns:
    """Return a list of entries as columns."""
    listed = list(entries)
    return {name: [entry[name] for entry in listed] for name in (listed[0] if listed else ())}


def _chosen(rows: list[Row], methods: Sequence[str]) -> list[list[Row]]:
    """Return the rows of some methods by their own importance, a list a case."""
    found = [
        its
        for (_, method, criterion, target, _), its in cases(rows).items()
        if method in methods and criterion in ("own", None) and target is not None
    ]
    return sorted(found, key=lambda its: methods.index(its[0]["method"]))


def fronts(suites: Sequence[Suite], records: Path, methods: Sequence[str]) -> Columns:
    """Return the test error of every small network against the multiply-adds that it has left, and against its time.

    A facet a network for each; the second where the time in ONNX Runtime was measured. Where seeds end at sizes of
    their own, all are drawn at the mean of these.
    """

    def entries() -> Iterator[dict[str, Any]]:
        for suite in suites:
            whole = max(record["stages"]["trained"]["macs"] for record in read(suite.name, records))
            times = tables.times(suite.name, "onnxruntime")
            left = {WORK: lambda row, whole=whole: row["macs"] / whole}
            if times:
                left[TIME] = lambda row, times=times: times[architecture(row)]
            for counted, share in left.items():
                for its in _chosen(load(suite.name, folder=records), methods):
                    mean = round(100 * statistics.fmean(map(share, its)), 2)
                    where = {LEFT: mean, "method": label(its[0]["method"]), "network": f"{suite.title}: {counted}"}
                    yield from (where | {ERROR: row["test_error"]} for row in its)

    return _columns(entries())


def _logged(suites: Sequence[Suite], records: Path, methods: Sequence[str]) -> Iterator[tuple[Suite, Record, str]]:
    """Return the runs of some methods with the names of their curves: the method, and λ where there are several.

    Where these would be more curves than can be told apart, each method has the strength that validation data choose.
    """
    found: list[tuple[Suite, Record]] = []
    for suite in suites:
        its = [record for record in read(suite.name, records) if record["config"]["method"] in methods]
        found += [(suite, record) for record in its if record["config"]["recipe"] in ("prune", "natural")]
    curves: dict[tuple[str, float], list[float]] = {}
    for _, record in found:
        error = 1 - record["history"][-1][2]
        curves.setdefault((record["config"]["method"], record["config"]["strength"]), []).append(error)
    best = {
        method: min(
            (key for key in curves if key[0] == method),
            key=lambda key: (-len(curves[key]), statistics.fmean(curves[key])),
        )
        for method, _ in curves
    }
    drawn = set(curves) if len(curves) <= MOST else set(best.values())
    several = {method for method, _ in drawn if sum(key[0] == method for key in drawn) > 1}
    found.sort(key=lambda it: (methods.index(it[1]["config"]["method"]), it[1]["config"]["strength"]))
    for suite, record in found:
        method, strength = record["config"]["method"], record["config"]["strength"]
        if (method, strength) in drawn:
            yield suite, record, f"{label(method)}, λ = {strength:g}" if method in several else label(method)


def epochs(suites: Sequence[Suite], records: Path, methods: Sequence[str]) -> Columns:
    """Return the validation error, what the accuracy lacks to 100 %, after every epoch of the training."""
    return _columns(
        {EPOCH: epoch, VALIDATION: 100 * (1 - accuracy), "method": name, "network": suite.title}
        for suite, record, name in _logged(suites, records, methods)
        for epoch, (_, _, accuracy, _) in enumerate(record["history"], 1)
    )


def deaths(suites: Sequence[Suite], records: Path, methods: Sequence[str]) -> Columns:
    """Return the share of dead units, with a side that is all zero, after every epoch."""
    sizes = {
        suite.name: max(sum(record["stages"]["trained"]["units"].values()) for record in read(suite.name, records))
        for suite in suites
    }
    return _columns(
        {EPOCH: epoch, DEAD: 100 * sum(dead) / sizes[suite.name], "method": name, "network": suite.title}
        for suite, record, name in _logged(suites, records, methods)
        for epoch, dead in enumerate(record.get("log", {}).get("dead", ()), 1)
    )


def gaps(suites: Sequence[Suite], records: Path, methods: Sequence[str]) -> Columns:
    """Return the points of every small network's test error above the mean of the dense ones."""

    def entries() -> Iterator[dict[str, Any]]:
        for suite in suites:
            rows = load(suite.name, folder=records)
            dense, _ = dense_errors(rows)
            labels = suite.all_labels()
            for row in (row for its in _chosen(choose(rows), methods) if dense for row in its):
                where = f"{suite.title}, {labels[row['target']]}"
                gap = row["test_error"] - statistics.fmean(dense)
                yield {GAP: gap, "method": label(row["method"]), "network": where}

    return _columns(entries())


def claims(suites: Sequence[Suite], records: Path, methods: Sequence[str]) -> Columns:
    """Return the differences that the ledger rests on: from before the cut, from dense, from the deciding control."""
    return _columns(
        entry
        for suite in suites
        for rows in (load(suite.name, folder=records) if suite.claims else [],)
        for claim in suite.claims
        for entry in _of_claim(rows, claim)
    )


def _of_claim(rows: list[Row], claim: Claim) -> Iterator[dict[str, Any]]:
    ours = runs_of(rows, asdict(claim)).rows
    if not ours:
        return
    stage, last = ([row[f"{name}test_error"] for row in ours] for name in (f"{claim.stage}_", ""))
    before = [e - row["trained_test_error"] for e, row in zip(stage, ours, strict=True)]
    says = {"claim": textwrap.fill(f"{claim.paper}: {claim.says}", 44), "margin": claim_met(rows, asdict(claim)).margin}
    yield says | {"against": "itself before the cut", "points": before, "half": interval(before)[1]}
    if dense := dense_errors(rows, dense_of(asdict(claim)))[0]:
        yield says | {"against": "dense", **_difference(stage, dense)}
    found = reason(
        rows, claim.method, claim.target, removed=claim.removed, stage=claim.stage, criterion=claim.criterion
    )
    if deciding := found.deciding:
        control = opponents(rows, claim.method, claim.target, claim.removed)[deciding]
        points = _difference(last, [row["test_error"] for row in control])
        yield says | {"against": "the control that decides", "margin": None, **points}


def _difference(ours: list[float], theirs: list[float]) -> dict[str, Any]:
    """Return our errors above the mean of theirs, and half the width of Welch's interval, which takes two of each."""
    half = compare(ours, theirs).half if min(len(ours), len(theirs)) > 1 else math.inf
    return {"points": [error - statistics.fmean(theirs) for error in ours], "half": half}


Collect = Callable[[Sequence[Suite], Path, Sequence[str]], Columns]
KINDS: dict[str, tuple[Collect, Callable[[Columns], Figure]]] = {
    "fronts": (fronts, lambda data: plot_lines(data, x=LEFT, y=ERROR, by="method", facet="network", log=True)),
    "epochs": (epochs, lambda data: plot_lines(data, x=EPOCH, y=VALIDATION, by="method", facet="network", log=True)),
    "deaths": (deaths, lambda data: plot_lines(data, x=EPOCH, y=DEAD, by="method", facet="network")),
    "heatmap": (gaps, lambda data: plot_heatmap(data, value=GAP, rows="network", columns="method")),
    "forest": (claims, plot_forest),
}
"""What each kind of picture collects, and how it is drawn."""


def picture(kind: str, suites: Sequence[Suite], records: Path, methods: Sequence[str]) -> Figure:
    """Draw a kind of picture of some suites.

    Raises
    ------
    ValueError
        If their records hold nothing of the kind.
    """
    collect, draw = KINDS[kind]
    data = collect(suites, records, methods)
    if not data:
        names = ", ".join(suite.name for suite in suites)
        raise ValueError(f"The records of {names} hold nothing that a picture of {kind} shows of {', '.join(methods)}.")
    return draw(data)
