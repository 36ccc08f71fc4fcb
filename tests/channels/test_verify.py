"""The comparison of outputs: what it says, and what it compares on."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from torch import nn

from pruning_lib.channels._plan import cast
from pruning_lib.channels._verify import Comparison, compare, probes
from tests.channels.helpers import seeded


def small(change):
    """Return a function that makes a changed copy of a model in a dtype."""

    def of(model):
        def make(dtype):
            other = copy.deepcopy(model)
            change(other)
            cast(other, dtype or torch.float32)
            return other

        return make

    return of


def bump(size):
    @torch.no_grad()
    def change(model):
        model[0].bias += size

    return change


def fail(model):
    def raising(*_):
        raise ValueError("no")

    model.register_forward_pre_hook(raising)


@pytest.mark.parametrize(
    ("change", "difference", "raised"),
    [
        (bump(0.0), "", False),
        (bump(1e-3), "by .*e-0. in float64", False),
        (lambda model: model.append(nn.Flatten(0)), "in shape", False),
        (fail, "no", True),
    ],
)
def test_a_comparison_says_what_differs(change, difference, raised):
    model = seeded(lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh()))
    comparison = compare(model, small(change)(model), (torch.randn(2, 3),))
    assert comparison.equal == (not difference)
    assert bool(comparison.raised) == raised
    assert re.fullmatch(difference, comparison.difference)


def test_nothing_compared_is_equal():
    assert Comparison().equal
    assert Comparison().error == 0


def test_probes_vary_batch_scale_and_size():
    shapes = [[tuple(x.shape) for (x,) in choices] for choices in probes((torch.randn(2, 3, 8, 80),))]
    assert shapes == [[(2, 3, 8, 80)], [(3, 3, 8, 80)], [(2, 3, 13, 45), (2, 3, 13, 85)]]


def test_cast_leaves_a_model_alone_that_shares_its_tensors():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    other = copy.deepcopy(model, {id(p): p for p in model.parameters()})
    cast(other, torch.float64)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert {p.dtype for p in other.parameters()} == {torch.float64}
    assert other[1].num_batches_tracked.dtype is torch.int64
    assert torch.equal(other[0].weight, model[0].weight.double())
