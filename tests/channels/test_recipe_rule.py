"""The recipe for a new rule, walked through: one class under one decorator, and `shrink` removes through an operator.

``torch.cumsum`` has no rule, so its channels stay. Along time it mixes nothing but time steps: channel c of the result
is made of channel c alone.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pruning_lib.channels import find_units, shrink
from pruning_lib.channels._graph import argument, operand, shape_of
from pruning_lib.channels._shapes import NAN, varies
from pruning_lib.channels.rules import TABLE, Rule, rule
from tests.channels.helpers import assert_equal, kill, seeded


class Cumulative(Rule):
    """Sums up to each position."""

    def axis(self, node):
        return int(argument(node, 1, "dim")) % len(shape_of(node))

    def label(self, state, node):
        labels = state.labels_of(operand(node))
        if bool(varies(labels, [self.axis(node)]).any()):  # over channels: each counts in all that follow
            state.give_up(node)
        else:
            state.labels[node] = labels

    def value(self, state, node):
        value = state.values_of(operand(node))
        # Of a constant other than 0 the sums grow with the position.
        state.values[node] = torch.where(value == 0, 0.0, NAN)

    def use(self, state, node):
        read = state.live_use(node).any(dim=self.axis(node), keepdim=True)
        state.mark(operand(node), read.expand(shape_of(node)))


@pytest.fixture
def cumulative():
    rule("cumsum")(Cumulative)
    yield
    del TABLE["cumsum"]


class Sums(nn.Module):
    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis
        self.a, self.b = nn.Linear(3, 8), nn.Linear(8, 2)

    def forward(self, x):
        return self.b(self.a(x).relu().cumsum(self.axis))


def dead(axis: int) -> Sums:
    model = seeded(lambda: Sums(axis)).double()
    kill(model.a, [1, 4, 5], bias=-1.0)  # 0 behind the ReLU
    kill(model.a, [6], bias=1.0)  # 1 behind the ReLU, and 1, 2, 3, … behind the sum
    with torch.no_grad():
        model.b.weight[:, 2] = 0  # read by nobody
    return model


TIME = torch.randn(2, 7, 3).double()


def test_without_the_rule_the_channels_stay():
    shrunk = shrink(dead(axis=1), TIME)
    assert shrunk.removed == {}
    assert find_units(dead(axis=1), TIME).fixed["a"] == "feeds `cumsum`, which has no rule"


@pytest.mark.usefixtures("cumulative")
def test_with_the_rule_they_go_exactly():
    model = dead(axis=1)
    shrunk = shrink(model, TIME)
    assert shrunk.removed == {"a": 4}
    assert shrunk.plan.units == {"a": [0, 3, 6, 7]}
    for length in (1, 7, 12):
        assert_equal(model, shrunk.model, length, 3, tolerance=1e-12)


@pytest.mark.usefixtures("cumulative")
def test_along_channels_they_stay():
    model = dead(axis=2)
    assert shrink(model, TIME).removed == {}


@pytest.mark.usefixtures("cumulative")
def test_a_second_rule_for_the_same_operator_is_refused():
    with pytest.raises(ValueError, match="`cumsum` has a rule already: Cumulative"):
        rule("cumsum")(Cumulative)


class Grown(Cumulative):
    """Says of a sum that grows with the position that it stays what it was."""

    def value(self, state, node):
        state.values[node] = state.values_of(operand(node))


class Nothing(Cumulative):
    """Says that there is nothing but zeros."""

    def value(self, state, node):
        state.values[node] = torch.zeros(()).double().expand(shape_of(node))


def test_a_constant_that_a_rule_got_wrong_is_not_trusted_any_more():
    rule("cumsum")(Grown)
    try:
        shrunk = shrink(dead(axis=1), TIME)
    finally:
        del TABLE["cumsum"]
    assert shrunk.removed == {"a": 4}
    assert_equal(dead(axis=1), shrunk.model, 9, 3, tolerance=1e-12)


def test_a_rule_that_says_too_much_is_found_out():
    rule("cumsum")(Nothing)
    try:
        with pytest.raises(RuntimeError, match=r"by .* in float64 on inputs of shape .*, first behind `cumsum`"):
            shrink(dead(axis=1), TIME)
    finally:
        del TABLE["cumsum"]


# Operators of other libraries


@pytest.fixture(scope="module")
def strangers():
    """Operators outside ATen: one with the name of one inside, one that changes its operand, one that is pointwise."""
    library = torch.library.Library("strangers", "FRAGMENT")
    library.define("relu(Tensor x) -> Tensor")
    library.define("bump(Tensor(a!) x) -> ()")
    library.define("double(Tensor x) -> Tensor", tags=(torch.Tag.pointwise,))
    kernels = {"relu": lambda x: x.roll(1, 1), "bump": _bump, "double": lambda x: 2 * x}
    for name, kernel in kernels.items():
        library.impl(name, kernel, "CompositeExplicitAutograd")
    yield torch.ops.strangers
    library._destroy()


def _bump(x):
    x.add_(1)


class Calls(nn.Module):
    def __init__(self, call) -> None:
        super().__init__()
        self.call = call
        self.a, self.b = nn.Linear(3, 6), nn.Linear(6, 2)

    def forward(self, x):
        return self.b(self.call(self.a(x)))


def removed(call) -> int:
    model = seeded(lambda: Calls(call)).double()
    kill(model.a, [0, 3], bias=0.0)
    shrunk = shrink(model, torch.randn(2, 3).double())
    assert_equal(model, shrunk.model, 3, tolerance=1e-12)
    return shrunk.removed.get("a", 0)


def test_an_operator_of_the_same_name_in_another_library_is_not_taken_for_it(strangers):
    assert removed(strangers.relu) == 0


def test_what_a_stranger_changes_in_place_is_not_followed(strangers):
    def call(x):
        strangers.bump(x)
        return x

    assert removed(call) == 0


def test_a_stranger_that_says_it_is_pointwise_is_followed(strangers):
    assert removed(strangers.double) == 2
