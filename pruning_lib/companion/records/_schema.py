"""The shape of a record, and the name that it has."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from pruning_lib.companion._arguments import shown

Record = dict[str, Any]

STAGES = ("trained", "zeroed", "dropped", "averaged", "recalibrated", "shrunk", "finetuned")
"""In order. trained: after the run's own training; zeroed: chosen units at zero, their shift kept; dropped: their shift
at zero too; averaged: their shift such that they emit their mean over training examples; recalibrated: dropped, then
the statistics of BatchNorm computed anew; shrunk: zeroed (or dropped, where config["shifts"] says so) and removed; by
FLAP's criterion both start from averaged;
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
NOT_SCORES = {"loss", "accuracy", "log"}
"""What a stage holds of validation or test data beside the task's own scores."""
PARTS: dict[str, type] = {
    "suite": str,
    "config": dict,
    "stages": dict,
    "prunings": list,
    "history": list,
    "provenance": dict,
}
PROVENANCE: dict[str, type] = {
    "commit": str,
    "python": str,
    "torch": str,
    "processor": str,
    "threads": int,
    "seconds": float,
    "date": str,
}
"""Its seconds are those of the process that ended the run, not of what was interrupted."""
KEYS: dict[str, type] = {"recipe": str, "method": str, "strength": float, "seed": int}
NAME = re.compile(r"\w[\w.+-]{0,150}", re.ASCII)


def validate(record: Mapping[str, Any], name: str = "record") -> None:
    """Check a record's shape.

    Parameters
    ----------
    record : dict
        As the module's docstring describes it.
    name : str
        What an error message calls it.

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
    for key, kind in PROVENANCE.items():
        _typed(record["provenance"], key, kind, f"{name}: provenance")
    for i, epoch in enumerate(record["history"]):
        if not (isinstance(epoch, list) and len(epoch) == 4 and all(map(_number, epoch))):
            raise ValueError(f"{name}: epoch {i} of the history should be four numbers, is {shown(epoch)}.")
    if "trained" not in record["stages"]:
        raise ValueError(f"{name}: there is no stage 'trained'; the record is incomplete.")
    _validate_stages(record["stages"], name)
    for i, pruning in enumerate(record["prunings"]):
        for key in ("criterion", "target"):
            _typed(pruning, key, str, f"{name}: pruning {i}")
        _validate_stages(_typed(pruning, "stages", dict, f"{name}: pruning {i}"), f"{name}: pruning {i}")
    _finite(record, name)


def _validate_stages(stages: Mapping[str, Any], name: str) -> None:
    for stage, values in stages.items():
        if stage not in STAGES:
            raise ValueError(f"{name}: there is no stage called {shown(stage)}; the stages are {', '.join(STAGES)}.")
        where = f"{name}: {stage}"
        for metric, kind in METRICS.items():
            value = _typed(values, metric, kind, where)
            if value < 0 or (metric.endswith("accuracy") and value > 1):
                raise ValueError(f"{where}: '{metric}' is {shown(value)}, which it cannot be.")
        for score in scores(values):
            if not 0 <= (value := _typed(values, score, float, where)) <= 1:
                raise ValueError(f"{where}: '{score}' is {shown(value)}, which it cannot be.")
        widths = _typed(values, "units", dict, where)
        for layer in widths:
            if _typed(widths, layer, int, f"{where}: units") < 0:
                raise ValueError(f"{where}: '{layer}' cannot have {shown(widths[layer])} units.")


def check_row(row: Mapping[str, Any], name: str) -> None:
    """Raise ValueError unless a row of a summary has the columns of `load`, each of its type."""
    if not all(isinstance(key, str) for key in row):
        raise ValueError(f"{name}: its columns should be texts.")
    for key, kind in KEYS.items():
        _typed(row, key, kind, name)
    for key in ("criterion", "target"):
        if row.get(key) is not None:
            _typed(row, key, str, name)
    units = _typed(row, "units", list, name)
    if not all(type(count) is int for count in units):
        raise ValueError(f"{name}: 'units' should be whole numbers, is {shown(units)}.")
    for key, value in row.items():
        if key.endswith("_error") and value is not None:
            _typed(row, key, float, name)


def scores(stage: Mapping[str, Any]) -> list[str]:
    """Return the keys of a stage that hold the task's own scores: ``["val_dice", "test_dice", …]``.

    Examples
    --------
    >>> scores({"val_loss": 0.1, "val_dice": 0.9, "test_dice": 0.8})
    ['val_dice', 'test_dice']
    """
    names = dict.fromkeys(key.partition("_")[2] for key in stage if key.startswith(("val_", "test_")))
    own = [name for name in names if name not in NOT_SCORES]
    return [key for name in own for part in ("val", "test") if (key := f"{part}_{name}") in stage]


def _typed(values: Mapping[str, Any], key: str, kind: type, name: str) -> Any:
    value = values.get(key) if isinstance(values, Mapping) else None
    right = isinstance(value, (int, float)) if kind is float else isinstance(value, kind)
    if not right or isinstance(value, bool):
        raise ValueError(f"{name}: '{key}' should be {kind.__name__}, is {shown(value)}.")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name}: '{key}' is {value}; only finite numbers are recorded.")
    return value


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _finite(values: Any, name: str) -> None:
    """Refuse a number that JSON does not have, wherever it stands: in a log, an event, a setting."""
    if isinstance(values, float) and not math.isfinite(values):
        raise ValueError(f"{name} is {values}; only finite numbers are recorded.")
    parts = values.items() if isinstance(values, Mapping) else enumerate(values) if isinstance(values, list) else ()
    for key, value in parts:
        _finite(value, f"{name}: {key}")


def identifier(config: Mapping[str, Any]) -> str:
    """Return the name a run's record has, without ending.

    Examples
    --------
    >>> identifier({"recipe": "prune", "method": "serene-exact", "strength": 3e-4, "seed": 0})
    'prune-serene-exact-3e-04-s0'
    >>> identifier({"recipe": "control", "method": "uniform", "target": "macs-0.25", "strength": 0.0, "seed": 1})
    'control-uniform-macs-0.25-s1'
    """
    for key, kind in KEYS.items():
        _typed(config, key, kind, "The configuration")
    strength = "" if not config["strength"] else f"-{config['strength']:.0e}"
    target = f"-{config['target']}" if "target" in config else ""
    return f"{config['recipe']}-{config['method']}{target}{strength}-s{config['seed']}"


def file_name(text: str) -> str:
    """Return a suite's or a run's name if a file may be called so; `ValueError` if it would lead elsewhere."""
    if not NAME.fullmatch(text):
        raise ValueError(f"A record cannot be filed under '{text}'; use letters, digits, '-', '_', '.' and '+'.")
    return text
