"""A size is reached through every bridge as in a loop of one's own, and after a resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import pruning_lib as prl
from tests.integrations import loops

EPOCHS = 6
Log = list[dict[str, float]]


METHODS = ("group-lasso", "l2")  # whose pull is known, and whose is measured


def parts(method: str) -> tuple[nn.Module, torch.optim.Optimizer, prl.Regularizer, dict[str, Any]]:
    model = loops.network()
    step = loops.optimizer(model)
    units = prl.find_units(model, torch.zeros(1, 1, 4, 4))
    if method == "l2":
        reg = prl.L2(model, strength=3.0, units=units)
        return model, step, reg, {"units": units, "units_left": 0.5, "threshold": 0.2}
    return model, step, prl.GroupLasso(model, strength=0.0, units=units), {"units": units, "units_left": 0.5}


@pytest.fixture(scope="module", params=METHODS)
def expected(request: pytest.FixtureRequest) -> tuple[nn.Module, Log, str]:
    """Return what a loop of one's own gives, which does lose units, and the method."""
    model, step, reg, goal = parts(request.param)
    size = prl.TargetSize(model, reg, step, epochs=EPOCHS, steps=EPOCHS * loops.BATCHES, **goal)
    for _ in range(EPOCHS):
        for x, y in loops.batches():
            logits = model(x)
            loss = F.cross_entropy(logits, y) + reg.penalty(logits)
            step.zero_grad()
            loss.backward()
            step.step()
            reg.update(step)
        size.step()
    size.close()
    assert size.log[-1]["left"] < 0.8
    return model, size.log, request.param


def lightning(folder: Path, method: str, epochs: int, resume: Path | None) -> tuple[nn.Module, Log]:
    framework = pytest.importorskip("lightning")
    from pruning_lib.integrations.lightning import RegularizerCallback

    model, step, reg, goal = parts(method)

    class Classifier(framework.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.net = model

        def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
            return F.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return step

    size = prl.TargetSize(model, reg, step, **goal)
    trainer = framework.Trainer(
        max_epochs=EPOCHS, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
        callbacks=[RegularizerCallback(reg, model, [size]), *([Stop(folder, epochs)] if epochs < EPOCHS else [])],
    )  # fmt: skip
    loader = DataLoader(TensorDataset(*loops.data()), batch_size=loops.SIZE)
    trainer.fit(Classifier(), loader, ckpt_path=None if resume is None else str(resume / "half.ckpt"))
    return model, size.log


def accelerate(folder: Path, method: str, epochs: int, resume: Path | None) -> tuple[nn.Module, Log]:
    framework = pytest.importorskip("accelerate")
    from pruning_lib.integrations.accelerate import regularize

    model, step, reg, goal = parts(method)
    size = prl.TargetSize(model, reg, step, **goal)
    accelerator = framework.Accelerator(cpu=True)
    prepared, optimizer, loader = accelerator.prepare(
        model, step, DataLoader(TensorDataset(*loops.data()), batch_size=loops.SIZE)
    )
    training = regularize(
        accelerator, reg, prepared, optimizer, epochs=EPOCHS, steps=EPOCHS * loops.BATCHES, callbacks=[size]
    )
    if resume is not None:
        accelerator.load_state(str(resume))
    for epoch in training:
        for x, y in loader:
            logits = prepared(x)
            accelerator.backward(F.cross_entropy(logits, y) + reg.penalty(logits))
            optimizer.step()
            optimizer.zero_grad()
        if epoch + 1 == epochs < EPOCHS:
            training.done()
            accelerator.save_state(str(folder))
            break
    framework.state.AcceleratorState._reset_state(reset_partial_state=True)
    framework.state.GradientState._reset_state()
    return model, size.log


def transformers(folder: Path, method: str, epochs: int, resume: Path | None) -> tuple[nn.Module, Log]:
    pytest.importorskip("accelerate")
    framework = pytest.importorskip("transformers")
    from pruning_lib.integrations.transformers import regularize
    from tests.integrations.test_transformers import Classifier, trainer

    classifier = Classifier()
    model, step, reg, goal = parts(method)
    classifier.net = model
    size = prl.TargetSize(model, reg, step, **goal)
    fitting = trainer(folder, classifier, num_train_epochs=EPOCHS, save_strategy="epoch")
    fitting.create_optimizer = lambda *_: setattr(fitting, "optimizer", step)
    regularize(fitting, reg, callbacks=[size])
    if epochs < EPOCHS:

        class Stops(framework.TrainerCallback):  # type: ignore[misc, name-defined]
            def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                control.should_training_stop = state.epoch >= epochs

        fitting.add_callback(Stops())
    fitting.train(resume_from_checkpoint=None if resume is None else str(resume / f"checkpoint-{3 * loops.BATCHES}"))
    return model, size.log


def Stop(folder: Path, epochs: int) -> Any:  # noqa: N802
    """Return a callback of Lightning that saves and stops after so many epochs."""
    framework = pytest.importorskip("lightning")

    class Stops(framework.Callback):  # type: ignore[misc, name-defined]
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch + 1 == epochs:
                trainer.save_checkpoint(folder / "half.ckpt")
                trainer.should_stop = True

    return Stops()


@pytest.mark.parametrize("bridge", [lightning, accelerate, transformers])
def test_the_size_is_that_of_a_loop_of_ones_own(bridge: Any, expected: Any, tmp_path: Path) -> None:
    model, log = bridge(tmp_path, expected[2], EPOCHS, None)
    loops.same(model, expected[0], atol=1e-6)
    assert [entry["left"] for entry in log] == [entry["left"] for entry in expected[1]]


@pytest.mark.parametrize("bridge", [lightning, accelerate, transformers])
def test_so_it_is_after_a_resume(bridge: Any, expected: Any, tmp_path: Path) -> None:
    bridge(tmp_path, expected[2], 3, None)
    model, log = bridge(tmp_path, expected[2], EPOCHS, tmp_path)
    loops.same(model, expected[0], atol=1e-6)
    assert [entry["left"] for entry in log] == [entry["left"] for entry in expected[1]]
