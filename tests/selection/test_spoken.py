"""What `select`, importances and penalties say when a choice is likely to disappoint, and to whom."""

import warnings

import pytest
import torch
from torch import nn

import pruning_lib as prl
from pruning_lib.selection import cost
from pruning_lib.units import Group, Member, Units


def quiet(function, *args, **options):
    """Call a function that must not warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return function(*args, **options)


def test_groups_that_are_nearly_gone_are_named():
    every = torch.arange(40)
    units = Units([Group(name, 40, "inner", (Member(name, every),), (), ()) for name in ("a", "b")], {})
    scores = {"a": torch.arange(40.0), "b": 100 + torch.arange(40.0)}
    with pytest.warns(UserWarning, match=r"Under 5% of the units are left of 'a' \(1 of 40\): .* scope='local'"):
        prl.select(scores, units, fraction=0.5, scope="global")
    # Two of forty are 5 %.
    assert quiet(prl.select, scores, units, fraction=0.5, floor=2, scope="global")["a"].sum() == 38
    quiet(prl.select, scores, units, fraction=0.5)


def test_a_budget_that_a_coarse_network_misses_by_far_is_told():
    model = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 3))  # a unit costs 11 of 44
    units = prl.find_units(model, torch.zeros(1, 8))
    with pytest.warns(UserWarning, match="50.0% of the multiply-adds are left where 70.5% were to stay"):
        chosen = prl.select(prl.importance.random(units), units, macs_left=0.7)
    assert cost(chosen, units) == 22
    quiet(prl.select, prl.importance.random(units), units, macs_left=0.75)


def network(norm: bool) -> nn.Module:
    between = [nn.BatchNorm2d(4)] if norm else []
    return nn.Sequential(nn.Conv2d(1, 4, 3), *between, nn.ReLU(), nn.Conv2d(4, 2, 3))


@pytest.mark.parametrize("given", [True, False])
def test_lengths_in_front_of_a_batchnorm_are_named(given):
    x = torch.zeros(1, 1, 8, 8)
    model, plain = network(norm=True), network(norm=False)
    units = prl.find_units(model, x)
    with pytest.warns(UserWarning, match="behind '0' a BatchNorm divides by it: rows shrink .*NetworkSlimming"):
        prl.GroupLasso(model, 1e-3, units=units if given else None)
    with pytest.warns(UserWarning, match="behind '0' a BatchNorm divides by it: rank by .* of='folded'"):
        prl.importance.magnitude(model, units)
    quiet(prl.GroupLasso, model, 1e-3, over="coupled", units=units)
    quiet(prl.importance.magnitude, model, units, of="folded")
    quiet(prl.GroupLasso, plain, 1e-3, units=prl.find_units(plain, x) if given else None)
    quiet(prl.importance.magnitude, plain, prl.find_units(plain, x))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*BatchNorm divides")  # as the docstrings say
        prl.GroupLasso(model, 1e-3)
        prl.importance.magnitude(model, units)


def test_advice_on_thin_groups_is_what_can_be_followed():
    every = torch.arange(40)
    units = Units([Group("a", 40, "inner", (Member("a", every),), (), ())], {})
    with pytest.warns(UserWarning, match=r"Ask for less, or let every group keep more, by floor="):
        prl.select({"a": torch.arange(40.0)}, units, fraction=0.98)


def test_a_fraction_below_one_unit_of_each_group_is_told():
    every = torch.arange(8)
    units = Units([Group(name, 8, "inner", (Member(name, every),), (), ()) for name in ("a", "b")], {})
    scores = {"a": torch.arange(8.0), "b": torch.arange(8.0)}
    with pytest.warns(UserWarning, match=r"fraction=0\.1 is less than a unit .* scope='global'"):
        assert not any(mask.any() for mask in prl.select(scores, units, fraction=0.1).values())
    assert quiet(prl.select, scores, units, fraction=0.1, scope="global")["a"].sum() == 1
    quiet(prl.select, scores, units, fraction=0.0)
