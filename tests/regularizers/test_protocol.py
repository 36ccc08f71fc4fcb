"""Every method in every circumstance: what `Regularizer` promises, in one matrix.

A method joins by the entries of its own test module (`PROTOCOL`, see protocol.py), a circumstance by its test here.
"""

from __future__ import annotations

import importlib
import io
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
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
from pruning_lib.regularizers import Regularizer
from pruning_lib.training import Callback, Run, ThresholdOnPlateau, fit
from pruning_lib.units import Units
from tests.regularizers.protocol import (
    BATCHES,
    CLASSES,
    GROUPS,
    NORMS,
    WEIGHTS,
    Method,
    close,
    group,
    prepared,
    same,
    sgd,
    state,
    step,
    trained,
)


def collected() -> list[Method]:
    """Return the entries of all test modules in this folder, but for those that are built on this one."""
    files = sorted(Path(__file__).parent.glob("test_*.py"))
    names = [file.stem for file in files if file.stem not in ("test_protocol", "test_recipe_regularizer")]
    modules = [importlib.import_module(f"tests.regularizers.{name}") for name in names]
    return [method for module in modules for method in getattr(module, "PROTOCOL", ())]


METHODS = collected()


def methods(keep: Callable[[Method], bool] = lambda method: True) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("method", [pytest.param(m, id=m.name) for m in METHODS if keep(m)])


def test_every_method_there_is_has_its_entry() -> None:
    exported = {value for name, value in vars(regularizers).items() if not name.startswith("_")} - {Regularizer}
    classes = {value for value in exported if isinstance(value, type) and hasattr(value, "penalty")}
    assert {type(method.build(prepared(method))) for method in METHODS} == classes
    assert len({method.name for method in METHODS}) == len(METHODS)


@methods()
def test_a_plain_loop(method: Method) -> None:
    model, plain = prepared(method, train=True), prepared(method, train=True)
    reg = method.build(model)
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


@methods(lambda method: method.off_at_zero)
def test_strength_0_changes_no_bit(method: Method) -> None:
    model = prepared(method, train=True)
    assert same(trained(model, method.build(model, 0.0)), trained(prepared(method, train=True)))


@methods()
def test_strength_may_be_changed_at_any_time(method: Method) -> None:
    strength = method.strength
    model, twin = prepared(method), prepared(method)
    early, late = method.build(model, strength), method.build(twin, 0.3 * strength)
    late.strength = strength
    assert late.strength == strength
    optimizers = sgd(model), sgd(twin)
    for factor, batch in zip((1.0, 0.0, 0.5), BATCHES, strict=False):
        early.strength = late.strength = factor * strength
        step(model, optimizers[0], [early], batch)
        step(twin, optimizers[1], [late], batch)
    assert same(state(model), state(twin))
    constant = prepared(method)
    assert not same(state(model), trained(constant, method.build(constant, strength)))


@methods()
def test_autocast_leaves_weights_and_penalty_in_full_precision(method: Method) -> None:
    model, full = prepared(method), prepared(method)
    reg, optimizer = method.build(model), sgd(model)
    x, y = BATCHES[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = model(x)
        term = reg.penalty(outputs)
        loss = F.cross_entropy(outputs, y) + term
    assert outputs.dtype == torch.bfloat16, "autocast was on"
    wanted = method.build(full).penalty(full(x))
    # The penalty is a function of weights in float32; bfloat16 would keep three digits.
    assert term.item() == pytest.approx(wanted.item(), rel=1e-5)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    reg.update(optimizer)
    assert all(value.dtype != torch.bfloat16 for value in state(model).values())
    assert all(bool(value.isfinite().all()) for value in state(model).values())


@methods()
def test_a_gradient_scaler_changes_no_bit_and_may_skip_a_step(method: Method) -> None:
    """The scale is a power of two, which is exact; a loop that skips a step skips its `update`."""
    model, plain = prepared(method), prepared(method)
    reg, optimizer, scaler = method.build(model), sgd(model), torch.amp.GradScaler("cpu", init_scale=256.0)

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
    assert same(state(model), trained(plain, method.build(plain)))
    before = state(model)
    assert not scaled(BATCHES[3][0] * math.inf, BATCHES[3][1])
    assert same(state(model), before)
    assert scaled(*BATCHES[4])
    assert all(bool(value.isfinite().all()) for value in state(model).values())


@methods(lambda method: not method.draws)
def test_accumulated_parts_equal_the_whole_batch(method: Method) -> None:
    """Each part's loss, penalty included, counts by its share of the examples; `update` runs once a step."""
    model, whole = prepared(method), prepared(method)
    reg, optimizer = method.build(model), sgd(model)
    for x, y in BATCHES[:3]:
        optimizer.zero_grad()
        for part, target in zip(x.split([4, 4, 4]), y.split([4, 4, 4]), strict=True):
            outputs = model(part)
            ((F.cross_entropy(outputs, target) + reg.penalty(outputs)) / 3).backward()
        optimizer.step()
        reg.update(optimizer)
    assert close(state(model), trained(whole, method.build(whole)), atol=1e-5)


@methods(lambda method: not method.eager_only)
def test_a_compiled_model_trains_as_an_eager_one(method: Method) -> None:
    model, eager = prepared(method), prepared(method)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager")
    reg = method.build(compiled)
    after = trained(compiled, reg)
    assert torch._dynamo.utils.counters["frames"]["ok"] > 0, "something was compiled"
    after = {key.removeprefix("_orig_mod."): value for key, value in after.items()}
    assert close(after, trained(eager, method.build(eager)))
    assert set(reg.importance()) <= {*WEIGHTS, *NORMS}


@methods(lambda method: method.eager_only)
def test_a_method_that_needs_eager_mode_refuses_a_compiled_model_in_words(method: Method) -> None:
    model = prepared(method)
    with pytest.raises(TypeError, match="got a compiled model; .* pass the eager one"):
        method.build(torch.compile(model, backend="eager"))
    inside = prepared(method)
    inside.conv2 = torch.compile(inside.conv2, backend="eager")
    with pytest.raises(TypeError, match="got a compiled model"):
        method.build(inside)
    in_place = prepared(method)
    in_place.compile(backend="eager")
    with pytest.raises(TypeError, match="got a compiled model"):
        method.build(in_place)
    later = method.build(model)
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


@methods()
def test_a_shared_weight_counts_once(method: Method) -> None:
    results = []
    for twice in (False, True):
        model = Shared(twice)
        method.prepare(model)
        model.eval().tie()
        units = Units([group("first", "norm", "head", 6)])
        reg = method.build(model, units=method.needs(units))
        values = trained(model, reg)
        assert not {"other", "again"} & set(reg.importance())
        results.append({k: v for k, v in values.items() if not k.startswith(("other", "again"))})
    assert close(*results)


@methods()
@pytest.mark.parametrize("how", ["no gradient", "not in the optimizer"])
def test_what_is_not_trained_keeps_every_bit(method: Method, how: str) -> None:
    model = prepared(method)
    frozen = [p for key, p in model.named_parameters() if key.startswith(("conv1", "bn1"))]
    trainable = [p for key, p in model.named_parameters() if not key.startswith(("conv1", "bn1"))]
    if how == "no gradient":
        for p in frozen:
            p.requires_grad_(False)
    before = state(model)
    # The optimizer may hold frozen parameters too.
    held = model.parameters() if how == "no gradient" else trainable
    after = trained(model, method.build(model), optimizer=SGD(held, 0.05, momentum=0.9))
    for key, value in before.items():
        if key.startswith(("conv1", "bn1")):
            assert torch.equal(after[key], value), key
    assert not torch.equal(after["conv2.weight"], before["conv2.weight"])
    assert not torch.equal(after["fc2.weight"], before["fc2.weight"])


@methods()
def test_a_layer_that_is_never_used_disturbs_nothing(method: Method) -> None:
    model, plain = prepared(method), prepared(method)
    model.spare = nn.Linear(2, 2)
    model.forward = partial(_without_spare, model)  # type: ignore[method-assign]
    after = trained(model, method.build(model))
    wanted = trained(plain, method.build(plain))
    assert close({key: after[key] for key in wanted}, wanted)
    assert all(bool(value.isfinite().all()) for value in after.values())


def _without_spare(model: nn.Module, x: Tensor) -> Tensor:
    for key, layer in model.named_children():
        x = x if key == "spare" else layer(x)
    return x


def fit_together(method: Method, other: Method) -> bool:
    """Whether a method works on the network that another one has prepared."""
    return method.prepare is other.prepare


@methods()
def test_each_composes_with_every_other(method: Method) -> None:
    """All others at strength 0 change no bit of this one's run; at its own strength another one is felt."""
    model, crowded = prepared(method), prepared(method)
    others = [other.build(crowded, 0.0) for other in METHODS if other.off_at_zero and fit_together(other, method)]
    together = trained(crowded, method.build(crowded), *others, steps=2)
    assert same(together, trained(model, method.build(model), steps=2))
    for other in METHODS:
        if not other.partner or other is method:
            continue
        model, both = prepared(method, other), prepared(method, other)
        if not fit_together(method, other) and (method.plain_scales or other.plain_scales):
            with pytest.raises(ValueError, match="computed from others"):
                method.build(both), other.build(both)
            continue
        after = trained(both, method.build(both), other.build(both))
        assert all(bool(value.isfinite().all()) for value in after.values()), other.name
        assert not same(after, trained(model, method.build(model))), other.name


@methods()
@pytest.mark.parametrize("optimize", [sgd, lambda model: Adam(model.parameters(), 0.01)], ids=["SGD", "Adam"])
def test_a_resumed_run_equals_an_uninterrupted_one(method: Method, optimize: Callable[[nn.Module], Optimizer]) -> None:
    model = prepared(method, train=True)
    whole = trained(model, method.build(model), steps=6, optimizer=optimize(model))

    model = prepared(method, train=True)
    reg, optimizer = method.build(model), optimize(model)
    trained(model, reg, optimizer=optimizer)
    file = io.BytesIO()
    torch.save([model.state_dict(), optimizer.state_dict(), reg.state_dict()], file)
    file.seek(0)
    stored = torch.load(file, weights_only=True)  # as `fit` reads its checkpoints: no pickled code

    again = prepared(method, seed=7, train=True)
    again.load_state_dict(stored[0])
    optimizer = optimize(again)
    optimizer.load_state_dict(stored[1])
    reg = method.build(again, 0.5 * method.strength)
    reg.load_state_dict(stored[2])
    assert reg.strength == method.strength
    for batch in BATCHES[3:]:
        step(again, optimizer, [reg], batch)
    assert same(state(again), whole)


@methods()
def test_a_state_without_strength_is_named_and_changes_nothing(method: Method) -> None:
    model = prepared(method)
    reg = method.build(model)
    with pytest.raises(ValueError, match=r"^\w+ got the state of another"):
        reg.load_state_dict({})
    assert reg.strength == method.strength


@methods()
def test_units_say_what_is_regularized(method: Method) -> None:
    """After one step everything outside the units is, bit for bit, where a plain step puts it."""
    model, plain = prepared(method), prepared(method)
    reg = method.build(model, units=Units(GROUPS[1:2]))
    after, wanted = trained(model, reg, steps=1), trained(plain, steps=1)
    changed = {key for key, value in wanted.items() if not torch.equal(after[key], value)}
    assert changed
    assert all(key.startswith(method.reach) for key in changed), changed
    assert set(reg.importance()) <= {"conv2", "bn2"}


@methods()
def test_what_an_update_shrinks_does_not_become_denormal(method: Method) -> None:
    """A weight just above the least normal number would be denormal after one more decay; the rest is as without it."""
    tiny = torch.finfo(torch.float32).tiny
    model, clean = prepared(method), prepared(method)
    with torch.no_grad():
        for layer in WEIGHTS:
            model.get_parameter(f"{layer}.weight").flatten(1)[:, ::2] = 1.0001 * tiny
            clean.get_parameter(f"{layer}.weight").flatten(1)[:, ::2] = 0
    for network in (model, clean):
        reg = method.build(network)
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


@methods()
def test_the_loop_of_plateaus_and_thresholds_takes_any_method_and_a_loss_of_maps(method: Method) -> None:
    """Zeros stay zeros, and the loss stays within its tolerance."""
    model = Segmenter()
    method.prepare(model)
    units = Units([group("conv1", "bn1", "conv2", 4), group("conv2", "bn2", "head", 5)])
    reg = method.build(model, units=method.needs(units))
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


@methods()
@pytest.mark.parametrize("strength", [-1e-3, math.nan, math.inf])
def test_a_strength_out_of_range_is_named(method: Method, strength: float) -> None:
    with pytest.raises(ValueError, match=rf"^\w+ got strength={strength}; it needs a finite number ≥ 0"):
        method.build(prepared(method), strength)


@methods()
def test_a_model_with_nothing_to_regularize_is_named(method: Method) -> None:
    empty = Units([]) if method.needs_units else None
    with pytest.raises(ValueError, match=r"found no .* in Sequential"):
        method.make(nn.Sequential(nn.ReLU()), 0.1, units=empty)
    with pytest.raises(TypeError, match=r"got model='.*'; it needs a torch\.nn\.Module"):
        method.make("model", 0.1, units=empty)


@methods()
def test_float64_stays_float64(method: Method) -> None:
    model = prepared(method).double()
    reg, optimizer = method.build(model), sgd(model)
    for x, y in BATCHES[:2]:
        step(model, optimizer, [reg], (x.double(), y))
    assert all(p.dtype == torch.float64 for p in model.parameters())
    single = prepared(method)
    once = trained(single, method.build(single), steps=2)
    assert close({key: value.to(once[key].dtype) for key, value in state(model).items()}, once, atol=1e-4)


def shards(rank: int) -> Iterator[tuple[Tensor, Tensor]]:
    for x, y in BATCHES[:3]:
        yield x[rank::2], y[rank::2]


def work(rank: int, address: str, folder: str) -> None:
    """One of two processes: train under DistributedDataParallel with every method, one after the other."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{address}", rank=rank, world_size=2)
    results = {}
    for method in METHODS:
        model = nn.parallel.DistributedDataParallel(prepared(method))
        reg, optimizer = method.build(model), sgd(model)
        for batch in shards(rank):
            step(model, optimizer, [reg], batch)
        results[method.name] = (state(model.module), list(reg.importance()))
    torch.save(results, Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(work, (str(folder / "meet"), str(folder)), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.slow
@methods()
def test_two_processes_learn_what_one_would(method: Method, ranks: list[Any]) -> None:
    (first, layers), (second, _) = ranks[0][method.name], ranks[1][method.name]
    assert same(first, second)
    assert set(layers) <= {*WEIGHTS, *NORMS}, "names without module."
    if not method.draws:
        model = prepared(method)
        assert close(first, trained(model, method.build(model)), atol=1e-5)
