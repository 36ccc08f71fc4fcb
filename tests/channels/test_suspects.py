"""Sizes that a forward says literally, and modules that adapt."""

from __future__ import annotations

import inspect

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pruning_lib.channels import find_units, load, save, shrink
from tests.channels.helpers import assert_equal, kill, seeded


class Literal(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.size = size
        self.conv, self.mid, self.fc = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 6, 3), nn.Linear(96, 7)
        self.out = nn.Linear(7, 3)

    def forward(self, x):
        x = F.relu(self.mid(F.relu(self.conv(x))))
        x = x.view(-1, self.size) if self.size else x.view(x.size(0), -1)
        return self.out(torch.relu_(self.fc(x)))


@pytest.mark.parametrize(("size", "removed"), [(96, 0), (0, 3)])
def test_a_literal_size_pins_its_channels_and_nothing_else(size, removed):
    model = seeded(lambda: Literal(size))
    for layer in (model.conv, model.mid, model.fc):
        kill(layer, [0, 2, 3])
    shrunk = shrink(model, torch.randn(2, 1, 8, 8))
    assert shrunk.removed == {"conv": 3, "mid": removed, "fc": 3}
    assert_equal(model, shrunk.model, 1, 8, 8)
    assert bool(shrunk.plan.notes) == bool(size)
    if size:
        assert "mid: 3 dead units stay" in shrunk.plan.notes[0]
        assert "`view` with a literal size (test_suspects.py, line" in shrunk.plan.notes[0]


class Picky(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x):
        x = self.a(x).relu()
        if x.shape[1] != 8:
            raise ValueError("eight, please")
        return {"logits": self.b(x), "count": 3}


def test_code_that_counts_channels_is_respected():
    model = seeded(Picky)
    kill(model.a, [1])
    shrunk = shrink(model, torch.randn(2, 4))
    assert shrunk.removed == {"a": 0}
    assert "counts its channels" in shrunk.plan.notes[0]


class SizeOfInput(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)

    def forward(self, x):
        n, channels, height, width = x.shape
        q, k = self.q(x).flatten(2), self.k(x).flatten(2)
        return (q @ k.transpose(1, 2) @ k).reshape(n, channels, height, width)


def test_a_size_that_was_taken_before_is_respected():
    """The channels of x may go, those behind a product may not, and the last line takes one for the other."""
    model = seeded(lambda: nn.Sequential(nn.Conv2d(1, 8, 3), SizeOfInput(), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 2, 1)))
    kill(model[0], [1, 3], bias=0.0)
    kill(model[2], [0, 5])
    shrunk = shrink(model, torch.randn(2, 1, 6, 6))
    assert shrunk.removed["0"] == 0
    assert shrunk.removed["2"] == 2
    assert "gives its size to a `reshape` of other channels (test_suspects.py" in shrunk.plan.notes[0]


class Attention(nn.Module):
    """As FastViT's: all heads are as wide together as the input, by number alone, and its width is read for them."""

    def __init__(self):
        super().__init__()
        self.num_heads, self.head_dim = 4, 2
        self.qkv, self.proj = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x):
        n, channels, height, width = x.shape
        x = x.flatten(2).transpose(1, 2)
        qkv = self.qkv(x).reshape(n, height * width, 3, self.num_heads, self.head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        x = F.scaled_dot_product_attention(q, k, v)
        x = x.transpose(1, 2).reshape(n, height * width, channels)  # the line that counts
        return self.proj(x).transpose(1, 2).reshape(n, channels, height, width)


def test_a_size_that_other_channels_are_given_is_named_by_its_line():
    model = seeded(lambda: nn.Sequential(nn.Conv2d(1, 8, 3), Attention(), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 2, 1)))
    lines, start = inspect.getsourcelines(Attention)
    line = start + next(i for i, text in enumerate(lines) if "the line that counts" in text)
    units = find_units(model, torch.randn(2, 1, 6, 6))
    assert units.fixed["0"] == f"gives its size to a `reshape` of other channels (test_suspects.py, line {line})"
    assert units.fixed["1.qkv"] == f"passes `reshape` with a literal size (test_suspects.py, line {line})"
    assert list(units) == ["2"]
    kill(model[0], [1, 3], bias=0.0)
    kill(model[2], [0, 5])
    shrunk = shrink(model, torch.randn(2, 1, 6, 6))
    assert {name: count for name, count in shrunk.removed.items() if count} == {"2": 2}
    assert [note for note in shrunk.plan.notes if units.fixed["0"] in note] == shrunk.plan.notes
    assert_equal(model, shrunk.model, 1, 9, 8)


class Counts(nn.Module):
    def __init__(self):
        super().__init__()
        self.width, self.a, self.b = 6, nn.Conv2d(1, 6, 3), nn.Linear(6, 2)

    def forward(self, x):
        return self.b(self.a(x).relu().view(len(x), self.width, -1).amax(2))


class Tells(Counts):
    def after_shrink(self, kept):
        if "a.weight" in kept:
            self.width = len(kept["a.weight"][0])


@pytest.mark.parametrize(("kind", "removed"), [(Counts, {"a": 0}), (Tells, {"a": 2})])
def test_a_module_may_say_how_it_follows(kind, removed, tmp_path):
    model = seeded(kind)
    kill(model.a, [0, 4])
    shrunk = shrink(model, torch.randn(2, 1, 8, 8))
    assert shrunk.removed == removed
    assert ("`view` with a literal size (test_suspects.py" in " ".join(shrunk.plan.notes)) == (kind is Counts)
    save(shrunk, tmp_path / "a.safetensors")
    x = torch.randn(3, 1, 9, 8)
    assert torch.equal(load(kind(), tmp_path / "a.safetensors")(x), shrunk.model(x))
    assert model.width == 6


class Many(nn.Module):
    """Fourteen literal sizes, each in a line of its own: a cut network fails at one after the other."""

    def __init__(self):
        super().__init__()
        self.layers, self.out = nn.ModuleList(nn.Linear(6, 6) for _ in range(15)), nn.Linear(6, 3)

    def forward(self, x):
        x = self.layers[0](x).relu().view(-1, 6)
        x = self.layers[1](x).relu().view(-1, 6)
        x = self.layers[2](x).relu().view(-1, 6)
        x = self.layers[3](x).relu().view(-1, 6)
        x = self.layers[4](x).relu().view(-1, 6)
        x = self.layers[5](x).relu().view(-1, 6)
        x = self.layers[6](x).relu().view(-1, 6)
        x = self.layers[7](x).relu().view(-1, 6)
        x = self.layers[8](x).relu().view(-1, 6)
        x = self.layers[9](x).relu().view(-1, 6)
        x = self.layers[10](x).relu().view(-1, 6)
        x = self.layers[11](x).relu().view(-1, 6)
        x = self.layers[12](x).relu().view(-1, 6)
        x = self.layers[13](x).relu().view(-1, 6)
        return self.out(self.layers[14](x).relu())


def test_literal_sizes_are_found_however_many_there_are():
    model = seeded(Many)
    units = find_units(model, torch.randn(2, 6))
    assert list(units) == ["layers.14"]
    assert all("`view` with a literal size" in units.fixed[f"layers.{i}"] for i in range(14))
    for layer in model.layers:
        kill(layer, [0, 1])
    removed = shrink(model, torch.randn(2, 6)).removed
    assert removed.pop("layers.14") == 2
    assert not any(removed.values())
