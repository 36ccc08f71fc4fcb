"""Rules, family by family."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pruning_lib.channels import shrink
from tests.channels.helpers import assert_equal, kill, rows_at_random, seeded, shrunk_and_compared


def test_batchnorm_scale_of_zero_makes_a_constant():
    model = seeded(lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3)))
    with torch.no_grad():
        model[1].weight[[0, 3]] = 0
        model[1].bias.uniform_(0.5, 1)
        model[1].running_mean.normal_()
    shrunk = shrink(model, torch.randn(1, 1, 9, 9))
    assert shrunk.plan.units == {"0": [1, 2]}
    assert shrunk.model[1].num_features == 2
    assert torch.equal(shrunk.model[1].running_mean, model[1].running_mean[[1, 2]])
    assert_equal(model, shrunk.model, 1, 9, 9)


@pytest.mark.parametrize("affine", [True, False])
def test_group_norm_loses_whole_groups(affine):
    model = seeded(
        lambda: nn.Sequential(nn.Conv2d(1, 8, 3), nn.GroupNorm(4, 8, affine=affine), nn.ReLU(), nn.Conv2d(8, 2, 3))
    ).double()
    kill(model[0], [0, 2, 3, 7])
    shrunk = shrunk_and_compared(model, 1, 9, 9)
    assert shrunk.removed == {"0": 1}  # a unit is a group here: channels 2 and 3
    assert (shrunk.model[1].num_groups, shrunk.model[1].num_channels) == (3, 6)
    assert shrunk.model[0].out_channels == 6


@pytest.mark.parametrize("track", [True, False])
def test_instance_norm_is_followed(track):
    model = nn.Sequential(nn.Conv2d(1, 6, 3), nn.InstanceNorm2d(6, affine=True, track_running_stats=track), nn.ReLU())
    model = seeded(lambda: rows_at_random(model.append(nn.Conv2d(6, 2, 3, padding=1))))
    shrunk = shrunk_and_compared(model, 1, 9, 9)
    assert shrunk.removed["0"] >= 1
    assert shrunk.model[1].num_features == shrunk.model[0].out_channels


def test_what_counts_every_channel_keeps_them_and_says_so():
    model = seeded(lambda: nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2)))
    kill(model[0], [1])
    kill(model[2], [1])
    shrunk = shrink(model, torch.randn(2, 4))
    assert shrunk.removed == {"2": 1}
    assert shrunk.plan.notes == ["0: 1 dead unit stays: it feeds `layer_norm`, whose statistics count every channel"]


SWALLOW_NAN = {
    "sign": torch.sign,
    "greater": lambda x: (x > 0.1).to(x.dtype),
    "where": lambda x: torch.where(x > 0, x, 0.3),
    "fmax": lambda x: torch.fmax(x, torch.full((), 0.2, dtype=x.dtype)),
    "nan_to_num": torch.nan_to_num,
    "masked_fill": lambda x: x.masked_fill(x < 0, -1.0),
    "floor": torch.floor,
    "isnan": lambda x: x.isnan().to(x.dtype) + x.ceil(),
}


@pytest.mark.parametrize("name", SWALLOW_NAN)
def test_a_live_unit_stays_live_behind_operators_that_swallow_nan(name):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 9), nn.Linear(9, 2)

        def forward(self, x):
            return self.b(SWALLOW_NAN[name](3 * self.a(x)))

    model = seeded(Net).double()
    kill(model.a, [2, 5], bias=0.7)
    shrunk = shrink(model, torch.randn(2, 4).double())
    assert shrunk.removed == {"a": 2}
    assert_equal(model, shrunk.model, 4, tolerance=1e-12)


def test_transposed_convolution_is_cut_on_both_sides():
    model = nn.Sequential(
        nn.Conv2d(2, 8, 3), nn.ReLU(), nn.ConvTranspose2d(8, 6, 3, stride=2, output_padding=1), nn.Tanh()
    )
    model = seeded(lambda: rows_at_random(model.append(nn.Conv2d(6, 3, 3, padding=1))))
    shrunk = shrunk_and_compared(model, 2, 7, 7)
    dead = int((model[0].weight == 0).flatten(1).all(1).sum())
    positive = bool((model[0].bias[(model[0].weight == 0).flatten(1).all(1)] > 0).any())
    assert shrunk.removed["0"] == dead - positive  # gaps are read beside a constant: one stands for the others
    assert shrunk.model[2].weight.shape[:2] == (shrunk.model[0].out_channels, shrunk.model[4].in_channels)
    assert (shrunk.model[2].in_channels, shrunk.model[2].out_channels) == shrunk.model[2].weight.shape[:2]


class Text(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.fc, self.out = nn.Embedding(11, 8), nn.Linear(8, 6), nn.Linear(6, 3)

    def forward(self, tokens):
        return self.out(F.gelu(self.fc(self.table(tokens).mean(1))))


def test_columns_of_an_embedding_go():
    model = seeded(Text).double()
    with torch.no_grad():
        model.table.weight[:, 2] = 0.4  # the same for every token
        model.fc.weight[:, 5] = 0  # read by nobody
    tokens = torch.randint(11, (3, 7))
    shrunk = shrink(model, tokens)
    assert shrunk.model.table.weight.shape == (11, 6)
    assert shrunk.model.table.embedding_dim == shrunk.model.fc.in_features == 6
    torch.testing.assert_close(shrunk.model(tokens), model(tokens))


class Gate(nn.Module):
    def __init__(self, split):
        super().__init__()
        self.split = split
        self.up, self.down = nn.Linear(4, 12), nn.Linear(6, 3)

    def forward(self, x):
        if self.split:
            value, gate = self.up(x).chunk(2, -1)
            return self.down(value * gate.sigmoid())
        return self.down(F.glu(self.up(x)))


@pytest.mark.parametrize("split", [True, False])
def test_both_halves_of_a_gate_go_together(split):
    model = seeded(lambda: Gate(split)).double()
    kill(model.up, [1, 7, 3], bias=0.0)  # unit 1 wholly; of unit 3 the value alone, which is 0 times its gate
    shrunk = shrink(model, torch.randn(2, 4).double())
    assert shrunk.model.up.out_features == 8
    assert_equal(model, shrunk.model, 4, tolerance=1e-12)


class Scaled(nn.Module):
    def __init__(self, move):
        super().__init__()
        self.move = move
        self.a, self.b = nn.Conv2d(2, 6, 3, padding=1), nn.Conv2d(6, 2, 1)
        self.scale = nn.Parameter(torch.rand(6, 1, 1))

    def forward(self, x):
        return self.b(self.move(self.a(x)) * self.scale)


@pytest.mark.parametrize("axis", [2, 3])
def test_a_scale_goes_with_channels_whose_pixels_were_moved(axis):
    model = seeded(lambda: Scaled(lambda x: x.flip(axis))).double()
    kill(model.a, [0, 4])
    shrunk = shrink(model, torch.randn(2, 2, 5, 7).double())
    assert shrunk.removed == {"a": 2}
    assert shrunk.model.scale.shape == (4, 1, 1)


def test_a_scale_that_meets_more_than_its_channels_keeps_them():
    class Rows(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.scale = nn.Linear(3, 12), nn.Linear(12, 2), nn.Parameter(torch.rand(4, 1))

        def forward(self, x):
            return self.b((self.a(x).unflatten(1, (4, 3)) * self.scale).flatten(1))

    model = seeded(Rows).double()
    kill(model.a, [0, 1, 2, 7])
    shrunk = shrink(model, torch.randn(2, 3).double())
    assert_equal(model, shrunk.model, 3, tolerance=1e-12)


FILLED = {
    "zeros": lambda x: x + torch.zeros(1, dtype=x.dtype),
    "ones_like": lambda x: x * torch.ones_like(x),
    "full": lambda x: x + torch.full((1,), -1.5, dtype=x.dtype),
    "full_like": lambda x: x + torch.full_like(x, 0.5),
    "new_full": lambda x: x + x.new_full((1,), 0.5),
    "new_ones": lambda x: x * x.new_ones(1),
}


@pytest.mark.parametrize("name", FILLED)
def test_tensors_of_one_number_are_known(name):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 9), nn.Linear(9, 2)

        def forward(self, x):
            return self.b(FILLED[name](self.a(x)).relu())

    model = seeded(Net).double()
    kill(model.a, [2, 5], bias=0.7)
    shrunk = shrink(model, torch.randn(2, 4).double())
    assert shrunk.removed == {"a": 2}
    assert_equal(model, shrunk.model, 4, tolerance=1e-12)
