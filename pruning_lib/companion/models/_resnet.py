"""Residual networks for small photographs."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from pruning_lib.companion._arguments import check_sizes


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

    Examples
    --------
    >>> sum(p.numel() for p in ResNet().parameters())
    853018
    """

    def __init__(self, depth: int = 56, classes: int = 10, width: int = 16, inputs: int = 3) -> None:
        check_sizes(classes=(classes,), width=(width,), inputs=(inputs,), depth=(depth,))
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
