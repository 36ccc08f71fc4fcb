"""Tidy columns for `pruning_lib.companion.pictures`, from the records of some suites."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from experiments.suites import Suite
from experiments.tables import called, cases
from pruning_lib.companion.pictures import Columns, plot_forest, plot_heatmap, plot_lines
from pruning_lib.companion.records import Record, Row, interval, load, read
from pruning_lib.companion.verdicts import claim_met, compare, dense_errors, opponents, reason, runs_of

MAIN = ("dense", "uniform", "group-lasso", "stochastic-l2", "guided-group-lasso", "serene-sampled", "rni")
"""What is drawn where no methods are named: as many as there are colours."""
LEFT, ERROR, EPOCH, DEAD = "MACs left in percent", "test error in percent", "epoch", "dead units in percent"
VALIDATION = "validation error in percent"
GAP = "points above dense"


def _columns(entries: Iterable[dict[str, Any]]) -> Columns:
    """Return a list of entries as columns."""
    listed = list(entries)
    return {name: [entry[name] for entry in listed] for name in (listed[0] if listed else ())}


def _chosen(suite: Suite, records: Path, methods: Sequence[str]) -> list[Row]:
    """Return the rows of some methods, by their own importance, at the strengths that validation data chose."""
    rows = load(suite.name, folder=records)
    return [
        row
        for (_, method, criterion, target, _), its in cases(rows).items()
        if method in methods and criterion in ("own", None) and target is not None
        for row in its
    ]


def fronts(suites: Sequence[Suite], records: Path, methods: Sequence[str]) -> Columns:
    """Return the test error of every small network against the multiply-adds that it has left."""

    def entries() -> Iterator[dict[str, Any]]:
        for suite in suites:
            whole = max(record["stages"]["trained"]["macs"] for record in read(suite.name, records))
            for row in sorted(_chosen(suite, records, methods), key=lambda row: methods.index(row["method"])):
                # Seeds of a method end at sizes of their own; they are drawn at their target.
                its = [r for r in _chosen(suite, records, (row["method"],)) if r["target"] == row["target"]]
                share = 100 * sum(r["macs"] for r in its) / len(its) / whole
                name = called(suite.head(), row["method"])
                yield {LEFT: round(share, 2), ERROR: row["test_error"], "method": name, "network": suite.title}

    return _columns(entries())


def _logged(suites: Sequence[Suite], records: Path, methods: Sequence[str]) -> Iterator[tuple[Suite, Record, str]]:
    """Return the runs of some methods with the names of their curves: the method, and λ where there are several."""
    for suite in suites:
        its = [record for record in read(suite.name, records) if record["config"]["method"] in methods]
        its = [record for record in its if record["config"]["recipe"] in ("prune", "natural")]
        for record in sorted(its, key=lambda it: (methods.index(it["config"]["method"]), it["config"]["strength"])):
            config = record["config"]
            strengths = {it["config"]["strength"] for it in its if it["config"]["method"] == config["method"]}
            name = called(suite.head(), config["method"])
            yield suite, record, f"{name}, λ = {config['strength']:g}" if len(strengths) > 1 else name


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
            dense, _ = dense_errors(load(suite.name, folder=records))
            for row in sorted(_chosen(suite, records, methods), key=lambda row: methods.index(row["method"])):
                head = suite.head()
                where = f"{suite.title}, {called(head, row['target'])}"
                gap = row["test_error"] - sum(dense) / len(dense) if dense else None
                if gap is not None:
                    yield {GAP: gap, "method": called(head, row["method"]), "network": where}

    return _columns(entries())


def claims(suites: Sequence[Suite], records: Path, methods: Sequence[str]) -> Columns:
    """Return the differences that the ledger rests on: from before the cut, from dense, from the deciding control."""

    def entries() -> Iterator[dict[str, Any]]:
        for suite in suites:
            rows = load(suite.name, folder=records)
            for claim in suite.claims:
                asked = {key: getattr(claim, key) for key in ("method", "target", "stage", "removed", "loss", "slight")}
                ours = runs_of(rows, asked).rows
                if not ours:
                    continue
                says = f"{claim.paper}: {claim.says}"
                margin = claim_met(rows, asked).margin
                errors = [row[f"{claim.stage}_test_error"] for row in ours]
                before = [e - row["trained_test_error"] for e, row in zip(errors, ours, strict=True)]
                yield _line(says, "before the cut", before, interval(before)[1], margin)
                for against, theirs in _others(rows, claim.method, claim.target, claim.removed, claim.stage):
                    mine = errors if against == "dense" else [row["test_error"] for row in ours]
                    half = compare(mine, theirs).half if min(len(mine), len(theirs)) > 1 else float("inf")
                    points = [e - sum(theirs) / len(theirs) for e in mine]
                    yield _line(says, against, points, half, margin if against == "dense" else None)

    return _columns(entries())


def _others(
    rows: list[Row], method: str, target: str, removed: float | None, stage: str
) -> Iterator[tuple[str, list[float]]]:
    """Return the test errors of what a claim's networks are compared with, by name."""
    dense, _ = dense_errors(rows)
    if dense:
        yield "dense", dense
    deciding = reason(rows, method, target, removed=removed, stage=stage).deciding
    if deciding:
        found = opponents(rows, method, target, removed)[deciding]
        yield "the control that decides", [row["test_error"] for row in found]


def _line(claim: str, against: str, points: list[float], half: float, margin: float | None) -> dict[str, Any]:
    return {"claim": claim, "against": against, "points": points, "half": half, "margin": margin}


Collect = Callable[[Sequence[Suite], Path, Sequence[str]], Columns]
KINDS: dict[str, tuple[Collect, Callable[[Columns], Figure]]] = {
    "fronts": (fronts, lambda data: plot_lines(data, x=LEFT, y=ERROR, by="method", facet="network", log=True)),
    "epochs": (epochs, lambda data: plot_lines(data, x=EPOCH, y=VALIDATION, by="method", facet="network", log=True)),
    "deaths": (deaths, lambda data: plot_lines(data, x=EPOCH, y=DEAD, by="method", facet="network")),
    "heatmap": (gaps, lambda data: plot_heatmap(data, value=GAP, rows="method", columns="network")),
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
