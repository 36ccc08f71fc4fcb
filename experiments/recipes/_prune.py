"""Train with a penalty; rank the units; then, for each budget: zero, remove, fine-tune without penalty."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from experiments import criteria
from experiments.bench import EXAMPLES, Bench
from experiments.methods import INPUTS, prepare, regularizer_of
from experiments.targets import Target, kinds, prunable
from pruning_lib._measure import recalibrate
from pruning_lib.channels import find_units, shrink
from pruning_lib.companion.data import TensorPair
from pruning_lib.companion.records import Record
from pruning_lib.regularizers import L2, SeReNe
from pruning_lib.selection import zero
from pruning_lib.training import constant, cosine
from pruning_lib.units import BatchNorm, Units, weighted


def run_prune(bench: Bench) -> Record:
    """Train with a penalty; then, for each criterion and target: zero, remove, fine-tune without penalty."""
    config = bench.config
    model = bench.dense()
    prepare(model, config)
    units = find_units(model, bench.example)
    regularizer = regularizer_of(model, config, units)
    history = bench.train(
        model,
        config["epochs"],
        config["lr"],
        regularizer,
        schedule=bench.schedule,
        # All other pulls are multiplied by the learning rate; SeReNe's, which is not, would outlast it.
        strength_schedule=cosine if isinstance(regularizer, SeReNe) else constant,
        checkpoint=bench.work / "trained.pt",
    )
    stages = {"trained": bench.stage(model)}
    own = dict((regularizer or L2(model, 0.0)).importance())
    own.pop(INPUTS, None)
    prunings: list[dict[str, Any]] = []
    examples = TensorPair(*(part[:EXAMPLES] for part in bench.split.train))
    for criterion in config["criteria"]:
        own_basis = criterion.removesuffix(criteria.RETRAINED) == criteria.OWN
        ranks = own if own_basis else criteria.ranks(criterion, model, units, examples, config["seed"])
        prunings += [_prune(bench, model, units, ranks, criterion, target) for target in config["targets"]]
    return bench.record(stages, prunings, history)


def _prune(
    bench: Bench, model: nn.Module, units: Units, ranks: dict[str, Tensor], criterion: str, target: str
) -> dict[str, Any]:
    config = bench.config
    names = prunable(units, config)
    # Scales are listed under their BatchNorm, weights under their layer.
    left = {member.layer for name in units.keys() - names for member in units[name].writers} | set(units.fixed)
    ranks = {name: rank for name, rank in ranks.items() if name not in left}
    scope = criteria.scope(criterion, config.get("scope", "global"))
    how = {"scope": scope, "floor": config.get("floor", 1), "kinds": kinds(config)}
    chosen = Target.of(target).choose(ranks, units, names, **how)
    dropped, zeroed = copy.deepcopy(model), copy.deepcopy(model)
    zero(dropped, chosen, units, shift="drop")
    zero(zeroed, chosen, units, shift="keep")
    small = shrink(zeroed if config.get("shifts", "keep") == "keep" else dropped, bench.example).model
    stages = {"zeroed": bench.stage(zeroed), "dropped": bench.stage(dropped), "shrunk": bench.stage(small)}
    if any(isinstance(module, BatchNorm) for module in model.modules()):
        recalibrate(dropped, bench.split.train.inputs[:EXAMPLES])
        stages["recalibrated"] = bench.stage(dropped)
    if config.get("averaged") and config["method"] != "rni":  # bounded scales come without a shift
        averaged = copy.deepcopy(model)
        zero(averaged, chosen, units, shift="mean", inputs=bench.split.train.inputs[:EXAMPLES])
        stages["averaged"] = bench.stage(averaged)
    if config["finetune_epochs"]:
        if "inputs" in config:
            drop_inputs(small, config["inputs"])
        bench.finetune(small, f"{criterion}-{target}", anew=criterion.endswith(criteria.RETRAINED))
        stages["finetuned"] = bench.stage(small)
    return {"criterion": criterion, "target": target, "stages": stages}


def drop_inputs(model: nn.Module, count: int) -> None:
    """Zero the weights of a first, linear layer but for so many of its inputs: those with the longest columns."""
    weight = next(iter(weighted(model).values())).weight
    weak = weight.detach().norm(dim=0).argsort()[: weight.shape[1] - count]
    with torch.no_grad():
        weight[:, weak] = 0
