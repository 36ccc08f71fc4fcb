"""SeReNe's own procedure: train to a plateau, threshold, hold, go on; then remove what is dead."""

from __future__ import annotations

import math

from experiments.bench import Bench, rounded
from experiments.methods import regularizer_of
from experiments.recipes._watch import Watch
from pruning_lib.channels import find_units, shrink
from pruning_lib.companion.records import Record
from pruning_lib.training import Callback, ThresholdOnPlateau


def run_loop(bench: Bench) -> Record:
    """SeReNe's own procedure: train to a plateau, threshold, hold, go on; then remove what is dead."""
    config = bench.config
    model = bench.dense()
    units = find_units(model, bench.example)
    regularizer = regularizer_of(model, config, units)
    callback, watch = ThresholdOnPlateau(config["patience"], config["tolerance"]), Watch(units)
    callbacks: list[Callback] = [callback, watch]
    history = bench.train(
        model, config["epochs"], config["lr"], regularizer, callbacks=callbacks, checkpoint=bench.work / "trained.pt"
    )
    stages = {"trained": bench.stage(model), "shrunk": bench.stage(shrink(model, bench.example).model)}
    # A threshold is infinite where every weight could be spared; JSON has no such number.
    events = [{key: rounded(value) if math.isfinite(value) else None for key, value in e.items()} for e in callback.log]
    return bench.record(stages, [], history, events=events, log=watch.log)
