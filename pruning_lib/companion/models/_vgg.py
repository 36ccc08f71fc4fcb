"""VGG-16 for small photographs."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from pruning_lib.companion._arguments import check_sizes, checked


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

    Examples
    --------
    >>> import torch
    >>> VGG16(width=0.125)(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """

    def __init__(self, classes: int = 10, width: float = 1.0, inputs: int = 3, bn: bool = True) -> None:
        check_sizes(classes=(classes,), inputs=(inputs,))
        checked("VGG16", width=width, bn=bn)
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
