"""Networks by the names that configurations give them."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from experiments.methods import Config
from pruning_lib.companion.models import VGG16, ConvNet, LeNet5, LeNet300, ResNet, UNet

Shape = tuple[int, int, int]
NETWORKS: dict[str, Callable[[Config, Shape, int], nn.Module]] = {
    "lenet300": lambda config, shape, classes: LeNet300(classes, shape, tuple(config["widths"])),
    "lenet300-bn": lambda config, shape, classes: LeNet300(classes, shape, tuple(config["widths"]), bn=True),
    "lenet5": lambda config, shape, classes: LeNet5(classes, shape),
    "lenet5-bn": lambda config, shape, classes: LeNet5(classes, shape, bn=True),
    "vgg16": lambda config, shape, classes: VGG16(classes, config["width"], shape[0]),
    "vgg16-plain": lambda config, shape, classes: VGG16(classes, config["width"], shape[0], bn=False),
    "resnet20": lambda config, shape, classes: ResNet(20, classes, inputs=shape[0]),
    "resnet56": lambda config, shape, classes: ResNet(56, classes, inputs=shape[0]),
    "unet": lambda config, shape, classes: UNet(classes, shape[0], config["channels"]),
    "convnet": lambda config, shape, classes: ConvNet(classes, shape[0], tuple(config["widths"])),
}
"""(configuration, shape of an input, number of classes) → network."""
