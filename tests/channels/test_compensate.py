"""Removed constants, by hand: into the bias, the running mean, or one column that stays."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pruning_lib.channels import shrink
from tests.channels.helpers import assert_equal, kill, seeded, shrunk_and_compared


def test_constant_goes_into_the_next_bias():
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 2.0], [0.0, 0.0], [3.0, -1.0]]))
        model[0].bias.copy_(torch.tensor([0.5, 2.0, -1.0]))
        model[2].weight.copy_(torch.tensor([[1.0, 10.0, 3.0], [4.0, -5.0, 6.0]]))
        model[2].bias.copy_(torch.tensor([0.25, 0.75]))
    shrunk = shrink(model, torch.randn(1, 2))
    assert torch.equal(shrunk.model[0].weight, torch.tensor([[1.0, 2.0], [3.0, -1.0]]))
    assert torch.equal(shrunk.model[0].bias, torch.tensor([0.5, -1.0]))
    assert torch.equal(shrunk.model[2].weight, torch.tensor([[1.0, 3.0], [4.0, 6.0]]))
    assert torch.equal(shrunk.model[2].bias, torch.tensor([0.25 + 2 * 10, 0.75 - 2 * 5]))
    assert (shrunk.model[0].out_features, shrunk.model[2].in_features) == (2, 2)
    assert shrunk.removed == {"0": 1}
    assert shrunk.plan.units == {"0": [0, 2]}
    assert type(shrunk.model) is nn.Sequential


def test_constant_is_what_the_activation_makes_of_the_bias():
    model = seeded(lambda: nn.Sequential(nn.Linear(2, 3), nn.Sigmoid(), nn.Tanh(), nn.Linear(3, 1)).double())
    kill(model[0], [1], bias=0.3)
    before = model[3].bias.item()
    shrunk = shrink(model, torch.randn(2, 2).double())
    constant = torch.tanh(1 / (1 + torch.exp(torch.tensor(-0.3).double()))).item()
    assert shrunk.model[3].bias.item() == pytest.approx(before + constant * model[3].weight[0, 1].item(), rel=1e-6)


def test_zero_padding_merges_constants_into_the_largest():
    model = seeded(lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1)).double())
    kill(model[0], [0, 1, 3])
    with torch.no_grad():
        model[0].bias[[0, 1, 3]] = torch.tensor([0.5, 2.0, -1.0]).double()
    shrunk = shrink(model, torch.randn(1, 1, 8, 8).double())
    assert shrunk.plan.units == {"0": [1, 2]}
    weight = model[2].weight
    torch.testing.assert_close(shrunk.model[2].weight[:, 0], weight[:, 1] + 0.5 / 2.0 * weight[:, 0])
    assert torch.equal(shrunk.model[2].bias, model[2].bias)
    assert_equal(model, shrunk.model, 1, 11, 6, tolerance=1e-12)
    assert "1 dead unit stays" in shrunk.plan.notes[0]


@pytest.mark.parametrize("padding", [0, 1, "same", "valid"])
@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
def test_padding_modes(padding, mode):
    model = seeded(
        lambda: nn.Sequential(nn.Conv2d(2, 6, 3), nn.Tanh(), nn.Conv2d(6, 4, 3, padding=padding, padding_mode=mode))
    )
    kill(model[0], [0, 2, 5])
    shrunk = shrink(model, torch.randn(2, 2, 9, 9))
    assert_equal(model, shrunk.model, 2, 12, 7)
    assert shrunk.removed["0"] == (2 if padding in (1, "same") and mode == "zeros" else 3)


def test_layer_without_bias_compensates_in_the_running_mean():
    layers = [nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 5, bias=False), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2)]
    model = nn.Sequential(*layers).double()
    kill(model[0], [2], bias=1.5)
    shrunk = shrink(model, torch.randn(2, 3).double())
    assert shrunk.plan.created == []
    torch.testing.assert_close(shrunk.model[3].running_mean, -1.5 * model[2].weight[:, 2].detach())
    assert_equal(model, shrunk.model, 3, tolerance=1e-12)


def test_layer_without_bias_gets_one():
    model = seeded(lambda: nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2, bias=False)))
    kill(model[0], [2], bias=1.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    shrunk = shrink(model, torch.randn(2, 3), optimizer=optimizer)
    assert shrunk.plan.created == ["2"]
    torch.testing.assert_close(shrunk.model[2].bias, 1.5 * model[2].weight[:, 2])
    assert len(shrunk.optimizer.param_groups[0]["params"]) == 4
    assert model[2].bias is None


def test_flatten_gives_a_unit_several_columns():
    model = seeded(lambda: nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2)))
    kill(model[0], [1], bias=1.0)
    shrunk = shrink(model, torch.randn(1, 1, 4, 4))
    assert torch.equal(shrunk.model[3].weight, model[3].weight[:, [0, 1, 2, 3, 8, 9, 10, 11]])
    torch.testing.assert_close(shrunk.model[3].bias, model[3].bias + model[3].weight[:, 4:8].sum(1))


def test_padded_average_pooling_traced_small_is_right_at_other_sizes():
    model = seeded(
        lambda: nn.Sequential(
            nn.Conv2d(1, 4, 1), nn.AvgPool2d(3, 2, 1), nn.Conv2d(4, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
    )
    kill(model[0], [0, 2], bias=1.0)
    shrunk = shrink(model, torch.randn(2, 1, 2, 2))
    assert_equal(model, shrunk.model, 1, 9, 9)


def padded_mean(include):
    return nn.Sequential(
        *(nn.Conv2d(1, 9, 3), nn.BatchNorm2d(9), nn.ReLU(), nn.AvgPool2d(3, 1, 1, count_include_pad=include)),
        nn.Conv2d(9, 3, 1),
    )


@pytest.mark.parametrize("size", [3, 9])
@pytest.mark.parametrize("include", [True, False])
def test_constants_behind_a_padded_mean_merge(size, include):
    """At the border the mean holds zeros: constants become one map up to a factor, and one of them stands for all."""
    model = seeded(lambda: padded_mean(include)).double()
    kill(model[0], [0, 2, 3, 5, 8])
    with torch.no_grad():
        model[1].bias.copy_(torch.tensor([0.5, 0, 2.0, 1.5, 0, -1.0, 0, 0, 0.2]))
        model[1].running_mean.copy_(model[0].bias)
    shrunk = shrink(model, torch.randn(2, 1, size, size).double())
    assert shrunk.removed == {"0": 4 if include else 5}
    for other in (3, 5, 8, 13):
        assert_equal(model, shrunk.model, 1, other, other + 1, tolerance=1e-12)
    assert shrink(shrunk.model, torch.randn(2, 1, 9, 9).double()).plan.kept == {}


def test_a_padded_mean_that_others_read_keeps_its_constants():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.a, self.b = nn.Conv2d(1, 6, 3), nn.Conv2d(6, 2, 1), nn.Conv2d(6, 2, 1)

        def forward(self, x):
            x = F.avg_pool2d(self.first(x).relu(), 3, 1, 1)
            return self.a(x), self.b(x.sigmoid())

    model = seeded(Two).double()
    kill(model.first, [1, 2], bias=1.0)
    kill(model.first, [4], bias=-1.0)
    shrunk = shrink(model, torch.randn(2, 1, 9, 9).double())
    assert shrunk.removed == {"first": 1}


def test_the_representative_behind_a_batchnorm_stands_still():
    layers = [nn.Conv2d(1, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 2, 3, padding=1)]
    model = seeded(lambda: nn.Sequential(*layers).double())
    kill(model[0], [0, 1, 2])
    nn.init.uniform_(model[1].bias, 0.5, 1)
    model[1].running_mean.normal_()
    shrunk = shrink(model, torch.randn(2, 1, 9, 9).double())
    assert shrunk.removed == {"0": 2}
    still = (shrunk.model[1].weight == 0).nonzero()[:, 0].tolist()
    assert len(still) == 1
    assert_equal(model, shrunk.model, 1, 8, 11, tolerance=1e-12)
    shrunk.model.train()(torch.randn(4, 1, 9, 9).double()).square().sum().backward()
    assert float(shrunk.model[0].weight.grad[still].abs().max()) == 0


@pytest.mark.parametrize(("constant", "removed"), [(0.0, 4), (0.7, 3)])
def test_zeros_padded_around_the_map_let_channels_go(constant, removed):
    layers = [nn.Conv2d(1, 7, 3), nn.Tanh(), nn.ZeroPad2d((1, 2, 0, 1)), nn.Conv2d(7, 2, 3)]
    model = seeded(lambda: nn.Sequential(*layers)).double()
    kill(model[0], [0, 4], bias=constant)
    with torch.no_grad():
        model[3].weight[:, [2, 5]] = 0  # read by nobody
    shrunk = shrink(model, torch.randn(2, 1, 6, 6).double())
    assert shrunk.removed == {"0": removed}  # of constants that vary at the padded border one stands for both
    for size in (5, 9):
        assert_equal(model, shrunk.model, 1, size, size + 2, tolerance=1e-12)


def grouped(kernel, padding):
    return nn.Sequential(
        nn.Conv2d(3, 12, 1),
        nn.ReLU(),
        nn.Conv2d(12, 9, kernel, padding=padding, groups=3),
        nn.ReLU(),
        nn.Conv2d(9, 4, 1),
    )


@pytest.mark.parametrize("padding", [0, 1])
def test_a_second_time_nothing_goes_also_of_one_group(padding):
    model = seeded(lambda: grouped(3, padding)).double()
    kill(model[0], list(range(11)))
    with torch.no_grad():
        model[0].bias.uniform_(0.1, 1)
    kill(model[2], list(range(6)))
    shrunk = shrunk_and_compared(model, 3, 8, 8)
    assert shrunk.model[2].groups == 1
    assert shrunk.removed == {"0": 11 - padding, "2": 6}  # with padding one constant stands for the others


class Twice(nn.Module):
    def __init__(self, differ):
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(4, 8)
        self.shared, self.out, self.differ = nn.Linear(8, 6), nn.Linear(6, 2), differ

    def forward(self, x):
        second = (self.b if self.differ else self.a)(x.flip(-1))
        return self.out(self.shared(self.a(x).relu()).relu() + self.shared(second.relu()).relu())


@pytest.mark.parametrize("differ", [False, True])
def test_what_is_the_same_in_every_call_is_folded_once(differ):
    model = seeded(lambda: Twice(differ)).double()
    kill(model.a, [0, 1, 2, 5], bias=0.5)
    kill(model.b, [0, 1, 2, 5], bias=0.5)
    if differ:
        with torch.no_grad():
            model.b.bias[1] = 0.7  # another constant than in the first call, which one bias cannot make up for
    shrunk = shrink(model, torch.randn(2, 4).double())
    assert shrunk.removed["b" if differ else "a"] == 4 - differ
    assert_equal(model, shrunk.model, 4, tolerance=1e-12)
    if differ:
        assert "a constant that varies over positions or calls" in " ".join(shrunk.plan.notes)
