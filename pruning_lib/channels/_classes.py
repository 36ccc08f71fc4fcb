"""Which channels stay or go together: labels, joined by what the operators say.

Why classes: a sum y = f(x) + g(x) has one channel 3, and both f and g write it. It can go only from both at once, and
from whatever reads y as well. So every operator says which labels it makes the same, and a class goes or stays whole.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pruning_lib.channels._shapes import align, common, distinct, first_along, narrow, repeated, varies


class Classes:
    """Channels that stay or go together: labels, which of them are the same, and why some cannot go.

    What is said about labels is written down and joined when somebody asks: all at once is a hundred times faster.
    """

    def __init__(self) -> None:
        self._count = 1
        self._pairs: list[Tensor] = []
        self._pins: list[tuple[Tensor, str]] = []
        self._roots: Tensor | None = None
        self._pinned: dict[int, str] | None = None

    def new(self, count: int) -> Tensor:
        """Return `count` labels, each a class of its own."""
        self._roots = self._pinned = None
        self._count += count
        return torch.arange(self._count - count, self._count)

    def union(self, left: Tensor, right: Tensor, reason: str) -> None:
        """Join two broadcastable tensors of labels element by element; what meets label 0 is pinned for `reason`."""
        dims = max(left.ndim, right.ndim)
        left, right = align(left, dims), align(right, dims)
        shape = [max(pair) for pair in zip(left.shape, right.shape, strict=True)]
        left, right = common(left.expand(shape), right.expand(shape))
        differ = left != right
        # Label 0, which is not a class, is the smaller one wherever it takes part: nothing joins it, it pins.
        low, high = torch.minimum(left[differ], right[differ]), torch.maximum(left[differ], right[differ])
        self.pin(high[low == 0], reason)
        # A pair as one number, so that one sort finds the pairs that differ: a map of a million pixels repeats a few.
        pairs = distinct((low[low > 0] << 32) | high[low > 0])
        self._pairs.append(torch.stack([pairs >> 32, pairs & 0xFFFFFFFF]))
        self._roots = self._pinned = None

    def pin(self, labels: Tensor, reason: str) -> None:
        """Keep the classes of these labels, whatever else is said of them."""
        self._pins.append((distinct(narrow(labels).reshape(-1)), reason))
        self._pinned = None

    def hold(self, labels: Tensor, axes: Sequence[int], reason: str) -> Tensor:
        """Keep the length of some axes: channels that differ along them alone stay, all others go along them as one.

        Returns the labels as they are then, the same along these axes where channels were joined.
        """
        if not bool(varies(labels, axes).any()):
            return labels
        first = first_along(labels, axes, keepdim=True)
        if narrow(repeated(first)).numel() == 1:
            self.pin(labels, reason)
            return labels
        self.union(first, labels, reason)
        return first.expand(labels.shape)

    @property
    def roots(self) -> Tensor:
        """The class of every label, named by its smallest label."""
        if self._roots is None:
            pairs = torch.cat([torch.zeros((2, 0), dtype=torch.int64), *self._pairs], 1)
            self._roots = components(self._count, pairs[0], pairs[1])
        return self._roots

    @property
    def pinned(self) -> dict[int, str]:
        """The classes that cannot go, and why."""
        if self._pinned is None:
            self._pinned = {}
            for labels, reason in self._pins:
                for root in distinct(self.roots[labels]).tolist():
                    if root:
                        self._pinned.setdefault(root, reason)
        return self._pinned


def components(count: int, left: Tensor, right: Tensor) -> Tensor:
    """Return the smallest node that each of `count` nodes is connected with, by the edges (left, right)."""
    roots = torch.arange(count)
    while True:
        # Hang both ends of every edge on the smaller of their roots, then let all chains of roots collapse.
        low = torch.minimum(roots[left], roots[right])
        hooked = roots.scatter_reduce(0, roots[left], low, "amin").scatter_reduce(0, roots[right], low, "amin")
        while not torch.equal(further := hooked[hooked], hooked):
            hooked = further
        if torch.equal(hooked, roots):
            return roots
        roots = hooked
