"""Units that die by themselves: train, count what died, remove it. No ranking and no budget.

So 2012.03827 runs: weights are sampled to zero, a decay clears what is left, and a node is gone when one of its sides
is all zero. A cut ``epsilon-0.01`` zeroes first the units all of whose incoming weights lie below 0.01, as 2305.18448
may; ``natural`` zeroes nothing.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from experiments.bench import Bench
from experiments.methods import prepare, regularizer_of
from experiments.recipes._watch import Watch
from experiments.targets import EPSILON, NATURAL
from pruning_lib.channels import find_units, shrink
from pruning_lib.companion.records import Record
from pruning_lib.regularizers import SeReNe
from pruning_lib.selection import select, zero
from pruning_lib.training import constant, cosine
from pruning_lib.units import Units, rows, weighted


def run_natural(bench: Bench) -> Record:
    """Train with a penalty; then, for each cut: remove what is dead, and train on where the suite does."""
    config = bench.config
    model = bench.dense()
    prepare(model, config)
    units = find_units(model, bench.example)
    regularizer = regularizer_of(model, config, units)
    watch = Watch(units)
    history = bench.train(
        model,
        config["epochs"],
        config["lr"],
        regularizer,
        schedule=bench.schedule,
        # SeReNe's pull is the one that the learning rate does not multiply.
        strength_schedule=cosine if isinstance(regularizer, SeReNe) else constant,
        callbacks=[watch],
        checkpoint=bench.work / "trained.pt",
    )
    stages = {"trained": bench.stage(model)}
    prunings = [_cut(bench, model, units, cut) for cut in config["cuts"]]
    return bench.record(stages, prunings, history, log=watch.log)


def _cut(bench: Bench, model: nn.Module, units: Units, cut: str) -> dict[str, Any]:
    zeroed = copy.deepcopy(model)
    if cut != NATURAL:
        chosen = select(largest_weights(model, units), units, threshold=float(cut.removeprefix(EPSILON)))
        zero(zeroed, chosen, units)
    small = shrink(zeroed, bench.example).model
    stages = {"zeroed": bench.stage(zeroed), "shrunk": bench.stage(small)}
    if bench.config["finetune_epochs"]:
        bench.finetune(small, cut)
        stages["finetuned"] = bench.stage(small)
    return {"criterion": "own", "target": cut, "stages": stages}


@torch.no_grad()
def largest_weights(model: nn.Module, units: Units) -> dict[str, Tensor]:
    """Return {layer: the largest |w| that each of its units reads}, shape (units,), of the layers that write a unit."""
    writers = {member.layer for group in units.values() for member in group.writers}
    layers = weighted(model)
    return {name: rows(layers[name]).abs().flatten(1).amax(1) for name in layers if name in writers}
