"""Units that die by themselves: train, count what died, remove it. No ranking and no budget.

So 2012.03827 runs: weights are sampled to zero, a decay clears what is left, and a node is gone when one of its sides
is all zero. A cut ``epsilon-0.01`` zeroes first the units all of whose incoming weights lie below 0.01, as 2305.18448
may; ``natural`` zeroes nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from experiments.bench import Bench, rounded
from experiments.methods import prepare, regularizer_of
from experiments.targets import EPSILON, NATURAL
from pruning_lib.channels import find_units, shrink
from pruning_lib.companion.records import Record
from pruning_lib.diagnostics import Dynamics
from pruning_lib.regularizers import SeReNe
from pruning_lib.selection import select, zero
from pruning_lib.training import Callback, Run, constant, cosine
from pruning_lib.units import BatchNorm, Units, rows, weighted

QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)


class Watch(Callback):
    """What a penalty does by epoch: zero weights, dead units, and where the scales of the BatchNorms lie.

    Parameters
    ----------
    units : Units
        Whose deaths are counted: units with a side that is all zero.

    Attributes
    ----------
    log : dict of str to list
        ``zero_weights``, a share; ``dead``, a list of counts, one a group; and where there are BatchNorms ``scales``,
        minimum, quartiles and maximum of all |γ|; an entry an epoch.
    """

    def __init__(self, units: Units) -> None:
        self._units = units
        self.log: dict[str, list[Any]] = {}

    @torch.no_grad()
    def after_epoch(self, run: Run) -> None:
        """Count."""
        weights = [layer.weight for layer in weighted(run.model).values()]
        zeros = sum(int((weight == 0).sum()) for weight in weights) / sum(weight.numel() for weight in weights)
        dynamics = Dynamics(run.model, self._units)
        dynamics.record(run.epoch)
        self._add("zero_weights", rounded(zeros))
        self._add("dead", [int((dynamics[name].state[-1] > 0).sum()) for name in self._units])
        scales = [m.weight.abs().flatten() for m in run.model.modules() if isinstance(m, BatchNorm) and m.affine]
        if scales:
            quantiles = torch.cat(scales).double().cpu().quantile(torch.tensor(QUANTILES, dtype=torch.float64))
            self._add("scales", [rounded(value) for value in quantiles.tolist()])

    def _add(self, name: str, value: Any) -> None:
        self.log.setdefault(name, []).append(value)

    def state_dict(self) -> dict[str, Any]:
        """Return what was logged so far."""
        return {"log": {name: list(values) for name, values in self.log.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore it."""
        self.log = {name: list(values) for name, values in state["log"].items()}


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
