"""The training loop: its step against a loop written out, augmentation, precision, strength, and misuse in words."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam

from pruning_lib.channels import find_units
from pruning_lib.regularizers import L2, GroupLasso, Guided, SeReNe, StochasticPruning
from pruning_lib.training import TensorPair, ThresholdOnPlateau, cosine, evaluate, fit, ramp, steps
from tests.training.runs import TRAIN, VAL, network, same


def test_fit_takes_the_steps_of_the_loop_written_out() -> None:
    model = network()
    twin = copy.deepcopy(model)
    fit(
        model, TRAIN, VAL, epochs=2, optimizer=SGD(model.parameters(), 0.1, momentum=0.9),
        regularizer=GroupLasso(model, 1e-2), batch_size=32, schedule=cosine, seed=3, progress=False,
    )  # fmt: skip
    optimizer, reg = SGD(twin.parameters(), 0.1, momentum=0.9), GroupLasso(twin, 1e-2)
    generator, step = torch.Generator().manual_seed(3), 0
    for _ in range(2):
        order = torch.randperm(90, generator=generator)
        for i in (0, 32, 64):
            optimizer.param_groups[0]["lr"] = 0.1 * (1 + math.cos(math.pi * step / 6)) / 2
            batch = order[i : i + 32]
            logits = twin(TRAIN.inputs[batch])
            loss = F.cross_entropy(logits, TRAIN.targets[batch]) + reg.penalty(logits)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            reg.update(optimizer)
            step += 1
    assert same(model, twin)


def test_history_holds_what_evaluate_gives_and_the_rate_that_was_used() -> None:
    model = network()
    optimizer = SGD(model.parameters(), 0.2)
    history = fit(
        model, TRAIN, VAL, epochs=4, optimizer=optimizer, schedule=steps(0.5, factor=0.1), batch_size=90, progress=False
    )
    assert history["epoch"] == [0, 1, 2, 3]
    assert history["lr"] == pytest.approx([0.2, 0.2, 0.02, 0.02])
    assert (history["val_loss"][-1], history["val_accuracy"][-1]) == evaluate(model, VAL)
    assert optimizer.param_groups[0]["lr"] == 0.2
    # One step an epoch: the first training loss is that of the untouched network.
    assert history["train_loss"][0] == pytest.approx(evaluate(network(), TRAIN).loss, rel=1e-5)


def test_augmentation_draws_from_the_seed_and_reaches_training_alone() -> None:
    seen: list[torch.Tensor] = []

    def noisy(inputs: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        seen.append(torch.randn(len(inputs), generator=generator))
        return inputs + seen[-1].view(-1, 1, 1, 1)

    models = [network() for _ in range(3)]
    for model, seed in zip(models, (0, 0, 1), strict=True):
        fit(
            model,
            TRAIN,
            VAL,
            epochs=2,
            optimizer=SGD(model.parameters(), 0.1),
            augment=noisy,
            seed=seed,
            progress=False,
        )
    assert same(models[0], models[1])
    assert not same(models[0], models[2])
    assert sum(map(len, seen)) == 3 * (1 + 2 * len(TRAIN.targets))  # it is tried on one example first


def test_autocast_takes_the_steps_of_the_loop_written_out() -> None:
    model, by_hand = network(), network()
    fit(
        model, TRAIN, VAL, epochs=1, optimizer=SGD(model.parameters(), 0.1), batch_size=len(TRAIN.targets),
        autocast=torch.bfloat16, progress=False,
    )  # fmt: skip
    order = torch.randperm(len(TRAIN.targets), generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        outputs = by_hand(TRAIN.inputs[order])
    assert outputs.dtype is torch.bfloat16
    F.cross_entropy(outputs.float(), TRAIN.targets[order]).backward()
    SGD(by_hand.parameters(), 0.1).step()
    assert same(model, by_hand)
    plain = network()
    optimizer = SGD(plain.parameters(), 0.1)
    fit(plain, TRAIN, VAL, epochs=1, optimizer=optimizer, batch_size=len(TRAIN.targets), progress=False)
    assert not same(model, plain)


def test_a_loss_that_diverges_stops_the_run_in_words() -> None:
    model = network()
    with pytest.raises(FloatingPointError, match=r"loss became (nan|inf) in epoch 1, step \d+; lower .*\(1e\+06\)"):
        fit(model, TRAIN, VAL, epochs=3, optimizer=SGD(model.parameters(), 1e6), batch_size=10, progress=False)


@pytest.mark.parametrize("name", ["epochs", "batch_size", "threads"])
def test_numbers_below_one_are_named(name: str) -> None:
    model = network()
    arguments: dict[str, Any] = {"epochs": 1, name: 0}
    with pytest.raises(ValueError, match=f"fit got {name}=0"):
        fit(model, TRAIN, VAL, optimizer=SGD(model.parameters(), 0.1), progress=False, **arguments)


def test_inputs_and_targets_of_different_length_are_named() -> None:
    model = network()
    bad = TensorPair(VAL.inputs, VAL.targets[:5])
    with pytest.raises(ValueError, match="40 inputs and 5 targets in val"):
        fit(model, TRAIN, bad, epochs=1, optimizer=SGD(model.parameters(), 0.1), progress=False)


def test_progress_is_silent_unless_asked_for(capfd: pytest.CaptureFixture[str]) -> None:
    model = network()
    fit(model, TRAIN, VAL, epochs=1, optimizer=SGD(model.parameters(), 0.1), progress=False)
    assert capfd.readouterr() == ("", "")
    fit(model, TRAIN, VAL, epochs=1, optimizer=SGD(model.parameters(), 0.1))
    assert "epoch 1/1" in capfd.readouterr().err


def test_strength_follows_its_schedule_and_is_put_back() -> None:
    seen: list[float] = []

    class Noting(L2):
        def penalty(self, outputs: Tensor) -> Tensor:
            seen.append(self.strength)
            return super().penalty(outputs)

    model = network()
    reg = Noting(model, 0.4)
    fit(
        model, TRAIN, VAL, epochs=2, optimizer=SGD(model.parameters(), 0.1), regularizer=reg, batch_size=45,
        strength_schedule=ramp(0.5), progress=False,
    )  # fmt: skip
    assert seen == pytest.approx([0.0, 0.2, 0.4, 0.4])
    assert reg.strength == 0.4


def test_a_last_batch_of_one_joins_the_one_before_where_a_batchnorm_needs_two() -> None:
    train = TensorPair(TRAIN.inputs[:65], TRAIN.targets[:65])
    for bn, count in ((True, 2), (False, 3)):
        model = network(bn=bn)
        seen: list[int] = []
        model.fc1.register_forward_hook(lambda m, args, _, seen=seen: seen.append(len(args[0])) if m.training else None)
        fit(model, train, VAL, epochs=1, optimizer=SGD(model.parameters(), 0.1), batch_size=32, progress=False)
        assert (len(seen), sum(seen)) == (count, 65)


def test_a_pair_of_tensors_will_do_and_a_loader_is_named() -> None:
    model = network()
    optimizer = SGD(model.parameters(), 0.1)
    assert len(fit(model, tuple(TRAIN), tuple(VAL), epochs=1, optimizer=optimizer, progress=False)) == 1  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="fit got a list for train; it needs two tensors"):
        fit(model, [TRAIN], VAL, epochs=1, optimizer=optimizer, progress=False)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wrong", "error", "sentence"),
    [
        ({"epochs": math.nan}, TypeError, "fit got epochs=nan; it needs a whole number"),
        ({"epochs": "3"}, TypeError, "fit got epochs='3'; it needs a whole number"),
        ({"batch_size": "8"}, TypeError, "fit got batch_size='8'"),
        ({"batch_size": 8.0}, TypeError, "fit got batch_size=8.0"),
        ({"seed": 2**70}, ValueError, "fit got seed="),
        (
            {"threads": 100_000},
            ValueError,
            "fit got threads=100000; it needs a whole number, 1 or more, and here up to",
        ),
        ({"threads": "2"}, TypeError, "fit got threads='2'"),
        ({"optimizer": "SGD"}, TypeError, "fit got optimizer=.SGD.; it needs a torch.optim.Optimizer"),
        ({"regularizer": L2}, TypeError, "fit got the class L2 for regularizer; it needs a regularizer such as"),
        ({"regularizer": 1e-4}, TypeError, "fit got regularizer=0.0001"),
        ({"loss_fn": "mse"}, TypeError, "fit got loss_fn=.mse."),
        ({"schedule": 0.1}, TypeError, "fit got schedule=0.1"),
        ({"augment": True}, TypeError, "fit got augment=True"),
        ({"autocast": "bfloat16"}, TypeError, "fit got autocast=.bfloat16."),
        ({"callbacks": 5}, TypeError, "fit got callbacks=5"),
        ({"callbacks": [ThresholdOnPlateau]}, TypeError, "fit got the class ThresholdOnPlateau among callbacks"),
        ({"checkpoint": 5}, TypeError, "fit got checkpoint=5; it needs a path"),
    ],
)
def test_arguments_of_the_wrong_kind_get_a_sentence(
    wrong: dict[str, Any], error: type[Exception], sentence: str
) -> None:
    model = network()
    before = copy.deepcopy(model)
    arguments: dict[str, Any] = {"epochs": 1, "optimizer": SGD(model.parameters(), 0.1), "progress": False}
    with pytest.raises(error, match=sentence):
        fit(model, TRAIN, VAL, **(arguments | wrong))
    assert same(model, before)


@pytest.mark.parametrize("name", ["train", "val"])
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda x, y: (x[:, :, :3], y), "fit cannot compute the loss of {}: "),
        (lambda x, y: (x.double(), y), "fit cannot compute the loss of {}: "),
        (
            lambda x, y: (x, torch.where(torch.arange(len(y)) == len(y) - 1, 3, y)),
            "fit cannot compute the loss of {}: ",
        ),
        (lambda x, y: (x, y.float()), "fit cannot compute the loss of {}: "),
        (lambda x, y: (x / (x > 0), y), "fit got inputs in {} that are not finite"),
        (lambda x, y: (x[:0], y[:0]), "fit got 0 inputs and 0 targets in {}"),
        (lambda x, y: (torch.tensor(1.0), y), "fit got 0 inputs and .* targets in {}"),
    ],
)
def test_data_that_does_not_fit_is_named_before_the_first_step(name: str, change: Any, sentence: str) -> None:
    model = network(bn=True)
    before = copy.deepcopy(model)
    data: dict[str, Any] = {"train": TRAIN, "val": VAL}
    data[name] = change(*data[name])
    optimizer = SGD(model.parameters(), 0.1, momentum=0.9)
    with pytest.raises(ValueError, match=sentence.format(name)):
        fit(model, **data, epochs=1, optimizer=optimizer, progress=False)
    assert same(model, before)
    assert not optimizer.state


def test_an_optimizer_and_a_regularizer_of_another_model_are_refused() -> None:
    """The slip after `shrink`: both still hold the network that was cut."""
    dense, small = network(), network()
    optimizer = SGD(small.parameters(), 0.1)
    before = copy.deepcopy(small)
    units = find_units(dense, TRAIN.inputs[:1])
    arguments: dict[str, Any] = {"epochs": 1, "progress": False}
    with pytest.raises(ValueError, match="the optimizer of another model: .* after `shrink` too"):
        fit(small, TRAIN, VAL, optimizer=SGD(dense.parameters(), 0.1), **arguments)
    for method in (
        L2,
        GroupLasso,
        SeReNe,
        lambda *of: StochasticPruning(*of, base=L2),
        lambda *of: Guided(*of, base=L2, units=units),
    ):
        with pytest.raises(ValueError, match="the regularizer of another model"):
            fit(small, TRAIN, VAL, optimizer=optimizer, regularizer=method(dense, 1e-3), **arguments)
    assert same(small, before)
    part = SGD(small.fc3.parameters(), 0.1)  # a part of the model may be trained alone
    assert len(fit(small, TRAIN, VAL, optimizer=part, regularizer=L2(small, 1e-3), **arguments)) == 1


def test_a_last_step_that_diverges_is_noticed_before_the_checkpoint_says_done(tmp_path: Path) -> None:
    model = network()
    path = tmp_path / "run.pt"
    optimizer = SGD(model.parameters(), math.nan)
    with pytest.raises(FloatingPointError, match=r"'fc1.weight' was not finite after epoch 1; lower .*\(nan\)"):
        fit(model, TRAIN, VAL, epochs=1, optimizer=optimizer, batch_size=90, checkpoint=path, progress=False)
    assert not path.exists()


def test_a_tensor_as_learning_rate_stays_the_tensor_that_it_is() -> None:
    model, twin = network(), network()
    optimizer = Adam(model.parameters(), torch.tensor(1e-2))
    rate = optimizer.param_groups[0]["lr"]
    history = fit(model, TRAIN, VAL, epochs=2, optimizer=optimizer, schedule=cosine, progress=False)
    assert optimizer.param_groups[0]["lr"] is rate
    assert rate.item() == pytest.approx(1e-2)
    fit(twin, TRAIN, VAL, epochs=2, optimizer=Adam(twin.parameters(), 1e-2), schedule=cosine, progress=False)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(model.parameters(), twin.parameters(), strict=True))
    assert all(isinstance(lr, float) for lr in history["lr"])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
@pytest.mark.parametrize("when", [0.0, 0.5])
def test_a_schedule_that_returns_no_factor_is_named_and_nothing_stays_scaled(value: float, when: float) -> None:
    model = network()
    reg, optimizer = L2(model, 0.4), SGD(model.parameters(), 0.1)
    with pytest.raises(ValueError, match=r"strength_schedule that returns \S+ at a progress of 0\.\d\d; a factor is"):
        fit(
            model, TRAIN, VAL, epochs=2, optimizer=optimizer, regularizer=reg, schedule=ramp(0.9),
            strength_schedule=lambda progress: value if progress >= when else 1.0, progress=False,
        )  # fmt: skip
    assert (reg.strength, optimizer.param_groups[0]["lr"]) == (0.4, 0.1)


def test_autocast_of_a_network_of_words_trains_it() -> None:
    words, next_words = torch.randint(5, (40, 3)), torch.randint(5, (40,))

    def trained(autocast: torch.dtype | None) -> nn.Module:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Embedding(5, 4), nn.Flatten(), nn.Linear(12, 5))
        pair = TensorPair(words, next_words)
        fit(
            model, pair, pair, epochs=2, optimizer=SGD(model.parameters(), 0.1), autocast=autocast, progress=False,
            loss_fn=lambda outputs, targets: F.cross_entropy(outputs.float(), targets),
        )  # fmt: skip
        return model

    whole, half = trained(None), trained(torch.bfloat16)
    torch.manual_seed(0)
    start = nn.Embedding(5, 4).weight
    moved = whole[0].weight - start
    assert moved.abs().max() > 1e-3
    torch.testing.assert_close(half[0].weight - start, moved, rtol=0.1, atol=0.05 * float(moved.abs().max()))
