"""A small network for images of any size."""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise

from torch import nn

from pruning_lib.companion._arguments import check_sizes


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

    Examples
    --------
    >>> sum(p.numel() for p in ConvNet().parameters())
    24346
    """

    def __init__(self, classes: int = 10, inputs: int = 3, widths: tuple[int, ...] = (16, 32, 64)) -> None:
        check_sizes(classes=(classes,), inputs=(inputs,), widths=widths)
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
