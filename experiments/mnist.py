"""Protocols on MNIST-like data: train with a penalty, prune to targets, remove, fine-tune; and the controls.

Validation data chooses; the test set is read once, after everything that a run builds has been built.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD

from pruning_lib import data
from pruning_lib.channels import shrink
from pruning_lib.channels import units as find_units
from pruning_lib.measure import measure
from pruning_lib.models import LeNet300
from pruning_lib.records import Record
from pruning_lib.regularizers import L1, L2, GroupLasso, Regularizer, SeReNe
from pruning_lib.select import select, zero
from pruning_lib.train import Callback, Epoch, History, ThresholdOnPlateau, constant, cosine, evaluate, fit
from pruning_lib.units import Units, rows, weighted

Config = dict[str, Any]

METHODS: dict[str, Callable[[nn.Module, Config, Units], Regularizer | None]] = {
    "dense": lambda model, config, groups: None,
    "l2": lambda model, config, groups: L2(model, config["strength"]),
    "l1": lambda model, config, groups: L1(model, config["strength"]),
    "group-lasso": lambda model, config, groups: GroupLasso(model, config["strength"], units=groups),
    "group-lasso-loss": lambda model, config, groups: GroupLasso(model, config["strength"], apply="loss", units=groups),
    "serene-exact": lambda model, config, groups: SeReNe(model, config["strength"], estimator="exact"),
    "serene-sampled": lambda model, config, groups: SeReNe(
        model,
        config["strength"],
        estimator="sampled",
        every=config["every"],
        smoothing=config["smoothing"],
        seed=config["seed"],
    ),
    "serene-lower-bound": lambda model, config, groups: SeReNe(model, config["strength"], estimator="lower-bound"),
    "serene-local": lambda model, config, groups: SeReNe(model, config["strength"], estimator="local"),
    "serene-released": lambda model, config, groups: SeReNe(
        model, config["strength"], estimator="exact", scaling="released"
    ),
}
DATA: dict[str, Callable[[], data.Split]] = {"mnist": data.mnist, "digits": data.digits}


@cache
def split(name: str) -> data.Split:
    """Return a data set, read once a process."""
    return DATA[name]()


@dataclass(eq=False)
class Bench:
    """One run's workplace: its data, its settings, and the models that wait for the test set."""

    config: Config
    work: Path
    waiting: list[tuple[dict[str, Any], nn.Module]] = field(default_factory=list)

    @property
    def split(self) -> data.Split:
        """Return the run's data."""
        return split(self.config["data"])

    @property
    def example(self) -> Tensor:
        """Return one input, a batch of 1."""
        return self.split.train.inputs[:1]

    def model(self, widths: tuple[int, int]) -> nn.Module:
        """Return a fresh network, its weights drawn from the run's seed."""
        torch.manual_seed(self.config["seed"])
        channels, height, width = self.example.shape[1:]
        return LeNet300(self.split.classes, (channels, height, width), widths)

    def train(
        self, model: nn.Module, epochs: int, lr: float, regularizer: Regularizer | None = None, **more: Any
    ) -> History:
        """Train with the run's settings; `more` goes to `fit`."""
        config = self.config
        return fit(
            model,
            self.split.train,
            self.split.val,
            epochs=epochs,
            optimizer=SGD(model.parameters(), lr, momentum=config["momentum"]),
            regularizer=regularizer,
            batch_size=config["batch_size"],
            seed=config["seed"],
            progress=False,
            **more,
        )

    def stage(self, model: nn.Module) -> dict[str, Any]:
        """Measure a model on validation data now, on test data at the end."""
        loss, accuracy = evaluate(model, self.split.val)
        size = measure(model, self.example)
        layers = list(weighted(model).items())
        values = {
            "val_loss": _rounded(loss),
            "val_accuracy": _rounded(accuracy),
            # A unit counts as long as something still reaches it: its row is not all zero.
            "units": {name: int((rows(layer).flatten(1) != 0).any(1).sum()) for name, layer in layers[:-1]},
            "parameters": size.parameters,
            "nonzero": size.nonzero,
            "macs": size.macs,
            "macs_used_inputs": size.macs - _unused_input_macs(model),
        }
        self.waiting.append((values, copy.deepcopy(model)))
        return values

    def read_test(self) -> None:
        """Read the test set, once, for every stage."""
        for values, model in self.waiting:
            loss, accuracy = evaluate(model, self.split.test)
            values |= {"test_loss": _rounded(loss), "test_accuracy": _rounded(accuracy)}

    def record(self, stages: dict[str, Any], prunings: list[dict[str, Any]], history: History, **more: Any) -> Record:
        """Read the test set and return the record, still without provenance."""
        self.read_test()
        return {
            "suite": self.config["suite"],
            "config": self.config,
            "stages": stages,
            "prunings": prunings,
            "history": [_entry(epoch) for epoch in history],
            **more,
        }


def run_prune(bench: Bench) -> Record:
    """Train with a penalty; then, for each criterion and target: zero, remove, fine-tune without penalty."""
    config = bench.config
    model = bench.model(tuple(config["widths"]))
    groups = find_units(model, bench.example)
    regularizer = METHODS[config["method"]](model, config, groups)
    history = bench.train(
        model,
        config["epochs"],
        config["lr"],
        regularizer,
        schedule=cosine,
        # All other pulls are multiplied by the learning rate; SeReNe's, which is not, would outlast it.
        strength_schedule=cosine if isinstance(regularizer, SeReNe) else constant,
        checkpoint=bench.work / "trained.pt",
    )
    stages = {"trained": bench.stage(model)}
    own = (regularizer or L2(model, 0.0)).importance()
    prunings: list[dict[str, Any]] = []
    for criterion in config["criteria"]:
        importance = own if criterion == "own" else _random(own, config["seed"])
        prunings += [_prune(bench, model, groups, importance, criterion, target) for target in config["targets"]]
    return bench.record(stages, prunings, history)


def _prune(
    bench: Bench, model: nn.Module, groups: Units, importance: dict[str, Tensor], criterion: str, target: str
) -> dict[str, Any]:
    kind, share = target.split("-")
    budget = {"fraction": float(share)} if kind == "fraction" else {"macs": round(float(share) * dense_macs(groups))}
    chosen = select(importance, groups, **budget)
    dropped, zeroed = copy.deepcopy(model), copy.deepcopy(model)
    zero(dropped, chosen, groups, shift="drop")
    zero(zeroed, chosen, groups, shift="keep")
    small = shrink(zeroed, bench.example).model
    stages = {"zeroed": bench.stage(zeroed), "dropped": bench.stage(dropped), "shrunk": bench.stage(small)}
    if bench.config["finetune_epochs"]:
        bench.train(small, bench.config["finetune_epochs"], bench.config["finetune_lr"], schedule=cosine)
        stages["finetuned"] = bench.stage(small)
    return {"criterion": criterion, "target": target, "stages": stages}


def run_loop(bench: Bench) -> Record:
    """SeReNe's own procedure: train to a plateau, threshold, hold, go on; then remove what is dead."""
    config = bench.config
    model = bench.model(tuple(config["widths"]))
    groups = find_units(model, bench.example)
    regularizer = METHODS[config["method"]](model, config, groups)
    callback = ThresholdOnPlateau(config["patience"], config["tolerance"])
    callbacks: list[Callback] = [callback]
    history = bench.train(
        model, config["epochs"], config["lr"], regularizer, callbacks=callbacks, checkpoint=bench.work / "trained.pt"
    )
    stages = {"trained": bench.stage(model), "shrunk": bench.stage(shrink(model, bench.example).model)}
    # A threshold is infinite where every weight could be spared; JSON has no such number.
    events = [
        {key: _rounded(value) if math.isfinite(value) else None for key, value in e.items()} for e in callback.log
    ]
    return bench.record(stages, [], history, events=events)


def run_scratch(bench: Bench, source: Record | None) -> Record:
    """Train a small network from its first step: of uniform width, or of the widths that `source` found."""
    config = bench.config
    widths = uniform_widths(bench, config["target"]) if source is None else found_widths(source, config["target"])
    epochs = config["epochs"]
    if config["method"].startswith("scratch-b"):
        assert source is not None
        saved = source["stages"]["trained"]["macs"] / _macs_of(bench, widths)
        epochs = round(epochs * min(saved, config["most"]))
    model = bench.model(widths)
    history = bench.train(model, epochs, config["lr"], schedule=cosine, checkpoint=bench.work / "trained.pt")
    return bench.record({"trained": bench.stage(model)}, [], history)


def found_widths(source: Record, target: str) -> tuple[int, int]:
    """Return the widths that a run's own criterion found at a target."""
    pruning = next(p for p in source["prunings"] if p["criterion"] == "own" and p["target"] == target)
    first, second = pruning["stages"]["shrunk"]["units"].values()
    return first, second


def uniform_widths(bench: Bench, target: str) -> tuple[int, int]:
    """Return widths scaled by one factor: by the target fraction, or the largest within the target MACs."""
    kind, share = target.split("-")
    first, second = bench.config["widths"]
    if kind == "fraction":
        return round(first * (1 - float(share))), round(second * (1 - float(share)))
    budget = float(share) * _macs_of(bench, (first, second))
    fitting = [(n, max(1, round(second * n / first))) for n in range(1, first + 1)]
    return max(widths for widths in fitting if _macs_of(bench, widths) <= budget)


def dense_macs(groups: Units) -> int:
    """Return the multiply-adds of the whole network for one example."""
    return sum(groups.macs.values())


def _macs_of(bench: Bench, widths: tuple[int, int]) -> int:
    sizes = (bench.example.numel(), *widths, bench.split.classes)
    return sum(a * b for a, b in pairwise(sizes))


def _random(importance: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(len(value), generator=generator) for name, value in importance.items()}


def _unused_input_macs(model: nn.Module) -> int:
    """Return the multiply-adds spent on inputs that no unit of a first, linear layer reads."""
    first = next(iter(weighted(model).values()))
    if not isinstance(first, nn.Linear):
        return 0
    return int((first.weight == 0).all(0).sum()) * first.out_features


def _rounded(value: float) -> float:
    """Return six significant digits: more differ between machines."""
    return value if isinstance(value, int) else float(f"{value:.6g}")


def _entry(epoch: Epoch) -> list[float]:
    """Return [training loss, validation loss, validation accuracy, lr]."""
    return [_rounded(v) for v in (epoch.train_loss, epoch.val_loss, epoch.val_accuracy, epoch.lr)]
