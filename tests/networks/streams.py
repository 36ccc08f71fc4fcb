"""Sums, concatenations, slices and splits: one tensor of several writers, several readers of one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.networks.cases import IMAGE, OTHER, Net, block, case, conv, mean


@case(IMAGE, OTHER)
def residual_identity():
    return Net(
        lambda m, x: m.fc(mean(F.relu((y := m.stem(x)) + m.b(F.relu(m.bn(m.a(y))))))),
        stem=block(3, 8),
        a=conv(8, 12),
        bn=nn.BatchNorm2d(12),
        b=conv(12, 8),
        fc=nn.Linear(8, 4),
    )


@case(IMAGE, OTHER)
def residual_projection():
    return Net(
        lambda m, x: m.fc(mean(F.relu(m.short(y := m.stem(x)) + m.b(m.a(y))))),
        stem=block(3, 8),
        a=block(8, 10, stride=2),
        b=nn.Sequential(conv(10, 12), nn.BatchNorm2d(12)),
        short=nn.Sequential(conv(8, 12, 1, stride=2), nn.BatchNorm2d(12)),
        fc=nn.Linear(12, 4),
    )


@case(IMAGE, OTHER)
def residual_zero_padding():
    return Net(
        lambda m, x: m.fc(mean(F.relu(F.pad((y := m.stem(x))[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4)) + m.b(m.a(y))))),
        stem=block(3, 8),
        a=block(8, 10, stride=2),
        b=nn.Sequential(conv(10, 16), nn.BatchNorm2d(16)),
        fc=nn.Linear(16, 4),
    )


@case(IMAGE, OTHER)
def residual_in_place():
    def steps(m, x):
        y = m.stem(x)
        z = m.b(m.a(y))
        z += y
        return m.fc(mean(F.relu_(z)))

    return Net(steps, stem=block(3, 8), a=block(8, 10), b=conv(10, 8), fc=nn.Linear(8, 4))


@case(IMAGE, OTHER)
def three_writers():
    return Net(
        lambda m, x: m.fc(mean(F.relu(m.a(x) + m.b(x) - 0.5 * m.c(x)))),
        a=conv(3, 8),
        b=conv(3, 8, 1),
        c=conv(3, 8, 5),
        fc=nn.Linear(8, 4),
    )


@case(IMAGE, OTHER)
def layer_scale():
    return Net(
        lambda m, x: m.fc(mean((y := m.stem(x)) + m.scale * m.b(m.a(y)))),
        stem=conv(3, 6),
        a=block(6, 10),
        b=conv(10, 6, 1),
        scale=nn.Parameter(torch.randn(6, 1, 1)),
        fc=nn.Linear(6, 4),
    )


@case(IMAGE, OTHER)
def concatenation():
    return Net(
        lambda m, x: m.fc(mean(m.c(torch.cat([m.a(x), m.b(x), x], 1)))),
        a=block(3, 6),
        b=block(3, 8, 1),
        c=block(17, 10),
        fc=nn.Linear(10, 4),
    )


@case(IMAGE, OTHER)
def dense_growth():
    def steps(m, x):
        y = m.a(x)
        y = torch.cat([y, m.b(y)], 1)
        y = torch.cat([y, m.c(y)], 1)
        return m.fc(mean(F.relu(m.bn(y))))

    return Net(steps, a=conv(3, 6), b=block(6, 5), c=block(11, 7), bn=nn.BatchNorm2d(18), fc=nn.Linear(18, 4))


@case(IMAGE, OTHER)
def skip_to_a_transposed_convolution():
    return Net(
        lambda m, x: m.head(
            m.merge(torch.cat([y := m.a(x), m.up(m.b(F.max_pool2d(y, 2)), output_size=y.shape[2:])], 1))
        ),
        a=block(3, 6),
        b=block(6, 10),
        up=nn.ConvTranspose2d(10, 6, 2, stride=2),
        merge=block(12, 8),
        head=conv(8, 2, 1),
    )


@case(IMAGE, OTHER, exact=False)
def literal_slice():
    return Net(lambda m, x: m.c(m.a(x)[:, 1:7]), a=block(3, 8), c=conv(6, 4))


@case(IMAGE, OTHER, exact=False)
def slice_of_the_input():
    return Net(lambda m, x: m.c(torch.cat([m.a(x), x[:, 1:]], 1)), a=block(3, 8), c=conv(10, 4))


@case(IMAGE, OTHER, exact=False)
def chunks():
    def steps(m, x):
        left, right = m.a(x).chunk(2, 1)
        return m.c(torch.cat([m.b(left), right], 1))

    return Net(steps, a=block(3, 12), b=block(6, 6), c=conv(12, 4))


@case(IMAGE, OTHER, exact=False)
def split_by_literal_sizes():
    def steps(m, x):
        left, middle, right = m.a(x).split([2, 6, 4], 1)
        return m.c(torch.cat([right, m.b(middle), left], 1))

    return Net(steps, a=block(3, 12), b=block(6, 6), c=conv(12, 4))


@case(IMAGE, OTHER, exact=False)
def gate_of_two_halves():
    def steps(m, x):
        left, right = m.a(x).chunk(2, 1)
        return m.c(left * right.sigmoid())

    return Net(steps, a=conv(3, 16), c=conv(8, 4))


@case(IMAGE, OTHER, exact=False)
def gated_linear_unit():
    return Net(lambda m, x: m.c(F.glu(m.a(x), 1)), a=conv(3, 16), c=conv(8, 4))


@case((12,))
def gated_perceptron():
    return Net(
        lambda m, x: m.down(F.silu(m.gate(x)) * m.up(x)),
        gate=nn.Linear(12, 16),
        up=nn.Linear(12, 16),
        down=nn.Linear(16, 4),
    )


@case(IMAGE, OTHER, exact=False)
def stack_and_mean():
    return Net(lambda m, x: m.c(torch.stack([m.a(x), m.b(x)]).mean(0)), a=block(3, 8), b=block(3, 8, 1), c=conv(8, 4))
