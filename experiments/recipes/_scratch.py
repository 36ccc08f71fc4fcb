"""Controls: a small network trained from its first step, of uniform width or of the widths that another run found."""

from __future__ import annotations

from typing import Any

from experiments.bench import Bench
from experiments.targets import Target, fewer, prunable
from pruning_lib.channels import find_units
from pruning_lib.companion.records import Record
from pruning_lib.selection import cost


def run_scratch(bench: Bench, source: Record | None) -> Record:
    """Train a small network from its first step: of uniform width, or of the widths that `source` found.

    Of uniform width with a source, it has at most the multiply-adds that the source ended with.
    """
    config = bench.config
    units = find_units(bench.dense(), bench.example)
    if source is None:
        widths = Target.of(config["target"]).uniform(units, prunable(units, config))
    elif config["method"].startswith("uniform"):
        share = _found(source, config["target"])["macs"] / sum(units.macs.values())
        widths = Target("macs", share).uniform(units, prunable(units, config))
    else:
        widths = found_widths(source, config["target"])
    epochs = config["epochs"]
    if config["method"].startswith("scratch-b"):
        saved = sum(units.macs.values()) / cost(fewer(units, widths), units)
        epochs = round(epochs * min(saved, config["most"]))
    model = bench.narrow(widths)
    history = bench.train(model, epochs, config["lr"], schedule=bench.schedule, checkpoint=bench.work / "trained.pt")
    return bench.record({"trained": bench.stage(model)}, [], history)


def found_widths(source: Record, target: str) -> dict[str, int]:
    """Return the widths that a run's own criterion found at a target."""
    widths: dict[str, int] = _found(source, target)["units"]
    return widths


def _found(source: Record, target: str) -> dict[str, Any]:
    """Return what was measured of the small network of a run's own criterion at a target."""
    pruning = next(p for p in source["prunings"] if p["criterion"] == "own" and p["target"] == target)
    found: dict[str, Any] = pruning["stages"]["shrunk"]
    return found
