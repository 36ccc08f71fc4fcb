"""What stays and what goes: dead, unread, bound to others, the last of a layer."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize, prune

from pruning_lib.channels import shrink
from pruning_lib.companion.models import LeNet5, LeNet300
from tests.channels.helpers import Branch, assert_equal, kill, seeded, shrunk_and_compared


def test_rows_that_sum_to_zero_stay():
    model = seeded(lambda: nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 2, 3)))
    with torch.no_grad():
        model[0].weight[0, 0] = torch.tensor([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]])
        model[2].weight[:, 1] = model[2].weight[:, 1] - model[2].weight[:, 1].mean((1, 2), keepdim=True)
    shrunk = shrink(model, torch.randn(1, 1, 9, 9))
    assert shrunk.removed == {"0": 0}
    assert shrunk.plan.kept == {}


def test_tiny_is_not_zero():
    model = seeded(lambda: nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)))
    kill(model[0], [0])
    with torch.no_grad():
        model[0].weight[0, 0] = 1e-42  # denormal
    assert shrink(model, torch.randn(2, 4)).removed == {"0": 0}


def test_dead_by_being_unread_all_the_way_up():
    model = seeded(lambda: nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 2)))
    with torch.no_grad():
        model[4].weight[:, [1, 3]] = 0
        model[2].weight[[0, 2, 4, 5], 2] = 0  # unit 2 of layer 0 is read by the two unread units alone
    shrunk = shrink(model, torch.randn(2, 4))
    assert shrunk.plan.units == {"0": [0, 1, 3, 4], "2": [0, 2, 4, 5]}
    assert_equal(model, shrunk.model, 4)


@pytest.mark.parametrize("shift", [0.0, 0.7])
def test_a_wholly_dead_layer_keeps_one_unit(shift):
    model = seeded(lambda: LeNet5(widths=(4, 5, 6)))
    kill(model.conv2, list(range(5)), bias=shift)
    shrunk = shrink(model, torch.randn(1, 1, 28, 28))
    assert shrunk.removed == {"conv1": 3, "conv2": 4, "fc1": 5}
    assert_equal(model, shrunk.model, 1, 28, 28)
    assert shrink(shrunk.model, torch.randn(1, 1, 28, 28)).removed == {"conv1": 0, "conv2": 0, "fc1": 0}


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.a, self.b = nn.Conv2d(1, 6, 3), nn.Conv2d(6, 5, 3, padding=1), nn.Conv2d(5, 6, 3, padding=1)
        self.fc = nn.Linear(6, 3)

    def forward(self, x):
        x = F.relu(self.stem(x))
        x = x + self.b(F.relu(self.a(x)))
        return self.fc(x.mean((2, 3)))


def test_a_residual_channel_goes_when_all_its_writers_are_dead():
    model = seeded(Residual)
    kill(model.stem, [0, 1, 2])
    kill(model.b, [1, 2, 3])
    kill(model.a, [4])
    shrunk = shrink(model, torch.randn(2, 1, 8, 8))
    # One of channels 1 and 2 may stay to stand for the constants that the padded `a` reads.
    assert 1 <= shrunk.removed["stem"] <= 2
    assert_equal(model, shrunk.model, 1, 10, 7)


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)
        self.again = nn.Linear(6, 6)
        self.again.weight = self.b.weight

    def forward(self, x):
        return self.c(self.again(torch.relu(self.b(torch.relu(self.a(x))))))


def test_shared_weights_stay_shared():
    model = seeded(Shared)
    with torch.no_grad():
        for layer in (model.a, model.b):
            layer.weight[[1, 4]] = 0
        for layer in (model.a, model.b, model.again):
            layer.bias[[1, 4]] = 0
    shrunk = shrink(model, torch.randn(2, 4))
    assert shrunk.model.b.weight is shrunk.model.again.weight
    assert shrunk.model.b.weight.shape == (4, 4)
    assert_equal(model, shrunk.model, 4)


def test_a_module_registered_twice_is_followed():
    conv = nn.Conv2d(4, 4, 1)
    model = seeded(lambda: nn.Sequential(nn.Conv2d(1, 4, 1), nn.Sequential(conv, nn.ReLU(), conv), nn.Conv2d(4, 2, 1)))
    with torch.no_grad():
        for layer in (model[0], conv):
            layer.weight[[0, 2]] = 0
            layer.bias[[0, 2]] = 0
    shrunk = shrink(model, torch.randn(2, 1, 5, 5))
    assert shrunk.model[1][0] is shrunk.model[1][2]
    assert shrunk.model[1][0].weight.shape == (2, 2, 1, 1)
    assert_equal(model, shrunk.model, 1, 5, 5)


class Sigmoid(nn.Module):
    def __init__(self, dead):
        super().__init__()
        self.register_buffer("alive", (~dead).float())

    def forward(self, raw):
        return raw.sigmoid() * self.alive


class Mask(nn.Module):
    def __init__(self, mask):
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight):
        return weight * self.mask


def test_parametrized_scales_and_weights_are_cut():
    model = seeded(lambda: nn.Sequential(nn.Conv2d(1, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 4, 3)))
    model.append(nn.ReLU()).append(nn.Flatten()).append(nn.Linear(64, 3))
    nn.init.uniform_(model[1].bias)
    parametrize.register_parametrization(model[1], "weight", Sigmoid(torch.tensor([True, False, True, False, False])))
    mask = torch.ones_like(model[3].weight)
    mask[2] = 0
    parametrize.register_parametrization(model[3], "weight", Mask(mask))
    shrunk = shrink(model, torch.randn(2, 1, 8, 8))
    assert shrunk.removed == {"0": 2, "3": 1}
    assert shrunk.model[1].weight.shape == (3,)
    assert shrunk.model[3].parametrizations.weight.original.shape == (3, 3, 3, 3)
    assert (shrunk.model[1].num_features, shrunk.model[3].in_channels) == (3, 3)
    assert_equal(model, shrunk.model, 1, 8, 8)


def test_masks_of_torch_prune_are_cut():
    model = seeded(lambda: LeNet300(inputs=(1, 4, 4), widths=(6, 5)))
    prune.ln_structured(model.fc1, "weight", amount=2, n=2, dim=0)
    prune.random_unstructured(model.fc2, "weight", amount=0.2)
    model(torch.randn(2, 1, 4, 4))  # leaves a tensor with a graph behind
    shrunk = shrink(model, torch.randn(2, 1, 4, 4))
    assert shrunk.removed["fc1"] == 2
    assert shrunk.model.fc1.weight_mask.shape == (4, 16)
    assert (shrunk.model.fc1.out_features, shrunk.model.fc2.in_features) == (4, 4)
    with torch.no_grad():  # so that what the masks leave behind can be copied
        model(torch.randn(2, 1, 4, 4))
        shrunk.model(torch.randn(2, 1, 4, 4))
    assert_equal(model, shrunk.model, 1, 4, 4)


def test_groups_that_stay_keep_equally_many_channels():
    model = seeded(
        lambda: nn.Sequential(
            nn.Conv2d(1, 12, 1), nn.ReLU(), nn.Conv2d(12, 9, 3, groups=3), nn.Conv2d(9, 2, 1)
        ).double()
    )
    kill(model[0], [0, 1, 2, 3, 5, 8], bias=-1.0)  # of the groups' four inputs, 4, 1 and 1 hold 0 behind the ReLU
    kill(model[2], [0, 1, 2, 4], bias=0.5)
    shrunk = shrunk_and_compared(model, 1, 9, 9)
    assert shrunk.removed == {"0": 6, "2": 3}  # row 4 stays, as the third group has three live ones
    assert shrunk.model[2].groups == 2
    assert shrunk.model[2].weight.shape == (6, 3, 3, 3)
    assert shrunk.plan.blocks == {"2.weight": [[0, 2, 3], [1, 2, 3]]}
    assert "one of a group, whose sizes must stay equal" in shrunk.plan.notes[0]


def test_zero_rows_that_a_stream_keeps_are_told():
    model = seeded(lambda: Branch(norm=False))
    kill(model.conv2, [1, 2])
    notes = shrink(model, torch.randn(2, 1, 12, 12)).plan.notes
    assert "conv2: 2 rows of constants stay: stem writes the same channels" in notes
