"""Every method in every circumstance: what `regularizers/base.py` promises, in one matrix.

A method joins by its line in `METHODS`, a circumstance by its test.
"""

from __future__ import annotations

import io
import math
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer

from pruning_lib import regularizers
from pruning_lib.companion.data import TensorPair
from pruning_lib.companion.models import LeNet5
from pruning_lib.regularizers import (
    L1,
    L2,
    GroupHoyer,
    GroupLasso,
    Guided,
    NetworkSlimming,
    Polarization,
    RecedingNeurons,
    Regularizer,
    SeReNe,
    StochasticPruning,
    bound_batchnorm,
)
from pruning_lib.training import Callback, Run, ThresholdOnPlateau, fit
from pruning_lib.units import Group, Member, Units

CLASSES = 3


@dataclass(frozen=True)
class Method:
    """One row of the matrix.

    `make(model, strength, units=…)` builds the method, on a model that `prepare` has changed; `strength` is one that
    moves a weight within three steps.
    """

    make: Callable[..., Regularizer]
    strength: float = 0.01
    prepare: Callable[[nn.Module], object] = lambda model: None
    reach: tuple[str, ...] = ("conv2.", "bn2.")  # where the units of conv2 are felt
    needs_units: bool = False
    off_at_zero: bool = True  # False: strength is that of a part, as the penalty beside a sampling
    eager_only: bool = False
    draws: bool = False  # what it draws depends on the examples, so that no two ways to batch them agree


def modes(method: type[Regularizer]) -> tuple[str, ...]:
    """Return every way to apply a method that its signature offers."""
    annotation = typing.get_type_hints(method.__init__)["apply"]
    choices = typing.get_args(annotation)
    return tuple(mode for part in choices for mode in typing.get_args(part)) or choices


METHODS: dict[str, Method] = {
    **{f"L1 {mode}": Method(partial(L1, apply=mode)) for mode in modes(L1)},
    **{f"L2 {mode}": Method(partial(L2, apply=mode)) for mode in modes(L2)},
    **{f"GroupLasso {mode}": Method(partial(GroupLasso, apply=mode)) for mode in modes(GroupLasso)},
    **{
        f"GroupLasso {over} {mode}": Method(
            partial(GroupLasso, over=over, apply=mode), needs_units=True, reach=(*reach, "fc1.")
        )
        for over, reach in (("columns", ()), ("coupled", ("conv2.", "bn2.")))
        for mode in modes(GroupLasso)
    },
    **{f"GroupHoyer {mode}": Method(partial(GroupHoyer, apply=mode)) for mode in modes(GroupHoyer)},
    **{
        f"GroupHoyer both {mode}": Method(
            partial(GroupHoyer, over="both", apply=mode), needs_units=True, reach=("conv2.", "fc1.")
        )
        for mode in modes(GroupHoyer)
    },
    **{
        f"Guided {base.__name__} {mode}": Method(partial(Guided, base=base, apply=mode), needs_units=True)
        for base in (L1, L2, GroupLasso)
        for mode in modes(Guided)
    },
    **{f"NetworkSlimming {mode}": Method(partial(NetworkSlimming, apply=mode)) for mode in modes(NetworkSlimming)},
    "Polarization": Method(Polarization),
    "RecedingNeurons": Method(partial(RecedingNeurons, shift=0.0), prepare=bound_batchnorm),
    "StochasticPruning": Method(partial(StochasticPruning, temperature=0.3), off_at_zero=False),
    "StochasticPruning mask": Method(
        partial(StochasticPruning, base=L1, temperature=0.3, mode="mask"), off_at_zero=False
    ),
    "SeReNe sampled": Method(partial(SeReNe, every=2), eager_only=True, draws=True),
    "SeReNe exact": Method(partial(SeReNe, estimator="exact"), eager_only=True),
    "SeReNe lower-bound": Method(partial(SeReNe, estimator="lower-bound"), eager_only=True),
    "SeReNe local": Method(partial(SeReNe, estimator="local"), eager_only=True),
}
KINDS = ("L1 prox", "GroupLasso loss", "NetworkSlimming loss", "RecedingNeurons", "StochasticPruning", "SeReNe exact")
"""One of each kind of method, for pairs."""
NEED_PLAIN_SCALES = ("NetworkSlimming prox", "Polarization", "GroupLasso coupled prox", "GroupLasso coupled decay")
"""Steps and clamps of a scale that `bound_batchnorm` computes from another would change nothing; refused in words."""


def names(keep: Callable[[Method], bool] = lambda method: True) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("name", [name for name, method in METHODS.items() if keep(method)])


def network(seed: int = 0) -> LeNet5:
    torch.manual_seed(seed)
    model = LeNet5(CLASSES, (1, 8, 8), (4, 6, 8), kernel=3, padding=1, bn=True)
    for norm in (model.bn1, model.bn2, model.bn3):
        assert isinstance(norm, nn.modules.batchnorm._BatchNorm)
        nn.init.uniform_(norm.weight, 0.3, 1.0)
        nn.init.normal_(norm.running_mean)
    return model


def group(name: str, norm: str, reader: str, size: int, pixels: int = 1) -> Group:
    every = torch.arange(size)
    member = Member(reader, every.repeat_interleave(pixels))
    return Group(name, size, "inner", (Member(name, every),), (Member(norm, every),), (member,))


GROUPS = (group("conv1", "bn1", "conv2", 4), group("conv2", "bn2", "fc1", 6, 4), group("fc1", "bn3", "fc2", 8))
ALL = Units(GROUPS)
WEIGHTS = ("conv1", "conv2", "fc1", "fc2")
NORMS = ("bn1", "bn2", "bn3")


def batches(count: int) -> list[tuple[Tensor, Tensor]]:
    g = torch.Generator().manual_seed(1)
    return [(torch.randn(12, 1, 8, 8, generator=g), torch.randint(CLASSES, (12,), generator=g)) for _ in range(count)]


BATCHES = batches(6)


def made(name: str, model: nn.Module, strength: float | None = None, units: Units | None = None) -> Regularizer:
    method = METHODS[name]
    wanted = ALL if units is None and method.needs_units else units
    return method.make(model, method.strength if strength is None else strength, units=wanted)


def prepared(*names: str, seed: int = 0, train: bool = False) -> LeNet5:
    """Return the network as the methods want it; BatchNorm keeps its statistics unless `train`, so that parts of a
    batch do not depend on each other."""
    model = network(seed).train(train)
    for prepare in dict.fromkeys(METHODS[name].prepare for name in names):
        prepare(model)
    return model


def sgd(model: nn.Module) -> Optimizer:
    return SGD(model.parameters(), 0.05, momentum=0.9)


def step(model: nn.Module, optimizer: Optimizer, regs: Iterable[Regularizer], batch: tuple[Tensor, Tensor]) -> None:
    x, y = batch
    outputs = model(x)
    loss = F.cross_entropy(outputs, y)
    for reg in regs:
        loss = loss + reg.penalty(outputs)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    for reg in regs:
        reg.update(optimizer)


def trained(
    model: nn.Module, *regs: Regularizer, steps: int = 3, optimizer: Optimizer | None = None
) -> dict[str, Tensor]:
    """Return the state after some steps."""
    optimizer = sgd(model) if optimizer is None else optimizer
    for batch in BATCHES[:steps]:
        step(model, optimizer, regs, batch)
    return state(model)


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    """Whether no bit differs."""
    assert a.keys() == b.keys()
    return all(torch.equal(value, b[name]) for name, value in a.items())


def close(a: Mapping[str, Tensor], b: Mapping[str, Tensor], atol: float = 1e-6) -> bool:
    assert a.keys() == b.keys()
    return all(torch.allclose(value, b[name], rtol=1e-4, atol=atol) for name, value in a.items())


def test_every_method_there_is_has_its_line() -> None:
    exported = {getattr(regularizers, name) for name in regularizers.__all__} - {Regularizer}
    classes = {value for value in exported if isinstance(value, type) and hasattr(value, "penalty")}
    assert {type(made(name, prepared(name))) for name in METHODS} == classes


@names()
def test_a_plain_loop(name: str) -> None:
    model, plain = prepared(name, train=True), prepared(name, train=True)
    reg = made(name, model)
    outputs = model(BATCHES[0][0])
    before = state(model)
    term = reg.penalty(outputs)
    assert (term.shape, term.dtype, bool(term.isfinite())) == ((), torch.float32, True)
    assert same(state(model), before), "penalty only looks"
    after = trained(model, reg)
    assert all(bool(value.isfinite().all()) for value in after.values())
    assert not close(after, trained(plain)), "it regularizes"
    for layer, importance in reg.importance().items():
        weight = model.get_submodule(layer).weight
        assert isinstance(weight, Tensor)
        assert importance.shape == weight.shape[:1]
        assert not importance.requires_grad
        assert bool((importance >= 0).all())


@names(lambda method: method.off_at_zero)
def test_strength_0_changes_no_bit(name: str) -> None:
    model = prepared(name, train=True)
    assert same(trained(model, made(name, model, 0.0)), trained(prepared(name, train=True)))


@names()
def test_strength_may_be_changed_at_any_time(name: str) -> None:
    strength = METHODS[name].strength
    model, twin = prepared(name), prepared(name)
    early, late = made(name, model, strength), made(name, twin, 0.3 * strength)
    late.strength = strength
    assert late.strength == strength
    optimizers = sgd(model), sgd(twin)
    for factor, batch in zip((1.0, 0.0, 0.5), BATCHES, strict=False):
        early.strength = late.strength = factor * strength
        step(model, optimizers[0], [early], batch)
        step(twin, optimizers[1], [late], batch)
    assert same(state(model), state(twin))
    constant = prepared(name)
    assert not same(state(model), trained(constant, made(name, constant, strength)))


@names()
def test_autocast_leaves_weights_and_penalty_in_full_precision(name: str) -> None:
    model, full = prepared(name), prepared(name)
    reg, optimizer = made(name, model), sgd(model)
    x, y = BATCHES[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = model(x)
        term = reg.penalty(outputs)
        loss = F.cross_entropy(outputs, y) + term
    assert outputs.dtype == torch.bfloat16, "autocast was on"
    wanted = made(name, full).penalty(full(x))
    # The penalty is a function of weights in float32; bfloat16 would keep three digits.
    assert term.item() == pytest.approx(wanted.item(), rel=1e-5)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    reg.update(optimizer)
    assert all(value.dtype != torch.bfloat16 for value in state(model).values())
    assert all(bool(value.isfinite().all()) for value in state(model).values())


@names()
def test_a_gradient_scaler_changes_no_bit_and_may_skip_a_step(name: str) -> None:
    """The scale is a power of two, which is exact; a loop that skips a step skips its `update`."""
    model, plain = prepared(name), prepared(name)
    reg, optimizer, scaler = made(name, model), sgd(model), torch.amp.GradScaler("cpu", init_scale=256.0)

    def scaled(x: Tensor, y: Tensor) -> bool:
        outputs = model(x)
        loss = F.cross_entropy(outputs, y) + reg.penalty(outputs)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        before = scaler.get_scale()
        scaler.step(optimizer)
        scaler.update()
        taken = scaler.get_scale() >= before
        if taken:
            reg.update(optimizer)
        return taken

    assert all(scaled(*batch) for batch in BATCHES[:3])
    assert same(state(model), trained(plain, made(name, plain)))
    before = state(model)
    assert not scaled(BATCHES[3][0] * math.inf, BATCHES[3][1])
    assert same(state(model), before)
    assert scaled(*BATCHES[4])
    assert all(bool(value.isfinite().all()) for value in state(model).values())


@names(lambda method: not method.draws)
def test_accumulated_parts_equal_the_whole_batch(name: str) -> None:
    """Each part's loss, penalty included, counts by its share of the examples; `update` runs once a step."""
    model, whole = prepared(name), prepared(name)
    reg, optimizer = made(name, model), sgd(model)
    for x, y in BATCHES[:3]:
        optimizer.zero_grad()
        for part, target in zip(x.split([4, 4, 4]), y.split([4, 4, 4]), strict=True):
            outputs = model(part)
            ((F.cross_entropy(outputs, target) + reg.penalty(outputs)) / 3).backward()
        optimizer.step()
        reg.update(optimizer)
    assert close(state(model), trained(whole, made(name, whole)), atol=1e-5)


@names(lambda method: not method.eager_only)
def test_a_compiled_model_trains_as_an_eager_one(name: str) -> None:
    model, eager = prepared(name), prepared(name)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager")
    reg = made(name, compiled)
    after = trained(compiled, reg)
    assert torch._dynamo.utils.counters["frames"]["ok"] > 0, "something was compiled"
    after = {key.removeprefix("_orig_mod."): value for key, value in after.items()}
    assert close(after, trained(eager, made(name, eager)))
    assert set(reg.importance()) <= {*WEIGHTS, *NORMS}


@names(lambda method: method.eager_only)
def test_a_method_that_needs_eager_mode_refuses_a_compiled_model_in_words(name: str) -> None:
    model = prepared(name)
    with pytest.raises(TypeError, match="got a compiled model; .* pass the eager one"):
        made(name, torch.compile(model, backend="eager"))
    inside = prepared(name)
    inside.conv2 = torch.compile(inside.conv2, backend="eager")
    with pytest.raises(TypeError, match="got a compiled model"):
        made(name, inside)
    in_place = prepared(name)
    in_place.compile(backend="eager")
    with pytest.raises(TypeError, match="got a compiled model"):
        made(name, in_place)
    later = made(name, model)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager")
    for _ in range(2):
        with pytest.raises(TypeError, match="got a compiled model"):
            later.penalty(compiled(BATCHES[0][0]))
    later.penalty(model(BATCHES[0][0]))


class Shared(nn.Module):
    """A layer and its normalization, met once or under two names; the second use adds nothing to the outputs."""

    def __init__(self, twice: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.head = nn.Linear(64, 6), nn.BatchNorm1d(6), nn.Linear(6, CLASSES)
        self.twice = twice

    def tie(self) -> None:
        """After what a method does to the normalization."""
        if self.twice:
            self.other, self.again = nn.Linear(64, 6), self.norm
            self.other.weight, self.other.bias = self.first.weight, self.first.bias

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        h: Tensor = torch.relu(self.norm(self.first(x)))
        if self.twice:
            h = h + 0 * torch.relu(self.again(self.other(x)))
        return self.head(h)  # type: ignore[no-any-return]


@names()
def test_a_shared_weight_counts_once(name: str) -> None:
    results = []
    for twice in (False, True):
        model = Shared(twice)
        METHODS[name].prepare(model)
        model.eval().tie()
        units = Units([group("first", "norm", "head", 6)])
        reg = made(name, model, units=units if METHODS[name].needs_units else None)
        values = trained(model, reg)
        assert not {"other", "again"} & set(reg.importance())
        results.append({k: v for k, v in values.items() if not k.startswith(("other", "again"))})
    assert close(*results)


@names()
@pytest.mark.parametrize("how", ["no gradient", "not in the optimizer"])
def test_what_is_not_trained_keeps_every_bit(name: str, how: str) -> None:
    model = prepared(name)
    frozen = [p for key, p in model.named_parameters() if key.startswith(("conv1", "bn1"))]
    trainable = [p for key, p in model.named_parameters() if not key.startswith(("conv1", "bn1"))]
    if how == "no gradient":
        for p in frozen:
            p.requires_grad_(False)
    before = state(model)
    # The optimizer may hold frozen parameters too.
    held = model.parameters() if how == "no gradient" else trainable
    after = trained(model, made(name, model), optimizer=SGD(held, 0.05, momentum=0.9))
    for key, value in before.items():
        if key.startswith(("conv1", "bn1")):
            assert torch.equal(after[key], value), key
    assert not torch.equal(after["conv2.weight"], before["conv2.weight"])
    assert not torch.equal(after["fc2.weight"], before["fc2.weight"])


@names()
def test_a_layer_that_is_never_used_disturbs_nothing(name: str) -> None:
    model, plain = prepared(name), prepared(name)
    model.spare = nn.Linear(2, 2)
    model.forward = partial(_without_spare, model)  # type: ignore[method-assign]
    after = trained(model, made(name, model))
    wanted = trained(plain, made(name, plain))
    assert close({key: after[key] for key in wanted}, wanted)
    assert all(bool(value.isfinite().all()) for value in after.values())


def _without_spare(model: nn.Module, x: Tensor) -> Tensor:
    for key, layer in model.named_children():
        x = x if key == "spare" else layer(x)
    return x


def fits(method: Method, name: str) -> bool:
    """Whether a method works on the network that another one has prepared."""
    return bool(method.prepare is METHODS[name].prepare)


@names()
def test_each_composes_with_every_other(name: str) -> None:
    """All others at strength 0 change no bit of this one's run; at its own strength another one is felt."""
    model, crowded = prepared(name), prepared(name)
    others = [
        made(other, crowded, 0.0) for other, method in METHODS.items() if method.off_at_zero and fits(method, name)
    ]
    assert same(trained(crowded, made(name, crowded), *others, steps=2), trained(model, made(name, model), steps=2))
    for other in KINDS:
        if other == name:
            continue
        model, both = prepared(name, other), prepared(name, other)
        if not fits(METHODS[other], name) and (name in NEED_PLAIN_SCALES or other in NEED_PLAIN_SCALES):
            with pytest.raises(ValueError, match="computed from others"):
                made(name, both), made(other, both)
            continue
        after = trained(both, made(name, both), made(other, both))
        assert all(bool(value.isfinite().all()) for value in after.values()), other
        assert not same(after, trained(model, made(name, model))), other


@names()
@pytest.mark.parametrize("make_optimizer", [sgd, lambda model: Adam(model.parameters(), 0.01)], ids=["SGD", "Adam"])
def test_a_resumed_run_equals_an_uninterrupted_one(name: str, make_optimizer: Callable[[nn.Module], Optimizer]) -> None:
    model = prepared(name, train=True)
    whole = trained(model, made(name, model), steps=6, optimizer=make_optimizer(model))

    model = prepared(name, train=True)
    reg, optimizer = made(name, model), make_optimizer(model)
    trained(model, reg, optimizer=optimizer)
    file = io.BytesIO()
    torch.save([model.state_dict(), optimizer.state_dict(), reg.state_dict()], file)
    file.seek(0)
    stored = torch.load(file, weights_only=True)  # as `fit` reads its checkpoints: no pickled code

    again = prepared(name, seed=7, train=True)
    again.load_state_dict(stored[0])
    optimizer = make_optimizer(again)
    optimizer.load_state_dict(stored[1])
    reg = made(name, again, 0.5 * METHODS[name].strength)
    reg.load_state_dict(stored[2])
    assert reg.strength == METHODS[name].strength
    for batch in BATCHES[3:]:
        step(again, optimizer, [reg], batch)
    assert same(state(again), whole)


@names()
def test_a_state_without_strength_is_named_and_changes_nothing(name: str) -> None:
    model = prepared(name)
    reg = made(name, model)
    with pytest.raises(ValueError, match=r"^\w+ got the state of another"):
        reg.load_state_dict({})
    assert reg.strength == METHODS[name].strength


@names()
def test_units_say_what_is_regularized(name: str) -> None:
    """After one step everything outside the units is, bit for bit, where a plain step puts it."""
    model, plain = prepared(name), prepared(name)
    reg = made(name, model, units=Units(GROUPS[1:2]))
    after, wanted = trained(model, reg, steps=1), trained(plain, steps=1)
    changed = {key for key, value in wanted.items() if not torch.equal(after[key], value)}
    assert changed
    assert all(key.startswith(METHODS[name].reach) for key in changed), changed
    assert set(reg.importance()) <= {"conv2", "bn2"}


@pytest.mark.parametrize("name", METHODS)
def test_what_an_update_shrinks_does_not_become_denormal(name: str) -> None:
    """A weight just above the least normal number would be denormal after one more decay; the rest is as without it."""
    tiny = torch.finfo(torch.float32).tiny
    model, clean = prepared(name), prepared(name)
    with torch.no_grad():
        for layer in WEIGHTS:
            model.get_parameter(f"{layer}.weight").flatten(1)[:, ::2] = 1.0001 * tiny
            clean.get_parameter(f"{layer}.weight").flatten(1)[:, ::2] = 0
    for network in (model, clean):
        reg = made(name, network)
        reg.penalty(network(BATCHES[0][0]))
        reg.update(sgd(network))
    for key, p in model.named_parameters():
        assert not bool(((p != 0) & (p.abs() < tiny)).any()), key
    for layer in WEIGHTS:
        rest = [network.get_parameter(f"{layer}.weight").flatten(1)[:, 1::2] for network in (model, clean)]
        assert torch.allclose(*rest, rtol=1e-6, atol=0)


class Segmenter(nn.Sequential):
    """Two convolutions with BatchNorm and a 1 × 1 convolution to a map of classes."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__()
        for i, (inputs, outputs) in enumerate([(1, 4), (4, 5)], start=1):
            self.add_module(f"conv{i}", nn.Conv2d(inputs, outputs, 3, padding=1, bias=False))
            self.add_module(f"bn{i}", nn.BatchNorm2d(outputs))
            self.add_module(f"relu{i}", nn.ReLU())
        self.add_module("head", nn.Conv2d(5, CLASSES, 1))


@names()
def test_the_loop_of_plateaus_and_thresholds_takes_any_method_and_a_loss_of_maps(name: str) -> None:
    """Zeros stay zeros, and the loss stays within its tolerance."""
    model = Segmenter()
    METHODS[name].prepare(model)
    units = Units([group("conv1", "bn1", "conv2", 4), group("conv2", "bn2", "head", 5)])
    reg = made(name, model, units=units if METHODS[name].needs_units else None)
    images = torch.cat([x for x, _ in BATCHES])
    data = TensorPair(images, (images[:, 0] > 0.3).long() + (images[:, 0] > 1).long())
    zeros: list[dict[str, Tensor]] = []

    class Stall(Callback):
        """Says that every epoch was worse than the one before."""

        def after_epoch(self, run: Run) -> None:
            run.history.epochs[-1] = replace(run.history.epochs[-1], val_loss=1.0 + run.epoch)

    class Watch(Callback):
        def after_epoch(self, run: Run) -> None:
            zeros.append({key: p.detach() == 0 for key, p in run.model.named_parameters() if p.ndim > 1})

    plateau = ThresholdOnPlateau(patience=1, tolerance=0.2, slack=0.0)
    fit(
        model, data, data, epochs=5, optimizer=SGD(model.parameters(), 0.1, momentum=0.9), regularizer=reg,
        callbacks=[Stall(), plateau, Watch()], batch_size=24, progress=False,
    )  # fmt: skip
    assert [entry["epoch"] for entry in plateau.log] == [2, 4, 5], "two plateaus, and the end"
    for entry in plateau.log:
        assert entry["val_loss_after"] <= 1.2 * entry["val_loss_before"] + 1e-9
    for epoch in (int(entry["epoch"]) for entry in plateau.log[:-1]):
        held = zeros[epoch - 1]
        assert all(bool((later[key] | ~mask).all()) for later in zeros[epoch:] for key, mask in held.items())
    left = sum(int(p.count_nonzero()) for p in model.parameters() if p.ndim > 1)
    assert left == plateau.log[-1]["weights_left"] < 9 * (4 + 20) + 15


@names()
@pytest.mark.parametrize("strength", [-1e-3, math.nan, math.inf])
def test_a_strength_out_of_range_is_named(name: str, strength: float) -> None:
    with pytest.raises(ValueError, match=rf"^\w+ got strength={strength}; it must be a finite number ≥ 0"):
        made(name, prepared(name), strength)


@names()
def test_a_model_with_nothing_to_regularize_is_named(name: str) -> None:
    empty = Units([]) if METHODS[name].needs_units else None
    with pytest.raises(ValueError, match=r"found no .* in Sequential"):
        METHODS[name].make(nn.Sequential(nn.ReLU()), 0.1, units=empty)
    with pytest.raises(TypeError, match=r"got a str; it needs the nn\.Module"):
        METHODS[name].make("model", 0.1, units=empty)


@names()
def test_float64_stays_float64(name: str) -> None:
    model = prepared(name).double()
    reg, optimizer = made(name, model), sgd(model)
    for x, y in BATCHES[:2]:
        step(model, optimizer, [reg], (x.double(), y))
    assert all(p.dtype == torch.float64 for p in model.parameters())
    single = prepared(name)
    once = trained(single, made(name, single), steps=2)
    assert close({key: value.to(once[key].dtype) for key, value in state(model).items()}, once, atol=1e-4)


def shards(rank: int) -> Iterator[tuple[Tensor, Tensor]]:
    for x, y in BATCHES[:3]:
        yield x[rank::2], y[rank::2]


def work(rank: int, address: str, folder: str) -> None:
    """One of two processes: train under DistributedDataParallel with every method, one after the other."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{address}", rank=rank, world_size=2)
    results = {}
    for name in METHODS:
        model = nn.parallel.DistributedDataParallel(prepared(name))
        reg, optimizer = made(name, model), sgd(model)
        for batch in shards(rank):
            step(model, optimizer, [reg], batch)
        results[name] = (state(model.module), list(reg.importance()))
    torch.save(results, Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(work, (str(folder / "meet"), str(folder)), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.slow
@names()
def test_two_processes_learn_what_one_would(name: str, ranks: list[Any]) -> None:
    (first, layers), (second, _) = ranks[0][name], ranks[1][name]
    assert same(first, second)
    assert set(layers) <= {*WEIGHTS, *NORMS}, "names without module."
    if not METHODS[name].draws:
        model = prepared(name)
        assert close(first, trained(model, made(name, model)), atol=1e-5)
