"""Small networks of every topology that `shrink` should follow, random ones made of them, and how to kill units.

A case is made by a function of no arguments under `@case(shape, …)`; its name is the function's. Weights are drawn
under the caller's seed, and everything is float64.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from pruning_lib.units import Units, rows, weighted


@dataclass(frozen=True)
class Case:
    """A network, the shape of one example, and what to expect.

    `other` is a second shape that the network accepts, None if it accepts no other; `words` makes the example integers
    below it. `exact`: every dead inner unit goes, but for constants that stand for others and the last of a layer.
    Otherwise something in the network keeps units; `stays` is a word that the notes must say then.
    """

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    other: tuple[int, ...] | None = None
    words: int = 0
    exact: bool = True
    stays: str = ""

    def example(self, batch: int = 2, shape: tuple[int, ...] | None = None) -> Tensor:
        size = (batch, *(shape or self.shape))
        return torch.randint(self.words, size) if self.words else torch.randn(size, dtype=torch.float64)


CASES: dict[str, Case] = {}


def case(shape: tuple[int, ...], other: tuple[int, ...] | None = None, **expected: Any):
    def register(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        CASES[build.__name__] = Case(build, shape, other, **expected)
        return build

    return register


class Net(nn.Module):
    """Layers by name, and the forward as a function of them and the input."""

    def __init__(self, steps: Callable[..., Any], **layers: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.steps = steps
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, *inputs: Tensor) -> Any:
        return self.steps(self, *inputs)


class Do(nn.Module):
    """A function of one tensor as a layer."""

    def __init__(self, function: Callable[[Tensor], Tensor], name: str = "") -> None:
        super().__init__()
        self.function, self.name = function, name

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)

    def extra_repr(self) -> str:
        return self.name


def conv(inputs: int, units: int, kernel: int = 3, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, units, kernel, **{"padding": kernel // 2, **options})


def block(inputs: int, units: int, kernel: int = 3, **options: Any) -> nn.Sequential:
    return nn.Sequential(conv(inputs, units, kernel, bias=False, **options), nn.BatchNorm2d(units), nn.ReLU())


def mean(x: Tensor) -> Tensor:
    return x.mean((2, 3))


IMAGE, OTHER = (3, 10, 10), (3, 13, 9)


# Streams


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


# Concatenations, slices, splits


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


# Padding and pooling


@case(IMAGE, OTHER, exact=False, stays="varies")
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


# Convolutions of every kind


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


# Normalizations


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


# Activations


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    kind.__name__.lower(): kind
    for kind in (
        *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish),
        *(nn.Hardsigmoid, nn.Hardtanh, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Softsign, nn.Softshrink, nn.Hardshrink),
        *(nn.Tanhshrink, nn.LogSigmoid, nn.PReLU, nn.Identity, nn.Dropout, nn.Dropout2d, nn.AlphaDropout, nn.RReLU),
    )
}
ACTIVATIONS |= {
    "prelu_of_channels": lambda: nn.PReLU(8),
    "clamp": lambda: Do(lambda x: x.clamp(-0.5, 2)),
    "threshold": lambda: nn.Threshold(0.1, 0.3),
    "square": lambda: Do(lambda x: x**2 + 1),
    "absolute": lambda: Do(lambda x: x.abs().sqrt()),
    "exponential": lambda: Do(lambda x: (x / 4).exp()),
    "sine": lambda: Do(torch.sin),
    "where": lambda: Do(lambda x: torch.where(x > 0, x, 0.1 * x)),
    "maximum": lambda: Do(lambda x: torch.maximum(x, 0.2 * x)),
    "sign": lambda: Do(lambda x: x * x.sign()),
    "reciprocal": lambda: Do(lambda x: 1 / (1 + x.abs())),
    "as_relu6": lambda: Do(lambda x: x * F.relu6(x + 3) / 6),
}


def _activation(name: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        return nn.Sequential(
            conv(3, 8),
            ACTIVATIONS[name](),
            conv(8, 8, padding=0),
            ACTIVATIONS[name](),
            nn.Flatten(2),
            Do(lambda x: x.mean(2)),
            nn.Linear(8, 4),
        )

    build.__name__ = f"activation_{name}"
    return build


for _name in ACTIVATIONS:
    case(IMAGE, OTHER, exact=_name != "sign")(_activation(_name))


# Layers used twice


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


# Attention and embeddings


@case((6, 8), (9, 8), exact=False)
def attention():
    return Net(
        lambda m, x: m.fc(m.b(F.gelu(m.a(x + m.att(x, x, x, need_weights=False)[0]))).mean(1)),
        att=nn.MultiheadAttention(8, 2, batch_first=True),
        a=nn.Linear(8, 16),
        b=nn.Linear(16, 8),
        fc=nn.Linear(8, 4),
    )


@case((6, 8), (9, 8), exact=False)
def transformer_encoder():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)
    return nn.Sequential(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(8, 4))


@case((6, 8), (9, 8), exact=False)
def transformer_encoder_after():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    return nn.Sequential(nn.TransformerEncoder(layer, 1, enable_nested_tensor=False), nn.Linear(8, 4))


@case((6, 8), (9, 8), exact=False)
def attention_by_hand():
    def steps(m, x):
        n, t, _ = x.shape
        q, k, v = m.qkv(x).reshape(n, t, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        y = ((q @ k.transpose(-2, -1)) / 2).softmax(-1) @ v
        y = x + m.out(y.transpose(1, 2).reshape(n, t, 8))
        return y + m.b(F.gelu(m.a(m.norm(y))))

    return Net(
        steps,
        qkv=nn.Linear(8, 24),
        out=nn.Linear(8, 8),
        norm=nn.LayerNorm(8),
        a=nn.Linear(8, 16),
        b=nn.Linear(16, 8),
    )


@case((7,), (9,), words=11)
def embedding():
    return Net(
        lambda m, x: m.fc(m.b(F.relu(m.a(m.table(x)))).mean(1)),
        table=nn.Embedding(11, 6),
        a=nn.Linear(6, 10),
        b=nn.Linear(10, 8),
        fc=nn.Linear(8, 4),
    )


@case((7,), (7,), words=11, exact=False)
def positions_and_class_token():
    def steps(m, x):
        y = m.table(x) + m.position
        y = torch.cat([m.token.expand(len(y), -1, -1), y], 1)
        return m.fc((y + m.b(F.gelu(m.a(m.norm(y)))))[:, 0])

    return Net(
        steps,
        table=nn.Embedding(11, 6),
        position=nn.Parameter(torch.randn(1, 7, 6)),
        token=nn.Parameter(torch.randn(1, 1, 6)),
        norm=nn.LayerNorm(6),
        a=nn.Linear(6, 12),
        b=nn.Linear(12, 6),
        fc=nn.Linear(6, 4),
    )


@case((6, 8), (9, 8), exact=False)
def mixer():
    return Net(
        lambda m, x: m.fc((x + m.b(F.gelu(m.a(x)))).mean(1)),
        a=nn.Linear(8, 16),
        b=nn.Linear(16, 8),
        fc=nn.Linear(8, 4),
    )


# Movements


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


# Recurrent layers


@case((6, 5), (9, 5), exact=False)
def recurrent():
    return Net(
        lambda m, x: m.fc(F.relu(m.b(m.lstm(F.relu(m.a(x)))[0][:, -1]))),
        a=nn.Linear(5, 8),
        lstm=nn.LSTM(8, 6, batch_first=True),
        b=nn.Linear(6, 8),
        fc=nn.Linear(8, 4),
    )


@case((6, 5), (9, 5), exact=False)
def gated_recurrent():
    return Net(
        lambda m, x: m.fc(F.relu(m.b(m.gru(x)[0]))),
        gru=nn.GRU(5, 6, batch_first=True, bidirectional=True),
        b=nn.Linear(12, 8),
        fc=nn.Linear(8, 4),
    )


# Outputs


@case(IMAGE, OTHER)
def outputs_by_name():
    def steps(m, x):
        y = m.a(x)
        return {"map": m.b(y), "label": [m.fc(mean(m.c(y))), None]}

    return Net(steps, a=block(3, 8), b=conv(8, 2), c=block(8, 6), fc=nn.Linear(6, 4))


@case(IMAGE, OTHER)
def features_are_returned():
    return Net(lambda m, x: (m.c(m.b(y := m.a(x))), y), a=block(3, 8), b=block(8, 6), c=conv(6, 4))


# Zeros


@torch.no_grad()
def randomize(model: nn.Module) -> None:
    """Draw every bias, scale, shift and running statistic, so that no constant is 0 by habit."""
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.ndim == 1:
                nn.init.uniform_(parameter, 0.5, 1.5) if name == "weight" else nn.init.normal_(parameter)
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_var is not None:
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 1.5)


def leaf(layer: nn.Module) -> Tensor:
    """Return what a layer's rows are zeroed by, rows first: its weight, or the tensor that it is computed from."""
    if not parametrize.is_parametrized(layer, "weight"):
        return rows(layer)
    sources = layer.parametrizations.weight
    return sources.original0 if hasattr(sources, "original0") else sources.original


@torch.no_grad()
def plant(model: nn.Module, rng: random.Random, found: Units | None = None) -> dict[str, Tensor]:
    """Zero rows of every layer, sometimes columns or single taps; return the rows. `found` spares the last layers."""
    dead: dict[str, Tensor] = {}
    whole = rng.random() < 0.1
    for name, layer in weighted(model).items():
        weight = leaf(layer)
        if (found is not None and found.fixed.get(name) == "writes the model's output") or len(weight) < 2:
            continue
        fraction = rng.choice([0.3, 0.5, 0.5, 0.7, 1.0 if whole else 0.5])
        index = rng.sample(range(len(weight)), int(fraction * len(weight)))
        weight[index] = 0
        dead[name] = torch.zeros(len(weight), dtype=torch.bool)
        dead[name][index] = True
        if weight.ndim > 1 and weight.shape[1] > 2 and rng.random() < 0.3:
            weight[:, rng.sample(range(weight.shape[1]), weight.shape[1] // 3)] = 0
        if weight.ndim == 4 and rng.random() < 0.3:
            weight[..., 0, 0] = 0
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d) and norm.affine and rng.random() < 0.2:
            norm.weight[rng.sample(range(len(norm.weight)), len(norm.weight) // 3)] = 0
    return dead


def planted(found: Units, dead: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the units of each inner group all of whose rows were zeroed, (units,)."""
    gone: dict[str, Tensor] = {}
    for name, group in found.items():
        if group.kind == "inner":
            gone[name] = torch.ones(group.size, dtype=torch.bool)
            for member in group.writers:
                rows_of = dead.get(member.layer, torch.zeros(len(member.index), dtype=torch.bool))
                gone[name][member.index[(member.index >= 0) & ~rows_of]] = False
    return gone


# Random networks


class Residual(nn.Module):
    def __init__(self, branch: nn.Module, short: nn.Module) -> None:
        super().__init__()
        self.branch, self.short = branch, short

    def forward(self, x: Tensor) -> Tensor:
        return self.short(x) + self.branch(x)


class Both(nn.Module):
    """Two branches, concatenated."""

    def __init__(self, left: nn.Module, right: nn.Module) -> None:
        super().__init__()
        self.left, self.right = left, right

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.left(x), self.right(x)], 1)


class Gate(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, channels: int, units: int, last: nn.Module) -> None:
        super().__init__()
        self.a, self.b, self.last = conv(channels, units, 1), conv(units, channels, 1), last

    def forward(self, x: Tensor) -> Tensor:
        return x * self.last(self.b(F.relu(self.a(x.mean((2, 3), keepdim=True)))))


class Halves(nn.Module):
    """A layer on one half of the channels, then both halves, the other first."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, 1)
        return torch.cat([right, self.layer(left)], 1)


class Positions(nn.Module):
    """Layers over the last axis of channels, applied to a map."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, x.shape[2:])


class Scale(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.randn(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class Attention(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(channels, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.attention(x, x, x, need_weights=False)[0]


Made = tuple[nn.Module, int]


class Draw:
    """Layers for maps of some channels, drawn at random; each method returns a module and its number of channels."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    def width(self) -> int:
        return self.rng.choice([4, 6, 8])

    def activation(self) -> nn.Module:
        name = self.rng.choice(["relu", *ACTIVATIONS])
        return nn.PReLU() if name == "prelu_of_channels" else ACTIVATIONS[name]()

    def same(self, channels: int, depth: int = 0) -> nn.Module:
        """Return one or two layers that keep shape and channels."""
        units = self.width()
        kernel = self.rng.choice([1, 3])
        layers: list[nn.Module] = [conv(channels, units, kernel, bias=self.rng.random() < 0.7)]
        if self.rng.random() < 0.5:
            layers.append(nn.BatchNorm2d(units))
        layers += [self.activation(), conv(units, channels, self.rng.choice([1, 3]))]
        return nn.Sequential(*layers)

    def convolution(self, c: int) -> Made:
        units, kernel = self.width(), self.rng.choice([1, 3, 3])
        options: dict[str, Any] = {"bias": self.rng.random() < 0.6}
        if self.rng.random() < 0.3:
            options["padding_mode"] = self.rng.choice(["reflect", "replicate", "circular"])
        elif self.rng.random() < 0.3:
            options["padding"] = self.rng.choice(["same", 1, 2])
        return conv(c, units, kernel, **options), units

    def normalized(self, c: int) -> Made:
        units = self.width()
        norm = self.rng.choice(
            [nn.BatchNorm2d(units)] * 3 + [nn.InstanceNorm2d(units, affine=True), nn.GroupNorm(2, units)]
        )
        return nn.Sequential(conv(c, units, bias=False), norm, self.activation()), units

    def pointwise(self, c: int) -> Made:
        return self.rng.choice([self.activation, lambda: nn.BatchNorm2d(c), lambda: Scale(c), lambda: nn.PReLU(c)])(), c

    def depthwise(self, c: int) -> Made:
        times = self.rng.choice([1, 1, 2])
        return conv(c, c * times, self.rng.choice([1, 3]), groups=c, padding=self.rng.choice([0, 1])), c * times

    def grouped(self, c: int) -> Made:
        groups = 2 if c % 2 == 0 else 1
        units = self.rng.choice([4, 8])
        return nn.Sequential(conv(c, units, 3, groups=groups), self.activation()), units

    def transposed(self, c: int) -> Made:
        units = self.rng.choice([4, 6])
        groups = 2 if c % 2 == 0 and self.rng.random() < 0.3 else 1
        return nn.ConvTranspose2d(c, units, 3, padding=1, groups=groups, bias=self.rng.random() < 0.7), units

    def pool(self, c: int) -> Made:
        pools = nn.MaxPool2d(3, 1, 1), nn.AvgPool2d(3, 1, 1), nn.AvgPool2d(3, 1, 1, count_include_pad=False)
        return self.rng.choice([*pools, nn.MaxPool2d(2, 1), nn.AvgPool2d(2, 1), nn.LPPool2d(2, 1)]), c

    def resized(self, c: int) -> Made:
        up = nn.Upsample(scale_factor=2, mode=self.rng.choice(["nearest", "bilinear"]))
        return nn.Sequential(up, self.rng.choice([nn.MaxPool2d(2), nn.AvgPool2d(2), conv(c, c, 3, stride=2)])), c

    def moved(self, c: int) -> Made:
        moves: dict[str, Callable[[Tensor], Tensor]] = {
            "flip channels": lambda x: x.flip(1),
            "roll channels": lambda x: x.roll(1, 1),
            "flip pixels": lambda x: x.flip(2),
            "transpose": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
            "pad pixels": lambda x: F.pad(x, (1, 0, 0, 1), value=0.5),
            "pad channels": lambda x: F.pad(x, (0, 0, 0, 0, 1, 1)),
            "drop a channel": lambda x: x[:, 1:],
            "reverse twice": lambda x: torch.cat([x[:, -2:], x[:, :-2]], 1),
            "repeat": lambda x: x.repeat(1, 2, 1, 1),
            "double": lambda x: torch.cat([x, x * 2 - 1], 1),
            "of neighbours": lambda x: x + x.roll(1, 3),
            "of channels": lambda x: x - x.mean(1, keepdim=True),
            "gate": lambda x: x * x.mean((2, 3), keepdim=True).sigmoid(),
            "maximum": lambda x: torch.maximum(x, x.mean((2, 3), keepdim=True)),
        }
        if c % 2 == 0:
            moves["shuffle"] = shuffled
            moves["glu"] = lambda x: F.glu(x, 1)
            moves["multiply halves"] = lambda x: torch.mul(*x.chunk(2, 1))
            moves["fold"] = lambda x: x.view(x.size(0), 2, -1, *x.shape[2:]).sum(1)
        if c % 4 == 0:
            moves["shuffle and back"] = lambda x: F.pixel_unshuffle(F.relu(F.pixel_shuffle(x, 2)), 2)
        name = self.rng.choice(list(moves))
        more = {"pad channels": c + 2, "drop a channel": c - 1, "repeat": 2 * c, "double": 2 * c}
        more |= dict.fromkeys(("glu", "multiply halves", "fold"), c // 2)
        return Do(moves[name], name), more.get(name, c)

    def residual(self, c: int) -> Made:
        if self.rng.random() < 0.4:
            units = self.width()
            return Residual(nn.Sequential(self.same(c), conv(c, units)), conv(c, units, 1)), units
        return nn.Sequential(Residual(self.same(c), nn.Identity()), self.activation()), c

    def padded_residual(self, c: int) -> Made:
        short = Do(lambda x: F.pad(x, (0, 0, 0, 0, 2, 2)), "pad channels by 2")
        return Residual(nn.Sequential(self.same(c), conv(c, c + 4)), short), c + 4

    def concatenated(self, c: int) -> Made:
        units = self.width()
        left = conv(c, units, self.rng.choice([1, 3]))
        right: Made = self.rng.choice([(nn.Identity(), c), (self.same(c), c)])
        return Both(nn.Sequential(left, self.activation()), right[0]), units + right[1]

    def gated(self, c: int) -> Made:
        return Gate(c, self.width(), self.rng.choice([nn.Sigmoid(), nn.Hardsigmoid(), nn.Tanh()])), c

    def halves(self, c: int) -> Made:
        return (Halves(self.same(c // 2)), c) if c % 2 == 0 else self.pointwise(c)

    def twice(self, c: int) -> Made:
        layer = conv(c, c, 3)
        return nn.Sequential(layer, self.activation(), layer), c

    def normed_weight(self, c: int) -> Made:
        units = self.width()
        return nn.Sequential(parametrizations.weight_norm(conv(c, units)), self.activation()), units

    def tokens(self, c: int) -> Made:
        units = self.width()
        layers: list[nn.Module] = [nn.Linear(c, units), nn.GELU(), nn.Linear(units, 4)]
        if self.rng.random() < 0.5:
            layers.insert(0, nn.LayerNorm(c))
        if self.rng.random() < 0.4:
            layers.append(Attention(4))
        return Positions(*layers), 4

    def layer(self, c: int) -> Made:
        common = [self.convolution, self.normalized, self.pointwise, self.residual, self.moved]
        rare = [
            self.depthwise,
            self.grouped,
            self.transposed,
            self.pool,
            self.resized,
            self.padded_residual,
            self.twice,
        ]
        rare += [self.concatenated, self.gated, self.halves, self.normed_weight, self.tokens]
        made = self.rng.choice(common * 2 + rare)
        return made(c) if c > 1 else self.convolution(c)

    def head(self, c: int, side: int) -> nn.Module:
        fc = nn.Linear(c, 3)
        return self.rng.choice(
            [
                nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), fc),
                nn.Sequential(nn.Flatten(), nn.LazyLinear(3)),
                nn.Sequential(conv(c, 5), nn.ReLU(), conv(5, 2, 1)),
                nn.Sequential(Do(lambda x: x.amax((2, 3))), nn.Linear(c, 6), nn.Tanh(), nn.Linear(6, 3)),
                Net(lambda m, x: {"map": m.a(x), "label": (m.fc(mean(x)), None)}, a=conv(c, 2), fc=fc),
            ]
        )


def random_network(seed: int) -> Case:
    """Return a network of five to twelve layers after a first convolution; the same for the same seed."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    draw = Draw(rng)
    shape = (3, rng.choice([5, 6]), rng.choice([5, 7]))
    first = draw.width()
    layers, c = [conv(3, first)], first
    for _ in range(rng.randint(5, 12)):
        layer, c = draw.layer(c)
        layers.append(layer)
        if c > 12:
            layers.append(conv(c, 6, 1))
            c = 6
    model = nn.Sequential(*layers, draw.head(c, shape[1])).eval()
    model(torch.zeros(1, *shape))
    model.double()
    randomize(model)
    lazy = isinstance(model[-1], nn.Sequential) and isinstance(model[-1][0], nn.Flatten)
    return Case(lambda: model, shape, None if lazy else (3, shape[1] + 4, shape[2] + 1))
