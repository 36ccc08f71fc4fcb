"""Random networks, made of blocks that keep a map a map."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from tests.networks.activations import ACTIVATIONS
from tests.networks.cases import Case, Do, Net, conv, mean
from tests.networks.movements import shuffled
from tests.networks.zeros import randomize


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
