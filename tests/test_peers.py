"""Torch-Pruning as a second opinion on `shrink`, where both are exact: every zeroed unit emits 0."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable

import pytest
import torch
from torch import nn

from benchmarks import peers
from conftest import unavailable
from pruning_lib import find_units, shrink, zero
from pruning_lib.companion import records
from pruning_lib.companion.models import VGG16, LeNet5, LeNet300, ResNet, UNet
from pruning_lib.units import rows, weighted


@pytest.fixture(autouse=True)
def _peer() -> None:
    if importlib.util.find_spec("torch_pruning") is None:
        unavailable("torch-pruning is not installed.")


class Projected(nn.Module):
    """Two residual blocks, the first of which widens by a strided 1×1 convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.branch1 = self.branch(8, 12, 2)
        self.shortcut = nn.Sequential(nn.Conv2d(8, 12, 1, stride=2, bias=False), nn.BatchNorm2d(12))
        self.branch2 = self.branch(12, 12, 1)
        self.fc = nn.Linear(12, 5)

    @staticmethod
    def branch(inputs: int, outputs: int, stride: int) -> nn.Sequential:
        first = nn.Conv2d(inputs, 10, 3, stride=stride, padding=1, bias=False)
        second = nn.Conv2d(10, outputs, 3, padding=1, bias=False)
        return nn.Sequential(first, nn.BatchNorm2d(10), nn.ReLU(), second, nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.bn(self.conv(x)).relu()
        x = (self.branch1(x) + self.shortcut(x)).relu()
        x = (x + self.branch2(x)).relu()
        return self.fc(x.mean((2, 3)))


# Streams through padded shortcuts, flips, shuffles: there Torch-Pruning is wrong, and no second opinion.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str]] = {
    "LeNet-300": (LeNet300, (1, 28, 28), "all"),
    "LeNet-5": (LeNet5, (1, 28, 28), "all"),
    "VGG-16": (lambda: VGG16(width=0.125), (3, 32, 32), "all"),
    "ResNet with projections": (Projected, (3, 16, 16), "all"),
    "ResNet-20, inner units": (lambda: ResNet(20, width=4), (3, 32, 32), "inner"),
    "U-Net": (lambda: UNet(channels=4, depth=2), (3, 16, 16), "all"),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("fraction", [0.3, 0.7])
def test_both_remove_the_same_and_neither_changes_an_output(name: str, fraction: float) -> None:
    build, shape, kind = NETWORKS[name]
    dense = peers.randomized(build, shape)
    example = torch.randn(2, *shape, dtype=torch.float64)
    units = find_units(dense, example)
    chosen = peers.drawn(units, peers.KINDS[kind], fraction)
    assert sum(int(gone.sum()) for gone in chosen.values()) > fraction * 8, "something is to be removed"
    zero(dense, chosen, units, shift="drop")
    ours = shrink(dense, example).model
    theirs = peers.torch_pruned(dense, copy.deepcopy(dense), chosen, units, example)
    images = torch.randn(3, *shape, dtype=torch.float64)
    with torch.no_grad():
        expected = dense(images)
        signal = float(expected.std(0).max())
        assert signal > 1e-5 * expected.abs().max(), "the outputs depend on the image"
        for small in (ours, theirs):
            torch.testing.assert_close(small(images), expected, rtol=0, atol=1e-8 * signal)
    shapes = [{name: p.shape for name, p in small.named_parameters()} for small in (ours, theirs)]
    assert shapes[0] == shapes[1]


def test_each_keeps_the_same_rows() -> None:
    # Equal outputs would also come from kept rows in another order; equal weights would not.
    dense = peers.randomized(lambda: LeNet5(bn=True), (1, 28, 28))
    example = torch.randn(2, 1, 28, 28, dtype=torch.float64)
    units = find_units(dense, example)
    chosen = peers.drawn(units)
    zero(dense, chosen, units, shift="drop")
    ours = shrink(dense, example).model
    theirs = peers.torch_pruned(dense, copy.deepcopy(dense), chosen, units, example)
    other = weighted(theirs)
    for name, layer in weighted(ours).items():
        assert torch.equal(rows(layer), rows(other[name]))


def test_a_constant_that_is_kept_is_where_they_part() -> None:
    # By hand: unit 1 emits relu(0.5) and is read with weight 2; forgotten, every output is 1 too small.
    net = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1)).double()
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0], [3.0]]))
        net[0].bias.copy_(torch.tensor([0.0, 0.5]))
        net[2].weight.copy_(torch.tensor([[1.0, 2.0]]))
        net[2].bias.zero_()
    example = torch.ones(2, 1, dtype=torch.float64)
    units = find_units(net, example)
    chosen = {"0": torch.tensor([False, True])}
    zero(net, chosen, units)
    with torch.no_grad():
        net[0].bias[1] = 0.5
    found = {
        how: way(copy.deepcopy(net), copy.deepcopy(net), chosen, units, example)(example)[0].item()
        for how, way in peers.WAYS.items()
    }
    assert found == {"masks": 2.0, "slices": 1.0, "Torch-Pruning": 1.0, "shrink": 2.0}


def test_the_record_is_of_these_networks_and_ways() -> None:
    rows_ = records.measured("peers")["rows"]
    assert [(row["network"], row["how"]) for row in rows_] == [(n, how) for n in peers.NETWORKS for how in peers.WAYS]
    assert all(row["error"] < 1e-12 for row in rows_ if row["how"] in ("masks", "shrink"))
    assert peers.table(rows_).count("\n") == len(rows_) + 1
