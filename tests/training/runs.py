"""A small network on small data, and what tests of a training ask of both."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from pruning_lib.companion.models import LeNet300
from pruning_lib.training import Callback, Run, TensorPair


def pair(n: int, seed: int) -> TensorPair:
    g = torch.Generator().manual_seed(seed)
    inputs = torch.randn(n, 1, 4, 4, generator=g)
    return TensorPair(inputs, (inputs.flatten(1)[:, :3] * 2).argmax(1))


TRAIN, VAL = pair(90, 0), pair(40, 1)


def network(seed: int = 0, **more: Any) -> LeNet300:
    torch.manual_seed(seed)
    return LeNet300(classes=3, inputs=(1, 4, 4), widths=(12, 8), **more)


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


class StoppedError(Exception):
    """A run that was ended from outside."""


class Stops(Callback):
    """Ends a run before an epoch is begun; None: never. A private number, since public ones belong to the run."""

    def __init__(self, epoch: int | None) -> None:
        self._epoch = epoch

    def before_epoch(self, run: Run) -> None:
        if run.epoch == self._epoch:
            raise StoppedError
