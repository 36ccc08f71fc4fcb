"""Training by Lightning with the callback equals the loop written out, to the bit."""

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
from tests.integrations.loops import EXPECTED_CALLS, METHODS, Raise, network, optimizer, plain, same

lightning = pytest.importorskip("lightning")
from pruning_lib.integrations.lightning import RegularizerCallback  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")


class Classifier(lightning.LightningModule):  # type: ignore[misc, name-defined]
    """A module as readers write them."""

    def __init__(self, returns: str = "tensor") -> None:
        super().__init__()
        self.net = network()
        self.returns = returns

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
        loss = F.cross_entropy(self.net(batch[0]), batch[1])
        return {"tensor": loss, "dict": {"loss": loss, "batch": batch_idx}}[self.returns]

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("val", F.cross_entropy(self.net(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return optimizer(self.net)


def loader() -> DataLoader[Any]:
    return DataLoader(TensorDataset(*loops.data()), batch_size=loops.SIZE)


def trainer(folder: Path, callbacks: list[Any], **settings: Any) -> Any:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return lightning.Trainer(
        **{"enable_checkpointing": False, "max_epochs": 2, **quiet, **settings}, default_root_dir=folder,
        callbacks=callbacks,
    )  # fmt: skip


def parts(name: str, module: Classifier) -> tuple[Raise, RegularizerCallback]:
    control = Raise()
    return control, RegularizerCallback(METHODS[name](module.net), module.net, [control])


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("name", METHODS)
def test_equals_the_loop_written_out(name: str, accumulate: int, tmp_path: Path) -> None:
    module = Classifier("dict" if accumulate == 3 else "tensor")
    control, callback = parts(name, module)
    trainer(tmp_path, [callback], accumulate_grad_batches=accumulate).fit(module, loader())
    expected, log = plain(METHODS[name], accumulate=accumulate)
    same(module.net, expected)
    assert control.log == log
    assert control.calls == EXPECTED_CALLS
    assert control.plan == (2, -(-loops.BATCHES // accumulate), 1.0)


def test_the_penalty_moves_the_weights(tmp_path: Path) -> None:
    for name in METHODS:
        with pytest.raises(AssertionError):
            same(plain(METHODS[name])[0], plain(None)[0])


def test_mixed_precision_equals_the_loop_written_out(tmp_path: Path) -> None:
    module = Classifier()
    _, callback = parts("SeReNe", module)
    trainer(tmp_path, [callback], precision="bf16-mixed").fit(module, loader())
    same(module.net, plain(METHODS["SeReNe"], autocast=True)[0])


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("validates", [False, True])
def test_a_resumed_training_equals_an_uninterrupted_one(name: str, validates: bool, tmp_path: Path) -> None:
    # With validation the checkpoint is written before the epoch ends, and the control has not had its turn.
    def run(epochs: int, resume: str | None) -> tuple[Classifier, Raise]:
        module = Classifier()
        control, callback = parts(name, module)
        keep = lightning.pytorch.callbacks.ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
        loaders = (loader(), loader()) if validates else (loader(),)
        fitting = trainer(tmp_path, [callback, keep], max_epochs=epochs, enable_checkpointing=True)
        fitting.fit(module, *loaders, ckpt_path=resume)
        return module, control

    run(2, None)
    module, control = run(4, str(tmp_path / "epoch=1.ckpt"))
    expected, log = plain(METHODS[name], epochs=4)
    same(module.net, expected)
    assert control.log == log


def test_a_callback_stops_the_training(tmp_path: Path) -> None:
    module = Classifier()
    control = Raise(last=1)
    trainer(tmp_path, [RegularizerCallback(METHODS["GroupLasso"](module.net), module.net, [control])]).fit(
        module, loader()
    )
    assert len(control.log) == 1


def test_everything_is_taken_off_after_an_error_too(tmp_path: Path) -> None:
    class Stumbles(prl.Callback):
        def after_epoch(self, run: prl.training.Run) -> None:
            raise OSError("a full disk")

    for extra in ([], [Stumbles()]):
        module = Classifier()
        callback = RegularizerCallback(METHODS["GroupLasso"](module.net), module.net, extra)
        fitting = trainer(tmp_path, [callback])
        try:
            fitting.fit(module, loader())
        except OSError:
            assert extra
        assert "training_step" not in vars(module)
        assert not module.net._forward_hooks
        assert not fitting.optimizers or not fitting.optimizers[0]._optimizer_step_post_hooks


@pytest.mark.parametrize("interval", ["epoch", "step"])
def test_a_callback_is_told_the_schedule(interval: str, tmp_path: Path) -> None:
    class Scheduled(Classifier):
        def configure_optimizers(self) -> Any:
            step = optimizer(self.net)
            # Halved once, in the middle of the training.
            half = {"epoch": 1, "step": loops.BATCHES}[interval]
            scheduler = torch.optim.lr_scheduler.LambdaLR(step, lambda done: 0.5 if done >= half else 1.0)
            return [step], [{"scheduler": scheduler, "interval": interval}]

    module = Scheduled()
    control, callback = parts("GroupLasso", module)
    trainer(tmp_path, [callback]).fit(module, loader())
    assert control.plan == (2, loops.BATCHES, 0.5)


def test_two_regularizers_train_together(tmp_path: Path) -> None:
    module = Classifier()
    regs = [METHODS[name](module.net) for name in ("GroupLasso", "NetworkSlimming")]
    callbacks = [RegularizerCallback(reg, module.net) for reg in regs]
    trainer(tmp_path, callbacks).fit(module, loader())
    assert "training_step" not in vars(module)
    model = network()
    step, both = optimizer(model), [METHODS[name](model) for name in ("GroupLasso", "NetworkSlimming")]
    for x, y in 2 * loops.batches():
        logits = model(x)
        loss = F.cross_entropy(logits, y) + sum(reg.penalty(logits) for reg in both)
        step.zero_grad()
        loss.backward()
        step.step()
        for reg in both:
            reg.update(step)
    same(module.net, model, atol=1e-7)


def test_misuse_gets_its_own_sentence(tmp_path: Path) -> None:
    class ByHand(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

    module, other = Classifier(), Classifier()
    reg = METHODS["GroupLasso"](module.net)
    with pytest.raises(TypeError, match=r"got a str for the regularizer; it needs one such as"):
        RegularizerCallback("L1", module.net)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"got a str; it needs the nn\.Module to watch"):
        RegularizerCallback(reg, "net")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"ByHand, which optimizes by hand; add `reg\.penalty"):
        trainer(tmp_path, [RegularizerCallback(reg, module.net)]).fit(ByHand(), loader())
    with pytest.raises(ValueError, match=r"optimizer trains no weight of the layers that GroupLasso works on"):
        trainer(tmp_path, [RegularizerCallback(reg, module.net)]).fit(other, loader())
    with pytest.raises(RuntimeError, match=r"saw no forward pass of the network in this step"):
        trainer(tmp_path, [RegularizerCallback(reg, nn.Sequential(*module.net))]).fit(module, loader())
    fit_alone = RegularizerCallback(reg, module.net, [prl.ThresholdOnPlateau(1, 0.1)])
    with pytest.raises(AttributeError, match=r"asked for `run\.history`.* works with `fit` alone"):
        trainer(tmp_path, [fit_alone]).fit(module, loader())


def test_a_checkpoint_without_the_regularizer_is_refused(tmp_path: Path) -> None:
    module = Classifier()
    fitting = trainer(tmp_path, [])
    fitting.fit(module, loader())
    fitting.save_checkpoint(tmp_path / "dense.ckpt")
    _, callback = parts("GroupLasso", module)
    with pytest.raises(ValueError, match=r"holds no state of the regularizer.* load its weights"):
        trainer(tmp_path, [callback], max_epochs=3).fit(module, loader(), ckpt_path=str(tmp_path / "dense.ckpt"))
