"""Whether the records of a suite are whole, agree with its configurations, and removed units without a change."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from experiments import criteria
from experiments.methods import Config
from experiments.suites import Suite
from pruning_lib.companion.records import Record, read_one


def faults(suite: Suite, records: Path) -> list[str]:
    """Return what is wrong with records: damaged, incomplete, of other settings or none; a lossy removal."""
    configs = suite.by_name()
    sentences = []
    for path in sorted((records / suite.name).glob("*.json")):
        try:
            record = read_one(path)
        except ValueError as error:
            sentences.append(str(error))
            continue
        if path.stem not in configs:
            sentences.append(f"{path} belongs to no run of {suite.name}; delete it.")
            continue
        ours, theirs = configs[path.stem], record["config"]
        if differs := sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)):
            sentences.append(f"{path} was made with another {', '.join(differs)}; delete it and run the suite again.")
        sentences += [f"{path}: {fault}" for fault in [*missing(record, ours), *changed(record)]]
    return sentences


def missing(record: Record, config: Config) -> list[str]:
    """Return which parts of a record are not there that a run of this configuration makes."""
    sentences = [] if record["suite"] == config["suite"] else [f"it says that it is of {record['suite']}."]
    if config["recipe"] not in ("prune", "natural"):
        return sentences
    criteria, targets = config.get("criteria", ["own"]), config["targets" if config["recipe"] == "prune" else "cuts"]
    asked = [(criterion, target) for criterion in criteria for target in targets]
    there = [(pruning["criterion"], pruning["target"]) for pruning in record["prunings"]]
    if asked != there:
        sentences.append(f"it should have the prunings {asked}, and has {there}.")
    if len(record["history"]) != config["epochs"]:
        sentences.append(f"it should have {config['epochs']} epochs of history, and has {len(record['history'])}.")
    stages = {"zeroed", "shrunk"} | ({"dropped"} if config["recipe"] == "prune" else set())
    stages |= {"finetuned"} if config["finetune_epochs"] else set()
    return sentences + [
        f"{pruning['criterion']} {pruning['target']} lacks {', '.join(lacking)}."
        for pruning in record["prunings"]
        if (lacking := sorted(stages - pruning["stages"].keys()))
    ]


def changed(record: Record) -> list[str]:
    """Return where removing units changed an accuracy: it must not, but for an answer that was a tie in float32.

    Outputs are compared in float64 when units are removed. Evaluations are in float32, where one answer in thousands
    may hang on the last bit of two equal logits; the loss tells that from a change.
    """
    pairs = [("trained", record["stages"].get("trained"), record["stages"].get("shrunk"))]
    shifts = record["config"].get("shifts", "keep")
    for p in record["prunings"]:
        cut = {"keep": "zeroed", "drop": "dropped", "mean": "averaged"}[criteria.shift(p["criterion"], shifts)]
        pairs.append((p["target"], p["stages"].get(cut), p["stages"].get("shrunk")))
    return [
        f"removal changed the {key} ({where}) from {before[key]} to {after[key]}."
        for where, before, after in pairs
        if before and after
        for part in ("val", "test")
        if before[key := f"{part}_accuracy"] != after[key] and not _tie(before, after, part)
    ]


def _tie(before: dict[str, Any], after: dict[str, Any], part: str) -> bool:
    """Whether the difference is one answer of thousands at the same loss."""
    one = abs(before[f"{part}_accuracy"] - after[f"{part}_accuracy"]) < 2.5e-4
    return one and math.isclose(before[f"{part}_loss"], after[f"{part}_loss"], rel_tol=5e-6)
