"""Records of experiments: one JSON file a training run, checked when written and when read.

A record holds what was asked for, what came of it at each stage, and where it ran:

    {"suite", "config": {"recipe", "method", "strength", "seed", …}, "stages": {"trained": {…}, …},
     "prunings": [{"criterion", "target", "stages": {"zeroed": {…}, "shrunk": {…}, …}}],
     "history": [[training loss, validation loss, validation accuracy, lr], …], "provenance": {…}}

`load` gives rows, one for each pruning of each run, from the checkout's records or else from the summary that ships
with the package, with the same result.
"""

from __future__ import annotations

import json
import math
import os
import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

Record = dict[str, Any]
Row = dict[str, Any]

CHECKOUT = Path(__file__).parents[2] / "experiments" / "records"
SHIPPED = Path(__file__).parent / "_records"
MEASURED = "measured-"
"""Begins the names of shipped files that a benchmark wrote, not a suite of runs."""

STAGES = ("trained", "zeroed", "dropped", "averaged", "recalibrated", "shrunk", "finetuned")
"""In order. trained: after the run's own training; zeroed: chosen units at zero, their shift kept; dropped: their shift
at zero too; averaged: their shift such that they emit their mean over training examples; recalibrated: dropped, then
the statistics of BatchNorm computed anew; shrunk: zeroed (or dropped, where config["shifts"] says so) and removed;
finetuned: shrunk and trained on without penalty."""

METRICS: dict[str, type] = {
    "val_loss": float,
    "val_accuracy": float,
    "test_loss": float,
    "test_accuracy": float,
    "parameters": int,
    "nonzero": int,
    "macs": int,
    "macs_used_inputs": int,
}
SCORES = ("dice", "balanced_accuracy", "instance_f1", "auroc", "auroc_covid", "auroc_within")
"""What tasks are judged by where the accuracy does not say it all; of the validation and of the test data."""
JUDGED_BY = ("dice", "balanced_accuracy", "accuracy")
"""An error is what a stage lacks to 100 % of the first of these that it has."""
PARTS: dict[str, type] = {
    "suite": str,
    "config": dict,
    "stages": dict,
    "prunings": list,
    "history": list,
    "provenance": dict,
}
MADE: dict[str, type] = {
    "commit": str,
    "python": str,
    "torch": str,
    "processor": str,
    "threads": int,
    "seconds": float,
    "date": str,
}
"""The provenance of a record. Its seconds are those of the process that ended the run, not of what was interrupted."""
KEYS: dict[str, type] = {"recipe": str, "method": str, "strength": float, "seed": int}
# Student's t, 0.975 quantile, by degrees of freedom.
T975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


def validate(record: Mapping[str, Any], name: str = "record") -> None:
    """Check a record's shape.

    Raises
    ------
    ValueError
        If something is missing, of another type, not a finite number or out of its range; the message says what and
        where.
    """
    for part, form in PARTS.items():
        _typed(record, part, form, name)
    for key, kind in KEYS.items():
        _typed(record["config"], key, kind, f"{name}: config")
    for key, kind in MADE.items():
        _typed(record["provenance"], key, kind, f"{name}: provenance")
    for i, epoch in enumerate(record["history"]):
        if not (isinstance(epoch, list) and len(epoch) == 4 and all(isinstance(v, (int, float)) for v in epoch)):
            raise ValueError(f"{name}: epoch {i} of the history should be four numbers, is {epoch!r}.")
    if "trained" not in record["stages"]:
        raise ValueError(f"{name}: there is no stage 'trained'; the record is incomplete.")
    _validate_stages(record["stages"], name)
    for i, pruning in enumerate(record["prunings"]):
        for key in ("criterion", "target"):
            _typed(pruning, key, str, f"{name}: pruning {i}")
        _validate_stages(_typed(pruning, "stages", dict, f"{name}: pruning {i}"), f"{name}: pruning {i}")


def _validate_stages(stages: Mapping[str, Any], name: str) -> None:
    for stage, values in stages.items():
        if stage not in STAGES:
            raise ValueError(f"{name}: there is no stage called '{stage}'; the stages are {', '.join(STAGES)}.")
        where = f"{name}: {stage}"
        for metric, kind in METRICS.items():
            value = _typed(values, metric, kind, where)
            if value < 0 or (metric.endswith("accuracy") and value > 1):
                raise ValueError(f"{where}: '{metric}' is {value}, which it cannot be.")
        for score in _scores(values):
            if not 0 <= (value := _typed(values, score, float, where)) <= 1:
                raise ValueError(f"{where}: '{score}' is {value}, which it cannot be.")
        widths = _typed(values, "units", dict, where)
        for layer in widths:
            if _typed(widths, layer, int, f"{where}: units") < 0:
                raise ValueError(f"{where}: '{layer}' cannot have {widths[layer]} units.")


def _scores(stage: Mapping[str, Any]) -> list[str]:
    """Return the names of the task's own scores that a stage has."""
    return [key for score in SCORES for part in ("val", "test") if (key := f"{part}_{score}") in stage]


def _typed(values: Mapping[str, Any], key: str, kind: type, name: str) -> Any:
    value = values.get(key) if isinstance(values, Mapping) else None
    right = isinstance(value, (int, float)) if kind is float else isinstance(value, kind)
    if not right or isinstance(value, bool):
        raise ValueError(f"{name}: '{key}' should be {kind.__name__}, is {value!r}.")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name}: '{key}' is {value}; only finite numbers are recorded.")
    return value


def identifier(config: Mapping[str, Any]) -> str:
    """Return the name a run's record has, without ending: ``prune-serene-exact-3e-04-s0``."""
    strength = "" if not config["strength"] else f"-{config['strength']:.0e}"
    target = f"-{config['target']}" if "target" in config else ""
    return f"{config['recipe']}-{config['method']}{target}{strength}-s{config['seed']}"


def write(record: Record, folder: Path) -> Path:
    """Check a record and write it below `folder`, whole or not at all; return its path."""
    name = identifier(record["config"])
    validate(record, name)
    path = folder / str(record["suite"]) / f"{name}.json"
    text = json.dumps(record, separators=(",", ":"), allow_nan=False)
    # A line a part: short enough to read, long enough to keep the file small.
    write_text(path, text.replace('},"', '},\n"') + "\n")
    return path


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def read_one(path: Path) -> Record:
    """Read one record.

    Raises
    ------
    ValueError
        If the file is cut short or its content has another shape.
    """
    try:
        record: Record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is cut short or no JSON ({error}); delete it and run its suite again.") from error
    validate(record, str(path))
    return record


def read(suite: str, folder: Path = CHECKOUT) -> list[Record]:
    """Read all records of a suite, in the order of their names; an empty list where there are none."""
    return [read_one(path) for path in sorted((folder / suite).glob("*.json"))]


def load(suite: str, *, folder: Path = CHECKOUT, shipped: Path = SHIPPED) -> list[Row]:
    """Return a suite's results as rows, one for each pruning of each run.

    Parameters
    ----------
    suite : str
        For example ``"mnist-lenet300"``.
    folder, shipped : Path
        The records of a checkout, used if there are any; else the summaries that ship with the package.

    Returns
    -------
    list of dict
        Keys: recipe, method, strength, seed, criterion, target (None where nothing was chosen); of the last stage units
        (list of int), parameters, nonzero, macs, macs_used_inputs, val_error, test_error in percent;
        ``<stage>_val_error``, ``<stage>_test_error`` for every stage (None where there is none); and where the task has
        scores of its own, each of the last stage (``test_auroc``) and after training (``trained_test_auroc``), 0 … 1;
        and where a suite logs the test set by epoch, ``best_test_error`` and ``trained_best_test_error``, chosen on it.
        Errors are those of the Dice coefficient or of the balanced accuracy where there is one, else of the accuracy.

    Raises
    ------
    FileNotFoundError
        If there is neither a record nor a summary; the message names the suites there are.
    """
    if found := read(suite, folder):
        return summarize(found)
    path = shipped / f"{suite}.json"
    if not path.is_file():
        suites = {p.stem for p in shipped.glob("*.json") if not p.name.startswith(MEASURED)}
        there = sorted(suites | {p.name for p in folder.glob("*") if p.is_dir()})
        raise FileNotFoundError(f"There are no records of '{suite}'; there are {', '.join(there) or 'none at all'}.")
    summary = json.loads(path.read_text(encoding="utf-8"))
    return [dict(zip(summary["columns"], row, strict=True)) for row in summary["rows"]]


def measured(name: str, *, shipped: Path = SHIPPED) -> dict[str, Any]:
    """Return what a benchmark measured, as ``python -m benchmarks.<name>`` wrote it.

    Parameters
    ----------
    name : str
        For example ``"zoo"``, ``"peers"`` or ``"latency"``.
    shipped : Path
        The folder that ships with the package.

    Raises
    ------
    FileNotFoundError
        If there is no such measurement; the message names those there are.
    """
    path = shipped / f"{MEASURED}{name}.json"
    if not path.is_file():
        there = sorted(p.stem.removeprefix(MEASURED) for p in shipped.glob(f"{MEASURED}*.json"))
        raise FileNotFoundError(f"Nothing was measured as '{name}'; there are {', '.join(there) or 'none at all'}.")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def summarize(records: Iterable[Record]) -> list[Row]:
    """Return the rows of `load` from whole records."""
    return [row for record in records for row in _rows(record)]


def summary_text(rows: Iterable[Row]) -> str:
    """Return rows as the JSON text of a summary: column names once, one line a row."""
    rows = list(rows)
    columns = list(rows[0]) if rows else []
    lines = ",\n".join(json.dumps([row[c] for c in columns], separators=(",", ":"), allow_nan=False) for row in rows)
    return f'{{"columns":{json.dumps(columns)},\n"rows":[\n{lines}\n]}}\n'


def _rows(record: Record) -> list[Row]:
    none = {"criterion": None, "target": record["config"].get("target"), "stages": {}}
    return [_row(record["config"], record["stages"], pruning) for pruning in record["prunings"] or [none]]


def _row(config: Mapping[str, Any], run: Mapping[str, Any], pruning: Mapping[str, Any]) -> Row:
    stages = {**run, **pruning["stages"]}
    last = stages[[stage for stage in STAGES if stage in stages][-1]]
    row: Row = {key: config[key] for key in KEYS}
    row |= {"criterion": pruning["criterion"], "target": pruning["target"], "units": list(last["units"].values())}
    row |= {key: last[key] for key in ("parameters", "nonzero", "macs", "macs_used_inputs")}
    row |= {f"{part}_error": _error(last, part) for part in ("val", "test")}
    for stage in STAGES:
        row |= {f"{stage}_{part}_error": _error(stages.get(stage), part) for part in ("val", "test")}
    if "test_log" in last:
        best = {"trained_": stages["trained"], "": last}
        row |= {f"{name}best_test_error": round(100 * (1 - max(of["test_log"])), 4) for name, of in best.items()}
    for score in _scores(last):
        row |= {f"trained_{score}": stages["trained"][score], score: last[score]}
    return row


def _error(stage: Mapping[str, Any] | None, part: str) -> float | None:
    if stage is None:
        return None
    score: float = next(stage[key] for name in JUDGED_BY if (key := f"{part}_{name}") in stage)
    return round(100 * (1 - score), 4)


def architecture(row: Mapping[str, Any]) -> str:
    """Return the name that a row's network has by its units: ``"300-100"``."""
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
    """
    cases: dict[tuple[Any, ...], dict[float, list[Row]]] = {}
    kept: list[Row] = []
    for row in rows:
        if row[by] is None:
            continue
        if row["target"] is None:
            kept.append(row)
            continue
        case = tuple(row[key] for key in ("recipe", "method", "criterion", "target"))
        cases.setdefault(case, {}).setdefault(row["strength"], []).append(row)
    for strengths in cases.values():
        most = max(map(len, strengths.values()))
        finished = [found for found in strengths.values() if len(found) == most]
        kept += min(finished, key=lambda found: statistics.fmean(row[by] for row in found))
    return kept


def interval(values: Iterable[float]) -> tuple[float, float]:
    """Return mean and half width of the 95 % interval (Student's t) of a few numbers, such as differences over seeds.

    Parameters
    ----------
    values : iterable of float
        At least one; with one the half width is infinite.
    """
    values = list(values)
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, math.inf
    t = T975[len(values) - 2] if len(values) - 2 < len(T975) else 1.96 + 2.5 / (len(values) - 1)
    return mean, t * statistics.stdev(values) / math.sqrt(len(values))


def paired(ours: Iterable[Row], theirs: Iterable[Row], column: str) -> tuple[float, float, int]:
    """Return mean, half width of the 95 % interval and number of the differences ours − theirs, paired by seed.

    Parameters
    ----------
    ours, theirs : iterable of Row
        One row a seed each.
    column : str
        What to compare, for example ``"finetuned_test_error"``.

    Raises
    ------
    ValueError
        If a seed comes twice, or no seed is in both.
    """
    left, right = _by_seed(ours, column), _by_seed(theirs, column)
    seeds = sorted(left.keys() & right.keys())
    if not seeds:
        raise ValueError(f"paired got rows without a common seed: {sorted(left)} and {sorted(right)}.")
    mean, half = interval(left[seed] - right[seed] for seed in seeds)
    return mean, half, len(seeds)


def _by_seed(rows: Iterable[Row], column: str) -> dict[int, float]:
    values: dict[int, float] = {}
    for row in rows:
        if row["seed"] in values:
            raise ValueError(f"paired got seed {row['seed']} twice; give one row a seed.")
        values[row["seed"]] = row[column]
    return values
