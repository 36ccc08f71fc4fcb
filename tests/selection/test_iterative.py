"""Pruning in rounds: the shares that each leaves, and what one round is."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import pruning_lib as prl
from pruning_lib.selection import importance
from tests.selection.test_importance import network, two_layers


def test_rounds_leave_equal_shares_and_hold_what_is_gone():
    torch.manual_seed(0)
    model, x, y = network(two_layers, (2, 2, 2))
    model = nn.Sequential(nn.Flatten(), nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)).double()
    units = prl.find_units(model, x)
    widths, seeds = [], iter(range(9))

    def train(model):
        zeros = model[1].weight == 0
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for _ in range(2):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        assert torch.equal(model[1].weight == 0, zeros)
        widths.append(int((model[1].weight != 0).any(1).sum()))

    chosen = prl.iterative(model, units, lambda _: importance.random(units, next(seeds)), train, rounds=4,
                           fraction=15 / 16)  # fmt: skip
    assert widths == [8, 4, 2, 1], "each round halves what is left, whatever the judge says of what has gone"
    assert torch.equal(chosen["1"], (model[1].weight == 0).all(1))
    assert not model[1].weight._backward_hooks, "nothing is held afterwards"
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    F.cross_entropy(model(x), y).backward()
    optimizer.step()


def test_rounds_meet_a_budget_by_equal_factors_and_one_round_is_one_shot():
    model, x, _ = network(two_layers, (2, 2, 2))
    units = prl.find_units(model, x)  # 40 + 20 + 12 multiply-adds
    costs = []

    def judge(model):
        return importance.magnitude(model, units)

    def train(model):
        costs.append(prl.measure(prl.shrink(model, x).model, x[:1]).macs)

    twice = copy.deepcopy(model)
    prl.iterative(twice, units, judge, train, rounds=2, max_macs=18, shift="drop")
    assert costs[0] <= 36
    assert costs[1] <= 18
    once = copy.deepcopy(model)
    chosen = prl.iterative(once, units, judge, lambda _: None, rounds=1, max_macs=18)
    expected = prl.select(judge(model), units, max_macs=18)
    assert all(torch.equal(chosen[name], expected[name]) for name in units)
    with pytest.raises(ValueError, match="rounds=0; it needs a whole number, 1 or more"):
        prl.iterative(model, units, judge, train, rounds=0, max_macs=18)
    with pytest.raises(ValueError, match="exactly one of fraction, macs_left and max_macs"):
        prl.iterative(model, units, judge, train, rounds=1, max_macs=18, fraction=0.5)
