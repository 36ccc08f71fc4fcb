"""Activations, each between two layers."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from tests.networks.cases import IMAGE, OTHER, Do, case, conv

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
