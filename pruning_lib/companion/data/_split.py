"""A data set in three parts, and the two ways to make them: carve examples at random, or deal whole clusters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pruning_lib._types import TensorPair
from pruning_lib.companion._arguments import checked

PARTS = ("train", "val", "test")
SHARES = (0.6, 0.2, 0.2)


@dataclass(frozen=True, eq=False)
class Split:
    """What is trained on, what chooses, and what is looked at once.

    Parameters
    ----------
    train, val, test : TensorPair
        Disjoint sets of examples.
    classes : int
        Number of classes; targets lie in 0 … classes − 1.

    Examples
    --------
    >>> import torch
    >>> pair = TensorPair(torch.zeros(6, 1, 8, 8), torch.zeros(6).long())
    >>> split = Split(pair, pair, pair, classes=2)
    >>> inputs, targets = split.train
    >>> inputs.shape
    torch.Size([6, 1, 8, 8])
    """

    train: TensorPair
    val: TensorPair
    test: TensorPair
    classes: int = 10


@dataclass(frozen=True, eq=False, kw_only=True)
class DetailedSplit(Split):
    """A split of which more is known than inputs and targets.

    Parameters
    ----------
    details : dict of str to dict of str to Tensor
        ``details["test"]["instances"]``: by part (train, val, test) and name, one entry for each example.

    Examples
    --------
    >>> import torch
    >>> pair = TensorPair(torch.zeros(2, 1), torch.zeros(2).long())
    >>> known = {part: {"patient": torch.tensor([7, 7])} for part in ("train", "val", "test")}
    >>> DetailedSplit(pair, pair, pair, classes=2, details=known).details["val"]["patient"]
    tensor([7, 7])
    """

    details: Mapping[str, Mapping[str, Tensor]]


def check_validation(validation: int, examples: int) -> None:
    """Raise one sentence unless `validation` of the training examples can be carved and at least one is left."""
    checked("This set", validation=validation)
    if not 0 < validation < examples:
        raise ValueError(f"validation must lie in 1 … {examples - 1:,} examples, got {validation}.")


def carve(examples: int, validation: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the places of the training and of the validation examples in a permutation that the seed alone decides."""
    order = torch.randperm(examples, generator=torch.Generator().manual_seed(seed)).numpy()
    return order[validation:], order[:validation]


def deal(clusters: np.ndarray, strata: np.ndarray, seed: int) -> list[np.ndarray]:
    """Return the examples of train, val and test: whole clusters, large ones first, where their stratum lacks most.

    Parameters
    ----------
    clusters : ndarray
        (n,) names of what must not be torn apart, such as patients.
    strata : ndarray
        (n,) integers; each stratum is dealt out by `SHARES`. A cluster belongs to the stratum of its first example.
    seed : int
        Of the order of clusters of one size.
    """
    names, first, member, sizes = np.unique(clusters, return_index=True, return_inverse=True, return_counts=True)
    part = np.zeros(len(names), np.int64)
    missing: dict[int, np.ndarray] = {}
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed)).numpy()
    for cluster in order[np.argsort(-sizes[order], kind="stable")]:
        stratum = int(strata[first[cluster]])
        lacks = missing.setdefault(stratum, np.multiply(SHARES, (strata == stratum).sum()))
        part[cluster] = lacks.argmax()
        lacks[part[cluster]] -= sizes[cluster]
    return [np.flatnonzero(part[member.ravel()] == p) for p in range(len(PARTS))]


def detailed(
    parts: list[np.ndarray], pair: Callable[[np.ndarray], TensorPair], details: dict[str, np.ndarray], classes: int
) -> DetailedSplit:
    """Return the split whose parts hold the examples at these places; `pair` makes tensors of them."""
    by_part = {
        name: {key: torch.from_numpy(values[places]) for key, values in details.items()}
        for name, places in zip(PARTS, parts, strict=True)
    }
    train, val, test = map(pair, parts)
    return DetailedSplit(train, val, test, classes, details=by_part)
