"""Padding, pooling, upsampling, and the way from maps to vectors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.networks.cases import IMAGE, OTHER, Do, Net, block, case, conv


@case(IMAGE, OTHER)
def padded_images():
    return nn.Sequential(conv(3, 8), nn.Tanh(), Do(lambda x: F.pad(x, (1, 2, 0, 1))), conv(8, 4, padding=0))


@case(IMAGE, OTHER)
def padded_modes():
    return nn.Sequential(
        conv(3, 8, padding_mode="reflect"),
        nn.Tanh(),
        conv(8, 8, padding_mode="replicate"),
        nn.Sigmoid(),
        conv(8, 8, padding_mode="circular"),
        nn.Softplus(),
        conv(8, 4, padding="same"),
    )


@case(IMAGE, OTHER, exact=False)
def padded_channels():
    return nn.Sequential(conv(3, 8), nn.ReLU(), Do(lambda x: F.pad(x, (0, 0, 0, 0, 1, 2))), conv(11, 4))


@case(IMAGE, OTHER, exact=False)
def pools():
    return nn.Sequential(
        block(3, 8),
        nn.MaxPool2d(3, 2, 1),
        block(8, 8),
        nn.AvgPool2d(3, 1, 1, count_include_pad=False),
        block(8, 8),
        nn.AvgPool2d(2, ceil_mode=True),
        block(8, 8),
        nn.AdaptiveMaxPool2d(2),
        block(8, 8),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )


@case(IMAGE, OTHER, exact=False)
def padded_average_pool():
    return nn.Sequential(block(3, 8), nn.AvgPool2d(3, 2, 1), conv(8, 8), nn.LPPool2d(2, 2), conv(8, 4))


@case(IMAGE, OTHER, exact=False)
def mean_and_maximum():
    return Net(
        lambda m, x: m.fc(torch.cat([(y := m.a(x)).mean((2, 3)), y.amax((2, 3)), y.flatten(2).std(2)], 1)),
        a=block(3, 8),
        fc=nn.Linear(24, 4),
    )


@case((3, 8, 8))
def flatten_with_pixels():
    return nn.Sequential(block(3, 8), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8 * 16, 12), nn.ReLU(), nn.Linear(12, 4))


@case((3, 8, 8), exact=False, stays="literal")
def literal_view():
    return nn.Sequential(block(3, 8), nn.MaxPool2d(2), Do(lambda x: x.view(-1, 8 * 16)), nn.Linear(8 * 16, 4))


@case((3, 8, 8))
def derived_view():
    return nn.Sequential(block(3, 8), Do(lambda x: x.view(x.size(0), -1)), nn.Linear(8 * 64, 4))


@case((3, 8, 8))
def permuted_view():
    return nn.Sequential(block(3, 8), Do(lambda x: x.permute(0, 2, 3, 1).flatten(1)), nn.Linear(8 * 64, 4))


@case(IMAGE, OTHER)
def channels_last_perceptron():
    return nn.Sequential(
        conv(3, 8), Do(lambda x: x.permute(0, 2, 3, 1)), nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 5), nn.Flatten(1, 2)
    )


@case(IMAGE, OTHER)
def upsampling():
    return nn.Sequential(
        block(3, 8), nn.Upsample(scale_factor=2), block(8, 6), nn.Upsample(scale_factor=2, mode="bilinear"), conv(6, 4)
    )


@case(IMAGE, OTHER)
def upsampled_to_its_input():
    return Net(
        lambda m, x: m.c(F.interpolate(m.b(y := m.a(x)), y.shape[2:], mode="bilinear", align_corners=False) + y),
        a=block(3, 8),
        b=block(8, 8, stride=2),
        c=conv(8, 4),
    )
