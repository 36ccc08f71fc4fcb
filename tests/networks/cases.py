"""A case: a network, the shape of one example, and what to expect; and short words for its layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


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
