"""A loop with Accelerate equals the loop written out, to the bit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import pruning_lib as prl
from pruning_lib.integrations.accelerate import regularize
from tests.integrations.loops import EXPECTED_CALLS, METHODS, SIZE, Raise, data, network, optimizer, plain, same

accelerate = pytest.importorskip("accelerate")


@pytest.fixture(autouse=True)
def _one_state_a_test() -> Iterator[None]:
    """Accelerate keeps its settings for the whole process."""
    yield
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerate.state.GradientState._reset_state()


def train(
    name: str, *, epochs: int = 2, accumulate: int = 1, save: Path | None = None, resume: Path | None = None, **how: Any
) -> tuple[nn.Module, Raise]:
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=accumulate, **how)
    net = network()
    model, step, loader = accelerator.prepare(net, optimizer(net), DataLoader(TensorDataset(*data()), SIZE))
    reg, control = METHODS[name](net), Raise()
    training = regularize(
        accelerator, reg, model, step, epochs=epochs, callbacks=[control], steps=5 * epochs, schedule=prl.cosine
    )
    if resume is not None:
        accelerator.load_state(str(resume))
    for epoch in training:
        for x, y in loader:
            with accelerator.accumulate(model):
                logits = model(x)
                accelerator.backward(F.cross_entropy(logits, y) + reg.penalty(logits))
                step.step()
                step.zero_grad()
        if save is not None and epoch == 1:
            training.done()
            accelerator.save_state(str(save))
    assert not step.optimizer._optimizer_step_post_hooks
    return net, control


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("name", METHODS)
def test_equals_the_loop_written_out(name: str, accumulate: int) -> None:
    model, control = train(name, accumulate=accumulate)
    expected, log = plain(METHODS[name], accumulate=accumulate)
    same(model, expected)
    assert control.log == log
    assert control.calls == EXPECTED_CALLS
    assert control.plan == (2, 5, pytest.approx(0.5))


@pytest.mark.parametrize("name", METHODS)
def test_a_resumed_training_equals_an_uninterrupted_one(name: str, tmp_path: Path) -> None:
    train(name, save=tmp_path)
    model, control = train(name, epochs=4, resume=tmp_path)
    expected, log = plain(METHODS[name], epochs=4)
    same(model, expected)
    assert control.log == log
    assert control.calls == ["start", "before 2", "after 3", "before 3", "after 4", "finish", "close"]


def test_mixed_precision_equals_the_loop_written_out() -> None:
    model, _ = train("GroupLasso", mixed_precision="bf16")
    expected, _ = plain(METHODS["GroupLasso"], autocast=True)
    # The loss is computed outside of the autocast here, from outputs in float32.
    same(model, expected, atol=1e-6)


def test_misuse_gets_its_own_sentence() -> None:
    model, other = network(), network()
    accelerator = accelerate.Accelerator(cpu=True)
    reg = METHODS["GroupLasso"](model)
    with pytest.raises(TypeError, match=r"got a Sequential; it needs an accelerate\.Accelerator"):
        regularize(model, reg, model, optimizer(model), epochs=1)
    with pytest.raises(TypeError, match=r"got a SGD for the model; it needs an nn\.Module"):
        regularize(accelerator, reg, optimizer(model), model, epochs=1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"optimizer trains no weight of the layers that GroupLasso works on"):
        list(regularize(accelerator, reg, model, optimizer(other), epochs=1))
    with pytest.raises(TypeError, match=r"as optimizer; it needs a torch\.optim\.Optimizer"):
        list(regularize(accelerator, reg, model, other, epochs=1))  # type: ignore[arg-type]


def test_a_checkpoint_of_other_callbacks_is_refused_and_nothing_changes(tmp_path: Path) -> None:
    train("GroupLasso", save=tmp_path)
    accelerator = accelerate.Accelerator(cpu=True)
    net = network()
    model, step = accelerator.prepare(net, optimizer(net))
    reg = METHODS["GroupLasso"](net)
    regularize(accelerator, reg, model, step, epochs=2)
    with pytest.raises(ValueError, match=r"holds no state of this regularizer with 0 callbacks"):
        accelerator.load_state(str(tmp_path))
    assert reg.strength == 0.3
    assert torch.is_grad_enabled()
