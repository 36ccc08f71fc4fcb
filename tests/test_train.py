"""The training loop: its step against a loop written out, resuming, denormals, plateaus, and misuse in words."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam

from pruning_lib import training as module
from pruning_lib.channels import find_units
from pruning_lib.companion.data import TensorPair
from pruning_lib.companion.models import LeNet300
from pruning_lib.regularizers import L2, GroupLasso, Guided, SeReNe, StochasticPruning
from pruning_lib.training import Callback, Run, ThresholdOnPlateau, cosine, evaluate, fit, flushed, ramp, steps


def pair(n: int, seed: int) -> TensorPair:
    g = torch.Generator().manual_seed(seed)
    inputs = torch.randn(n, 1, 4, 4, generator=g)
    return TensorPair(inputs, (inputs.flatten(1)[:, :3] * 2).argmax(1))


TRAIN, VAL = pair(90, 0), pair(40, 1)


def network(seed: int = 0, **more: Any) -> LeNet300:
    torch.manual_seed(seed)
    return LeNet300(classes=3, inputs=(1, 4, 4), widths=(12, 8), **more)


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


class DiesAfter(Callback):
    """Kills the run after some epoch, before its checkpoint, as a power cut would."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def after_epoch(self, run: Run) -> None:
        if run.epoch == self.epoch:
            raise InterruptedError


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


def test_evaluate_is_the_mean_over_examples_whatever_the_batches() -> None:
    model = network(bn=True)
    model[2].eval()
    loss, accuracy = evaluate(model, VAL, batch_size=7)
    assert [m.training for m in model] == [True, True, False, *[True] * 5]
    outputs = model.eval()(VAL.inputs)
    assert loss == pytest.approx(-outputs.log_softmax(1)[range(40), VAL.targets].mean().item(), rel=1e-5)
    assert accuracy == int((outputs.argmax(1) == VAL.targets).sum()) / 40


def test_accuracy_counts_pixels_and_is_nan_where_targets_are_no_classes() -> None:
    torch.manual_seed(0)
    x = torch.randn(6, 1, 3, 2)
    maps = nn.Conv2d(1, 4, 1)
    classes = torch.randint(4, (6, 3, 2))
    right = sum(int(maps(image[None])[0, :, i, j].argmax() == target[i, j])
                for image, target in zip(x, classes, strict=True) for i in range(3) for j in range(2))  # fmt: skip
    assert evaluate(maps, TensorPair(x, classes), batch_size=4).accuracy == right / 36
    line = nn.Sequential(nn.Flatten(), nn.Linear(6, 1))
    flat = nn.Sequential(*line, nn.Flatten(0))
    binary = nn.Conv2d(1, 1, 1)
    for model, targets in ((line, torch.randn(6, 1)), (flat, torch.randn(6)), (binary, torch.rand(6, 1, 3, 2))):
        loss, accuracy = evaluate(model, TensorPair(x, targets), batch_size=4, loss_fn=F.mse_loss)
        assert math.isnan(accuracy)
        assert loss == pytest.approx((model(x) - targets).square().mean().item(), rel=1e-5)


def test_nothing_global_is_left_changed() -> None:
    model = network().eval()
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    fit(model, TRAIN, VAL, epochs=1, optimizer=SGD(model.parameters(), 0.1), progress=False, threads=2)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(m.training for m in model.modules())
    assert denormals_survive()


def denormals_survive() -> bool:
    return bool((torch.full((100_000,), 1e-30) * 1e-10).ne(0).all())


class Watched(nn.Sequential):
    """Notes, while it computes, whether all of a tensor's denormals are flushed: each thread has its part of it."""

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(16, 3))
        self.flushed: list[bool] = []

    def note(self, _: object = None) -> None:
        self.flushed.append(bool((torch.full((1_000_000,), 1e-30) * 1e-10).eq(0).all()))

    def forward(self, x: Tensor) -> Tensor:
        self.note()
        y: Tensor = super().forward(x)
        if y.requires_grad:
            y.register_hook(self.note)  # type: ignore[no-untyped-call]
        return y


def test_a_loop_of_ones_own_can_flush_and_leaves_the_state_as_found() -> None:
    with flushed():
        assert (torch.full((2,), 1e-30) * 1e-10).eq(0).all()
        with flushed():
            pass
        assert (torch.full((2,), 1e-30) * 1e-10).eq(0).all()
    assert denormals_survive()
    with pytest.raises(KeyError), flushed():
        raise KeyError
    assert denormals_survive()


@pytest.mark.parametrize("threads", [1, 2])
def test_denormals_are_flushed_on_every_thread_and_the_state_is_put_back(threads: int) -> None:
    torch.set_num_threads(2)
    try:
        assert denormals_survive()  # starts the pool of two threads, without flushing
        model = Watched()
        fit(model, TRAIN, VAL, epochs=1, optimizer=SGD(model.parameters(), 0.1), progress=False, threads=threads)
        assert len(model.flushed) == 3, "a step forward, its way back, the validation"
        assert all(model.flushed)
        assert denormals_survive()
        torch.set_flush_denormal(True)
        fit(model, TRAIN, VAL, epochs=1, optimizer=SGD(model.parameters(), 0.1), progress=False)
        assert (torch.tensor(1e-30) * torch.tensor(1e-10)).item() == 0
    finally:
        torch.set_flush_denormal(False)
        torch.set_num_threads(1)


def test_threads_do_not_change_what_is_learned() -> None:
    results = []
    for threads in (1, 2):
        model = network()
        history = fit(
            model, TRAIN, VAL, epochs=2, optimizer=SGD(model.parameters(), 0.1), progress=False, threads=threads
        )
        results.append(history["val_loss"])
    assert results[0] == pytest.approx(results[1], rel=1e-4)


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
    with pytest.raises(ValueError, match="is no checkpoint of fit"):
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
    assert sum(map(len, seen)) == 3 * 2 * len(TRAIN.targets)


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


def test_no_examples_to_evaluate_on_is_named() -> None:
    for inputs, targets in ((0, 0), (5, 3)):
        with pytest.raises(ValueError, match=f"evaluate got {inputs} inputs and {targets} targets"):
            evaluate(network(), TensorPair(VAL.inputs[:inputs], VAL.targets[:targets]))


def test_inputs_and_targets_of_different_length_are_named() -> None:
    model = network()
    bad = TensorPair(VAL.inputs, VAL.targets[:5])
    with pytest.raises(ValueError, match="40 inputs and 5 targets in val"):
        fit(model, TRAIN, bad, epochs=1, optimizer=SGD(model.parameters(), 0.1), progress=False)


def test_milestones_and_ramps_outside_the_training_are_named() -> None:
    with pytest.raises(ValueError, match="ramp got share=5"):
        ramp(5)
    with pytest.raises(ValueError, match=r"milestones are shares of the training in \[0, 1\]"):
        steps(30, 60)


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


class Losses(Callback):
    """Plays given validation losses to the callbacks that follow, and notes the weights of each epoch."""

    def __init__(self, losses: list[float]) -> None:
        self.losses, self.weights = losses, [torch.empty(0)]

    def after_epoch(self, run: Run) -> None:
        entry = vars(run.history.epochs[-1]) | {"val_loss": self.losses[run.epoch - 1]}
        run.history.epochs[-1] = module.Epoch(**entry)
        self.weights.append(run.model.state_dict()["fc1.weight"].clone())


def test_a_plateau_is_patience_bad_epochs_in_a_row_beyond_the_slack(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bad means ≥ 1.01 × best: 1.009 is not, 1.02 is; the second plateau counts from its own start."""
    restored: list[Tensor] = []

    def thresholding(model: nn.Module, loss_fn: Any, tolerance: float) -> float:
        restored.append(model.state_dict()["fc1.weight"].clone())
        return 0.0

    monkeypatch.setattr(module, "threshold_weights", thresholding)
    model = network()
    script = Losses([1.0, 1.02, 1.009, 1.02, 1.02, 3.0, math.nan, 5.0, 2.0])
    plateau = ThresholdOnPlateau(patience=2, tolerance=0.0)
    fit(
        model, TRAIN, VAL, epochs=9, optimizer=SGD(model.parameters(), 0.1), callbacks=[script, plateau], progress=False
    )
    assert [entry["epoch"] for entry in plateau.log] == [5, 8, 9]
    for weights, epoch in zip(restored, (1, 6, 9), strict=True):
        assert torch.equal(weights, script.weights[epoch])


def test_what_was_thresholded_stays_zero_and_is_released_at_the_end() -> None:
    model = network()
    optimizer = SGD(model.parameters(), 0.3, momentum=0.9)
    zeros: list[Mapping[str, Tensor]] = []

    class Notes(Callback):
        def after_epoch(self, run: Run) -> None:
            zeros.append({name: p.detach() == 0 for name, p in run.model.named_parameters() if p.ndim > 1})

    plateau = ThresholdOnPlateau(patience=1, tolerance=0.5, slack=0.0)
    fit(
        model, TRAIN, VAL, epochs=12, optimizer=optimizer, regularizer=L2(model, 1e-2), callbacks=[plateau, Notes()],
        batch_size=30, progress=False,
    )  # fmt: skip
    assert len(plateau.log) > 1
    assert all(entry["val_loss_after"] <= 1.5 * entry["val_loss_before"] + 1e-9 for entry in plateau.log)
    for earlier, later in pairwise(zeros):
        assert all((later[name] | ~mask).all() for name, mask in earlier.items())
    left = sum(int(p.count_nonzero()) for p in model.parameters() if p.ndim > 1)
    assert left == plateau.log[-1]["weights_left"] < 12 * 16 + 8 * 12 + 3 * 8
    fit(model, TRAIN, VAL, epochs=1, optimizer=optimizer, progress=False)
    assert sum(int(p.count_nonzero()) for p in model.parameters() if p.ndim > 1) > left


def test_thresholding_settings_out_of_range_are_named() -> None:
    with pytest.raises(ValueError, match="it needs patience ≥ 1"):
        ThresholdOnPlateau(patience=0, tolerance=0.1)
    with pytest.raises(ValueError, match="tolerance=nan"):
        ThresholdOnPlateau(patience=1, tolerance=math.nan)


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
        with pytest.raises(module.CheckpointError, match=named):
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
    with pytest.raises(module.CheckpointError, match="does not fit the SeReNe of this run"):
        run(model)
    assert same(model, before)


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
