"""The two LeNets, for digits and clothes."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from pruning_lib.companion._arguments import check_sizes, checked


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

    Examples
    --------
    >>> sum(p.numel() for p in LeNet300().parameters())
    266610
    """

    def __init__(
        self,
        classes: int = 10,
        inputs: tuple[int, int, int] = (1, 28, 28),
        widths: tuple[int, int] = (300, 100),
        bn: bool = False,
    ) -> None:
        checked("LeNet300", bn=bn)
        check_sizes(classes=(classes,))
        check_sizes(3, inputs=inputs)
        check_sizes(2, widths=widths)
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

    Examples
    --------
    >>> import torch
    >>> small = LeNet5(inputs=(1, 8, 8), widths=(4, 8, 16), kernel=3, padding=1)
    >>> small(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])
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
        checked("LeNet5", padding=padding, bn=bn)
        check_sizes(classes=(classes,), kernel=(kernel,))
        check_sizes(3, inputs=inputs, widths=widths)
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


def _linear(layers: OrderedDict[str, nn.Module], i: int, fan_in: int, units: int, bn: bool) -> None:
    layers[f"fc{i}"] = nn.Linear(fan_in, units, bias=not bn)
    if bn:
        layers[f"bn{i}"] = nn.BatchNorm1d(units)
    layers[f"relu{i}"] = nn.ReLU()


def _pooled(size: int, kernel: int, padding: int) -> int:
    return (size + 2 * padding - kernel + 1) // 2
