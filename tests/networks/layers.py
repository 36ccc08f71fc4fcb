"""Convolutions of every kind, normalizations, layers used twice."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from tests.networks.cases import IMAGE, OTHER, Net, block, case, conv, mean


@case(IMAGE, OTHER)
def transposed():
    return nn.Sequential(block(3, 8), nn.ConvTranspose2d(8, 6, 3, 2, 1, 1), nn.BatchNorm2d(6), nn.ReLU(), conv(6, 4))


@case(IMAGE, OTHER, exact=False)
def transposed_groups():
    return nn.Sequential(block(3, 8), nn.ConvTranspose2d(8, 12, 2, 2, groups=4), nn.ReLU(), conv(12, 4))


@case(IMAGE, OTHER)
def depthwise():
    return nn.Sequential(
        block(3, 8, 1), block(8, 8, groups=8), conv(8, 6, 1), nn.BatchNorm2d(6), conv(6, 12, groups=6), conv(12, 4)
    )


@case(IMAGE, OTHER, exact=False)
def grouped():
    return nn.Sequential(block(3, 12), block(12, 16, groups=4), block(16, 12, 1, groups=2), conv(12, 4))


@case(IMAGE, OTHER)
def strided_and_dilated():
    return nn.Sequential(block(3, 8, stride=2), conv(8, 8, dilation=2, padding=2), nn.ReLU(), conv(8, 4, padding=0))


@case((3, 12), (3, 17))
def one_dimension():
    return nn.Sequential(
        nn.Conv1d(3, 8, 3), nn.BatchNorm1d(8), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(8, 6, 3, padding=1), nn.Tanh(),
        nn.ConvTranspose1d(6, 5, 2, 2), nn.ReLU(), nn.Conv1d(5, 2, 1),
    )  # fmt: skip


@case((2, 6, 6, 6), (2, 7, 8, 6))
def three_dimensions():
    return nn.Sequential(
        nn.Conv3d(2, 6, 3, padding=1), nn.BatchNorm3d(6), nn.ReLU(), nn.AvgPool3d(2), nn.Conv3d(6, 5, 1), nn.Sigmoid(),
        nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(5, 3),
    )  # fmt: skip


@case(IMAGE, OTHER)
def squeeze_and_excitation():
    return Net(
        lambda m, x: m.c((y := m.a(x)) * m.gate(y)),
        a=block(3, 8),
        gate=nn.Sequential(nn.AdaptiveAvgPool2d(1), conv(8, 6, 1), nn.ReLU(), conv(6, 8, 1), nn.Sigmoid()),
        c=conv(8, 4),
    )


@case(IMAGE, OTHER)
def squeeze_by_linear_layers():
    return Net(
        lambda m, x: m.c((y := m.a(x)) * m.gate(mean(y)).view(y.size(0), y.size(1), 1, 1)),
        a=block(3, 8),
        gate=nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 8), nn.Hardsigmoid()),
        c=conv(8, 4),
    )


@case(IMAGE, OTHER, exact=False)
def spatial_gate():
    return Net(lambda m, x: m.c((y := m.a(x)) * torch.sigmoid(m.mask(y))), a=block(3, 8), mask=conv(8, 1), c=conv(8, 4))


@case(IMAGE, OTHER)
def weight_norm():
    return nn.Sequential(
        parametrizations.weight_norm(conv(3, 8)), nn.ReLU(), parametrizations.weight_norm(conv(8, 6)), conv(6, 4)
    )


class Standard(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight - weight.mean((1, 2, 3), keepdim=True)


@case(IMAGE, OTHER, exact=False)
def weight_standardisation():
    layer = conv(3, 8)
    parametrize.register_parametrization(layer, "weight", Standard())
    return nn.Sequential(layer, nn.ReLU(), conv(8, 6), nn.ReLU(), conv(6, 4))


@case(IMAGE, OTHER)
def batchnorm_without_scale():
    return nn.Sequential(
        conv(3, 8), nn.BatchNorm2d(8, affine=False), nn.ReLU(), conv(8, 6), nn.BatchNorm2d(6), conv(6, 4)
    )


@case(IMAGE, OTHER, exact=False)
def batchnorm_without_statistics():
    return nn.Sequential(conv(3, 8), nn.BatchNorm2d(8, track_running_stats=False), nn.ReLU(), conv(8, 6), conv(6, 4))


@case((10,))
def batchnorm_of_features():
    return nn.Sequential(nn.Linear(10, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 8), nn.ELU(), nn.Linear(8, 3))


@case(IMAGE, OTHER, exact=False)
def group_norm():
    return nn.Sequential(conv(3, 12), nn.GroupNorm(4, 12), nn.ReLU(), conv(12, 8), nn.GroupNorm(8, 8), conv(8, 4))


@case(IMAGE, OTHER)
def instance_norm():
    return nn.Sequential(conv(3, 8), nn.InstanceNorm2d(8, affine=True), nn.ReLU(), conv(8, 6), nn.Tanh(), conv(6, 4))


@case((7, 12), (9, 12), exact=False)
def layer_norm():
    return nn.Sequential(nn.Linear(12, 8), nn.LayerNorm(8), nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 4))


@case(IMAGE, OTHER, exact=False)
def convnext_block():
    return Net(
        lambda m, x: m.head(
            mean((y := m.stem(x)) + m.b(F.gelu(m.a(m.norm(m.dw(y).permute(0, 2, 3, 1))))).permute(0, 3, 1, 2))
        ),
        stem=conv(3, 8),
        dw=conv(8, 8, 5, groups=8),
        norm=nn.LayerNorm(8),
        a=nn.Linear(8, 16),
        b=nn.Linear(16, 8),
        head=nn.Linear(8, 4),
    )


@case(IMAGE, OTHER, exact=False)
def local_response_norm():
    return nn.Sequential(conv(3, 8), nn.ReLU(), nn.LocalResponseNorm(3), conv(8, 6), nn.ReLU(), conv(6, 4))


@case(IMAGE, OTHER, exact=False)
def layer_used_twice():
    return Net(lambda m, x: m.c(F.relu(m.b(F.relu(m.b(m.a(x)))))), a=block(3, 8), b=conv(8, 8), c=conv(8, 4))


@case(IMAGE, OTHER)
def two_inputs_through_one_layer():
    return Net(lambda m, x: m.c(torch.cat([m.a(x), m.a(x.flip(3) * 2)], 1)), a=block(3, 8), c=conv(16, 4))


@case((10,), exact=False)
def tied_weights():
    net = Net(lambda m, x: m.c(m.b(F.relu(m.a(x)))), a=nn.Linear(10, 8), b=nn.Linear(8, 10), c=nn.Linear(10, 4))
    net.b.weight = nn.Parameter(net.b.weight.detach().clone())
    net.a.weight = nn.Parameter(net.b.weight.detach().T.clone().T.T)
    return net


@case(IMAGE, OTHER)
def dead_code():
    def steps(m, x):
        y = m.a(x)
        m.unread(y)
        return m.c(y)

    return Net(steps, a=block(3, 8), unread=conv(8, 5), c=conv(8, 4))


@case(IMAGE, OTHER)
def layer_never_called():
    return Net(lambda m, x: m.c(m.a(x)), a=block(3, 8), never=conv(8, 5), c=conv(8, 4))
