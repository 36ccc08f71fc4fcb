"""Training by the Trainer with the callback equals the loop written out."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pruning_lib as prl
from tests.integrations.loops import BATCHES, EXPECTED_CALLS, METHODS, RATE, SIZE, Raise, data, network, plain, same

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")
from pruning_lib.integrations.transformers import regularize  # noqa: E402


class Classifier(nn.Module):
    """The network behind the interface that the Trainer wants."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, pixels: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.net(pixels)
        outputs = {"logits": logits}
        return outputs if labels is None else {"loss": F.cross_entropy(logits, labels), **outputs}


class Counting(Classifier):
    """One that divides its loss by the number of examples in all batches that accumulate, as language models do."""

    def forward(self, pixels: Tensor, labels: Tensor, **kwargs: Any) -> dict[str, Tensor]:  # type: ignore[override]
        logits = self.net(pixels)
        items = kwargs["num_items_in_batch"]
        return {"loss": F.cross_entropy(logits, labels, reduction="sum") / items, "logits": logits}


class InOrder(transformers.Trainer):  # type: ignore[misc, name-defined]
    """The batches in their order, and plain SGD with momentum."""

    def _get_train_sampler(self, *_: Any) -> torch.utils.data.Sampler[int]:
        return torch.utils.data.SequentialSampler(self.train_dataset)

    def create_optimizer(self, *_: Any) -> torch.optim.Optimizer:
        self.optimizer = torch.optim.SGD(self.model.parameters(), RATE, momentum=0.9)
        return self.optimizer


def trainer(folder: Path, model: nn.Module, **settings: Any) -> Any:
    quiet = {"report_to": "none", "disable_tqdm": True, "use_cpu": True, "save_strategy": "no"}
    arguments = transformers.TrainingArguments(
        str(folder), per_device_train_batch_size=SIZE, max_grad_norm=0.0, lr_scheduler_type="constant",
        remove_unused_columns=False, **{**quiet, "num_train_epochs": 2, **settings},
    )  # fmt: skip
    examples = [{"pixels": x, "labels": int(y)} for x, y in zip(*data(), strict=True)]
    return InOrder(model, arguments, train_dataset=examples)


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("name", METHODS)
def test_equals_the_loop_written_out(name: str, accumulate: int, tmp_path: Path) -> None:
    model, control = Classifier(), Raise()
    fitting = trainer(tmp_path, model, gradient_accumulation_steps=accumulate)
    regularize(fitting, METHODS[name](model.net), callbacks=[control])
    fitting.train()
    expected, log = plain(METHODS[name], accumulate=accumulate, short=True)
    same(model.net, expected, atol=1e-6)
    assert control.log == log
    assert control.calls == EXPECTED_CALLS
    assert control.plan == (2, -(-BATCHES // accumulate), 1.0)


def test_a_loss_that_the_model_divides_itself_has_a_whole_penalty(tmp_path: Path) -> None:
    model = Counting()
    fitting = trainer(tmp_path, model, gradient_accumulation_steps=3)
    assert fitting.model_accepts_loss_kwargs
    regularize(fitting, METHODS["NetworkSlimming"](model.net), callbacks=[Raise()])
    fitting.train()
    same(model.net, plain(METHODS["NetworkSlimming"], accumulate=3, short=True)[0], atol=1e-6)


@pytest.mark.parametrize("restores_callbacks", [False, True])
@pytest.mark.parametrize("strategy", ["epoch", "steps"])
def test_a_resumed_training_equals_an_uninterrupted_one(
    strategy: str, restores_callbacks: bool, tmp_path: Path
) -> None:
    # By steps the checkpoint is written before the epoch ends, and the control has not had its turn.
    def run(epochs: int, resume: str | None) -> tuple[nn.Module, Raise]:
        model, control = Classifier(), Raise()
        fitting = trainer(
            tmp_path, model, num_train_epochs=epochs, save_strategy=strategy, save_steps=5,
            restore_callback_states_from_checkpoint=restores_callbacks,
        )  # fmt: skip
        regularize(fitting, METHODS["SeReNe"](model.net), callbacks=[control])
        fitting.train(resume_from_checkpoint=resume)
        return model.net, control

    run(2, None)
    model, control = run(4, str(tmp_path / "checkpoint-10"))
    expected, log = plain(METHODS["SeReNe"], epochs=4)
    same(model, expected, atol=1e-6)
    assert control.log == log


def test_a_callback_stops_the_training(tmp_path: Path) -> None:
    model, control = Classifier(), Raise(last=1)
    fitting = trainer(tmp_path, model)
    regularize(fitting, METHODS["GroupLasso"](model.net), callbacks=[control])
    fitting.train()
    assert len(control.log) == 1
    assert fitting.state.epoch == 1
    assert not model._forward_hooks


def test_logits_are_found_in_the_outputs_of_transformers(tmp_path: Path) -> None:
    config = transformers.BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24, num_labels=3
    )
    torch.manual_seed(0)
    model = transformers.BertForSequenceClassification(config)
    arguments = transformers.TrainingArguments(
        str(tmp_path), num_train_epochs=1, report_to="none", disable_tqdm=True, use_cpu=True, save_strategy="no"
    )
    examples = [{"input_ids": torch.randint(40, (7,)), "labels": i % 3} for i in range(8)]
    fitting = transformers.Trainer(model, arguments, train_dataset=examples)
    reg = prl.SeReNe(model, strength=1e-3, units=prl.find_units(model, {"input_ids": torch.zeros(1, 7).long()}))
    regularize(fitting, reg)
    fitting.train()
    assert reg.sensitivity()["bert.encoder.layer.0.intermediate.dense"].shape == (24,)


def test_two_regularizers_train_together_and_resume(tmp_path: Path) -> None:
    def run(epochs: int, resume: str | None) -> tuple[nn.Module, list[float]]:
        model = Classifier()
        fitting = trainer(tmp_path, model, num_train_epochs=epochs, save_strategy="epoch")
        regs = [METHODS[name](model.net) for name in ("GroupLasso", "NetworkSlimming")]
        for factor, reg in zip((1.5, 0.5), regs, strict=True):
            regularize(fitting, reg, callbacks=[Raise(factor)])
        fitting.train(resume_from_checkpoint=resume)
        return model.net, [reg.strength for reg in regs]

    whole, strengths = run(3, None)
    resumed, same_strengths = run(3, str(tmp_path / "checkpoint-5"))
    same(resumed, whole, atol=1e-6)
    assert same_strengths == strengths == pytest.approx([0.3 * 1.5**3, 0.1 * 0.5**3])


def test_misuse_gets_its_own_sentence(tmp_path: Path) -> None:
    model, other = Classifier(), Classifier()
    reg = METHODS["GroupLasso"](model.net)
    with pytest.raises(TypeError, match=r"got a Classifier; it needs a transformers\.Trainer"):
        regularize(model, reg)
    with pytest.raises(TypeError, match=r"got the class L1 for the regularizer"):
        regularize(trainer(tmp_path, model), prl.L1)  # type: ignore[arg-type]
    several = SimpleNamespace(accelerator=0, add_callback=0, compute_loss=0, args=SimpleNamespace(n_gpu=2))
    with pytest.raises(ValueError, match=r"over several GPUs \(DataParallel\), which is not supported"):
        regularize(several, reg)
    fitting = trainer(tmp_path, other)
    regularize(fitting, METHODS["GroupLasso"](model))
    with pytest.raises(ValueError, match=r"optimizer trains no weight of the layers that GroupLasso works on"):
        fitting.train()


def test_a_checkpoint_without_the_regularizer_is_refused(tmp_path: Path) -> None:
    trainer(tmp_path, Classifier(), num_train_epochs=1, save_strategy="epoch").train()
    model = Classifier()
    fitting = trainer(tmp_path, model)
    regularize(fitting, METHODS["GroupLasso"](model.net))
    with pytest.raises(ValueError, match=r"holds no state of the regularizer.* load its weights"):
        fitting.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
