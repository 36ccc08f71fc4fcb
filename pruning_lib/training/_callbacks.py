"""What callbacks see of a training, and what they may do around its epochs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from torch import nn
from torch.optim import Optimizer

from pruning_lib._types import LossFn, TensorPair
from pruning_lib.regularizers import Regularizer
from pruning_lib.training._evaluate import Evaluation, evaluate
from pruning_lib.training._schedules import Schedule, constant


@dataclass(frozen=True)
class Epoch:
    """What one epoch gave: losses are means over examples, the training loss without penalty and while training."""

    epoch: int
    train_loss: float
    val_loss: float
    val_accuracy: float
    lr: float
    seconds: float


@dataclass
class History:
    """Epochs in order; `history["val_loss"]` is a column.

    Examples
    --------
    >>> history = History([Epoch(0, 2.1, 1.9, 0.4, 0.1, 0.5), Epoch(1, 1.8, 1.6, 0.5, 0.1, 0.5)])
    >>> history["val_loss"]
    [1.9, 1.6]
    >>> len(history)
    2
    """

    epochs: list[Epoch] = field(default_factory=list)

    def __getitem__(self, column: str) -> list[float]:
        if column not in (known := [each.name for each in fields(Epoch)]):
            raise ValueError(f"A history has no column {column!r}; it has {', '.join(known)}.")
        return [getattr(epoch, column) for epoch in self.epochs]

    def __len__(self) -> int:
        return len(self.epochs)

    def __iter__(self) -> Iterator[Epoch]:
        return iter(self.epochs)


@dataclass(eq=False)
class Run:
    """A training in progress, as callbacks see it; set `stop` to end it after the current epoch.

    `batches` are the steps of an epoch, and `schedule` multiplies the learning rates. Between epochs a callback may set
    the strength of the regularizer, which the strength schedule then multiplies.
    """

    model: nn.Module
    optimizer: Optimizer
    regularizer: Regularizer | None
    train: TensorPair
    val: TensorPair
    loss_fn: LossFn
    epochs: int
    history: History = field(default_factory=History)
    stop: bool = False
    batches: int = 1
    schedule: Schedule = constant

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return len(self.history)

    def evaluate(self, model: nn.Module | None = None) -> Evaluation:
        """Evaluate on the validation set."""
        return evaluate(model or self.model, self.val, loss_fn=self.loss_fn)


class Callback:
    """Something to do around epochs. All methods do nothing here; override those you need.

    Examples
    --------
    >>> class StopsAt(Callback):
    ...     def __init__(self, accuracy):
    ...         self.accuracy = accuracy
    ...
    ...     def after_epoch(self, run):
    ...         run.stop = run.history["val_accuracy"][-1] >= self.accuracy
    """

    def start(self, run: Run) -> None:
        """Before the first step, after a resume too (`load_state_dict` came first)."""

    def before_epoch(self, run: Run) -> None:
        """Before each epoch."""

    def after_epoch(self, run: Run) -> None:
        """After each epoch and its validation, before the checkpoint."""

    def finish(self, run: Run) -> None:
        """After the last epoch, before the last checkpoint."""

    def close(self) -> None:
        """At the very end, after an error too: take away what was put on the model."""

    def state_dict(self) -> dict[str, Any]:
        """Return tensors, numbers and texts that a resumed run needs to equal an uninterrupted one."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""

    def fits(self, run: Run) -> bool:
        """After `load_state_dict`: whether what it restored belongs to this run; False refuses the checkpoint."""
        return True
