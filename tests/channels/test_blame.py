"""What is said when nothing can be removed: by size and operator, by layer and reason."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pruning_lib.channels import find_units, shrink
from tests.channels.helpers import kill, seeded
from tests.networks.cases import Net

IMAGE = torch.randn(2, 3, 8, 8)


def between(function):
    """A convolution, a function, a convolution."""
    return Net(
        lambda m, x: m.out(function(F.relu(m.a(x)), m)),
        a=nn.Conv2d(3, 16, 3, padding=1),
        gate=nn.Conv2d(2, 1, 7, padding=3),
        out=nn.Conv2d(16, 4, 1),
    )


def assigned(y, m):
    y = y.clone()
    y[:, 4:] = y[:, 4:].tanh()
    return y


REASONS = {
    "means and maxima": (
        lambda y, m: y * m.gate(torch.cat([y.mean(1, keepdim=True), y.amax(1, keepdim=True)], 1)).sigmoid(),
        "feeds `mean`, which counts every channel",
    ),
    "root mean square": (
        lambda y, m: y * torch.rsqrt(y.pow(2).mean(1, keepdim=True) + 1e-6),
        "feeds `mean`, which counts every channel",
    ),
    "slice assignment": (assigned, "is changed in place by `copy`, through a view"),
    "positions of maxima": (
        lambda y, m: F.max_unpool2d(*F.max_pool2d(y, 2, return_indices=True), 2),
        "feeds `max_pool2d_with_indices`, whose positions are read",
    ),
}


@pytest.mark.parametrize("name", REASONS)
def test_the_reason_names_the_operator(name):
    function, reason = REASONS[name]
    assert find_units(between(function), IMAGE).fixed["a"] == reason


LENGTHS = {
    "normalize": lambda y, m: F.normalize(y, dim=1),
    "by a sum of squares": lambda y, m: y / (y.pow(2).sum(1, keepdim=True) + 1e-6).sqrt(),
    "by a norm of one": lambda y, m: y / y.norm(p=1, dim=1, keepdim=True).clamp(min=1e-12),
}


@pytest.mark.parametrize("name", LENGTHS)
def test_channels_of_zeros_add_nothing_to_a_length(name):
    model = seeded(lambda: between(LENGTHS[name])).double()
    kill(model.a, [0, 3, 5], bias=0.0)
    kill(model.a, [1, 2], bias=0.5)  # counts, unlike zeros
    shrunk = shrink(model, IMAGE.double())
    assert shrunk.removed == {"a": 3}
    x = torch.randn(3, 3, 11, 9).double()
    torch.testing.assert_close(shrunk.model(x), model(x), rtol=0, atol=1e-12)


def test_a_length_that_may_be_0_is_divided_by_by_no_zero():
    model = seeded(lambda: between(lambda y, m: y / y.norm(dim=1, keepdim=True))).double()
    kill(model.a, [0, 3], bias=0.0)
    assert shrink(model, IMAGE.double()).removed == {"a": 0}


def test_rows_that_are_nearly_0_are_named():
    model = seeded(lambda: nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2)))
    with torch.no_grad():
        model[0].weight[:8] = 1e-38
        model[0].weight[8] = 1e-20
    notes = shrink(model, torch.randn(2, 4)).plan.notes
    assert len(notes) == 1
    assert notes[0].startswith("0: 8 rows are below 1e-30 and yet not 0")
    assert "`threshold_weights`" in notes[0]


def test_a_layer_that_nothing_reads_is_said_to_be_unread():
    class Unread(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.out = nn.Linear(3, 8), nn.Linear(8, 8), nn.Linear(8, 4)

        def forward(self, x):
            self.b(y := self.a(x).relu())
            return self.out(y)

    assert "b: nothing reads it, so it became a constant" in shrink(Unread(), torch.randn(2, 3)).plan.notes


def meta():
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).to("meta"), torch.randn(2, 3, device="meta")


def empty():
    return nn.Sequential(nn.Linear(3, 0), nn.ReLU(), nn.Linear(0, 2)), torch.randn(2, 3)


@pytest.mark.parametrize(("build", "sentence"), [(meta, "on the meta device: load the weights"), (empty, "width 0")])
def test_what_has_no_numbers_is_refused(build, sentence):
    with pytest.raises(ValueError, match=sentence):
        shrink(*build())


def test_numbers_that_are_none_are_named():
    model = seeded(lambda: nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)))
    kill(model[0], [1], bias=float("nan"))
    with torch.no_grad():
        model[2].weight[:, 1] = 0  # and 0 times NaN is NaN
    with pytest.raises(RuntimeError, match="on inputs of shape .*; '0.bias' holds NaN"):
        shrink(model, torch.randn(2, 3))
