"""Rows of a table from whole records, and the choice of strengths on validation data."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from pruning_lib.companion._arguments import check_columns, checked, numbers_of, rows_of
from pruning_lib.companion.data import DATA_SETS
from pruning_lib.companion.records._schema import KEYS, STAGES, Record, scores

Row = dict[str, Any]
CASE = ("recipe", "method", "criterion", "target")
"""The columns in which rows agree that differ in strength and seed alone."""


def summarize(records: Iterable[Record]) -> list[Row]:
    """Return the rows of `load` from whole records."""
    return [row for record in records for row in _rows(record)]


def _rows(record: Record) -> list[Row]:
    nothing = {"criterion": None, "target": record["config"].get("target"), "stages": {}}
    judge = judged_by(record["config"])
    return [_row(record["config"], record["stages"], pruning, judge) for pruning in record["prunings"] or [nothing]]


def judged_by(config: Mapping[str, Any]) -> str:
    """Return the score whose lack to 100 % is the error: what the run's data set is judged by, else the accuracy."""
    data = DATA_SETS.get(config.get("data", ""))
    return data.judged_by if data else "accuracy"


def _row(config: Mapping[str, Any], run: Mapping[str, Any], pruning: Mapping[str, Any], judge: str) -> Row:
    stages = {**run, **pruning["stages"]}
    last = stages[[stage for stage in STAGES if stage in stages][-1]]
    row: Row = {key: config[key] for key in KEYS}
    row |= {"criterion": pruning["criterion"], "target": pruning["target"], "units": list(last["units"].values())}
    row |= {key: last[key] for key in ("parameters", "nonzero", "macs", "macs_used_inputs")}
    row |= {f"{part}_error": _error(last, f"{part}_{judge}") for part in ("val", "test")}
    for stage in STAGES:
        row |= {f"{stage}_{part}_error": _error(stages.get(stage), f"{part}_{judge}") for part in ("val", "test")}
    if "test_log" in last:
        best = {"trained_": stages["trained"], "": last}
        row |= {f"{name}best_test_error": round(100 * (1 - max(of["test_log"])), 4) for name, of in best.items()}
    for score in scores(last):
        row |= {f"trained_{score}": stages["trained"][score], score: last[score]}
    return row


def _error(stage: Mapping[str, Any] | None, score: str) -> float | None:
    return None if stage is None else round(100 * (1 - stage[score]), 4)


def architecture(row: Mapping[str, Any]) -> str:
    """Return the name that a row's network has by its units.

    Examples
    --------
    >>> architecture({"units": [300, 100]})
    '300-100'
    """
    return "-".join(map(str, row["units"]))


def choose(rows: Iterable[Row], by: str = "val_error") -> list[Row]:
    """Keep, of each method's strengths, the one with the least validation error, mean over seeds.

    The choice is made for each recipe, method, criterion and target by itself, among the strengths with the most seeds.
    Rows without a target are all kept: their networks differ in size, and the error alone would choose the largest.

    Parameters
    ----------
    rows : iterable of Row
        All strengths, as `load` gives them.
    by : str
        The error to choose by: of the last stage, or of another one that is to be judged, ``"zeroed_val_error"``. Rows
        without that stage are left out.

    Examples
    --------
    >>> case = {"recipe": "prune", "method": "l2", "criterion": "own", "target": "macs-0.25", "seed": 0}
    >>> weak, strong = case | {"strength": 1e-4, "val_error": 2.1}, case | {"strength": 1e-3, "val_error": 1.9}
    >>> [row["strength"] for row in choose([weak, strong])]
    [0.001]
    """
    cases: dict[tuple[Any, ...], dict[float, list[Row]]] = {}
    chosen: list[Row] = []
    checked("choose", by=by)
    for row in rows_of(rows, "choose"):
        check_columns(row, "choose", by, *CASE, "strength")
        if row[by] is None:
            continue
        numbers_of([row[by]], "choose")
        if row["target"] is None:
            chosen.append(row)
            continue
        case = tuple(row[key] for key in CASE)
        cases.setdefault(case, {}).setdefault(row["strength"], []).append(row)
    for strengths in cases.values():
        most = max(map(len, strengths.values()))
        finished = [its for its in strengths.values() if len(its) == most]
        chosen += min(finished, key=lambda its: statistics.fmean(row[by] for row in its))
    return chosen
