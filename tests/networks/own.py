"""What people write themselves: layers, filters, pads by size, numbers, lengths, and one layer called several times."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.networks.cases import IMAGE, OTHER, Do, Net, block, case, conv, mean


class Dense(nn.Module):
    """A linear layer, or with a kernel a convolution, on a weight of its own."""

    def __init__(self, inputs: int, units: int, kernel: int = 0, groups: int = 1) -> None:
        super().__init__()
        self.kernel, self.groups = kernel, groups
        self.weight = nn.Parameter(torch.randn(units, inputs // groups, *[kernel] * 2 * bool(kernel)) / inputs**0.5)
        self.bias = nn.Parameter(torch.randn(units))

    def forward(self, x: Tensor) -> Tensor:
        if self.kernel:
            return F.conv2d(x, self.weight, self.bias, padding=self.kernel // 2, groups=self.groups)
        return F.linear(x, self.weight, self.bias)


class Conv1D(nn.Module):
    """The layer that GPT-2 is made of."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf, self.nx = nf, nx
        self.weight, self.bias = nn.Parameter(torch.randn(nx, nf) / nx**0.5), nn.Parameter(torch.randn(nf))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(*x.shape[:-1], self.nf)


class Times(nn.Linear):
    """A linear layer written as a product with the transposed weight, as Falcon's."""

    def __init__(self, inputs: int, units: int, how: str) -> None:
        super().__init__(inputs, units)
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "addmm":
            return torch.addmm(self.bias, x, self.weight.permute(1, 0))
        transposed = {"T": self.weight.T, "t": self.weight.t(), "transpose": self.weight.transpose(-1, -2)}[self.how]
        return x @ transposed + self.bias


class Blur(nn.Module):
    """A filter that is not learned, on every channel; the module may have noted how many there are, as timm's does."""

    def __init__(self, channels: int, noted: bool = False) -> None:
        super().__init__()
        self.channels = channels if noted else None
        self.register_buffer("filter", torch.ones(channels, 1, 3, 3) / 9)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.filter, stride=2, padding=1, groups=self.channels or x.shape[1])


def up_and_pad(x: Tensor, like: Tensor) -> Tensor:
    """Enlarge a map to another one's size: what is missing is padded, nothing at even sizes."""
    x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
    height, width = like.size(2) - x.size(2), like.size(3) - x.size(3)
    return F.pad(x, [width // 2, width - width // 2, height // 2, height - height // 2])


@case(IMAGE, OTHER, exact=False)
def pads_by_sizes():
    return Net(
        lambda m, x: m.c(torch.cat([y := m.a(x), up_and_pad(m.b(F.max_pool2d(y, 2)), y)], 1)),
        a=block(3, 8),
        b=block(8, 8),
        c=conv(16, 4),
    )


@case((3, 12), (3, 17))
def causal_convolutions():
    return nn.Sequential(
        nn.Conv1d(3, 8, 3), nn.ReLU(), Do(lambda x: F.pad(x, (4, 0))), nn.Conv1d(8, 6, 3, dilation=2), nn.ReLU(),
        Do(lambda x: F.pad(x, (2, 0))), nn.Conv1d(6, 4, 3),
    )  # fmt: skip


@case((6,), exact=False)
def generator():
    return nn.Sequential(
        nn.Linear(6, 8 * 16), Do(lambda x: x.view(len(x), -1, 4, 4)), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Upsample(scale_factor=2),
        conv(8, 6), nn.BatchNorm2d(6), nn.ReLU(), nn.Upsample(scale_factor=2, mode="bilinear"), conv(6, 3),
    )  # fmt: skip


@case(IMAGE, OTHER, exact=False)
def normalized_channels():
    return nn.Sequential(block(3, 8), Do(lambda x: F.normalize(x, dim=1)), block(8, 6), conv(6, 4))


@case((7, 8), (5, 8), exact=False)
def scores_by_sums():
    return Net(
        lambda m, x: m.c(m.b(x) * (F.relu(m.a(x)) * F.relu(m.b(x))).sum(-1, keepdim=True)),
        a=nn.Linear(8, 12),
        b=nn.Linear(8, 12),
        c=nn.Linear(12, 4),
    )


@case(IMAGE, OTHER)
def numbers_written_in_forward():
    def steps(m, x):
        y = m.a(x)
        y = torch.maximum(y, y.new_full(y.shape, 0.1)) + torch.full((1,), 0.3, dtype=x.dtype)
        return m.c(torch.cat([m.b(y), y.new_full((len(y), 2, *y.shape[2:]), -1.5)], 1))

    return Net(steps, a=conv(3, 8), b=block(8, 6), c=conv(8, 4, padding=0))


@case(IMAGE, OTHER, exact=False)
def complex_numbers():
    return nn.Sequential(
        block(3, 8), Do(lambda x: torch.fft.ifft2(torch.fft.fft2(x) * (1 + 0.5j)).real + (x * 2j).abs()), conv(8, 4)
    )


@case(IMAGE, OTHER)
def one_head_for_two_levels():
    head = nn.Sequential(conv(8, 10), nn.BatchNorm2d(10), nn.ReLU(), conv(10, 4, 1))
    return Net(lambda m, x: [m.head(y := m.a(x)), m.head(F.max_pool2d(y, 2))], a=block(3, 8), head=head)


@case((7, 8), (5, 8))
def one_encoder_for_two_inputs():
    encoder = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU())
    return Net(lambda m, x: m.c(m.encoder(x) - m.encoder(x.flip(1))), encoder=encoder, c=nn.Linear(12, 4))


@case(IMAGE, OTHER)
def gates_of_single_taps_that_keep_the_size():
    gate = nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 6, 1, padding="same"), nn.SiLU(), nn.Conv2d(6, 8, 1, padding="same")
    )
    return Net(lambda m, x: m.c(m.gate(y := m.a(x)).sigmoid() * y), a=block(3, 8), gate=gate, c=conv(8, 4, 1))


@case((10,))
def own_linear_layers():
    return nn.Sequential(Dense(10, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), Dense(12, 3))


@case((10,))
def products_with_a_transposed_weight():
    layers = (Times(10, 16, "T"), nn.ReLU(), Times(16, 12, "t"), nn.ReLU(), Times(12, 8, "transpose"), nn.ReLU())
    return nn.Sequential(*layers, Times(8, 6, "addmm"), nn.ReLU(), nn.Linear(6, 3))


@case(IMAGE, OTHER, exact=False)
def own_convolutions():
    return nn.Sequential(
        Dense(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), Dense(8, 12, 3, groups=4), nn.ReLU(), conv(12, 4)
    )


@case((7, 8), (5, 8))
def inputs_first():
    return nn.Sequential(Conv1D(16, 8), nn.GELU(), Conv1D(12, 16), nn.ReLU(), nn.Linear(12, 3))


@case((3, 12, 12), (3, 9, 14), exact=False)
def blurred():
    return Net(lambda m, x: m.fc(mean(m.blur(m.a(x)))), a=block(3, 8), blur=Blur(8), fc=nn.Linear(8, 4))


@case((7,), (5,), words=11, exact=False)
def bags_of_words():
    return Net(
        lambda m, x: m.c((y := m.bag(x)) + F.relu(m.b(y))),
        bag=nn.EmbeddingBag(11, 8),
        b=nn.Linear(8, 8),
        c=nn.Linear(8, 3),
    )
