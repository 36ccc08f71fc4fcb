"""Controls: a small network trained from its first step, of uniform width or of the widths that another run found.

Or a dense network of whose units random ones go, so many of each group as in that run.
"""

from __future__ import annotations

from typing import Any

from experiments.bench import Bench
from experiments.targets import Target, fewer, prunable
from pruning_lib.channels import find_units, shrink
from pruning_lib.companion.records import Record
from pruning_lib.selection import cost, importance, zero
from pruning_lib.units import Units


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
    if config["method"].startswith("random"):
        return _random(bench, units, widths)
    if config["method"].startswith("scratch-b"):
        saved = sum(units.macs.values()) / cost(fewer(units, widths), units)
        epochs = round(epochs * min(saved, config["most"]))
    model = bench.narrow(widths)
    history = bench.train(model, epochs, config["lr"], schedule=bench.schedule, checkpoint=bench.work / "trained.pt")
    return bench.record({"trained": bench.stage(model)}, [], history)


def _random(bench: Bench, units: Units, widths: dict[str, int]) -> Record:
    """Train the dense network, give up random units, fine-tune: in all as many epochs as other controls have."""
    config = bench.config
    model = bench.dense()
    epochs = config["epochs"] - config["finetune_epochs"]
    history = bench.train(model, epochs, config["lr"], schedule=bench.schedule, checkpoint=bench.work / "trained.pt")
    trained = {"trained": bench.stage(model)}
    chosen = fewer(units, {})
    for name, score in importance.random(units, config["seed"]).items():
        chosen[name][score.argsort()[widths.get(name, len(score)) :]] = True
    zero(model, chosen, units)
    small = shrink(model, bench.example).model
    stages = {"zeroed": bench.stage(model), "shrunk": bench.stage(small)}
    bench.finetune(small, "finetuned")
    stages["finetuned"] = bench.stage(small)
    return bench.record(trained, [{"criterion": "random", "target": config["target"], "stages": stages}], history)


def found_widths(source: Record, target: str) -> dict[str, int]:
    """Return the widths that a run's own criterion found at a target."""
    widths: dict[str, int] = _found(source, target)["units"]
    return widths


def _found(source: Record, target: str) -> dict[str, Any]:
    """Return what was measured of the small network of a run's own criterion at a target."""
    pruned = [p for p in source["prunings"] if p["criterion"] == "own" and p["target"] == target]
    of = pruned[0] if pruned else source  # the loop has no budget to cut to
    found: dict[str, Any] = of["stages"]["shrunk"]
    return found
