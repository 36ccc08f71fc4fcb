"""Where records and summaries lie, and how they are written and read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pruning_lib._model import atomic_draft, first_line
from pruning_lib.companion._arguments import checked, shown
from pruning_lib.companion.records._rows import Row, judged_by, summarize
from pruning_lib.companion.records._schema import NAME, Record, check_row, file_name, identifier, scores, validate

CHECKOUT = Path(__file__).parents[3] / "experiments" / "records"
SHIPPED = Path(__file__).parents[1] / "_records"
MEASURED = "measured-"
"""Begins the names of shipped files that a benchmark wrote, not a suite of runs."""


def write(record: Record, folder: Path) -> Path:
    """Check a record and write it below `folder`, whole or not at all; return its path.

    Raises
    ------
    ValueError
        If the record is out of shape, or its suite or its name would lead out of the folder.
    """
    checked("write", folder=folder)
    validate(record)
    name = identifier(record["config"])
    path = Path(folder) / file_name(record["suite"]) / f"{file_name(name)}.json"
    text = json.dumps(record, separators=(",", ":"), allow_nan=False)
    # A line a part: short enough to read, long enough to keep the file small.
    write_text(path, text.replace('},"', '},\n"') + "\n")
    return path


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_draft(path) as draft:
        draft.write_text(text, encoding="utf-8")


def read_one(path: Path) -> Record:
    """Read one record.

    Raises
    ------
    OSError
        If the file cannot be read now; it may be whole.
    ValueError
        If the file is cut short or its content has another shape.
    """
    try:
        record: Record = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is cut short or not JSON ({error}); delete it and run its suite again.") from error
    validate(record, str(path))
    return record


def read(suite: str, folder: Path = CHECKOUT) -> list[Record]:
    """Read all records of a suite, in the order of their names; an empty list where there are none."""
    if not NAME.fullmatch(suite):
        return []
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
        An error is what the score that the data set is judged by lacks to 100 %: the accuracy, or another.

    Raises
    ------
    FileNotFoundError
        If there is neither a record nor a summary; the message names the suites there are.

    Examples
    --------
    >>> rows = load("nuclei-unet")
    >>> sorted({row["target"] for row in rows})
    ['fraction-0.6', 'fraction-0.8']
    """
    checked("load", suite=suite)
    if found := read(suite, folder):
        return summarize(found)
    summary = _summary(suite, folder, shipped)
    rows = [dict(zip(summary["columns"], row, strict=True)) for row in summary["rows"]]
    for row in rows:
        check_row(row, f"{shipped / suite}.json")
    return rows


def about(suite: str, *, folder: Path = CHECKOUT, shipped: Path = SHIPPED) -> dict[str, Any]:
    """Return what a suite asks, what it is judged by, and what people call its methods.

    Parameters
    ----------
    suite : str
        For example ``"mnist-lenet300"``.
    folder, shipped : Path
        As `load` takes them. The answer is read from the summary; of a suite that has records and no summary yet it
        says only what the records do.

    Returns
    -------
    dict
        ``title``: network and data; ``question``: a sentence; ``margin``: points of error that count as no loss, or
        None; ``judged_by``: the score whose lack to 100 % is the error; ``scores``: {name: what people call it} of the
        task's own; ``labels``: {name: what people call it} of methods, controls, criteria and targets; ``claims``: a
        list of dicts, what papers say that the runs test.

    Raises
    ------
    FileNotFoundError
        If there is neither a record nor a summary; the message names the suites there are.

    Examples
    --------
    >>> head = about("nuclei-unet")
    >>> head["title"], head["margin"], head["judged_by"]
    ('Small U-Net on nuclei', 1.0, 'dice')
    >>> head["labels"]["fraction-0.6"]
    '60 % of the units removed'
    """
    checked("about", suite=suite)
    if NAME.fullmatch(suite) and not (shipped / f"{suite}.json").is_file() and (records := read(suite, folder)):
        own = dict.fromkeys(key.partition("_")[2] for key in scores(records[0]["stages"]["trained"]))
        judge = judged_by(records[0]["config"])
        said: dict[str, Any] = {"title": suite, "question": "", "margin": None, "judged_by": judge}
        return said | {"scores": {name: name for name in own}, "labels": {}, "claims": []}
    head = _summary(suite, folder, shipped)
    del head["columns"], head["rows"]
    return head


def _summary(suite: str, folder: Path, shipped: Path) -> dict[str, Any]:
    path = shipped / f"{suite}.json"
    if not NAME.fullmatch(suite) or not path.is_file():
        there = sorted({*shipped_suites(shipped)} | {p.name for p in folder.glob("*") if p.is_dir()})
        raise FileNotFoundError(f"There are no records of {shown(suite)}; there are {_listed(there)}.")
    summary = _parsed(path)
    if not _is_table(summary.get("columns"), summary.get("rows")):
        raise ValueError(f"{path} is damaged: its rows are no table; write it again or install the package anew.")
    return summary


def _is_table(columns: Any, rows: Any) -> bool:
    """Whether these are names of columns, and rows with a value for each."""
    named = isinstance(columns, list) and all(isinstance(name, str) for name in columns)
    return named and isinstance(rows, list) and all(isinstance(row, list) and len(row) == len(columns) for row in rows)


def _listed(names: list[str]) -> str:
    return ", ".join(names) or "none at all"


def _parsed(path: Path) -> dict[str, Any]:
    """Return what a file that ships with the package holds."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        said = first_line(error)
        raise ValueError(f"{path} is damaged ({said}); write it again or install the package anew.") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} is damaged: it is a {type(found).__name__}; install the package anew.")
    return found


def shipped_suites(shipped: Path = SHIPPED) -> list[str]:
    """Return the names of the suites whose summaries ship with the package."""
    return sorted(path.stem for path in shipped.glob("*.json") if not path.name.startswith(MEASURED))


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

    Examples
    --------
    >>> measured("latency-nuclei-unet")["provenance"]["batch"]
    32
    """
    checked("measured", name=name)
    path = shipped / f"{MEASURED}{name}.json"
    if not NAME.fullmatch(name) or not path.is_file():
        there = sorted(p.stem.removeprefix(MEASURED) for p in shipped.glob(f"{MEASURED}*.json"))
        raise FileNotFoundError(
            f"Nothing was measured as {shown(name)}; there are {', '.join(there) or 'none at all'}."
        )
    return _parsed(path)


def summary_text(rows: list[Row], head: dict[str, Any]) -> str:
    """Return the JSON text of a summary: what `about` returns, then column names once and one line a row."""
    columns = list(rows[0]) if rows else []
    said = "".join(f"{json.dumps(key)}:{json.dumps(value, ensure_ascii=False)},\n" for key, value in head.items())
    lines = ",\n".join(json.dumps([row[c] for c in columns], separators=(",", ":"), allow_nan=False) for row in rows)
    return f'{{{said}"columns":{json.dumps(columns)},\n"rows":[\n{lines}\n]}}\n'
