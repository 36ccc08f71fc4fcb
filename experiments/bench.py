"""Protocols on images: train with a penalty, prune to targets, remove, fine-tune; and the controls.

Validation data chooses; the test set is read once, after everything that a run builds has been built.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from experiments.methods import INPUTS, METHODS, Config, optimizer_of, prepare
from experiments.tasks import judge, split
from pruning_lib._measure import measure, recalibrate
from pruning_lib.channels import find_units, shrink
from pruning_lib.companion import data
from pruning_lib.companion.models import VGG16, ConvNet, LeNet5, LeNet300, ResNet, UNet
from pruning_lib.companion.records import Record
from pruning_lib.regularizers import L2, Regularizer, SeReNe
from pruning_lib.selection import cost, hold, importance, select, zero
from pruning_lib.training import (
    Callback,
    Epoch,
    History,
    Run,
    Schedule,
    ThresholdOnPlateau,
    constant,
    cosine,
    evaluate,
    fit,
    steps,
)
from pruning_lib.units import BatchNorm, Chosen, Units, Weighted, rows, weighted

# Networks by the names that configurations give them.
Shape = tuple[int, int, int]
NETWORKS: dict[str, Callable[[Config, Shape, int], nn.Module]] = {
    "lenet300": lambda config, shape, classes: LeNet300(classes, shape, tuple(config["widths"])),
    "lenet300-bn": lambda config, shape, classes: LeNet300(classes, shape, tuple(config["widths"]), bn=True),
    "lenet5": lambda config, shape, classes: LeNet5(classes, shape),
    "lenet5-bn": lambda config, shape, classes: LeNet5(classes, shape, bn=True),
    "vgg16": lambda config, shape, classes: VGG16(classes, config["width"], shape[0]),
    "vgg16-plain": lambda config, shape, classes: VGG16(classes, config["width"], shape[0], bn=False),
    "resnet20": lambda config, shape, classes: ResNet(20, classes, inputs=shape[0]),
    "resnet56": lambda config, shape, classes: ResNet(56, classes, inputs=shape[0]),
    "unet": lambda config, shape, classes: UNet(classes, shape[0], config["channels"]),
    "convnet": lambda config, shape, classes: ConvNet(classes, shape[0], tuple(config["widths"])),
}
SCHEDULES: dict[str, Schedule] = {"cosine": cosine, "steps": steps(0.5, 0.75)}
RETRAINED = "-retrained"  # ends a criterion after which networks are retrained as long as they were trained
EXAMPLES = 5000  # of the training set, for what reads data without training


class LoggedTest(Callback):
    """The test accuracy after every epoch: for protocols of papers that chose by it, and for nothing else."""

    def __init__(self, test: data.TensorPair) -> None:
        self._test = test
        self.accuracies: list[float] = []

    def after_epoch(self, run: Run) -> None:
        """Evaluate."""
        self.accuracies.append(_rounded(evaluate(run.model, self._test).accuracy))

    def state_dict(self) -> dict[str, Any]:
        """Return what was logged so far."""
        return {"accuracies": list(self.accuracies)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what was logged."""
        self.accuracies[:] = state["accuracies"]


@dataclass(eq=False)
class Bench:
    """One run's workplace: its data, its settings, and the models that wait for the test set."""

    config: Config
    work: Path
    waiting: list[tuple[dict[str, Any], nn.Module]] = field(default_factory=list)
    layers: list[str] = field(default_factory=list)  # with units of their own: all but the last of the whole network
    device: str = "cpu"
    log: list[float] = field(default_factory=list)  # test accuracies by epoch of the last training, where a suite logs

    @property
    def split(self) -> data.Split:
        """Return the run's data."""
        return split(self.config["data"], self.device)

    @property
    def example(self) -> Tensor:
        """Return one input, a batch of 1."""
        return self.split.train.inputs[:1]

    def dense(self) -> nn.Module:
        """Return the whole network, its weights drawn from the run's seed: the same on every device."""
        torch.manual_seed(self.config["seed"])
        channels, height, width = self.example.shape[1:]
        model = NETWORKS[self.config["model"]](self.config, (channels, height, width), self.split.classes)
        self.layers = list(weighted(model))[:-1]
        return model.to(self.device)

    def narrow(self, widths: Mapping[str, int]) -> nn.Module:
        """Return the network with so many units in each group named, its weights drawn from the run's seed."""
        model = self.dense()
        units = find_units(model, self.example)
        zero(model, fewer(units, widths), units, shift="drop")
        small = shrink(model, self.example).model.cpu()
        torch.manual_seed(self.config["seed"])
        for module in small.modules():
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()
        return small.to(self.device)

    @property
    def schedule(self) -> Schedule:
        """Return the schedule of the learning rate, of training and of fine-tuning."""
        return SCHEDULES[self.config.get("schedule", "cosine")]

    def train(
        self, model: nn.Module, epochs: int, lr: float, regularizer: Regularizer | None = None, **more: Any
    ) -> History:
        """Train with the run's settings; `more` goes to `fit`."""
        return self._fit(model, optimizer_of(model, self.config, lr), epochs, regularizer, **more)

    def finetune(self, model: nn.Module, name: str, *, anew: bool = False) -> None:
        """Train on after removal, without penalty; inputs that were given up stay so. The checkpoint has a name.

        `anew` retrains as long as the whole network was trained, and at its learning rate.
        """
        config = self.config
        epochs, lr = (config["epochs"], config["lr"]) if anew else (config["finetune_epochs"], config["finetune_lr"])
        optimizer = optimizer_of(model, config | {"method": "dense"} | config.get("finetune", {}), lr)
        held = hold(model, optimizer) if "inputs" in config else None
        checkpoint = self.work / f"{name}.pt"
        self._fit(model, optimizer, epochs, schedule=self.schedule, checkpoint=checkpoint)
        if held is not None:
            held.remove()

    def _fit(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        epochs: int,
        regularizer: Regularizer | None = None,
        callbacks: Iterable[Callback] = (),
        **more: Any,
    ) -> History:
        config = self.config
        low = config.get("precision") == "bfloat16"
        if low:
            model.to(memory_format=torch.channels_last)
        log = LoggedTest(self.split.test)
        self.log = log.accuracies
        return fit(
            model,
            self.split.train,
            self.split.val,
            epochs=epochs,
            optimizer=optimizer,
            regularizer=regularizer,
            batch_size=config["batch_size"],
            augment=data.crop_and_flip if config.get("augment") else None,
            autocast=torch.bfloat16 if low else None,
            seed=config["seed"],
            callbacks=[*callbacks, log] if config.get("log_test") else callbacks,
            progress=False,
            **more,
        )

    def stage(self, model: nn.Module) -> dict[str, Any]:
        """Measure a model on validation data now, on test data at the end."""
        size = measure(model, self.example)
        left = weighted(model)
        values = self.judge(model, "val") | {
            "units": {name: _reached(left[name]) if name in left else 0 for name in self.layers},
            "parameters": size.parameters,
            "nonzero": size.nonzero,
            "macs": size.macs,
            "macs_used_inputs": size.macs - _unused_input_macs(model),
        }
        if self.log:
            values["test_log"], self.log = self.log, []
        self.waiting.append((values, copy.deepcopy(model)))
        return values

    def judge(self, model: nn.Module, part: str) -> dict[str, Any]:
        """Return loss, accuracy and the task's own scores on a part of the data."""
        found = judge(model, self.config["data"], part, self.device)
        return {f"{part}_{name}": _rounded(value) for name, value in found.items()}

    def read_test(self) -> None:
        """Read the test set, once, for every stage."""
        for values, model in self.waiting:
            values |= self.judge(model, "test")

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


@dataclass(frozen=True)
class Target:
    """How small a network has to become.

    ``fraction-0.5``: half of its units go; ``macs-0.25``: a quarter of its multiply-adds stays; ``widths-2-11-134``: so
    many units of each group that may be pruned, in the order of the network.
    """

    kind: str
    share: float = math.nan
    widths: tuple[int, ...] = ()

    @classmethod
    def of(cls, text: str) -> Target:
        """Read a target's name."""
        kind, *numbers = text.split("-")
        return cls(kind, widths=tuple(map(int, numbers))) if kind == "widths" else cls(kind, float(*numbers))

    def budget(self, units: Units) -> dict[str, Any]:
        """Return what `select` is to be told."""
        if self.kind == "fraction":
            return {"fraction": self.share}
        return {"macs": round(self.share * sum(units.macs.values()))}

    def choose(self, ranks: dict[str, Tensor], units: Units, names: set[str], **how: Any) -> Chosen:
        """Choose the units that go, by importance; `how` goes to `select`."""
        if self.kind != "widths":
            return select(ranks, units, **how, **self.budget(units))
        chosen = fewer(units, {})
        for name, width in self.uniform(units, names).items():
            alone = {layer: rank for layer, rank in ranks.items() if units.translate(layer) == name}
            chosen[name] = select(alone, units, fraction=1 - width / units[name].size)[name]
        return chosen

    def uniform(self, units: Units, names: set[str]) -> dict[str, int]:
        """Return widths of these groups as told, or scaled by one factor: the fraction, or the most within budget."""
        sizes = {name: group.size for name, group in units.items() if name in names}
        if self.kind == "widths":
            return dict(zip(sizes, self.widths, strict=True))
        if self.kind == "fraction":
            return {name: round(size * (1 - self.share)) for name, size in sizes.items()}
        first = next(iter(sizes.values()))
        budget = self.budget(units)["macs"]
        for n in range(first, 0, -1):
            widths = {name: max(1, round(size * n / first)) for name, size in sizes.items()}
            if cost(fewer(units, widths), units) <= budget:
                return widths
        raise ValueError(f"No uniform width meets {self.kind}-{self.share}.")


def fewer(units: Units, widths: Mapping[str, int]) -> Chosen:
    """Return the choice that leaves so many units of each group named, and all of the others."""
    return {name: torch.arange(group.size) >= widths.get(name, group.size) for name, group in units.items()}


def run_prune(bench: Bench) -> Record:
    """Train with a penalty; then, for each criterion and target: zero, remove, fine-tune without penalty."""
    config = bench.config
    model = bench.dense()
    prepare(model, config)
    units = find_units(model, bench.example)
    regularizer = METHODS[config["method"]](model, config, units)
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
    for criterion in config["criteria"]:
        basis = criterion.removesuffix(RETRAINED)
        ranks = own if basis == "own" else _ranks(bench, model, units, basis)
        prunings += [_prune(bench, model, units, ranks, criterion, target) for target in config["targets"]]
    return bench.record(stages, prunings, history)


def _ranks(bench: Bench, model: nn.Module, units: Units, criterion: str) -> dict[str, Tensor]:
    """Return an importance that is not the method's own."""
    if criterion == "random":
        return importance.random(units, bench.config["seed"])
    if criterion == "taylor":
        inputs, targets = bench.split.train
        return importance.taylor(model, units, (inputs[:EXAMPLES], targets[:EXAMPLES]))
    of: dict[str, Any] = {"magnitude": "weights", "scales": "scales", "folded": "folded"}
    return importance.magnitude(model, units, of=of[criterion.removesuffix("-local")])


def _prune(
    bench: Bench, model: nn.Module, units: Units, ranks: dict[str, Tensor], criterion: str, target: str
) -> dict[str, Any]:
    config = bench.config
    names = _prunable(units, config)
    # Scales are listed under their BatchNorm, weights under their layer.
    left = {member.layer for name in units.keys() - names for member in units[name].writers} | set(units.fixed)
    ranks = {name: rank for name, rank in ranks.items() if name not in left}
    scope = "local" if criterion.removesuffix(RETRAINED).endswith("-local") else config.get("scope", "global")
    how = {"scope": scope, "floor": config.get("floor", 1), "kinds": _kinds(config)}
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
        bench.finetune(small, f"{criterion}-{target}", anew=criterion.endswith(RETRAINED))
        stages["finetuned"] = bench.stage(small)
    return {"criterion": criterion, "target": target, "stages": stages}


def drop_inputs(model: nn.Module, count: int) -> None:
    """Zero the weights of a first, linear layer but for so many of its inputs: those with the longest columns."""
    weight = next(iter(weighted(model).values())).weight
    weak = weight.detach().norm(dim=0).argsort()[: weight.shape[1] - count]
    with torch.no_grad():
        weight[:, weak] = 0


def run_loop(bench: Bench) -> Record:
    """SeReNe's own procedure: train to a plateau, threshold, hold, go on; then remove what is dead."""
    config = bench.config
    model = bench.dense()
    units = find_units(model, bench.example)
    regularizer = METHODS[config["method"]](model, config, units)
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
    """Train a small network from its first step: of uniform width, or of the widths that `source` found.

    Of uniform width with a source, it has at most the multiply-adds that the source ended with.
    """
    config = bench.config
    units = find_units(bench.dense(), bench.example)
    if source is None:
        widths = Target.of(config["target"]).uniform(units, _prunable(units, config))
    elif config["method"].startswith("uniform"):
        share = _found(source, config["target"])["macs"] / sum(units.macs.values())
        widths = Target("macs", share).uniform(units, _prunable(units, config))
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


def _kinds(config: Config) -> frozenset[Any]:
    return frozenset(config.get("kinds", ("inner", "stream")))


def _prunable(units: Units, config: Config) -> set[str]:
    """Return the names of the groups that a suite prunes, by every method alike."""
    kinds, normalized = _kinds(config), config.get("normalized", False)
    return {name for name, group in units.items() if group.kind in kinds and (group.norms or not normalized)}


def _reached(layer: Weighted) -> int:
    """Return how many units something still reaches: their rows are not all zero."""
    return int((rows(layer).flatten(1) != 0).any(1).sum())


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
