"""`reach`: the arithmetic, against steps that are taken where no loss resists."""

import math

import pytest
import torch
from torch import nn

import pruning_lib as prl


def layer():
    """Four units, of lengths 1, 2, 3, 4."""
    linear = nn.Linear(4, 4, bias=False)
    with torch.no_grad():
        linear.weight.copy_(torch.diag(torch.arange(1.0, 5.0)))
    return linear


def train(model, reg, optimizer, steps, schedule):
    rates = [group["lr"] for group in optimizer.param_groups]
    for step in range(steps):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * schedule(step / steps)
        optimizer.zero_grad()
        loss = reg.penalty(model(torch.zeros(2, 4))) + 0 * sum(p.sum() for p in model.parameters())
        loss.backward()
        optimizer.step()
        reg.update(optimizer)


@pytest.mark.parametrize("schedule", [prl.cosine, prl.steps(0.5), lambda progress: 1.0])
@pytest.mark.parametrize("method", [prl.GroupLasso, prl.L1])
def test_a_threshold_brings_to_zero_what_was_said_and_nothing_else(method, schedule):
    for strength in (0.1, 0.41, 0.93, 2.0):
        model = layer()
        optimizer, reg = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), method(model, strength)
        said = prl.reach(reg, optimizer, steps=50, schedule=schedule)
        assert said.drift == pytest.approx(0.1 * strength * sum(schedule(t / 50) for t in range(50)))
        train(model, reg, optimizer, 50, schedule)
        assert int((model.weight == 0).all(1).sum()) == round(4 * said.share)


def test_in_the_gradient_momentum_multiplies_the_drift():
    for momentum, factor in ((0.0, 1), (0.5, 2), (0.9, 10)):
        norm = nn.BatchNorm1d(4)
        optimizer = torch.optim.SGD(norm.parameters(), lr=0.001, momentum=momentum)
        reg = prl.NetworkSlimming(norm, 0.1)
        said = prl.reach(reg, optimizer, steps=1000)
        assert said.drift == pytest.approx(0.1 * factor)
        train(norm, reg, optimizer, 1000, lambda progress: 1.0)
        moved = (1 - norm.weight).detach()
        torch.testing.assert_close(moved, torch.full((4,), said.drift), rtol=0.02, atol=0)


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.AdamW])
def test_under_adam_no_strength_moves_farther_than_the_rates(optimizer):
    for strength in (1e-3, 1.0, 1e3):
        norm = nn.BatchNorm1d(4)
        adam = optimizer(norm.parameters(), lr=0.001, weight_decay=0)
        reg = prl.NetworkSlimming(norm, strength)
        said = prl.reach(reg, adam, steps=300)
        assert said.drift == said.bound == pytest.approx(0.3)
        assert math.isinf(said.strength_for(0.5))
        assert "No λ could bring half of all units there" in str(said)
        train(norm, reg, adam, 300, lambda progress: 1.0)
        torch.testing.assert_close((1 - norm.weight).detach(), torch.full((4,), 0.3), rtol=0.02, atol=0)
    decoupled = prl.reach(prl.NetworkSlimming(norm, 1.0, apply="prox"), adam, steps=300)
    assert decoupled.drift == pytest.approx(0.3)
    assert math.isinf(decoupled.bound), "a threshold after the step is not divided by anything"


def test_the_strength_for_a_share_is_the_smallest_that_reaches_it():
    model = layer()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    said = prl.reach(prl.GroupLasso(model, 1.0), optimizer, steps=10)  # 1 in all
    assert [said.strength_for(share) for share in (0.25, 0.5, 0.51, 1.0)] == pytest.approx([1, 2, 3, 4])
    for share in (0.25, 0.5, 0.75, 1.0):
        enough = prl.GroupLasso(model, said.strength_for(share) * 1.0001)
        assert prl.reach(enough, optimizer, steps=10).share == share


def test_a_unit_that_is_several_groups_is_as_far_as_the_longest():
    torch.manual_seed(0)

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.left, self.right = nn.Linear(2, 3), nn.Linear(3, 4), nn.Linear(3, 5)

        def forward(self, x):
            x = self.first(x).relu()
            return self.left(x), self.right(x)

    model = Twice()
    units = prl.find_units(model, torch.zeros(1, 2))
    reg = prl.GroupLasso(model, 1.0, over="columns", units=units)
    longest = torch.maximum(model.left.weight.norm(dim=0), model.right.weight.norm(dim=0))
    torch.testing.assert_close(reg.distance()["first"], longest.detach())


def test_wrong_use_is_named():
    model, other = layer(), layer()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    reg = prl.GroupLasso(model, 1.0)
    with pytest.raises(ValueError, match="steps=0; it needs a whole number"):
        prl.reach(reg, optimizer, steps=0)
    with pytest.raises(TypeError, match="L2 does not pull on every unit alike"):
        prl.reach(prl.L2(model, 1.0), optimizer, steps=1)
    with pytest.raises(TypeError, match="moves under RMSprop is not known"):
        prl.reach(prl.GroupLasso(model, 1.0, apply="loss"), torch.optim.RMSprop(model.parameters()), steps=1)
    with pytest.raises(ValueError, match="The SGD holds no parameter that GroupLasso works on"):
        prl.reach(reg, torch.optim.SGD(other.parameters(), lr=0.1), steps=1)
    with pytest.raises(ValueError, match="share=0; it needs a share of units"):
        prl.reach(reg, optimizer, steps=1).strength_for(0)
    with pytest.raises(ValueError, match="cannot scale a strength of 0"):
        prl.reach(prl.GroupLasso(model, 0.0), optimizer, steps=1).strength_for(0.5)


def test_units_that_share_weights_move_further_and_the_print_says_so():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2))
    units = prl.find_units(model, torch.zeros(1, 8))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    reg = prl.GroupLasso(model, 0.01, over="coupled", units=units)
    said, before = prl.reach(reg, optimizer, steps=100), reg.distance()
    for _ in range(100):
        reg.update(optimizer)
    moved = torch.cat([before[name] - after for name, after in reg.distance().items()])
    assert said.overlapping
    assert (moved > said.drift * 1.05).any()
    assert "moves a unit by about 0.1 in 100 steps" in str(said)
    assert "Units share weights and shorten each other, so more than these may reach zero." in str(said)
    rows = prl.reach(prl.GroupLasso(model, 0.01), optimizer, steps=100)
    assert not rows.overlapping
    assert "by at most 0.1 in 100 steps" in str(rows)


def test_a_schedule_that_returns_no_factor_later_is_named():
    def late(progress):
        return float("nan") if progress > 0.5 else 1.0

    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    reg, units = prl.GroupLasso(model, 0.01), prl.find_units(model, torch.zeros(1, 8))
    with pytest.raises(ValueError, match="reach got a schedule that returns nan at a progress of 0.60"):
        prl.reach(reg, optimizer, steps=10, schedule=late)
    with pytest.raises(ValueError, match="TargetSize got a schedule that returns nan at a progress of 0.60"):
        prl.TargetSize(model, reg, optimizer, units, units_left=0.5, epochs=5, steps=10, schedule=late)


def test_momentum_of_parameters_that_are_not_pulled_does_not_count_and_weight_decay_is_named():
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2))
    groups = [
        {"params": model[0].parameters(), "momentum": 0.5},
        {"params": model[1].parameters(), "momentum": 0.99, "weight_decay": 1.0},
    ]
    reg = prl.NetworkSlimming(model, 0.1)
    said = prl.reach(reg, torch.optim.SGD(groups, lr=0.001), steps=100)
    assert said.drift == pytest.approx(0.1 * 0.001 * 100 / (1 - 0.5))
    assert "weight decay" not in str(said)
    decaying = torch.optim.SGD(model.parameters(), lr=0.001, weight_decay=5e-4)
    assert "by about 0.01 in 100 steps" in (text := str(prl.reach(reg, decaying, steps=100)))
    assert "own weight decay is not counted: with it, more may reach zero" in text
