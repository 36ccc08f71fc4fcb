"""A small U-Net, which answers for every pixel."""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pruning_lib.companion._arguments import check_sizes, checked


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

    Examples
    --------
    >>> import torch
    >>> UNet(channels=4)(torch.zeros(1, 3, 20, 30)).shape
    torch.Size([1, 2, 20, 30])
    """

    def __init__(self, classes: int = 2, inputs: int = 3, channels: int = 16, depth: int = 3) -> None:
        check_sizes(classes=(classes,), inputs=(inputs,), channels=(channels,), depth=(depth,))
        checked("UNet", depth=depth)
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
