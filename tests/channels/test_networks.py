"""Exact removal as a property: of every topology in `tests.networks`, of random networks, of some that people use."""

from __future__ import annotations

import copy
import random
import re

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from pruning_lib import Shrunk, find_units, shrink
from pruning_lib.units import weighted
from tests.networks import ACTIVATIONS, CASES, Case, leaf, plant, planted, random_network, randomize

TOLERANCE = 1e-9
FAST, SLOW = 60, 150  # `python -m tests.fuzz networks --tries 1000` tries as many as wanted
CHUNK = 50
STRUCTURAL = ("the representative of the constants", "the last unit of a layer")


def tensors(outputs: object) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]


@torch.no_grad()
def distance(dense: nn.Module, small: nn.Module, x: Tensor) -> float:
    """Return the largest difference of the outputs in eval mode, over the largest output."""
    dense, small = copy.deepcopy(dense).eval(), copy.deepcopy(small).eval()
    pairs = list(zip(tensors(dense(x)), tensors(small(x)), strict=True))
    assert all(a.shape == b.shape for a, b in pairs)
    return max(float((a - b).abs().max() / (a.abs().max() + 1e-300)) for a, b in pairs)


def worst(case: Case, dense: nn.Module, small: nn.Module) -> float:
    """Return the distance at another batch, at another size, and for large inputs."""
    inputs = [case.example(5)] + [case.example(3, case.other)] * (case.other is not None)
    inputs += [] if case.words else [20 * case.example(3)]
    return max(distance(dense, small, x) for x in inputs)


def made(name: str, seed: int) -> nn.Module:
    """Return a network in a state that is not the default one: training, one parameter frozen, one module in eval."""
    torch.manual_seed(seed)
    model = CASES[name].build().double()
    randomize(model)
    model.train()
    next(model.parameters()).requires_grad_(False)
    list(model.modules())[-1].eval()
    return model


def check_promises(name: str, seed: int) -> None:
    case, model = CASES[name], made(name, seed)
    example = case.example()
    found = find_units(model, example)
    mine = planted(found, plant(model, random.Random(seed), found))
    before = copy.deepcopy(model)

    small = shrink(model, example)

    assert worst(case, model, small.model) < TOLERANCE
    assert_untouched(before, model)
    assert_same_circumstances(model, small.model)
    assert not any(shrink(small.model, example).removed.values())
    gone = {group: mask.sum() - mask[small.plan.units[group]].sum() for group, mask in mine.items()}
    missing = sum(int(mask.sum()) for mask in mine.values()) - int(sum(gone.values()))
    if case.exact:
        assert missing <= excused(small, mine), (missing, small.plan.notes)
    if case.stays:
        assert any(case.stays in note for note in small.plan.notes)


def excused(small: Shrunk, layers: dict[str, Tensor]) -> int:
    """Count the units that stay because something has to."""
    found = [re.match(r"(\S+): (\d+) dead units? stays?: it is (.*)", note) for note in small.plan.notes]
    whole = sum(layer in small.plan.constants for layer in layers)  # a constant stands for a whole layer
    return whole + sum(int(m[2]) for m in found if m and m[1] in layers and any(why in m[3] for why in STRUCTURAL))


def assert_untouched(before: nn.Module, after: nn.Module) -> None:
    assert [(n, m.training) for n, m in before.named_modules()] == [(n, m.training) for n, m in after.named_modules()]
    old, new = before.state_dict(), after.state_dict()
    assert list(old) == list(new)
    assert all(torch.equal(old[name], new[name]) for name in old)
    assert all(p.grad is None for p in after.parameters())


def assert_same_circumstances(dense: nn.Module, small: nn.Module) -> None:
    modules, parameters = dict(dense.named_modules()), dict(dense.named_parameters())
    assert type(small) is type(dense)
    assert all(m.training == modules[n].training for n, m in small.named_modules() if n in modules)
    for name, parameter in small.named_parameters():
        assert parameter.dtype is torch.float64
        if name in parameters:
            assert parameter.requires_grad == parameters[name].requires_grad, name


@pytest.mark.parametrize("name", CASES)
def test_every_topology_keeps_its_promises(name: str) -> None:
    check_promises(name, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3, 4])
@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith("activation")])
def test_every_topology_with_other_zeros(name: str, seed: int) -> None:
    check_promises(name, seed)


SUMS = ["residual_identity", "concatenation", "depthwise", "grouped", "transposed", "squeeze_and_excitation", "pools"]


@pytest.mark.parametrize("name", [*SUMS, "batchnorm_of_features", "attention", "group_norm"])
def test_rows_that_sum_to_zero_stay(name: str) -> None:
    case, model = CASES[name], made(name, 0)
    with torch.no_grad():
        for layer in weighted(model).values():
            rows = leaf(layer)
            rows -= rows.mean(tuple(range(1, rows.ndim)), keepdim=True)
    small = shrink(model, case.example())
    assert not any(small.removed.values())
    assert not small.plan.kept


def test_a_constant_is_carried_through_every_activation() -> None:
    assert len(ACTIVATIONS) >= 30
    for make in ACTIVATIONS.values():
        torch.manual_seed(0)
        activation = make().double().eval()
        if isinstance(activation, nn.Dropout2d):  # of maps alone in coming releases; on maps it is a case of its own
            continue
        model = nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 8), activation, nn.Linear(8, 2)).double().eval()
        with torch.no_grad():
            model[1].weight[2:5] = 0
        expected = model[3].bias + model[3].weight[:, 2:5] @ activation(model[1].bias[None])[0, 2:5]
        small = shrink(model, torch.randn(2, 3).double())
        if small.removed.get("1") == 3:
            torch.testing.assert_close(small.model[3].bias, expected, rtol=1e-12, atol=1e-12)
        else:
            assert isinstance(activation, nn.RReLU), activation


# Random networks


def failures(seeds: range) -> list[str]:
    """Return what went wrong, by seed: repeat one with ``random_network(seed)``."""
    wrong = []
    for seed in seeds:
        case = random_network(seed)
        model = case.build()
        plant(model, random.Random(seed))
        try:
            error = worst(case, model, shrink(model, case.example()).model)
        except Exception as exception:
            wrong.append(f"{seed}: {type(exception).__name__}: {exception}"[:300])
        else:
            wrong += [f"{seed}: wrong by {error:.1e}"] * (not error < TOLERANCE)
    return wrong


@pytest.mark.slow
def test_random_networks_keep_their_outputs() -> None:
    assert failures(range(FAST)) == []


@pytest.mark.slow
@pytest.mark.parametrize("start", range(FAST, SLOW + FAST, CHUNK))
def test_more_random_networks_keep_their_outputs(start: int) -> None:
    assert failures(range(start, start + CHUNK)) == []


@pytest.mark.slow
def test_random_networks_lose_their_dead_units() -> None:
    dead = lost = 0
    for seed in range(10):
        case = random_network(seed)
        model, example = case.build(), case.example()
        found = find_units(model, example)
        mine = planted(found, plant(model, random.Random(seed), found))
        kept = shrink(model, example).plan.units
        dead += sum(int(mask.sum()) for mask in mine.values())
        lost += sum(int(mask.sum() - mask[kept[name]].sum()) for name, mask in mine.items())
    # Constants that stand for others and channels that something counts stay: many, where layers have 4 to 8 units.
    assert lost > 0.6 * dead > 60


def test_the_same_seed_is_the_same_network() -> None:
    first, second = (random_network(3).build().state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
