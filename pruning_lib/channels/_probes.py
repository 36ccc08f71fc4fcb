"""Inputs to compare on: few, each of which varies several things that the trace held fixed.

What may vary are lengths: the sides of an image, the tokens of a text. No shape says which axes these are, so several
are tried, and what the untouched model refuses is passed over. Light inputs come first: they tell as much.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pruning_lib._inputs import Inputs

LENGTHS: dict[int, list[tuple[int, ...]]] = {
    # (batch, tokens) · (batch, tokens, channels), (batch, channels, time) · images · videos, channels second or last
    2: [(1,)],
    3: [(1,), (2,), (1, 2)],
    4: [(2, 3), (1, 2), (1,)],
    5: [(2, 3, 4), (1, 3, 4), (1, 2, 3)],
}
"""Which axes of a tensor, by their number, may be lengths: one choice after the other."""
Resize = Callable[[int], int]
SMALLER: list[Resize] = [
    lambda length: length // 4 + 5 if length >= 128 else length // 2 + 5 if length >= 64 else max(length - 1, 1),
    lambda length: length // 2 + 5 if length >= 64 else max(length - 1, 1),  # for networks that need larger maps
    lambda length: max(length // 2, 1),  # for networks that halve their maps
]
LARGER: list[Resize] = [
    lambda length: length + 5,
    lambda length: length + 32 if length >= 64 else 2 * length,
]


def probes(inputs: Inputs, words: Sequence[int] = ()) -> Iterator[Iterable[Inputs]]:
    """Yield inputs to compare on, each as choices of which the first that the dense model accepts is used.

    The example; random numbers in another batch, one sample of it large, shorter than the example; and a single longer
    sample. Where no length may differ, the second is as long as the example, and the third falls away.

    Parameters
    ----------
    words : sequence of int
        Of each tensor of the inputs, the entries of the table that it is looked up in, else 0.
    """
    yield [inputs]
    draw = _Draw(inputs, list(words) or [0] * len(inputs.tensors))
    yield (one for batch in (3, inputs.batch) for one in (*draw.resized(batch, SMALLER), draw(batch)))
    yield (one for batch in (1, inputs.batch) for one in draw.resized(batch, LARGER))


@dataclass
class _Draw:
    """Random inputs like others."""

    inputs: Inputs
    words: list[int]
    generator: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))

    def resized(self, batch: int, sizes: Sequence[Resize]) -> Iterator[Inputs]:
        """Yield inputs of other lengths, for each choice of what is a length: of all tensors, then of one alone."""
        tensors = self.inputs.tensors
        choices = max((len(LENGTHS.get(tensor.ndim, [])) for tensor in tensors), default=0)
        tried = set[tuple[torch.Size, ...]]()
        for alone in [None, *range(len(tensors))] if len(tensors) > 1 else [None]:
            for resize in sizes:
                for choice in range(choices):
                    drawn = self(batch, resize, choice, alone)
                    shapes = tuple(tensor.shape for tensor in drawn.tensors)
                    if shapes not in tried:
                        tried.add(shapes)
                        yield drawn

    def __call__(self, batch: int, resize: Resize | None = None, choice: int = 0, alone: int | None = None) -> Inputs:
        tensors = self.inputs.tensors
        axes = [options[min(choice, len(options) - 1)] for options in (LENGTHS.get(t.ndim, [()]) for t in tensors)]
        axes = [mine if alone in (None, i) else () for i, mine in enumerate(axes)]
        # Lengths of one tensor are those of the others: a mask has as many columns as there are tokens.
        lengths = {t.shape[axis] for t, mine in zip(tensors, axes, strict=True) for axis in mine} - {1}
        others = [set[int](), *[lengths] * len(tensors)] if alone is None else [lengths] * len(tensors)
        remaining = iter(zip(axes, others, self.words, strict=False))

        def like(tensor: Tensor) -> Tensor:
            mine, same, words = next(remaining)
            shape = list(tensor.shape)
            for axis, size in enumerate(tensor.shape):
                if axis == 0 and size == self.inputs.batch:
                    shape[0] = batch
                elif resize and (axis in mine or size in same):
                    shape[axis] = resize(size)
            return self.fill(tensor, shape, words)

        return self.inputs.map(like)

    def fill(self, tensor: Tensor, shape: list[int], words: int) -> Tensor:
        """Return random numbers, entries of a table, or the example's own elements over and over."""
        if tensor.ndim and (tensor.is_floating_point() or tensor.is_complex()):
            drawn = torch.randn(shape, generator=self.generator, dtype=torch.promote_types(tensor.dtype, torch.float32))
            drawn[2:] *= 10
            return drawn.to(tensor)
        if words and tensor.ndim:
            return torch.randint(words, shape, generator=self.generator).to(tensor)
        for axis, size in enumerate(shape):
            tensor = tensor.index_select(axis, torch.arange(size, device=tensor.device) % tensor.shape[axis])
        return tensor
