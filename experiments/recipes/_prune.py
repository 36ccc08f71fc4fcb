"""Train with a penalty; rank the units; then, for each budget: zero, remove, fine-tune without penalty."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from experiments import criteria
from experiments.bench import EXAMPLES, Bench
from experiments.criteria import Shift
from experiments.methods import INPUTS, Config, prepare, regularizer_of
from experiments.recipes._watch import Watch
from experiments.targets import Target, kinds, prunable
from pruning_lib._measure import recalibrate
from pruning_lib.channels import find_units, shrink
from pruning_lib.companion.data import TensorPair
from pruning_lib.companion.records import Record
from pruning_lib.regularizers import L2, SeReNe
from pruning_lib.selection import zero
from pruning_lib.training import constant, cosine
from pruning_lib.units import BatchNorm, Chosen, Units, weighted


def run_prune(bench: Bench) -> Record:
    """Train with a penalty; then, for each criterion and target: zero, remove, fine-tune without penalty."""
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
        callbacks=[watch],
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
        own_basis = criteria.parts(criterion)[0] == criteria.OWN
        ranks = own if own_basis else criteria.ranks(criterion, model, units, examples, config["seed"])
        prunings += [_prune(bench, model, units, ranks, criterion, target) for target in config["targets"]]
    return bench.record(stages, prunings, history, log=watch.log)


def _prune(
    bench: Bench, model: nn.Module, units: Units, ranks: dict[str, Tensor], criterion: str, target: str
) -> dict[str, Any]:
    config = bench.config
    chosen = _choose(config, units, ranks, criterion, target)
    shift = criteria.shift(criterion, config.get("shifts", "keep"))
    # Bounded scales come without a shift.
    averaged = shift == "mean" or (config.get("averaged", False) and config["method"] != "rni")
    cut = _cut(bench, model, units, chosen, averaged=averaged)
    small = shrink(cut[shift], bench.example).model
    stages = {"zeroed": bench.stage(cut["keep"]), "dropped": bench.stage(cut["drop"]), "shrunk": bench.stage(small)}
    if any(isinstance(module, BatchNorm) for module in model.modules()):
        again = copy.deepcopy(cut["mean" if shift == "mean" else "drop"])
        recalibrate(again, bench.split.train.inputs[:EXAMPLES])
        stages["recalibrated"] = bench.stage(again)
    if averaged:
        stages["averaged"] = bench.stage(cut["mean"])
    if config["finetune_epochs"]:
        if "inputs" in config:
            drop_inputs(small, config["inputs"])
        bench.finetune(small, f"{criterion}-{target}", anew=criterion.endswith(criteria.RETRAINED))
        stages["finetuned"] = bench.stage(small)
    return {"criterion": criterion, "target": target, "stages": stages}


def _choose(config: Config, units: Units, ranks: dict[str, Tensor], criterion: str, target: str) -> Chosen:
    """Return the units that go, of the groups that the suite prunes."""
    names = prunable(units, config)
    # Scales are listed under their BatchNorm, weights under their layer.
    left = {member.layer for name in units.keys() - names for member in units[name].writers} | set(units.fixed)
    ranks = {name: rank for name, rank in ranks.items() if name not in left}
    scope = criteria.scope(criterion, config.get("scope", "global"))
    how = {"scope": scope, "floor": config.get("floor", 1), "kinds": kinds(config)}
    return Target.of(target).choose(ranks, units, names, **how)


def _cut(bench: Bench, model: nn.Module, units: Units, chosen: Chosen, *, averaged: bool) -> dict[Shift, nn.Module]:
    """Return copies of the network in which the chosen units emit what each shift says."""
    networks: dict[Shift, nn.Module] = {}
    shifts: tuple[Shift, ...] = ("keep", "drop", "mean") if averaged else ("keep", "drop")
    for shift in shifts:
        networks[shift] = copy.deepcopy(model)
        examples = bench.split.train.inputs[:EXAMPLES] if shift == "mean" else None
        zero(networks[shift], chosen, units, shift=shift, inputs=examples)
    return networks


def drop_inputs(model: nn.Module, count: int) -> None:
    """Zero the weights of a first, linear layer but for so many of its inputs: those with the longest columns."""
    weight = next(iter(weighted(model).values())).weight
    weak = weight.detach().norm(dim=0).argsort()[: weight.shape[1] - count]
    with torch.no_grad():
        weight[:, weak] = 0
