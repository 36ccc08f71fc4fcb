"""The networks of the book, in the forms that the papers prune; printing one shows its layers by name."""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LeNet300(nn.Sequential):
    """Two hidden layers: flatten → fc1 → ReLU → fc2 → ReLU → fc3; 266,610 parameters and 266,200 MACs by default.

    Parameters
    ----------
    classes : int
        Number of outputs (logits).
    inputs : tuple of int
        Shape (channels, height, width) of one example.
    widths : tuple of int
        Units of fc1 and fc2.
    bn : bool
        Put a BatchNorm between each hidden layer and its ReLU; that layer then has no bias, which the shift replaces.

    Raises
    ------
    ValueError
        If a width, a class count or an input size is below 1.
    """

    def __init__(
        self,
        classes: int = 10,
        inputs: tuple[int, int, int] = (1, 28, 28),
        widths: tuple[int, int] = (300, 100),
        bn: bool = False,
    ) -> None:
        _positive(classes=(classes,), inputs=inputs, widths=widths)
        channels, height, width = inputs
        sizes = (channels * height * width, *widths)
        layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
        for i in (1, 2):
            _linear(layers, i, sizes[i - 1], sizes[i], bn)
        layers["fc3"] = nn.Linear(widths[1], classes)
        super().__init__(layers)


class LeNet5(nn.Sequential):
    """Caffe's LeNet-5 with a ReLU after each hidden layer; 431,080 parameters and 2,293,000 MACs by default.

    conv1 → max-pool 2 → ReLU → conv2 → max-pool 2 → ReLU → flatten → fc1 → ReLU → fc2.

    Parameters
    ----------
    classes : int
        Number of outputs (logits).
    inputs : tuple of int
        Shape (channels, height, width) of one example.
    widths : tuple of int
        Channels of conv1 and conv2, units of fc1.
    kernel, padding : int
        Of both convolutions. Digits of 8 × 8 pixels need ``kernel=3, padding=1``.
    bn : bool
        Put a BatchNorm between each hidden layer and its ReLU; that layer then has no bias, which the shift replaces.

    Raises
    ------
    ValueError
        If a size is below 1, or the input is too small for two convolutions and two poolings.
    """

    def __init__(
        self,
        classes: int = 10,
        inputs: tuple[int, int, int] = (1, 28, 28),
        widths: tuple[int, int, int] = (20, 50, 500),
        kernel: int = 5,
        padding: int = 0,
        bn: bool = False,
    ) -> None:
        _positive(classes=(classes,), inputs=inputs, widths=widths, kernel=(kernel,))
        height, width = (_pooled(_pooled(size, kernel, padding), kernel, padding) for size in inputs[1:])
        if min(height, width) < 1:
            raise ValueError(
                f"LeNet5 got inputs of {inputs[1]} × {inputs[2]} pixels, of which kernel={kernel}, padding={padding} "
                "leave nothing; use a smaller kernel or more padding."
            )
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        channels = (inputs[0], *widths)
        for i in (1, 2):
            layers[f"conv{i}"] = nn.Conv2d(channels[i - 1], channels[i], kernel, padding=padding, bias=not bn)
            if bn:
                layers[f"bn{i}"] = nn.BatchNorm2d(channels[i])
            # Maximum and ReLU commute; this order takes the ReLU of a quarter of the map.
            layers[f"pool{i}"] = nn.MaxPool2d(2)
            layers[f"relu{i}"] = nn.ReLU()
        layers["flatten"] = nn.Flatten()
        layers["fc1"] = nn.Linear(widths[1] * height * width, widths[2], bias=not bn)
        if bn:
            layers["bn3"] = nn.BatchNorm1d(widths[2])
        layers["relu3"] = nn.ReLU()
        layers["fc2"] = nn.Linear(widths[2], classes)
        super().__init__(layers)


class VGG16(nn.Sequential):
    """VGG-16 for images of 32 × 32 pixels; 14,728,266 parameters and 313,201,664 MACs by default.

    Thirteen times conv 3×3 → BatchNorm → ReLU, a max-pool after the second, fourth, seventh and tenth, then a 2×2
    average pool and one linear layer. `Receding neurons` (Suteu & Guo, 2022) prunes this form; the chapter is
    `receding-neurons`.

    Parameters
    ----------
    classes : int
        Number of outputs (logits).
    width : float
        Factor of the published widths 64, 64, 128, 128, 256 × 3, 512 × 6; products are rounded down, to 1 at least.
    inputs : int
        Channels of an image. Its sides must be at least 32 pixels and less than 64.
    bn : bool
        False leaves out the BatchNorms, as in Simonyan & Zisserman (2015, arXiv 1409.1556). The convolutions are then
        drawn as He et al. (2015, arXiv 1502.01852) propose, without which thirteen of them hardly train.

    Raises
    ------
    ValueError
        If a size is below 1 or the factor not positive.
    """

    def __init__(self, classes: int = 10, width: float = 1.0, inputs: int = 3, bn: bool = True) -> None:
        _positive(classes=(classes,), inputs=(inputs,))
        if not width > 0:
            raise ValueError(f"width must be a positive factor, got {width}.")
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        channels = inputs
        for i, published in enumerate((64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512), 1):
            units = max(int(published * width), 1)
            layers[f"conv{i}"] = conv = nn.Conv2d(channels, units, 3, padding=1)
            if bn:
                layers[f"bn{i}"] = nn.BatchNorm2d(units)
            else:
                nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
                nn.init.zeros_(conv.get_parameter("bias"))
            layers[f"relu{i}"] = nn.ReLU()
            if i in (2, 4, 7, 10):
                layers[f"pool{i}"] = nn.MaxPool2d(2)
            channels = units
        layers["pool13"] = nn.AvgPool2d(2)
        layers["flatten"] = nn.Flatten()
        layers["fc"] = nn.Linear(channels, classes)
        super().__init__(layers)


class ConvNet(nn.Sequential):
    """Small network for images of any size: conv 3×3 → BatchNorm → ReLU → max-pool 2 for each width, mean, one linear.

    24,346 parameters by default; 40,108,224 MACs for a grey image of 128 × 128 pixels and three classes. Convolutions
    have no bias, which the shift of the BatchNorm replaces.

    Parameters
    ----------
    classes : int
        Number of outputs (logits).
    inputs : int
        Channels of an image. Its sides must be at least 2 ** len(widths) pixels.
    widths : tuple of int
        Channels of the convolutions.

    Raises
    ------
    ValueError
        If a size is below 1 or there is no width.
    """

    def __init__(self, classes: int = 10, inputs: int = 3, widths: tuple[int, ...] = (16, 32, 64)) -> None:
        if not widths:
            raise ValueError("widths must name the channels of one convolution at least, got ().")
        _positive(classes=(classes,), inputs=(inputs,), widths=widths)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for i, (channels, units) in enumerate(pairwise((inputs, *widths)), 1):
            layers[f"conv{i}"] = nn.Conv2d(channels, units, 3, padding=1, bias=False)
            layers[f"bn{i}"] = nn.BatchNorm2d(units)
            layers[f"relu{i}"] = nn.ReLU()
            layers[f"pool{i}"] = nn.MaxPool2d(2)
        layers["mean"] = nn.AdaptiveAvgPool2d(1)
        layers["flatten"] = nn.Flatten()
        layers["fc"] = nn.Linear(widths[-1], classes)
        super().__init__(layers)


class ResNet(nn.Module):
    """ResNet for images of 32 × 32 pixels, without parameters in its shortcuts; 853,018 parameters at depth 56.

    One convolution, three stages of (depth − 2) / 6 blocks, a mean over all positions, one linear layer. Where a stage
    begins, the shortcut takes every second pixel and pads the channels with zeros on both sides (option A of He et
    al., 2016, arXiv 1512.03385, section 4.2). 125,485,696 MACs at depth 56.

    Parameters
    ----------
    depth : int
        Layers with weights, 6 n + 2: 20, 32, 44, 56, 110.
    classes : int
        Number of outputs (logits).
    width : int
        Channels of the first stage, even; the second has twice, the third four times as many.
    inputs : int
        Channels of an image.

    Raises
    ------
    ValueError
        If the depth is not 6 n + 2, the width is odd, or a size is below 1.
    """

    def __init__(self, depth: int = 56, classes: int = 10, width: int = 16, inputs: int = 3) -> None:
        _positive(classes=(classes,), width=(width,), inputs=(inputs,))
        if depth < 8 or depth % 6 != 2:
            raise ValueError(f"depth must be 6 n + 2, as 20, 32 and 56 are; got {depth}.")
        if width % 2:
            raise ValueError(f"width must be even, half of it pads each side of a shortcut; got {width}.")
        super().__init__()
        self.conv = nn.Conv2d(inputs, width, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        blocks: list[nn.Module] = []
        for stage in range(3):
            for i in range(depth // 6):
                grows = stage > 0 and i == 0
                blocks.append(_Block(width // (1 + grows), width, stride=1 + grows))
            width *= 2
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(width // 2, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits of shape (examples, classes) for images of shape (examples, inputs, height, width)."""
        x = F.relu(self.bn(self.conv(x)))
        return self.fc(self.blocks(x).mean((2, 3)))  # type: ignore[no-any-return]


class _Block(nn.Module):
    """relu(x + bn2(conv2(relu(bn1(conv1(x)))))), x without every second pixel and padded where the block grows."""

    def __init__(self, inputs: int, units: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, units, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(units)
        self.conv2 = nn.Conv2d(units, units, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(units)
        self.stride, self.pad = stride, (units - inputs) // 2

    def forward(self, x: Tensor) -> Tensor:
        branch = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.stride > 1:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.pad, self.pad))
        return F.relu(x + branch)


class UNet(nn.Module):
    """Small U-Net for segmentation: a class for each pixel; 482,754 parameters by default.

    `depth` times two convolutions and a max-pool, two convolutions at the bottom, then `depth` times a transposed
    convolution, its concatenation with the map of the same size on the way down, and two convolutions. Every
    convolution has a BatchNorm and a ReLU (Ronneberger et al., 2015, arXiv 1505.04597, with padding).

    Parameters
    ----------
    classes : int
        Number of outputs (logits) for each pixel.
    inputs : int
        Channels of an image.
    channels : int
        Channels at full size; each level down has twice as many.
    depth : int
        How often the size is halved. Sides need not be divisible by 2 ** depth, but at least that large.

    Raises
    ------
    ValueError
        If a size is below 1.
    """

    def __init__(self, classes: int = 2, inputs: int = 3, channels: int = 16, depth: int = 3) -> None:
        _positive(classes=(classes,), inputs=(inputs,), channels=(channels,), depth=(depth,))
        super().__init__()
        widths = [channels * 2**level for level in range(depth + 1)]
        self.down = nn.ModuleList(_double(*pair) for pair in zip([inputs, *widths], widths, strict=False))
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * units, units, 2, stride=2) for units in widths[-2::-1])
        self.merge = nn.ModuleList(_double(2 * units, units) for units in widths[-2::-1])
        self.head = nn.Conv2d(channels, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits of shape (examples, classes, height, width) for images (examples, inputs, height, width)."""
        maps = []
        for level, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if level else x)
            maps.append(x)
        for skip, up, merge in zip(maps[-2::-1], self.up, self.merge, strict=True):
            x = merge(torch.cat([skip, up(x, output_size=skip.shape[2:])], 1))
        return self.head(x)  # type: ignore[no-any-return]


def _double(inputs: int, units: int) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i, channels in ((1, inputs), (2, units)):
        layers[f"conv{i}"] = nn.Conv2d(channels, units, 3, padding=1, bias=False)
        layers[f"bn{i}"] = nn.BatchNorm2d(units)
        layers[f"relu{i}"] = nn.ReLU()
    return nn.Sequential(layers)


def _linear(layers: OrderedDict[str, nn.Module], i: int, fan_in: int, units: int, bn: bool) -> None:
    layers[f"fc{i}"] = nn.Linear(fan_in, units, bias=not bn)
    if bn:
        layers[f"bn{i}"] = nn.BatchNorm1d(units)
    layers[f"relu{i}"] = nn.ReLU()


def _pooled(size: int, kernel: int, padding: int) -> int:
    return (size + 2 * padding - kernel + 1) // 2


def _positive(**sizes: tuple[int, ...]) -> None:
    for name, values in sizes.items():
        if min(values) < 1:
            raise ValueError(f"{name} must be at least 1 each, got {values}.")
