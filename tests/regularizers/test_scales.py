"""Slimming and polarization: values, slopes and proximal maps recomputed, the valley counted by hand, and digits."""

import copy
import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

import pruning_lib as prl
from pruning_lib.companion.data import Split, digits
from pruning_lib.companion.models import LeNet5
from pruning_lib.regularizers._scales import regularized_norms
from pruning_lib.training import steps
from pruning_lib.units import Group, Member, Units
from tests.regularizers.protocol import Method, modes

NORMS = ("0", "1", "3")
OUT = torch.zeros(1)

PROTOCOL = [
    *(
        Method(
            f"NetworkSlimming {mode}",
            partial(prl.NetworkSlimming, apply=mode),
            plain_scales=mode == "prox",
            partner=mode == "loss",
        )
        for mode in modes(prl.NetworkSlimming)
    ),
    Method("Polarization", prl.Polarization, plain_scales=True),
]


def network(values: list[list[float]] | None = None) -> nn.Sequential:
    """BatchNorms of 4, 3 and 2 channels and a linear layer, which no method here may touch."""
    model = nn.Sequential(nn.BatchNorm1d(4), nn.BatchNorm2d(3), nn.Linear(2, 2), nn.BatchNorm3d(2)).double()
    generator = torch.Generator().manual_seed(0)
    for i, name in enumerate(NORMS):
        scale = model.get_submodule(name).weight
        with torch.no_grad():
            drawn = torch.randn(scale.shape, generator=generator)
            scale.copy_(torch.tensor(values[i], dtype=torch.float64) if values else drawn)
    return model


def scales(model: nn.Module) -> np.ndarray:
    return np.concatenate([model.get_submodule(name).weight.detach().numpy() for name in NORMS])


class Penalty(nn.Module):
    """The penalty as a function of the scales, for `functional_call`."""

    def __init__(self, model: nn.Module, reg: prl.Regularizer) -> None:
        super().__init__()
        self.model, self.reg = model, reg

    def forward(self) -> Tensor:
        return self.reg.penalty(OUT)


def test_values_are_those_of_the_papers():
    model = network()
    gamma = scales(model)
    assert prl.NetworkSlimming(model, 0.3).penalty(OUT).item() == pytest.approx(0.3 * np.abs(gamma).sum())
    for t in (-0.5, 1.2, 2.0):
        wanted = sum(t * abs(g) - abs(g - gamma.sum() / 9) for g in gamma)
        assert prl.Polarization(model, 0.3, t=t).penalty(OUT).item() == pytest.approx(0.3 * wanted)


@pytest.mark.parametrize("make", [
    lambda m: prl.NetworkSlimming(m, 0.7), lambda m: prl.Polarization(m, 0.7, t=1.5),
])  # fmt: skip
def test_slopes_are_those_of_finite_differences(make):
    model = network()
    whole = Penalty(model, make(model))
    inputs = [model.get_submodule(name).weight.detach().clone().requires_grad_() for name in NORMS]
    names = [f"model.{name}.weight" for name in NORMS]
    assert torch.autograd.gradcheck(lambda *v: functional_call(whole, dict(zip(names, v, strict=True))), inputs)


def test_slimming_pulls_on_all_alike_and_polarization_holds_up_the_large_ones():
    model = network([[0.1, 0.2, 0.3, 0.9], [0.1, 0.8, 0.7], [0.2, 0.9]])  # mean 4.2 / 9, four above it
    prl.NetworkSlimming(model, 0.5).penalty(OUT).backward()
    assert all((model.get_submodule(name).weight.grad == 0.5).all() for name in NORMS)
    assert model[0].bias.grad is model[2].weight.grad is None
    model.zero_grad()
    prl.Polarization(model, 0.5, t=1.2).penalty(OUT).backward()
    through_mean = (4 - 5) / 9
    down, up = 0.5 * (1.2 + 1 + through_mean), 0.5 * (1.2 - 1 + through_mean)
    wanted = [[down] * 3 + [up], [down, up, up], [down, up]]
    for name, slope in zip(NORMS, wanted, strict=True):
        assert model.get_submodule(name).weight.grad.tolist() == pytest.approx(slope)


@pytest.mark.parametrize("t", [-1.0, 0.0, 1.2])
def test_polarization_alone_is_least_at_the_published_share(t):
    """Of 40 scales ½ − t/4 are 1 and the rest 0; no share, and no small change of these scales, has a smaller R."""
    model = nn.Sequential(nn.BatchNorm1d(40)).double()
    reg = prl.Polarization(model, 1.0, t=t)

    def value(gamma: Tensor) -> float:
        with torch.no_grad():
            model[0].weight.copy_(gamma)
        return reg.penalty(OUT).item()

    two = [torch.arange(40) < count for count in range(41)]
    best = min(range(41), key=lambda count: value(two[count].double()))
    assert best == round(40 * (0.5 - t / 4))
    generator = torch.Generator().manual_seed(0)
    least = value(two[best].double())
    for _ in range(300):
        near = (two[best].double() + 0.3 * torch.randn(40, generator=generator)).clamp(0, 1)
        assert value(near) >= least - 1e-9
        assert value(torch.rand(40, generator=generator)) >= least - 1e-9


def test_the_proximal_step_is_the_brute_force_minimum():
    model = network([[0.4, -0.03, 0.0, -0.5], [0.05, 0.051, -1.0], [0.02, 1.0]])
    before = copy.deepcopy(model)
    optimizer = torch.optim.SGD(
        [{"params": model[:3].parameters()}, {"params": model[3:].parameters(), "lr": 0.5}], 0.1
    )
    reg = prl.NetworkSlimming(model, 0.5, apply="prox")
    assert reg.penalty(torch.ones(2, 3)) == 0
    reg.update(optimizer)
    grid = np.linspace(-1.2, 1.2, 240001)
    for name, rate in (("0", 0.1), ("1", 0.1), ("3", 0.5)):
        for old, new in zip(before.get_submodule(name).weight, model.get_submodule(name).weight, strict=True):
            wanted = grid[np.argmin((grid - old.item()) ** 2 / 2 + rate * 0.5 * np.abs(grid))]
            assert new.item() == pytest.approx(wanted, abs=1e-5)
    assert (scales(model) == 0).sum() == 4  # |γ| ≤ 0.05 at the first rate, ≤ 0.25 at the second
    for name, value in model.state_dict().items():
        assert name in [f"{norm}.weight" for norm in NORMS] or torch.equal(value, before.state_dict()[name])


def test_polarization_clamps_what_is_trained_and_only_while_it_is_on():
    values = [[-0.5, 0.5, 1.5, 1.0], [-1.0, 2.0, 0.0], [-3.0, 3.0]]
    model = network(values)
    model[1].weight.requires_grad_(False)
    optimizer = torch.optim.SGD(model[:2].parameters(), 0.1)
    reg = prl.Polarization(model, 0.0)
    reg.update(optimizer)
    assert scales(model).tolist() == [*values[0], *values[1], *values[2]]
    reg.strength = 1e-3
    reg.update(optimizer)
    assert scales(model).tolist() == [0.0, 0.5, 1.0, 1.0, *values[1], *values[2]]


def test_importance_is_the_size_of_the_scale_by_name():
    model = network([[0.4, -0.3, 0.0, -0.5], [0.1, 0.2, -1.0], [0.2, 1.0]])
    for reg in (prl.NetworkSlimming(model, 0.1), prl.Polarization(model, 0.1)):
        importance = {name: values.tolist() for name, values in reg.importance().items()}
        assert importance == {"0": [0.4, 0.3, 0.0, 0.5], "1": [0.1, 0.2, 1.0], "3": [0.2, 1.0]}


def polarized(counts: dict[float, int]) -> prl.Polarization:
    """Return the method on one BatchNorm with so many scales of each size."""
    values = torch.tensor([value for value, count in counts.items() for _ in range(count)])
    model = nn.Sequential(nn.BatchNorm1d(len(values)))
    with torch.no_grad():
        model[0].weight.copy_(values)
    return prl.Polarization(model, 1e-3)


def test_the_threshold_is_the_first_valley_from_the_left():
    # Bins of 0.01: 9, 5, 2, 3, …: the third, from 0.02 on, holds no more than its neighbours.
    assert polarized({0.005: 9, 0.015: 5, 0.025: 2, 0.035: 3, 0.9: 20}).threshold() == pytest.approx(0.02)
    # 9, 5, 0, 0: the first empty one.
    assert polarized({0.0: 9, 0.015: 5, 1.0: 7}).threshold() == pytest.approx(0.02)
    # 2, 9, 4, 4, …: it rises first, and then a step is already a valley.
    assert polarized({0.005: 2, 0.015: 9, 0.025: 4, 0.035: 4, 0.045: 4}).threshold() == pytest.approx(0.02)
    reg = polarized({0.0: 3, 0.012: 4, 0.5: 2, 0.9: 6})
    index = torch.arange(15)
    units = Units([Group("a", 15, "inner", (Member("a", index),), (Member("0", index),), ())])
    chosen = prl.select(reg.importance(), units, threshold=reg.threshold())
    assert chosen["a"].tolist() == [True] * 7 + [False] * 8
    # The last valley that is believed, and the first that is not.
    assert polarized({0.005 + i / 100: 40 - i for i in range(20)}).threshold() == pytest.approx(0.2)
    with pytest.raises(ValueError, match=r"the first is at 0.21"):
        polarized({0.005 + i / 100: 40 - i for i in range(21)}).threshold()
    falling = {0.005 + i / 100: 40 - i for i in range(30)}
    with pytest.raises(ValueError, match=r"no valley up to 0.2 in the histogram of the scales \(the first is at 0.3\)"):
        polarized(falling).threshold()
    rising = {0.005 + i / 100: 1 + i for i in range(100)}
    with pytest.raises(ValueError, match=r"the first is at 1.0\): they have not parted; train longer"):
        polarized(rising).threshold()


def test_a_shared_scale_counts_once_and_units_limit_the_rest():
    model = network()
    model.again = model[0]
    model.tied = nn.BatchNorm1d(3).double()
    model.tied.weight = model[1].weight
    assert list(prl.NetworkSlimming(model, 1.0).importance()) == list(NORMS)
    units = Units([Group("w", 3, "inner", (), (Member("1", torch.arange(3)),), ())])
    reg = prl.NetworkSlimming(model, 1.0, units=units)
    assert reg.penalty(OUT).item() == pytest.approx(model[1].weight.abs().sum().item())
    with pytest.raises(ValueError, match="Polarization got units of another model: it has no layer '1'"):
        prl.Polarization(nn.Sequential(nn.BatchNorm1d(2)), 1.0, units=units)


def test_slimming_reads_bounded_scales_and_refuses_to_write_them():
    model = network()
    prl.bound_batchnorm(model)
    assert prl.NetworkSlimming(model, 2.0).penalty(OUT).item() == pytest.approx(2 * scales(model).sum())
    for make in (lambda: prl.NetworkSlimming(model, 0.1, apply="prox"), lambda: prl.Polarization(model, 0.1)):
        with pytest.raises(ValueError, match="changes weights in place, and that of '0' is computed from others"):
            make()


def test_wrong_use_is_named():
    model = network()
    for t in (2.1, -3.0, math.nan):
        with pytest.raises(ValueError, match=rf"t={t}; it needs a number in \[−2, 2\]"):
            prl.Polarization(model, 0.1, t=t)
    with pytest.raises(ValueError, match="apply='decay' is unknown"):
        prl.NetworkSlimming(model, 0.1, apply="decay")  # type: ignore[arg-type]
    bare = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, affine=False))
    for method in (prl.NetworkSlimming, prl.Polarization):
        with pytest.raises(ValueError, match=r"found no BatchNorm with a scale \(affine=True\) in Sequential"):
            method(bare, 0.1)
        with pytest.raises(TypeError, match=r"got model='.*'; it needs a torch\.nn\.Module"):
            method("model", 0.1)
    assert list(regularized_norms(nn.DataParallel(model), None, None)) == list(NORMS)


# What the papers claim, in kind


@pytest.fixture(scope="module")
def trained():
    """{method: figures} on digits, 20 epochs each."""
    return {name: figures(*outcome(name, seed=0)) for name in ("none", "slimming", "polarization")}


def outcome(name: str, seed: int) -> tuple[prl.Regularizer, nn.Module, Split]:
    data = digits(seed)
    torch.manual_seed(seed)
    model = LeNet5(10, (1, 8, 8), (24, 32, 64), kernel=3, padding=1, bn=True)
    for norm in (model.bn1, model.bn2, model.bn3):
        nn.init.constant_(norm.weight, 0.5)  # as both papers start
    reg: prl.Regularizer = {
        "none": prl.NetworkSlimming(model, 0.0),
        "slimming": prl.NetworkSlimming(model, 0.2, apply="prox"),  # 0.02 as a loss term, times what momentum adds
        "polarization": prl.Polarization(model, 0.02, t=1.2),
    }[name]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    prl.fit(
        model, data.train, data.val, epochs=20, optimizer=optimizer, regularizer=reg, batch_size=32,
        schedule=steps(0.5, 0.75), progress=False,
    )  # fmt: skip
    return reg, model, data


def figures(reg: prl.Regularizer, model: nn.Module, data: Split) -> dict[str, float]:
    """Return accuracies before and after half of the channels were zeroed in one shot, and shares of the scales."""
    scale = torch.cat(list(reg.importance().values()))
    units, pruned = prl.find_units(model, torch.zeros(2, 1, 8, 8)), copy.deepcopy(model)
    prl.zero(pruned, prl.select(reg.importance(), units, fraction=0.5, scope="global", floor=3), units)
    return {
        "dense": prl.evaluate(model, data.val).accuracy,
        "half": prl.evaluate(pruned, data.val).accuracy,
        "zero": (scale == 0).float().mean().item(),
        "middle": ((scale > 0.1) & (scale < 0.7)).float().mean().item(),
        "at 1": (scale == 1).float().mean().item(),
        "threshold": reg.threshold() if isinstance(reg, prl.Polarization) else math.nan,
    }


# In brackets, what 10 seeds gave.
@pytest.mark.slow
def test_on_digits_polarization_leaves_two_heaps_and_a_valley_between_them(trained):
    assert trained["polarization"]["middle"] < 0.25  # [≤ 0.13]
    assert trained["polarization"]["at 1"] > 0.1  # [≥ 0.20]
    assert trained["polarization"]["zero"] > 0.3  # [≥ 0.46]
    assert trained["polarization"]["threshold"] < 0.1  # [≤ 0.03]
    assert trained["none"]["middle"] > 0.4  # [≥ 0.46]


@pytest.mark.slow
def test_on_digits_half_of_the_channels_go_in_one_shot_and_only_with_a_penalty(trained):
    drop = {name: found["dense"] - found["half"] for name, found in trained.items()}
    assert min(found["dense"] for found in trained.values()) > 0.9  # [≥ 0.95]
    assert drop["polarization"] < 0.05  # [0]
    assert drop["slimming"] < 0.3  # [≤ 0.05]
    assert drop["none"] > 0.5  # [≥ 0.83]
    assert trained["slimming"]["zero"] > 0.3  # [≥ 0.42]
