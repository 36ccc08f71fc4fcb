"""Channels that move, are picked, counted or mixed; several outputs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.networks.cases import IMAGE, OTHER, Do, Net, block, case, conv, mean


@case(IMAGE, OTHER, exact=False)
def pixel_shuffle():
    return nn.Sequential(block(3, 6), conv(6, 16), nn.PixelShuffle(2), nn.ReLU(), conv(4, 4))


@case((3, 8, 8), (3, 10, 6), exact=False)
def pixel_unshuffle():
    return nn.Sequential(block(3, 6), nn.PixelUnshuffle(2), conv(24, 8), nn.ReLU(), conv(8, 4))


@case(IMAGE, OTHER)
def flipped_pixels():
    return nn.Sequential(block(3, 8), Do(lambda x: x.flip(3).roll(2, 2).transpose(2, 3)), conv(8, 4))


@case(IMAGE, OTHER, exact=False)
def flipped_channels():
    return nn.Sequential(block(3, 8), Do(lambda x: x.flip(1)), block(8, 6), conv(6, 4))


@case(IMAGE, OTHER, exact=False)
def rolled_channels():
    return nn.Sequential(block(3, 8), Do(lambda x: x.roll(3, 1)), block(8, 6), conv(6, 4))


def shuffled(x: Tensor, groups: int = 2) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)


@case(IMAGE, OTHER, exact=False)
def shuffled_channels():
    return nn.Sequential(block(3, 8), Do(shuffled), block(8, 8, groups=2), conv(8, 4))


@case(IMAGE, OTHER, exact=False)
def shuffled_by_the_layer():
    return nn.Sequential(block(3, 8), nn.ChannelShuffle(4), block(8, 6), conv(6, 4))


@case(IMAGE, OTHER, exact=False)
def indexed_channels():
    return nn.Sequential(block(3, 8), Do(lambda x: x[:, torch.tensor([3, 1, 7, 0, 5])]), block(5, 6), conv(6, 4))


@case(IMAGE, OTHER, exact=False)
def literal_mask():
    return nn.Sequential(
        block(3, 8), Do(lambda x: x * torch.arange(8.0).reshape(8, 1, 1).to(x)), block(8, 6), conv(6, 4)
    )


@case(IMAGE, OTHER, exact=False)
def counted_channels():
    def steps(m, x):
        y = m.a(x)
        if y.shape[1] != 8:
            raise ValueError("eight channels")
        return m.c(m.b(y))

    return Net(steps, a=block(3, 8), b=block(8, 6), c=conv(6, 4))


@case(IMAGE, OTHER, exact=False)
def matrix_products():
    return Net(
        lambda m, x: m.c(torch.einsum("nchw,cd->ndhw", m.a(x), m.w)),
        a=block(3, 8),
        w=nn.Parameter(torch.randn(8, 6)),
        c=conv(6, 4),
    )


@case(IMAGE, OTHER, exact=False)
def bilinear_features():
    def steps(m, x):
        y = m.a(x).flatten(2)
        return m.fc((y @ y.transpose(1, 2)).flatten(1))

    return Net(steps, a=nn.Sequential(block(3, 6), block(6, 5)), fc=nn.Linear(25, 4))


@case(IMAGE, OTHER, exact=False)
def softmax_over_channels():
    return nn.Sequential(block(3, 6), conv(6, 8), nn.Softmax(1), conv(8, 4))


@case(IMAGE, OTHER, exact=False)
def softmax_over_pixels():
    return nn.Sequential(
        block(3, 8), Do(lambda x: x.flatten(2).softmax(2) @ x.flatten(2).mT), nn.Flatten(), Do(lambda x: x[:, :4])
    )


@case(IMAGE, OTHER)
def outputs_by_name():
    def steps(m, x):
        y = m.a(x)
        return {"map": m.b(y), "label": [m.fc(mean(m.c(y))), None]}

    return Net(steps, a=block(3, 8), b=conv(8, 2), c=block(8, 6), fc=nn.Linear(6, 4))


@case(IMAGE, OTHER)
def features_are_returned():
    return Net(lambda m, x: (m.c(m.b(y := m.a(x))), y), a=block(3, 8), b=block(8, 6), c=conv(6, 4))
