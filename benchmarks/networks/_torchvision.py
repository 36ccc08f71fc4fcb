"""Torchvision: a network or two of every family of classifiers, segmentation, video, and the backbones of detection."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torchvision
from torch import nn
from torchvision.models import detection, segmentation, video

from benchmarks.networks._network import Network, images

CLASSIFIERS = """
alexnet vgg11 vgg11_bn resnet18 resnet50 resnext50_32x4d wide_resnet50_2 densenet121 squeezenet1_0 squeezenet1_1
mnasnet0_5 mobilenet_v2 mobilenet_v3_small mobilenet_v3_large efficientnet_b0 efficientnet_v2_s regnet_x_400mf
regnet_y_400mf shufflenet_v2_x0_5 shufflenet_v2_x1_0 convnext_tiny swin_t swin_v2_t googlenet inception_v3
"""
OPTIONS: dict[str, dict[str, Any]] = {name: {"init_weights": False} for name in ("googlenet", "inception_v3")}


def _classifier(name: str, options: dict[str, Any]) -> nn.Module:
    model: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=10, **options)
    return model


def _vit(side: int) -> nn.Module:
    model: nn.Module = torchvision.models.VisionTransformer(side, 16, 2, 4, 64, 128, num_classes=10)
    return model


def _maxvit() -> nn.Module:
    model: nn.Module = torchvision.models.MaxVit((64, 64), 32, 4, [32, 64], [1, 1], 16, 0.0, num_classes=10)
    return model


def _segmentation(build: Callable[..., nn.Module]) -> nn.Module:
    return build(weights=None, weights_backbone=None, num_classes=5)


def _pyramid() -> nn.Module:
    found: nn.Module = detection.backbone_utils.resnet_fpn_backbone(backbone_name="resnet18", weights=None)
    return found


class _Heads(nn.Module):
    """Backbone and head of a one-stage detector, without its anchors, whose number depends on the boxes found."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = model.get_submodule("backbone"), model.get_submodule("head")

    def forward(self, x: Any) -> Any:
        features = self.backbone(x)
        return self.head(list(features.values()))


def _retina() -> nn.Module:
    pyramid = detection.backbone_utils.resnet_fpn_backbone(backbone_name="resnet18", weights=None)
    return _Heads(detection.RetinaNet(pyramid, 4))


def _ssdlite() -> nn.Module:
    return _Heads(detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=4))


def torchvision_networks() -> dict[str, Network]:
    """Return the networks by name."""
    found = {name: images(partial(_classifier, name, OPTIONS.get(name, {}))) for name in CLASSIFIERS.split()}
    found["inception_v3"] = images(found["inception_v3"].build, 299)  # what its head of training needs
    found["vit"] = images(partial(_vit, 64))
    found["maxvit"] = images(_maxvit)
    for name in ("fcn_resnet50", "deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large"):
        found[name] = images(partial(_segmentation, getattr(segmentation, name)))
    for name in ("r3d_18", "mc3_18", "r2plus1d_18"):
        build = partial(getattr(video, name), weights=None, num_classes=5)
        found[name] = Network(build, {"": (3, 8, 64, 64)})
    found |= {"resnet18_fpn": images(_pyramid), "retinanet": images(_retina), "ssdlite": images(_ssdlite)}
    return {f"torchvision/{name}": network for name, network in found.items()}
