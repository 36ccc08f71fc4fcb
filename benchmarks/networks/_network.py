"""A network, an example for it, and other inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Network:
    """How a network is built, and what it takes.

    Parameters
    ----------
    build : callable
        Returns the network; weights are drawn under the caller's seed.
    shapes : mapping of str to tuple of int
        The shape of one sample of each argument of forward; a network of one argument has the name "".
    words : mapping of str to int
        Arguments that hold integers, and the number below which they are.
    lengths : tuple of int
        The numbers in `shapes` that are lengths: sides of an image, tokens of a text.
    """

    build: Callable[[], nn.Module]
    shapes: Mapping[str, Shape] = field(default_factory=lambda: {"": (3, 64, 64)})
    words: Mapping[str, int] = field(default_factory=dict)
    lengths: tuple[int, ...] = (64,)

    def example(self, batch: int = 2, *changes: int) -> Any:
        """Return random inputs; `changes` are added to the lengths, to one after the other, the last to all the rest.

        Other arguments of the same length, as masks, change with it.
        """
        made = {name: self._draw(name, batch, shape, changes) for name, shape in self.shapes.items()}
        return made.get("", made)

    def _draw(self, name: str, batch: int, shape: Shape, changes: tuple[int, ...]) -> Tensor:
        size, seen = [batch], 0
        for side in shape:
            if side in self.lengths and changes:
                side += changes[min(seen, len(changes) - 1)]
                seen += 1
            size.append(max(side, 1))
        if name.endswith("mask"):  # all of the first sample, less of each other
            mask = torch.ones(size, dtype=torch.int64)
            for i in range(1, batch):
                mask[i, size[-1] - i % max(size[-1] // 2, 1) :] = 0
            return mask
        words = self.words.get(name)
        return torch.randint(words, size) if words else torch.randn(size)

    def others(self) -> list[Any]:
        """Return inputs of other batches and lengths."""
        lengths = max(self.lengths)
        steps = (32, -32) if lengths >= 64 else (5, -4, 1)
        found = [self.example(1), self.example(5)]
        for step in steps:
            found += [self.example(3, step), self.example(1, step, 0)]
        return found if lengths >= 64 else [*found, self.example(2, lengths)]


def images(build: Callable[[], nn.Module], side: int = 64) -> Network:
    """Return a network that takes square images of three colours."""
    return Network(build, {"": (3, side, side)}, lengths=(side,))
