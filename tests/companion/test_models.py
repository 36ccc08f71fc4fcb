"""The networks of the book: sizes from arithmetic on paper, twins with BatchNorm, misuse in words."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pruning_lib._measure import measure
from pruning_lib.channels import shrink
from pruning_lib.companion.models import VGG16, ConvNet, LeNet5, LeNet300, ResNet, UNet


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_lenet300_has_the_published_size() -> None:
    assert parameters(LeNet300()) == (784 + 1) * 300 + (300 + 1) * 100 + (100 + 1) * 10 == 266_610


def test_lenet5_has_the_published_size() -> None:
    assert parameters(LeNet5()) == (25 + 1) * 20 + (20 * 25 + 1) * 50 + (50 * 16 + 1) * 500 + 501 * 10 == 431_080


def test_lenet300_computes_what_its_formula_says() -> None:
    model = LeNet300(classes=3, inputs=(2, 3, 3), widths=(5, 4))
    x = torch.randn(7, 2, 3, 3)
    w = model.state_dict()
    hidden = (x.reshape(7, 18) @ w["fc1.weight"].T + w["fc1.bias"]).clamp(min=0)
    hidden = (hidden @ w["fc2.weight"].T + w["fc2.bias"]).clamp(min=0)
    torch.testing.assert_close(model(x), hidden @ w["fc3.weight"].T + w["fc3.bias"])


@pytest.mark.parametrize("bn", [False, True])
def test_networks_fit_digits(bn: bool) -> None:
    x = torch.randn(4, 1, 8, 8)
    assert LeNet300(inputs=(1, 8, 8), widths=(32, 16), bn=bn)(x).shape == (4, 10)
    assert LeNet5(inputs=(1, 8, 8), widths=(4, 8, 16), kernel=3, padding=1, bn=bn)(x).shape == (4, 10)


def test_twins_have_one_batchnorm_for_each_hidden_layer_and_no_bias_before_it() -> None:
    for model, hidden in ((LeNet300(bn=True), ["fc1", "fc2"]), (LeNet5(bn=True), ["conv1", "conv2", "fc1"])):
        norms = [m for m in model if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d))]
        assert len(norms) == len(hidden)
        assert all(model.get_submodule(name).bias is None for name in hidden)


def test_a_kernel_that_leaves_nothing_is_named() -> None:
    with pytest.raises(ValueError, match="8 × 8 pixels, of which kernel=5, padding=0"):
        LeNet5(inputs=(1, 8, 8))


def test_a_width_below_one_is_named() -> None:
    with pytest.raises(ValueError, match="widths must be at least 1"):
        LeNet300(widths=(300, 0))
    with pytest.raises(ValueError, match="classes must be at least 1"):
        LeNet5(classes=0)


VGG = (3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
SIDES = (32, 32, 16, 16, 8, 8, 8, 4, 4, 4, 2, 2, 2)


@pytest.mark.parametrize("width", [1.0, 0.5])
def test_vgg16_has_the_published_size(width: float) -> None:
    channels = [3, *(int(c * width) for c in VGG[1:])]
    pairs = list(pairwise(channels))
    size = measure(VGG16(width=width), torch.randn(1, 3, 32, 32))
    last = channels[-1]
    assert size.parameters == sum(9 * a * b + b + 2 * b for a, b in pairs) + (last + 1) * 10
    assert size.macs == sum(9 * a * b * s * s for (a, b), s in zip(pairs, SIDES, strict=True)) + last * 10
    if width == 1:
        assert (size.parameters, size.macs) == (14_728_266, 313_201_664)


@pytest.mark.parametrize("widths", [(16, 32, 64), (5,), (4, 6, 8, 10)])
def test_convnet_counts_and_takes_any_size(widths: tuple[int, ...]) -> None:
    pairs = list(pairwise((3, *widths)))
    size = measure(ConvNet(widths=widths), torch.randn(1, 3, 128, 96))
    assert size.parameters == sum(9 * a * b + 2 * b for a, b in pairs) + (widths[-1] + 1) * 10
    areas = [128 * 96 // 4**level for level in range(len(widths))]
    assert size.macs == sum(9 * a * b * area for (a, b), area in zip(pairs, areas, strict=True)) + widths[-1] * 10
    assert ConvNet(3, 1, widths)(torch.randn(2, 1, 16, 35)).shape == (2, 3)


def test_convnet_computes_what_its_formula_says_and_shrinks() -> None:
    model = ConvNet(4, 2, widths=(3,)).eval()
    with torch.no_grad():
        model.bn1.weight.copy_(torch.tensor([1.0, 0.0, 2.0]))
        model.bn1.bias.copy_(torch.tensor([0.5, 0.0, -0.5]))
    x = torch.randn(2, 2, 8, 9)
    w = model.state_dict()
    hidden = F.conv2d(x, w["conv1.weight"], padding=1) / (1 + 1e-5) ** 0.5
    hidden = (hidden * w["bn1.weight"].view(3, 1, 1) + w["bn1.bias"].view(3, 1, 1)).clamp(min=0)
    pooled = hidden[:, :, :8, :8].reshape(2, 3, 4, 2, 4, 2).amax((3, 5)).mean((2, 3))
    torch.testing.assert_close(model(x), pooled @ w["fc.weight"].T + w["fc.bias"])
    small = shrink(model, x).model
    assert small.conv1.out_channels == 2
    torch.testing.assert_close(small(x), model(x))


@pytest.mark.parametrize("depth", [20, 32, 56])
def test_resnet_has_the_published_size(depth: int) -> None:
    n = (depth - 2) // 6
    # Multiply-adds of a 3×3 convolution at full width of its stage are the same in each stage, half where it begins.
    stage = 9 * 16 * 16 * 32 * 32
    weights = 9 * (3 * 16 + 16 * 16 * 2 * n) + sum(9 * (c * c // 2 + c * c * (2 * n - 1)) for c in (32, 64))
    norms = 2 * (16 + 2 * n * (16 + 32 + 64))
    size = measure(ResNet(depth), torch.randn(1, 3, 32, 32))
    assert size.parameters == weights + norms + 65 * 10
    assert size.macs == 9 * 3 * 16 * 32 * 32 + stage * (6 * n - 1) + 64 * 10
    if depth == 56:
        assert (size.parameters, size.macs) == (853_018, 125_485_696)


@pytest.mark.parametrize(("channels", "depth"), [(16, 3), (4, 1), (3, 4)])
def test_unet_counts(channels: int, depth: int) -> None:
    widths = [channels * 2**level for level in range(depth + 1)]
    convs = [pair for a, b in zip([3, *widths], widths, strict=False) for pair in ((a, b, b), (b, b, b))]
    convs += [pair for c in widths[:-1] for pair in ((2 * c, c, c), (c, c, c))]
    weights = sum(9 * a * b for a, b, _ in convs)
    parameters = weights + sum(2 * c for *_, c in convs) + sum(4 * 2 * c * c + c for c in widths[:-1])
    area = {c: (64 // 2**level) ** 2 for level, c in enumerate(widths)}
    macs = sum(9 * a * b * area[c] for a, b, c in convs) + sum(2 * c * c * area[c] for c in widths[:-1])
    size = measure(UNet(5, channels=channels, depth=depth), torch.randn(1, 3, 64, 64))
    assert size.parameters == parameters + (channels + 1) * 5
    assert size.macs == macs + 5 * channels * 64 * 64


def test_shortcut_without_parameters_takes_every_second_pixel_and_pads_both_sides() -> None:
    model = ResNet(8, width=4).eval()
    block = model.blocks[1]
    x = torch.randn(2, 4, 6, 6)
    with torch.no_grad():
        block.bn2.weight.zero_()
    expected = torch.zeros(2, 8, 3, 3)
    expected[:, 2:6] = x[:, :, ::2, ::2].clamp(min=0)
    torch.testing.assert_close(block(x), expected)
    assert [name for name, _ in block.named_children()] == ["conv1", "bn1", "conv2", "bn2"]


def test_resnet_block_computes_what_its_formula_says() -> None:
    block = ResNet(8, width=4).blocks[0].eval()
    x = torch.randn(2, 4, 5, 5)
    w = block.state_dict()
    hidden = F.conv2d(x, w["conv1.weight"], padding=1) / (1 + 1e-5) ** 0.5
    hidden = F.conv2d(hidden.clamp(min=0), w["conv2.weight"], padding=1) / (1 + 1e-5) ** 0.5
    torch.testing.assert_close(block(x), (x + hidden).clamp(min=0))


@pytest.mark.parametrize("size", [(32, 32), (9, 21)])
def test_unet_has_a_class_for_each_pixel_of_any_size(size: tuple[int, int]) -> None:
    assert UNet(3, 1, channels=4)(torch.randn(2, 1, *size)).shape == (2, 3, *size)


def test_unet_merges_the_map_of_the_same_size_first() -> None:
    model = UNet(2, 1, channels=2, depth=1).eval()
    x = torch.randn(1, 1, 7, 6)
    top = model.down[0](x)
    low = model.up[0](model.down[1](F.max_pool2d(top, 2)))
    low = F.pad(low, (0, 0, 0, 1), value=float("nan"))
    low[:, :, -1] = model.up[0].bias[:, None]  # the odd row is reached by no input, its output is the bias
    torch.testing.assert_close(model(x), model.head(model.merge[0](torch.cat([top, low], 1))))


def test_sizes_that_make_no_network_are_named() -> None:
    with pytest.raises(ValueError, match=r"6 n \+ 2.*got 51"):
        ResNet(51)
    with pytest.raises(ValueError, match="even.*got 15"):
        ResNet(20, width=15)
    with pytest.raises(ValueError, match="width=0; it needs a positive factor"):
        VGG16(width=0)
    with pytest.raises(ValueError, match=r"widths must be one or more numbers, got 0"):
        ConvNet(widths=())
    with pytest.raises(ValueError, match="depth must be at least 1"):
        UNet(depth=0)
