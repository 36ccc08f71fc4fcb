"""Checkpoints: a resumed run ends identical, a file of another run is named, and files of today stay readable."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import SGD, Adam

from pruning_lib.channels import find_units
from pruning_lib.companion.data import crop_and_flip
from pruning_lib.companion.models import LeNet300
from pruning_lib.regularizers import L1, L2, GroupHoyer, GroupLasso, Guided, SeReNe, StochasticPruning
from pruning_lib.training import (
    Callback,
    CheckpointError,
    Run,
    TensorPair,
    ThresholdOnPlateau,
    cosine,
    fit,
    ramp,
)
from pruning_lib.training._checkpoint import Settings, describe
from tests.training.runs import TRAIN, VAL, StoppedError, Stops, network, pair, same


class DiesAfter(Callback):
    """Kills the run after some epoch, before its checkpoint, as a power cut would."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def after_epoch(self, run: Run) -> None:
        if run.epoch == self.epoch:
            raise InterruptedError


def attempt(path: Path | None, *callbacks: Callback, epochs: int = 6, seed: int = 0, strength: float = 1e-2) -> Any:
    torch.manual_seed(5)
    model = network()
    model.relu2 = nn.Sequential(nn.ReLU(), nn.Dropout(0.2))  # draws from the global generator
    optimizer = Adam(model.parameters(), 1e-2)
    reg = SeReNe(model, strength, seed=seed)
    plateau = ThresholdOnPlateau(patience=1, tolerance=0.1, slack=0.0)
    history = fit(
        model, TRAIN, VAL, epochs=epochs, optimizer=optimizer, regularizer=reg, batch_size=20, schedule=cosine,
        strength_schedule=ramp(0.5), callbacks=[plateau, *callbacks], checkpoint=path, seed=seed, progress=False,
    )  # fmt: skip
    return model, history, plateau, reg


@pytest.mark.parametrize("dies", [1, 3, 5])
def test_a_resumed_run_ends_identical(tmp_path: Path, dies: int) -> None:
    model, history, plateau, reg = attempt(None, Callback())
    assert plateau.log, "the test is about a run that thresholds on the way"
    path = tmp_path / "run.pt"
    with pytest.raises(InterruptedError):
        attempt(path, DiesAfter(dies + 1))
    # The other callback is part of the configuration.
    stored = torch.load(path, weights_only=True)
    stored["configuration"]["callbacks"][-1] = ["Callback"]
    torch.save(stored, path)
    again, history2, plateau2, reg2 = attempt(path, Callback())
    assert same(model, again)
    assert plateau.log == plateau2.log
    assert [history[c] for c in ("val_loss", "train_loss", "lr")] == [
        history2[c] for c in ("val_loss", "train_loss", "lr")
    ]
    assert all(torch.equal(v, reg2.sensitivity()[k]) for k, v in reg.sensitivity().items())
    third, history3, plateau3, _ = attempt(path, Callback())  # finished: loaded, not trained
    assert same(model, third)
    assert len(history3) == 6
    assert plateau3.log == plateau.log
    assert list(tmp_path.iterdir()) == [path]


def test_a_checkpoint_cut_in_half_is_named_and_nothing_is_changed(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    model = network()
    fit(model, TRAIN, VAL, epochs=1, optimizer=SGD(model.parameters(), 0.1), checkpoint=path, progress=False)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    fresh = network(1)
    before = copy.deepcopy(fresh)
    with pytest.raises(ValueError, match=r"run.pt is cut short or was not written by fit"):
        fit(fresh, TRAIN, VAL, epochs=1, optimizer=SGD(fresh.parameters(), 0.1), checkpoint=path, progress=False)
    assert same(fresh, before)


def test_a_checkpoint_of_something_else_is_named(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    torch.save({"weights": torch.zeros(3)}, path)
    model = network()
    with pytest.raises(ValueError, match="is not a checkpoint of fit"):
        fit(model, TRAIN, VAL, epochs=1, optimizer=SGD(model.parameters(), 0.1), checkpoint=path, progress=False)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"epochs": 3}, "epochs"),
        ({"batch_size": 30}, "batch size"),
        ({"seed": 1}, "seed"),
        ({"schedule": cosine}, "schedule"),
        ({"augment": lambda inputs, generator: inputs}, "augmentation"),
        ({"autocast": torch.bfloat16}, "autocast"),
        ({"train": pair(90, 7)}, "data"),
    ],
)
def test_a_checkpoint_of_another_configuration_is_named(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    path = tmp_path / "run.pt"
    model = network()
    usual: dict[str, Any] = {"train": TRAIN, "epochs": 2, "batch_size": 20, "seed": 0, "schedule": None}
    for settings in (usual, usual | change):
        optimizer = SGD(model.parameters(), 0.1)
        arguments = {"val": VAL, "optimizer": optimizer, "checkpoint": path, "progress": False} | settings
        if settings is usual:
            fit(model, **arguments)
            before = copy.deepcopy(model)
        else:
            with pytest.raises(ValueError, match=f"belongs to another run: it differs in {named};"):
                fit(model, **arguments)
    assert same(model, before)


def test_other_strength_rate_or_width_is_another_configuration(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"

    def go(lr: float, strength: float, classes: int = 3) -> None:
        model = LeNet300(classes, (1, 4, 4), (12, 8))
        fit(
            model, TRAIN, VAL, epochs=1, optimizer=SGD(model.parameters(), lr), regularizer=L2(model, strength),
            checkpoint=path, progress=False,
        )  # fmt: skip

    go(0.1, 1e-3)
    for arguments, named in (((0.2, 1e-3), "learning rates"), ((0.1, 1e-2), "regularizer"), ((0.1, 1e-3, 4), "model")):
        with pytest.raises(ValueError, match=f"differs in {named}"):
            go(*arguments)


def test_settings_within_a_regularizer_are_another_configuration(tmp_path: Path) -> None:
    """What it guides, by which guidance, and what another method wraps."""
    path = tmp_path / "run.pt"
    model = network()
    units = find_units(model, TRAIN.inputs[:1])
    first = Guided(model, 1e-3, base=L2, units=units)
    same_again = Guided(model, 1e-3, base=L2, units=units)
    others = (
        Guided(model, 1e-3, base=GroupLasso, units=units),
        Guided(model, 1e-3, base=L2, guidance="step", units=units),
        StochasticPruning(model, 1e-3, base=L2),
    )
    arguments: dict[str, Any] = {"epochs": 1, "checkpoint": path, "progress": False}
    for regularizer in (first, same_again):
        fit(model, TRAIN, VAL, optimizer=SGD(model.parameters(), 0.1), regularizer=regularizer, **arguments)
    for regularizer in others:
        with pytest.raises(ValueError, match="differs in regularizer"):
            fit(model, TRAIN, VAL, optimizer=SGD(model.parameters(), 0.1), regularizer=regularizer, **arguments)


def test_other_settings_of_a_callback_are_another_configuration(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    for patience in (3, 4):
        model = network()
        arguments: dict[str, Any] = {"optimizer": SGD(model.parameters(), 0.1), "checkpoint": path, "progress": False}
        arguments["callbacks"] = [ThresholdOnPlateau(patience, 0.1)]
        if patience == 3:
            fit(model, TRAIN, VAL, epochs=1, **arguments)
        else:
            with pytest.raises(ValueError, match="differs in callbacks"):
                fit(model, TRAIN, VAL, epochs=1, **arguments)


def test_what_a_checkpoint_was_trained_on_and_for_is_part_of_it(tmp_path: Path) -> None:
    def run(model: nn.Module, **more: Any) -> None:
        settings: dict[str, Any] = {"epochs": 1, "optimizer": SGD(model.parameters(), 0.1)} | more
        train = settings.pop("train", TRAIN)
        fit(model, train, VAL, checkpoint=tmp_path / "c.pt", progress=False, **settings)

    run(network())
    other = TensorPair(TRAIN.inputs + 1, TRAIN.targets)
    model = network()
    before = copy.deepcopy(model)
    units = find_units(model, TRAIN.inputs[:1])
    for wrong, named in (
        ({"train": other}, "differs in data"),
        ({"loss_fn": F.multi_margin_loss}, "differs in loss"),
        ({"optimizer": SGD(model.fc3.parameters(), 0.1)}, "parameters"),
        ({"regularizer": L2(model, 0.0, units=units)}, "differs in regularizer"),
    ):
        with pytest.raises(CheckpointError, match=named):
            run(model, **wrong)
        assert same(model, before)


def test_a_checkpoint_that_fits_in_part_leaves_all_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(model: nn.Module) -> None:
        optimizer, regularizer = SGD(model.parameters(), 0.1, momentum=0.9), SeReNe(model, 1e-4)
        fit(model, TRAIN, VAL, epochs=1, optimizer=optimizer, regularizer=regularizer, checkpoint=tmp_path / "c.pt",
            progress=False)  # fmt: skip

    run(network())

    def refuse(*_: Any) -> None:
        raise ValueError("not mine")

    monkeypatch.setattr(SeReNe, "load_state_dict", refuse)
    model = network()
    before = copy.deepcopy(model)
    with pytest.raises(CheckpointError, match="does not fit the SeReNe of this run"):
        run(model)
    assert same(model, before)


def written(n: int, shift: int) -> TensorPair:
    return TensorPair((torch.arange(n * 16.0).view(n, 1, 4, 4) + shift) % 7, torch.arange(n) % 3)


def test_files_of_today_are_recognized_tomorrow(tmp_path: Path) -> None:
    """Long runs resume from files that an earlier version wrote: if this fails, they start over."""
    model = network()
    fit(
        model, written(6, 0), written(4, 3), epochs=1, optimizer=SGD(model.parameters(), 0.1, 0.9, weight_decay=1e-4),
        regularizer=SeReNe(model, 1e-4), batch_size=4, schedule=cosine, strength_schedule=ramp(0.25),
        augment=crop_and_flip, autocast=torch.bfloat16, callbacks=[ThresholdOnPlateau(2, 0.05)], seed=3,
        checkpoint=tmp_path / "c.pt", progress=False,
    )  # fmt: skip
    state = torch.load(tmp_path / "c.pt", weights_only=True)
    assert list(state) == [
        "configuration", "done", "model", "optimizer", "regularizer", "callbacks", "order", "random", "history"
    ]  # fmt: skip
    assert list(state["regularizer"]) == ["strength", "average", "measured", "step", "generator"]
    assert [list(callback) for callback in state["callbacks"]] == [["log", "bad", "best", "weights"]]
    assert [list(epoch) for epoch in state["history"]] == [
        ["epoch", "train_loss", "val_loss", "val_accuracy", "lr", "seconds"]
    ]
    assert state["configuration"] == {
        "model": {
            "fc1.weight": "(12, 16)", "fc1.bias": "(12,)", "fc2.weight": "(8, 12)", "fc2.bias": "(8,)",
            "fc3.weight": "(3, 8)", "fc3.bias": "(3,)",
        },
        "data": ["(6, 1, 4, 4)", 914958894, 2504390189, 2302982699, 529470953],
        "loss": "cross_entropy",
        "epochs": 1,
        "batch size": 4,
        "seed": 3,
        "schedule": ["cosine", "ramp(0.25)"],
        "augmentation": "crop_and_flip",
        "autocast": "torch.bfloat16",
        "optimizer": [
            "SGD",
            "{'momentum': 0.9, 'dampening': 0, 'weight_decay': 0.0001, 'nesterov': False, 'maximize': False, "
            "'differentiable': False}",
        ],
        "parameters": [[(12, 16), (12,), (8, 12), (8,), (3, 8), (3,)]],
        "learning rates": [0.1],
        "regularizer": [
            "SeReNe", "strength=0.0001", "estimator=sampled", "space=NoneType", "scaling=paper", "every=3",
            "smoothing=0.6", "fc1", "fc2", "fc3",
        ],
        "callbacks": [["ThresholdOnPlateau", "patience=2", "tolerance=0.05", "slack=0.01", "log=list"]],
    }  # fmt: skip


def test_methods_are_described_as_ever() -> None:
    model = network()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_((torch.arange(p.numel()).view_as(p) % 5 - 2) / 10)
    units = find_units(model, TRAIN.inputs[:1])
    optimizer = SGD(model.parameters(), 0.1)
    settings = Settings(
        batch_size=4, schedule=cosine, strength_schedule=cosine, augment=None, autocast=None, callbacks=[], seed=0
    )
    described = {
        L1(model, 1e-3): ["L1", "strength=0.001", "apply=prox", "fc1", "fc2", "fc3"],
        L2(model, 1e-3, units=units): ["L2", "strength=0.001", "apply=loss", "fc1", "fc2"],
        GroupLasso(model, 1e-3, units=units): ["GroupLasso", "over=rows", "strength=0.001", "apply=prox", "fc1", "fc2"],
        GroupHoyer(model, 1e-3): ["GroupHoyer", "over=rows", "strength=0.001", "apply=loss", "fc1", "fc2", "fc3"],
        Guided(model, 1e-3, base=GroupLasso, guidance="step", units=units): [
            "Guided", "side=incoming", "strength=0.001", "apply=prox", "base=GroupLasso",
            "guidance={'fc1': 2510962015, 'fc2': 1000923052}", "fc1", "fc2",
        ],
        StochasticPruning(model, 1e-3, base=L2, temperature={"fc1": 0.5, "fc2": 0.25, "fc3": 0.125}): [
            "StochasticPruning", "strength=0.001", "mode=regrow", "probability=gaussian", "seed=0",
            "temperatures={'fc1': 0.5, 'fc2': 0.25, 'fc3': 0.125}", "base=['L2', 'strength=0.001', 'apply=loss']",
            "fc1", "fc2", "fc3",
        ],
    }  # fmt: skip
    for reg, expected in described.items():
        run = Run(model, optimizer, reg, TRAIN, VAL, F.cross_entropy, 1)
        assert describe(run, settings, [0.1])["regularizer"] == expected


def test_a_strength_that_a_callback_set_is_taken_up_again(tmp_path: Path) -> None:
    class Doubles(Callback):
        def after_epoch(self, run: Run) -> None:
            assert run.regularizer is not None
            run.regularizer.strength *= 2

    def train(stop: int | None, path: Path | None) -> Any:
        model = network()
        reg = L2(model, 0.01)
        fit(
            model, TRAIN, VAL, epochs=6, optimizer=torch.optim.SGD(model.parameters(), 0.1), regularizer=reg,
            callbacks=[Doubles(), Stops(stop)], batch_size=45, checkpoint=path, progress=False,
        )  # fmt: skip
        return model

    whole = train(None, None)
    with pytest.raises(StoppedError):
        train(3, tmp_path / "run.pt")
    assert same(train(None, tmp_path / "run.pt"), whole)


def test_losses_with_other_settings_are_other_losses(tmp_path: Path) -> None:
    def train(loss_fn: Any) -> None:
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        fit(
            model, TRAIN, VAL, epochs=1, optimizer=optimizer, loss_fn=loss_fn, progress=False,
            checkpoint=tmp_path / "run.pt",
        )  # fmt: skip

    weights = torch.tensor([1.0, 2.0, 3.0])
    for one, other in (
        (torch.nn.CrossEntropyLoss(), torch.nn.CrossEntropyLoss(label_smoothing=0.1)),
        (torch.nn.CrossEntropyLoss(weights), torch.nn.CrossEntropyLoss(weights.flip(0))),
        (partial(F.cross_entropy, label_smoothing=0.1), partial(F.cross_entropy, label_smoothing=0.2)),
    ):
        train(one)
        train(one)
        with pytest.raises(CheckpointError, match="differs in settings of the loss"):
            train(other)
        (tmp_path / "run.pt").unlink()
