"""Exact removal: by hand on small networks, then as a property of random chains."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

from pruning_lib._measure import measure
from pruning_lib.channels import find_units, load, save, shrink
from pruning_lib.channels._constant import Constant
from pruning_lib.companion.models import LeNet5, LeNet300, UNet
from pruning_lib.regularizers import SeReNe, bound_batchnorm


def seeded(build, seed=0):
    torch.manual_seed(seed)
    return build()


@torch.no_grad()
def kill(layer: nn.Module, index: list[int], bias: float | None = None) -> None:
    """Zero whole rows; biases stay unless a number is given."""
    layer.weight[index] = 0
    if bias is not None and layer.bias is not None:
        layer.bias[index] = bias


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_equal(model: nn.Module, small: nn.Module, *shape: int, tolerance: float = 2e-5) -> None:
    model, small = copy.deepcopy(model).eval(), copy.deepcopy(small).eval()
    x = torch.randn(7, *shape).to(next(model.parameters()))
    with torch.no_grad():
        expected, found = model(x), small(x)
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) <= tolerance * float(expected.abs().max())


# By hand


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
    assert "1 unit that carries nothing stays" in shrunk.plan.notes[0]


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


def test_layer_without_bias_pays_in_the_running_mean():
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


@pytest.mark.parametrize("shift", [0.0, 0.7])
def test_a_wholly_dead_layer_keeps_one_unit(shift):
    model = seeded(lambda: LeNet5(widths=(4, 5, 6)))
    kill(model.conv2, list(range(5)), bias=shift)
    shrunk = shrink(model, torch.randn(1, 1, 28, 28))
    assert shrunk.removed == {"conv1": 3, "conv2": 4, "fc1": 5}
    assert_equal(model, shrunk.model, 1, 28, 28)
    assert shrink(shrunk.model, torch.randn(1, 1, 28, 28)).removed == {"conv1": 0, "conv2": 0, "fc1": 0}


def test_padded_average_pooling_traced_small_is_right_at_other_sizes():
    model = seeded(
        lambda: nn.Sequential(
            nn.Conv2d(1, 4, 1), nn.AvgPool2d(3, 2, 1), nn.Conv2d(4, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
    )
    kill(model[0], [0, 2], bias=1.0)
    shrunk = shrink(model, torch.randn(2, 1, 2, 2))
    assert_equal(model, shrunk.model, 1, 9, 9)


def test_flatten_gives_a_unit_several_columns():
    model = seeded(lambda: nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2)))
    kill(model[0], [1], bias=1.0)
    shrunk = shrink(model, torch.randn(1, 1, 4, 4))
    assert torch.equal(shrunk.model[3].weight, model[3].weight[:, [0, 1, 2, 3, 8, 9, 10, 11]])
    torch.testing.assert_close(shrunk.model[3].bias, model[3].bias + model[3].weight[:, 4:8].sum(1))


# What stays as it was


def test_the_model_that_came_in_is_untouched():
    model = seeded(lambda: LeNet5(widths=(4, 5, 6), bn=True)).train()
    kill(model.conv1, [0, 1])
    model.fc1.eval()
    model.conv2.weight.requires_grad_(False)
    before, modes = snapshot(model), [module.training for module in model.modules()]
    tensors = {name: id(parameter) for name, parameter in model.named_parameters()}
    example = torch.randn(3, 1, 28, 28)
    kept = example.clone()
    shrunk = shrink(model, example)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert modes == [module.training for module in model.modules()]
    assert modes == [module.training for module in shrunk.model.modules()]
    assert tensors == {name: id(parameter) for name, parameter in model.named_parameters()}
    assert torch.equal(example, kept)
    assert not shrunk.model.conv2.weight.requires_grad
    assert shrunk.model.conv1.weight.requires_grad
    assert type(shrunk.model) is LeNet5
    assert shrunk.removed["conv1"] == 2


def test_random_state_and_log_are_left_alone(caplog, capfd):
    model = seeded(LeNet300)
    state, level = torch.random.get_rng_state(), logging.root.manager.disable
    with caplog.at_level(logging.INFO):
        shrink(model, torch.zeros(1, 1, 28, 28))
    assert torch.equal(state, torch.random.get_rng_state())
    assert logging.root.manager.disable == level
    assert caplog.records == []
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_dtype_is_kept(dtype):
    model = seeded(lambda: LeNet5(widths=(4, 5, 6), padding=1)).to(dtype)
    kill(model.conv1, [0, 3])
    shrunk = shrink(model, torch.randn(2, 1, 28, 28, dtype=dtype))
    assert {parameter.dtype for parameter in shrunk.model.parameters()} == {dtype}
    assert shrunk.removed["conv1"] >= 1
    assert shrunk.max_error < 1e-9


def test_shrinking_twice_removes_nothing_more():
    model = seeded(lambda: LeNet5(bn=True, padding=2, widths=(6, 8, 20)))
    for layer, count in ((model.conv1, 3), (model.conv2, 4), (model.fc1, 11)):
        kill(layer, list(range(count)))
    nn.init.uniform_(model.bn1.bias)
    first = shrink(model, torch.randn(2, 1, 28, 28))
    second = shrink(first.model, torch.randn(2, 1, 28, 28))
    assert sum(first.removed.values()) > 10
    assert sum(second.removed.values()) == 0
    assert second.plan.kept == {}
    state = first.model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in second.model.state_dict().items())


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


def test_hooks_of_an_observing_regularizer_are_not_copied():
    model = seeded(lambda: LeNet300(inputs=(1, 4, 4), widths=(6, 5)))
    kill(model.fc1, [0, 1])
    regularizer = SeReNe(model, strength=1e-4)
    x = torch.randn(3, 1, 4, 4)
    logits = model(x)
    shrunk = shrink(model, x)
    assert not any(module._forward_hooks for module in shrunk.model.modules())
    regularizer.penalty(logits)  # the original is still observed
    assert shrunk.removed["fc1"] == 2


# What a forward may do


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
        assert "mid: 3 units that carry nothing stay" in shrunk.plan.notes[0]
        assert "`view` with a literal size (test_shrink.py, line" in shrunk.plan.notes[0]


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


class InPlace(nn.Module):
    def __init__(self, view):
        super().__init__()
        self.view, self.a, self.b = view, nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x):
        x = self.a(x)
        if self.view:
            x[:, :3] += 1
        else:
            torch.relu_(x)
        return self.b(x)


@pytest.mark.parametrize("view", [False, True])
def test_changes_in_place_are_followed_or_left_alone(view):
    model = seeded(lambda: InPlace(view))
    kill(model.a, [1, 5], bias=-1.0)
    shrunk = shrink(model, torch.randn(2, 4))
    assert shrunk.removed == ({} if view else {"a": 2})
    assert_equal(model, shrunk.model, 4)


def test_what_counts_every_channel_keeps_them_and_says_so():
    model = seeded(lambda: nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2)))
    kill(model[0], [1])
    kill(model[2], [1])
    shrunk = shrink(model, torch.randn(2, 4))
    assert shrunk.removed == {"2": 1}
    assert shrunk.plan.notes == [
        "0: 1 unit that carries nothing stays: it feeds `layer_norm`, whose statistics count every channel"
    ]


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


# Families of layers


def rows_at_random(model: nn.Module, share: float = 0.5, seed: int = 0) -> nn.Module:
    """Zero rows of every layer at random, in float64; biases, shifts and statistics are anything."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            for name, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
                if name in ("bias", "running_mean"):
                    tensor.copy_(torch.randn(tensor.shape, generator=generator))
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.weight[torch.rand(len(module.weight), generator=generator) < share] = 0
            elif isinstance(module, nn.ConvTranspose2d):
                gone = torch.rand(module.weight.shape[1], generator=generator) < share
                module.weight[:, gone] = 0
    return model.double().eval()


def shrunk_and_compared(model: nn.Module, *shape: int, sizes: tuple[int, ...] = (3, 5)) -> object:
    """Shrink, compare at another batch and size, and check that a second time removes nothing."""
    shrunk = shrink(model, torch.randn(2, *shape).double())
    for grow in sizes:
        assert_equal(model, shrunk.model, shape[0], *(size + grow for size in shape[1:]), tolerance=1e-11)
    again = shrink(shrunk.model, torch.randn(2, *shape).double())
    assert again.plan.kept == {}
    assert again.plan.blocks == {}
    return shrunk


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


def test_plans_of_grouped_convolutions_travel(tmp_path):
    def build():
        return nn.Sequential(
            *(nn.Conv2d(2, 16, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1, groups=4)),
            *(nn.BatchNorm2d(16), nn.ReLU(), nn.ConvTranspose2d(16, 8, 2, groups=2), nn.ReLU(), nn.Conv2d(8, 3, 1)),
        ).double()

    torch.manual_seed(0)
    model = rows_at_random(build(), share=0.6)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(3, 2, 8, 8).double()).square().sum().backward()
    optimizer.step()
    model = rows_at_random(model, share=0.6)
    shrunk = shrink(model, torch.randn(2, 2, 8, 8).double(), optimizer=optimizer)
    assert shrunk.plan.blocks
    for parameter in shrunk.model.parameters():
        assert shrunk.optimizer.state[parameter]["exp_avg"].shape == parameter.shape
    save(shrunk, tmp_path / "a.safetensors")
    x = torch.randn(2, 2, 9, 9).double()
    assert torch.equal(load(build().eval(), tmp_path / "a.safetensors")(x), shrunk.model(x))


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
    assert "passes code that counts its channels (test_shrink.py" in shrunk.plan.notes[0]


@pytest.mark.parametrize(("constant", "removed"), [(0.0, 4), (0.7, 2)])
def test_zeros_padded_around_the_map_let_channels_go(constant, removed):
    layers = [nn.Conv2d(1, 7, 3), nn.Tanh(), nn.ZeroPad2d((1, 2, 0, 1)), nn.Conv2d(7, 2, 3)]
    model = seeded(lambda: nn.Sequential(*layers)).double()
    kill(model[0], [0, 4], bias=constant)
    with torch.no_grad():
        model[3].weight[:, [2, 5]] = 0  # read by nobody
    shrunk = shrink(model, torch.randn(2, 1, 6, 6).double())
    assert shrunk.removed == {"0": removed}  # a constant varies at the padded border
    for size in (5, 9):
        assert_equal(model, shrunk.model, 1, size, size + 2, tolerance=1e-12)


# Dead branches


class Branch(nn.Module):
    def __init__(self, norm=True):
        super().__init__()
        self.stem, self.out = nn.Conv2d(1, 6, 3), nn.Conv2d(6, 2, 1)
        self.conv1, self.conv2 = nn.Conv2d(6, 5, 3, stride=2, padding=1), nn.Conv2d(5, 6, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(6) if norm else nn.Identity()

    def forward(self, x):
        x = self.stem(x)
        out = self.bn2(self.conv2(F.relu(self.conv1(x))))
        out += F.avg_pool2d(x, 2, ceil_mode=True)
        return self.out(out)


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("zero", [True, False])
def test_a_dead_branch_becomes_a_constant(norm, zero, tmp_path):
    model = seeded(lambda: Branch(norm)).double().eval()
    with torch.no_grad():
        model.conv2.weight.zero_()
        model.conv2.bias.normal_(std=0.0 if zero else 1.0)
        if norm:
            model.bn2.running_mean.copy_(model.conv2.bias)
            model.bn2.bias.normal_(std=0.0 if zero else 1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    x = torch.randn(2, 1, 12, 12).double()
    model(x).sum().backward()
    optimizer.step()
    with torch.no_grad():
        model.conv2.weight.zero_()
        if zero:
            model.conv2.bias.zero_()
            if norm:
                model.bn2.bias.zero_()
                model.bn2.running_mean.zero_()
    shrunk = shrink(model, x, optimizer=optimizer)
    for size in (9, 12, 17):
        assert_equal(model, shrunk.model, 1, size, size, tolerance=1e-12)
    assert measure(shrunk.model, x).macs == 6 * 9 * 10 * 10 + 2 * 6 * 5 * 5  # stem and out alone
    last = shrunk.model.bn2 if norm else shrunk.model.conv2
    assert type(last) is Constant
    assert sum(p.numel() for p in last.parameters()) == (0 if zero else 6)
    assert shrunk.removed["conv1"] == 4
    assert "conv1: no input changes it, so it became a constant" in shrunk.plan.notes
    save(shrunk, tmp_path / "a.safetensors")
    assert torch.equal(load(model, tmp_path / "a.safetensors")(x), shrunk.model(x))
    assert shrink(shrunk.model, x).plan.kept == {}
    before = [parameter.clone() for parameter in shrunk.model.parameters()]
    shrunk.model.train()(x).square().sum().backward()
    shrunk.optimizer.step()
    assert all(not torch.equal(old, new) for old, new in zip(before, shrunk.model.parameters(), strict=True))


def test_a_dead_branch_takes_its_bounded_scales_along():
    model = seeded(Branch)
    bound_batchnorm(model)
    model.double().eval()
    kill(model.conv2, list(range(6)), bias=0.3)
    shrunk = shrink(model, torch.randn(2, 1, 12, 12).double())
    assert type(shrunk.model.bn2) is Constant
    assert_equal(model, shrunk.model, 1, 9, 14, tolerance=1e-12)


def test_a_dead_bottom_is_upsampled_to_the_size_that_the_network_asks_for():
    model = seeded(lambda: UNet(channels=4, depth=2)).double().eval()
    with torch.no_grad():
        model.down[-1].bn2.weight.zero_()
        model.down[-1].bn2.bias.zero_()
        model.up[0].bias.normal_()
    shrunk = shrink(model, torch.randn(2, 3, 13, 18).double())
    assert type(shrunk.model.up[0]) is Constant
    for size in ((13, 18), (9, 11), (16, 16)):
        assert_equal(model, shrunk.model, 3, *size, tolerance=1e-12)


def test_constants_shrink_with_their_stream():
    model = seeded(lambda: Branch(norm=False)).double()
    kill(model.conv2, list(range(6)))
    first = shrink(model, torch.randn(2, 1, 12, 12).double())
    kill(first.model.stem, [0, 3], bias=0.0)  # anything else would vary where the pooling's window is cut
    second = shrink(first.model, torch.randn(2, 1, 12, 12).double())
    assert len(second.model.conv2.bias) == second.model.out.in_channels == 4
    assert_equal(first.model, second.model, 1, 15, 9, tolerance=1e-12)


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
    assert ("`view` with a literal size (test_shrink.py" in " ".join(shrunk.plan.notes)) == (kind is Counts)
    save(shrunk, tmp_path / "a.safetensors")
    x = torch.randn(3, 1, 9, 8)
    assert torch.equal(load(kind(), tmp_path / "a.safetensors")(x), shrunk.model(x))
    assert model.width == 6


def test_zero_rows_that_a_stream_keeps_are_told():
    model = seeded(lambda: Branch(norm=False))
    kill(model.conv2, [1, 2])
    notes = shrink(model, torch.randn(2, 1, 12, 12)).plan.notes
    assert "conv2: 2 rows of constants stay: stem writes the same channels" in notes


@pytest.mark.slow
def test_what_comes_back_compiles_and_exports(tmp_path):
    model = seeded(lambda: LeNet5(widths=(6, 8, 20), bn=True, padding=2)).eval()
    kill(model.conv1, [0, 3])
    kill(model.conv2, [1, 2, 5])
    shrunk = shrink(model, torch.randn(2, 1, 28, 28)).model
    x = torch.randn(3, 1, 28, 28)
    torch.testing.assert_close(torch.compile(shrunk, backend="aot_eager")(x), shrunk(x))
    onnxruntime = pytest.importorskip("onnxruntime")
    path = tmp_path / "a.onnx"
    torch.onnx.export(shrunk, (x,), path, dynamo=True, verbose=False, dynamic_shapes=({0: "batch"},))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: x[:2].numpy()})
    torch.testing.assert_close(torch.from_numpy(found), shrunk(x[:2]).detach(), rtol=1e-4, atol=1e-5)


# Random chains

ACTIVATIONS = [nn.ReLU, nn.Tanh, nn.Sigmoid, nn.GELU, nn.LeakyReLU, nn.SiLU, nn.ELU, nn.Softplus, nn.Hardswish]


@st.composite
def chains(draw):
    """Draw a network, its input shape, and whether every planted dead unit has to go."""
    layers: list[nn.Module] = []
    exact = True
    width, size = draw(st.integers(1, 3)), draw(st.integers(7, 12))
    shape = (width, size, size)
    for _ in range(draw(st.integers(0, 3))):
        kernel, padding = draw(st.sampled_from([(1, 0), (3, 0), (3, 1), (5, 2)]))
        stride = draw(st.integers(1, 2)) if size >= 6 else 1
        if size + 2 * padding < kernel:
            break
        new, norm = draw(st.integers(2, 7)), draw(st.booleans())
        layers.append(nn.Conv2d(width, new, kernel, stride, padding, bias=draw(st.booleans())))
        size, width = (size + 2 * padding - kernel) // stride + 1, new
        layers += [nn.BatchNorm2d(width)] * norm + [draw(st.sampled_from(ACTIVATIONS))()]
        pool = draw(st.sampled_from(["", "max", "avg", "padded max", "padded avg", "dropout"]))
        if pool == "dropout":
            layers.append(nn.Dropout2d())
        elif pool and size >= 3:
            kind = nn.MaxPool2d if "max" in pool else nn.AvgPool2d
            padding = int("padded" in pool)
            layers.append(kind(3, 2, padding))
            size = (size + 2 * padding - 3) // 2 + 1
            exact &= pool != "padded avg"  # a constant varies near the border there
    if draw(st.booleans()):
        size = draw(st.integers(1, 2))
        layers.append(draw(st.sampled_from([nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d]))(size))
    layers.append(nn.Flatten())
    width = width * size * size
    for _ in range(draw(st.integers(0, 2))):
        new = draw(st.integers(2, 9))
        layers.append(nn.Linear(width, new, bias=draw(st.booleans())))
        layers += [nn.BatchNorm1d(new)] * draw(st.booleans())
        layers += [draw(st.sampled_from(ACTIVATIONS))(), nn.Dropout()]
        width = new
    layers.append(nn.Linear(width, 3))
    return nn.Sequential(*layers), shape, exact


@torch.no_grad()
def plant(model: nn.Sequential, seed: int) -> dict[str, int]:
    """Give every tensor random numbers and kill random rows; return the number of dead units by layer."""
    generator = torch.Generator().manual_seed(seed)
    dead: dict[str, int] = {}
    for name, layer in model.named_children():
        for tensor in (*layer.parameters(), *layer.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.5)
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            layer.running_var.abs_().add_(0.1)
        if isinstance(layer, nn.Linear | nn.Conv2d) and layer is not model[-1]:
            gone = torch.rand(len(layer.weight), generator=generator) < torch.rand(1, generator=generator)
            layer.weight[gone] = 0
            dead[name] = int(gone.sum())
    return dead


@settings(max_examples=60, deadline=None)
@given(chain=chains(), seed=st.integers(0, 10**6))
def test_random_chains_keep_their_outputs_and_lose_their_dead_units(chain, seed):
    model, shape, exact = chain
    dead = plant(model, seed)
    before = snapshot(model)
    shrunk = shrink(model, torch.randn(2, *shape))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert shrunk.max_error < 1e-9
    x = torch.randn(4, *shape)
    with torch.no_grad():
        expected, found = model.eval()(x), shrunk.model.eval()(x)
    assert float((expected - found).abs().max()) <= 1e-4 * float(expected.abs().max())
    for name, count in dead.items():
        left = model.get_submodule(name).weight.shape[0] - shrunk.removed[name]
        assert left >= 1
        if exact:  # one constant may stay to stand for the others, or as the last unit of its layer
            assert shrunk.removed[name] >= count - 1


@settings(max_examples=15, deadline=None)
@given(chain=chains(), seed=st.integers(0, 10**6))
def test_random_chains_shrink_once(chain, seed):
    model, shape, _ = chain
    plant(model, seed)
    first = shrink(model, torch.randn(2, *shape))
    assert sum(shrink(first.model, torch.randn(2, *shape)).removed.values()) == 0


# Optimizers


def train_step(model, optimizer, x, y, masks=None):
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()
    for parameter, mask in masks or []:
        parameter.grad.mul_(mask)
    optimizer.step()
    with torch.no_grad():
        for parameter, mask in masks or []:
            parameter.mul_(mask)


OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.01, centered=True),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_goes_on_as_in_the_dense_network_held_at_zero(name):
    model = seeded(lambda: LeNet300(inputs=(1, 4, 4), widths=(9, 7), classes=4)).double()
    x, y = torch.randn(8, 1, 4, 4).double(), torch.randint(4, (8,))
    hidden = [{"params": [*model.fc1.parameters(), *model.fc2.parameters()], "lr": 0.02}]
    optimizer = OPTIMIZERS[name]([*hidden, {"params": model.fc3.parameters()}])
    masks = []
    for layer, reader, gone in ((model.fc1, model.fc2, [0, 3, 4]), (model.fc2, model.fc3, [1, 6])):
        row = torch.ones(len(layer.weight)).double()
        row[gone] = 0
        masks += [(layer.weight, row[:, None]), (layer.bias, row), (reader.weight, row[None, :])]
    for _ in range(3):
        train_step(model, optimizer, x, y, masks)
    before = copy.deepcopy(optimizer.state_dict())
    shrunk = shrink(model, x, optimizer=optimizer)
    assert shrunk.removed == {"fc1": 3, "fc2": 2}
    assert type(shrunk.optimizer) is type(optimizer)
    assert [group["lr"] for group in shrunk.optimizer.param_groups] == [group["lr"] for group in optimizer.param_groups]
    torch.testing.assert_close(optimizer.state_dict(), before, rtol=0, atol=0)
    start = snapshot(shrunk.model)
    for _ in range(3):
        train_step(model, optimizer, x, y, masks)
        train_step(shrunk.model, shrunk.optimizer, x, y)
    for full, tensor in shrunk.model.named_parameters():
        expected = model.get_parameter(full)
        for axis, index in shrunk.plan.kept.get(full, {}).items():
            expected = expected.index_select(int(axis), torch.tensor(index))
        torch.testing.assert_close(tensor, expected, rtol=0, atol=1e-14)
    assert not torch.equal(shrunk.model.fc3.weight, start["fc3.weight"])
    assert not torch.equal(shrunk.model.fc2.bias, start["fc2.bias"])


def test_optimizers_that_mix_weights_are_refused():
    model = seeded(lambda: LeNet300(inputs=(1, 4, 4), widths=(4, 3)))
    refused = [torch.optim.Adafactor(model.parameters()), torch.optim.LBFGS(model.parameters())]
    if hasattr(torch.optim, "Muon"):
        refused.append(torch.optim.Muon([model.fc1.weight]))
    for optimizer in refused:
        with pytest.raises(ValueError, match=f"{type(optimizer).__name__} keeps state that cannot be cut"):
            shrink(model, torch.randn(1, 1, 4, 4), optimizer=optimizer)
    with pytest.raises(TypeError, match=r"must be a torch.optim.Optimizer; got str"):
        shrink(model, torch.randn(1, 1, 4, 4), optimizer="SGD")


# Bad input


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 2)

    def forward(self, x):
        if x.sum() > 0:
            return self.fc(x)
        return -self.fc(x)


class Random(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.b(F.dropout(self.a(x), training=True))


def test_a_branch_on_a_value_is_refused_in_words(capfd):
    model = Branches()
    with pytest.raises(RuntimeError) as caught:
        shrink(model, torch.randn(1, 3))
    line = Branches.forward.__code__.co_firstlineno + 1
    assert f"could not trace Branches.forward: it branches on a tensor's value (test_shrink.py, line {line})" in str(
        caught.value
    )
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("model", "example", "error", "sentence"),
    [
        (nn.Sequential(nn.ReLU()), torch.ones(1, 2), ValueError, "has no prunable layer"),
        (LeNet300(), torch.ones(1, 1, 28, 28, dtype=torch.float64), ValueError, "The example is torch.float64"),
        (LeNet300(), torch.ones(1, 1, 28, 28, device="meta"), ValueError, "The example is on meta, the model on cpu"),
        (LeNet300(), [[1.0]], TypeError, "must be a tensor or a tuple of tensors"),
        (LeNet300(), torch.ones(0, 1, 28, 28), ValueError, "at least one sample"),
        (LeNet300(), torch.ones(2, 3, 9, 9), RuntimeError, "could not run LeNet300.forward on the example of shape"),
        (nn.Sequential(nn.LazyLinear(3)), torch.ones(1, 2), ValueError, "has no shape yet"),
        ("LeNet300", torch.ones(1, 2), TypeError, "must be a torch.nn.Module; got str"),
    ],
)
@pytest.mark.parametrize("function", [find_units, shrink])
def test_bad_input_gets_its_own_sentence(function, model, example, error, sentence):
    with pytest.raises(error, match=sentence) as caught:
        function(model, example)
    assert "\n" not in str(caught.value)


def test_a_forward_that_is_random_in_eval_mode_is_left_whole():
    model = seeded(Random)
    kill(model.a, [0])
    assert shrink(model, torch.randn(2, 3)).removed == {}
