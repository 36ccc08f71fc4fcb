"""The training that every bridge has to equal: written out, with the two lines of a regularizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pruning_lib as prl

Make = Callable[[nn.Module], prl.Regularizer]
BATCHES, SIZE, RATE = 5, 6, 0.1

# A proximal map, a term of the loss, a method that reads outputs and draws, a sampling: all the ways to take part.
METHODS: dict[str, Make] = {
    "GroupLasso": lambda model: prl.GroupLasso(model, strength=0.3),
    "NetworkSlimming": lambda model: prl.NetworkSlimming(model, strength=0.1),
    "SeReNe": lambda model: prl.SeReNe(model, strength=0.05),
    "StochasticPruning": lambda model: prl.StochasticPruning(model, strength=1e-2),
}


class Raise(prl.Callback):
    """Raises the strength after each epoch and keeps a log, as a control of the strength does."""

    def __init__(self, factor: float = 1.5, last: int | None = None) -> None:
        self.factor, self.last = factor, last
        self.log: list[float] = []
        self.calls: list[str] = []
        self.plan: tuple[int, int, float] | None = None

    def start(self, run: prl.training.Run) -> None:
        self.plan = run.epochs, run.batches, run.schedule(0.5)
        self.calls.append("start")

    def before_epoch(self, run: prl.training.Run) -> None:
        self.calls.append(f"before {run.epoch}")

    def after_epoch(self, run: prl.training.Run) -> None:
        assert run.regularizer is not None
        self.calls.append(f"after {run.epoch}")
        run.regularizer.strength *= self.factor
        self.log.append(run.regularizer.strength)
        run.stop = len(self.log) == self.last

    def finish(self, run: prl.training.Run) -> None:
        self.calls.append("finish")

    def close(self) -> None:
        self.calls.append("close")

    def state_dict(self) -> dict[str, Any]:
        return {"log": list(self.log)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.log = list(state["log"])


EXPECTED_CALLS = ["start", "before 0", "after 1", "before 1", "after 2", "finish", "close"]


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(96, 8), nn.ReLU(),
        nn.Linear(8, 3),
    )  # fmt: skip


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    examples = BATCHES * SIZE
    return torch.randn(examples, 1, 4, 4, generator=generator), torch.randint(3, (examples,), generator=generator)


def batches() -> list[tuple[Tensor, Tensor]]:
    return list(zip(*(part.split(SIZE) for part in data()), strict=True))


def optimizer(model: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), RATE, momentum=0.9)


def plain(
    make: Make | None, *, epochs: int = 2, accumulate: int = 1, short: bool = False, autocast: bool = False
) -> tuple[nn.Module, list[float]]:
    """Train the network; with `short`, what accumulates at an epoch's end is a mean over as many batches as there are.

    The strength is raised after each epoch, as `Raise` does.
    """
    model = network()
    step, reg = optimizer(model), make(model) if make else None
    log = []
    for _ in range(epochs):
        todo = batches()
        for i, (x, y) in enumerate(todo):
            first = i - i % accumulate
            share = min(accumulate, len(todo) - first) if short else accumulate
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                logits = model(x)
                loss = F.cross_entropy(logits, y)
            if reg is not None:
                loss = loss + reg.penalty(logits.float())
            (loss / share).backward()
            if (i + 1) % accumulate == 0 or i + 1 == len(todo):
                step.step()
                if reg is not None:
                    reg.update(step)
                step.zero_grad()
        if reg is not None:
            reg.strength *= 1.5
            log.append(reg.strength)
    return model, log


def same(one: nn.Module, other: nn.Module, atol: float = 0.0) -> None:
    expected = other.state_dict()
    for name, value in one.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=atol)
