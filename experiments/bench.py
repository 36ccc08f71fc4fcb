"""A run's workplace: its data, its settings, its trainings, and the networks that wait for the test set.

Validation data chooses; the test set is read once, after everything that a run builds has been built.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from experiments._files import move_aside
from experiments.methods import Config, optimizer_of
from experiments.networks import NETWORKS
from experiments.targets import fewer
from experiments.tasks import judge, split
from pruning_lib._measure import measure
from pruning_lib.channels import find_units, shrink
from pruning_lib.companion import data
from pruning_lib.companion.records import Record
from pruning_lib.regularizers import Regularizer
from pruning_lib.selection import hold, zero
from pruning_lib.training import (
    Callback,
    CheckpointError,
    Epoch,
    History,
    Run,
    Schedule,
    cosine,
    evaluate,
    fit,
    steps,
)
from pruning_lib.units import Weighted, rows, weighted

SCHEDULES: dict[str, Schedule] = {"cosine": cosine, "steps": steps(0.5, 0.75)}
EXAMPLES = 5000  # of the training set, for what reads data without training
PASSING = (OSError, MemoryError)  # reading failed, which says nothing of what was read


class RestartError(Exception):
    """A checkpoint was damaged or of another run, and was moved aside: the run has to begin again without it."""


class LoggedTest(Callback):
    """The test accuracy after every epoch: for protocols of papers that chose by it, and for nothing else."""

    def __init__(self, test: data.TensorPair) -> None:
        self._test = test
        self.accuracies: list[float] = []

    def after_epoch(self, run: Run) -> None:
        """Evaluate."""
        self.accuracies.append(rounded(evaluate(run.model, self._test).accuracy))

    def state_dict(self) -> dict[str, Any]:
        """Return what was logged so far."""
        return {"accuracies": list(self.accuracies)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore it."""
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
        optimizer = optimizer_of(model, self.config, lr)
        return self._fit(model, optimizer, epochs, regularizer=regularizer, **more)

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

    def _fit(self, model: nn.Module, optimizer: Optimizer, epochs: int, *, checkpoint: Path, **more: Any) -> History:
        config = self.config
        low = config.get("precision") == "bfloat16"
        if low:
            model.to(memory_format=torch.channels_last)
        log = LoggedTest(self.split.test)
        self.log = log.accuracies
        if config.get("log_test"):
            more["callbacks"] = [*more.get("callbacks", ()), log]
        more["augment"] = data.crop_and_flip if config.get("augment") else None
        more["autocast"] = torch.bfloat16 if low else None
        more |= {"optimizer": optimizer, "batch_size": config["batch_size"], "seed": config["seed"]}
        train, val = self.split.train, self.split.val
        try:
            return fit(model, train, val, epochs=epochs, checkpoint=checkpoint, progress=False, **more)
        except CheckpointError as error:
            if isinstance(cause := error.__cause__, PASSING):  # the file may be whole, and readable tomorrow
                raise ValueError(f"{checkpoint} cannot be read now ({cause}); it is left as it is.") from error
            raise RestartError(f"{error} It is now {move_aside(checkpoint)}.") from error

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
        return {f"{part}_{name}": rounded(value) for name, value in found.items()}

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


def _reached(layer: Weighted) -> int:
    """Return how many units something still reaches: their rows are not all zero."""
    return int((rows(layer).flatten(1) != 0).any(1).sum())


def _unused_input_macs(model: nn.Module) -> int:
    """Return the multiply-adds spent on inputs that no unit of a first, linear layer reads."""
    first = next(iter(weighted(model).values()))
    if not isinstance(first, nn.Linear):
        return 0
    return int((first.weight == 0).all(0).sum()) * first.out_features


def rounded(value: float) -> float:
    """Return six significant digits: more differ between machines."""
    return value if isinstance(value, int) else float(f"{value:.6g}")


def _entry(epoch: Epoch) -> list[float]:
    """Return [training loss, validation loss, validation accuracy, lr]."""
    return [rounded(v) for v in (epoch.train_loss, epoch.val_loss, epoch.val_accuracy, epoch.lr)]
