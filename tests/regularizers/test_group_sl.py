"""Group-SL: its slope from the formula by NumPy, beside Torch-Pruning's if that is installed, and what it refuses."""

from __future__ import annotations

import copy
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

import pruning_lib as prl
from pruning_lib.regularizers import GroupSL
from tests.regularizers.protocol import Method, modes

STRENGTH, ALPHA = 0.03, 16.0
OUTPUTS = torch.zeros(1, 3)

PROTOCOL = [
    Method(
        f"GroupSL {mode}",
        partial(GroupSL, apply=mode),
        needs_units=True,
        reach=("conv2.", "bn2.", "fc1."),
        plain_scales=mode == "decay",
    )
    for mode in modes(GroupSL)
]


def network() -> tuple[nn.Module, prl.Units]:
    """conv(4, from 1) with BatchNorm → conv(6, in 2 groups) → flatten → linear(3), in float64."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3, groups=2), nn.ReLU())
    model.append(nn.Flatten()).append(nn.Linear(6 * 4, 3)).double()
    nn.init.uniform_(model[1].weight, 0.2, 1.5)
    return model, prl.find_units(model, torch.zeros(1, 1, 6, 6, dtype=torch.float64))


def pulls(model: nn.Module) -> tuple[np.ndarray, np.ndarray]:
    """Return γ of the four units of the first convolution and of the six of the second, by the formula."""
    w = {name: p.detach().numpy() for name, p in model.named_parameters()}
    columns = [w["3.weight"][3 * (k // 2) : 3 * (k // 2) + 3, k % 2] for k in range(4)]
    first = [(w["0.weight"][k] ** 2).sum() + w["1.weight"][k] ** 2 + (columns[k] ** 2).sum() for k in range(4)]
    second = [(w["3.weight"][k] ** 2).sum() + (w["6.weight"][:, 4 * k : 4 * k + 4] ** 2).sum() for k in range(6)]
    lengths = [np.sqrt(it) for it in (first, second)]
    return tuple(ALPHA ** ((i.max() - i) / (i.max() - i.min())) for i in lengths)


def expected(model: nn.Module) -> dict[str, np.ndarray]:
    """Return λ γ_k w of every weight; between two units it is of both."""
    w = {name: p.detach().numpy() for name, p in model.named_parameters()}
    first, second = pulls(model)
    between = np.stack([second[i] + first[2 * (i // 3) : 2 * (i // 3) + 2] for i in range(6)])
    slopes = {
        "0.weight": first[:, None, None, None] * w["0.weight"],
        "1.weight": first * w["1.weight"],
        "3.weight": between[:, :, None, None] * w["3.weight"],
        "6.weight": np.repeat(second, 4)[None] * w["6.weight"],
    }
    return {name: STRENGTH * slope for name, slope in slopes.items()}


def test_the_slope_is_the_formula_in_every_weight_and_in_no_bias() -> None:
    model, units = network()
    term = 3 * GroupSL(model, STRENGTH, units=units).penalty(OUTPUTS)
    assert term.item() == 0
    term.backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    wanted = expected(model)
    assert found.keys() == wanted.keys()
    for name, slope in wanted.items():
        assert found[name].numpy() == pytest.approx(3 * slope, rel=1e-12), name


def test_the_loss_is_half_of_the_weighted_squares_and_has_the_same_slope() -> None:
    model, units = network()
    reg = GroupSL(model, STRENGTH, units=units, apply="loss")
    first, second = pulls(model)
    one, two = (length.numpy() for length in reg.importance().values())
    value = reg.penalty(OUTPUTS)
    assert value.item() == pytest.approx(STRENGTH / 2 * ((first * one**2).sum() + (second * two**2).sum()), rel=1e-12)
    value.backward()
    for name, slope in expected(model).items():
        assert model.get_parameter(name).grad.numpy() == pytest.approx(slope, rel=1e-12)


def test_decay_steps_along_the_slope_by_the_rate_of_each_parameter() -> None:
    model, units = network()
    before, wanted = copy.deepcopy(model), expected(model)
    slow = [p for name, p in model.named_parameters() if name != "1.weight"]
    optimizer = torch.optim.SGD([{"params": slow, "lr": 0.5}, {"params": [model[1].weight], "lr": 2.0}])
    reg = GroupSL(model, STRENGTH, units=units, apply="decay")
    assert reg.penalty(OUTPUTS).item() == 0
    reg.update(optimizer)
    for name, p in model.named_parameters():
        rate = 2.0 if name == "1.weight" else 0.5
        assert p.detach().numpy() == pytest.approx(
            before.get_parameter(name).detach().numpy() - rate * wanted.get(name, 0), rel=1e-12
        )


def test_equal_groups_decay_with_the_strength_and_alpha_one_is_l2_on_groups() -> None:
    model = nn.Sequential(nn.Linear(1, 3, bias=False), nn.Linear(3, 1, bias=False))
    with torch.no_grad():
        model[0].weight.fill_(2.0)
        model[1].weight.fill_(-1.0)
    units = prl.find_units(model, torch.zeros(1, 1))
    GroupSL(model, 0.25, units=units).penalty(OUTPUTS).backward()
    assert model[0].weight.grad.flatten().tolist() == [0.5] * 3
    model.zero_grad()
    nn.init.normal_(model[0].weight)
    GroupSL(model, 0.25, units=units, alpha=1.0).penalty(OUTPUTS).backward()
    assert torch.equal(model[0].weight.grad, 0.25 * model[0].weight)


def test_training_shortens_the_short_groups_and_leaves_the_longest() -> None:
    """With the penalty alone every group decays by (1 − ηλγ) a step, so that the ratio of two lengths grows."""
    model, units = network()
    reg = GroupSL(model, 0.1, units=units)
    before = reg.importance()["3"]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(50):
        optimizer.zero_grad()
        reg.penalty(OUTPUTS).backward()
        optimizer.step()
    left = reg.importance()["3"] / before
    assert left[before.argmin()] < 0.5 * left[before.argmax()]


def test_it_is_what_torch_pruning_adds() -> None:
    """For dense convolutions without a bias, whose γ the two compute from the same lengths."""
    pruning = pytest.importorskip("torch_pruning")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 4, 3), nn.BatchNorm2d(4))
    nn.init.uniform_(model[1].weight, 0.2, 1.5)
    example = torch.zeros(1, 1, 6, 6)
    units = prl.find_units(model, example)
    twin = copy.deepcopy(model)
    for p in (*model.parameters(), *twin.parameters()):
        p.grad = torch.zeros_like(p)
    importance = pruning.importance.GroupMagnitudeImportance(p=2, group_reduction="sum", normalizer=None)
    pruner = pruning.pruner.GroupNormPruner(
        twin, example, importance=importance, reg=STRENGTH, ignored_layers=[twin[3]]
    )
    pruner.regularize(twin)
    GroupSL(model, STRENGTH, units=units).penalty(OUTPUTS).backward()
    for name, p in model.named_parameters():
        assert torch.allclose(p.grad, twin.get_parameter(name).grad, rtol=1e-5, atol=1e-7), name


def test_wrong_use_is_named() -> None:
    model, units = network()
    with pytest.raises(ValueError, match="GroupSL over coupled needs units="):
        GroupSL(model, 1.0)
    with pytest.raises(ValueError, match=r"GroupSL got alpha=0\.5; it needs a finite number ≥ 1"):
        GroupSL(model, 1.0, units=units, alpha=0.5)
    with pytest.raises(ValueError, match="apply='prox' is unknown; choose one of 'gradient', 'loss', 'decay'"):
        GroupSL(model, 1.0, units=units, apply="prox")  # type: ignore[arg-type]
