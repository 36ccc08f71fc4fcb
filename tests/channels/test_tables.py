"""Who else writes units: embeddings, parameters that are added, layers that somebody wrote."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pruning_lib import GroupLasso, Guided
from pruning_lib.channels import find_units, shrink
from pruning_lib.selection import hold, importance, select, zero
from tests.channels.helpers import seeded
from tests.networks.cases import Net
from tests.networks.own import Blur, Conv1D, Dense


def stream(m, y):
    return m.out(y + m.b(F.relu(m.a(y))))


def layers(**more):
    return {"a": nn.Linear(16, 24), "b": nn.Linear(24, 16), "out": nn.Linear(16, 3), **more}


def tied():
    net = Net(lambda m, x: stream(m, m.table(x)), table=nn.Embedding(20, 16), **layers())
    net.out = nn.Linear(16, 20, bias=False)
    net.out.weight = net.table.weight
    return net


WORDS = torch.randint(0, 20, (2, 6))
TABLES = {
    "embedding": (
        lambda: Net(lambda m, x: stream(m, m.table(x)), table=nn.Embedding(20, 16), **layers()),
        ["table.weight"],
    ),
    "positions": (
        lambda: Net(
            lambda m, x: stream(m, m.table(x) + m.place[:, : x.shape[1]]),
            table=nn.Embedding(20, 16),
            place=nn.Parameter(torch.randn(1, 9, 16)),
            **layers(),
        ),
        ["table.weight", "place"],
    ),
    "two tables": (
        lambda: Net(
            lambda m, x: stream(m, m.table(x) + m.place(torch.arange(x.shape[1]))),
            table=nn.Embedding(20, 16),
            place=nn.Embedding(9, 16),
            **layers(),
        ),
        ["table.weight", "place.weight"],
    ),
    "bag": (
        lambda: Net(lambda m, x: stream(m, m.table(x)), table=nn.EmbeddingBag(20, 16), **layers()),
        ["table.weight"],
    ),
    "tied": (tied, ["table.weight"]),
}


def half(model, example, shift):
    units = find_units(model, example)
    chosen = {name: torch.arange(group.size) % 2 == 0 for name, group in units.items()}
    zero(model, chosen, units, shift=shift)
    return units, shrink(model, example)


@pytest.mark.parametrize("shift", ["keep", "drop"])
@pytest.mark.parametrize("name", TABLES)
def test_a_table_goes_with_the_units_that_it_writes(name, shift):
    build, parameters = TABLES[name]
    model = seeded(build).double()
    units, shrunk = half(model, WORDS, shift)
    assert {table.parameter for group in units.values() for table in group.tables} == set(parameters)
    assert shrunk.removed == {"a": 12, "b": 8}
    words = torch.randint(0, 20, (5, 6))
    torch.testing.assert_close(shrunk.model(words), model(words), rtol=0, atol=1e-12)


@pytest.mark.parametrize("shift", ["keep", "drop"])
def test_a_map_of_positions_goes_along_and_one_number_a_channel_is_a_shift(shift):
    model = seeded(
        lambda: Net(
            lambda m, x: m.out(F.relu(m.p(x) * m.scale + m.shift + m.place)),
            p=nn.Conv2d(3, 16, 4, 4),
            scale=nn.Parameter(torch.randn(16, 1, 1)),
            shift=nn.Parameter(torch.rand(16, 1, 1)),
            place=nn.Parameter(torch.randn(1, 16, 2, 2)),
            out=nn.Conv2d(16, 3, 1),
        )
    ).double()
    units, shrunk = half(model, torch.randn(2, 3, 8, 8).double(), shift)
    assert {table.parameter: table.shift for table in units["p"].tables} == {"shift": True, "place": False}
    assert bool(model.shift[::2].any()) == (shift == "keep")
    assert shrunk.removed == {"p": 8}


class Fixed(nn.Module):
    """A BatchNorm whose scale, shift and statistics are buffers, as detection networks have it."""

    def __init__(self, channels):
        super().__init__()
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.rand(channels) + 0.5)

    def forward(self, x):
        scale = self.weight * (self.running_var + 1e-5).rsqrt()
        shift = self.bias - self.running_mean * scale
        return x * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)


@pytest.mark.parametrize("shift", ["keep", "drop"])
def test_what_shifts_a_channel_by_fixed_statistics_is_a_shift(shift):
    model = seeded(lambda: nn.Sequential(nn.Conv2d(3, 16, 3, bias=False), Fixed(16), nn.Tanh(), nn.Conv2d(16, 3, 1)))
    model.double()
    units, shrunk = half(model, torch.randn(2, 3, 8, 8).double(), shift)
    assert {table.parameter for table in units["0"].tables} == {"1.weight", "1.bias", "1.running_mean"}
    assert shrunk.removed == {"0": 8}
    emitted = model[:2](torch.randn(2, 3, 8, 8).double())[:, ::2]
    assert bool(emitted.any()) == (shift == "keep")
    assert model[1].running_var.all()


def test_zeros_of_a_table_are_held():
    model = seeded(TABLES["positions"][0])
    units = find_units(model, WORDS)
    zero(model, {"b": torch.arange(16) < 4}, units)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    held = hold(model, optimizer)
    model(WORDS).square().sum().backward()
    optimizer.step()
    held.remove()
    assert not model.table.weight[:, :4].any()
    assert not model.place[..., :4].any()
    assert model.place[..., 4:].all()


# Layers that somebody wrote

IMAGE, TOKENS = torch.randn(2, 3, 8, 8), torch.randn(2, 5, 8)
OWN = {
    "linear": (lambda: nn.Sequential(Dense(8, 16), nn.ReLU(), Dense(16, 12), nn.ReLU(), Dense(12, 3)), TOKENS),
    "convolution": (
        lambda: nn.Sequential(Dense(3, 16, 3), nn.ReLU(), Dense(16, 12, 3, groups=2), Dense(12, 4, 1)),
        IMAGE,
    ),
    "inputs first": (
        lambda: nn.Sequential(Conv1D(16, 8), nn.GELU(), Conv1D(12, 16), nn.ReLU(), nn.Linear(12, 3)),
        TOKENS,
    ),
    "depthwise": (lambda: nn.Sequential(nn.Conv2d(3, 16, 1), Dense(16, 16, 3, groups=16), nn.Conv2d(16, 4, 1)), IMAGE),
    "blur": (lambda: nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), Blur(16), nn.Conv2d(16, 4, 1)), IMAGE),
    "noted blur": (lambda: nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), Blur(16, True), nn.Conv2d(16, 4, 1)), IMAGE),
}


@pytest.mark.parametrize("name", OWN)
def test_what_is_listed_is_ranked_penalized_zeroed_and_removed(name):
    build, example = OWN[name]
    model, example = seeded(build).double(), example.double()
    units = find_units(model, example)
    assert "0" in units
    writers = {member.layer for group in units.values() for member in group.writers}
    lasso = GroupLasso(model, 1e-2, units=units, apply="loss")
    assert lasso.penalty(model(example)).item() > 0
    assert set(lasso.importance()) == writers
    assert set(Guided(model, 1e-2, units=units).importance()) == writers
    importance.taylor(model, units, (example, torch.zeros(len(example)).long()), lambda y, _: y.square().mean())
    chosen = select(importance.magnitude(model, units), units, fraction=0.5, scope="local")
    zero(model, chosen, units, shift="drop")
    shrunk = shrink(model, example)
    if name != "convolution":  # its groups have to stay equal
        assert shrunk.removed == {group: int(mask.sum()) for group, mask in chosen.items()}
    fresh = torch.randn(5, *example.shape[1:]).double()
    torch.testing.assert_close(shrunk.model(fresh), model(fresh), rtol=0, atol=1e-12)


def test_what_no_method_could_find_is_said_to_stay():
    class Product(nn.Module):
        def __init__(self):
            super().__init__()
            self.factor, self.out = nn.Parameter(torch.randn(8, 16)), nn.Linear(16, 3)

        def forward(self, x):
            return self.out(F.relu(x @ self.factor))

    units = find_units(Product(), TOKENS)
    assert not units
    assert units.fixed["factor"].startswith("is written by 'factor', which is not the `weight` of")


def test_a_tied_head_goes_by_its_own_name():
    units = find_units(tied(), WORDS)
    assert units.fixed == {"out": "has a weight that counts the entries of an embedding"}
    assert [member.layer for member in units["b"].readers] == ["a", "out"]
