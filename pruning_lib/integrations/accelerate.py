"""A regularizer in a training loop with Accelerate, which stays yours: the package itself is not imported here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

from pruning_lib.integrations._attached import Attached, Plan
from pruning_lib.regularizers import Regularizer
from pruning_lib.training import Callback, Schedule, constant


class Epochs:
    """The epochs of a training; what `regularize` returns.

    Iterating gives their numbers, from the first that is not done: after ``accelerator.load_state``, the one after the
    checkpoint.
    """

    def __init__(self, attached: Attached, model: nn.Module, optimizer: Optimizer, plan: Plan) -> None:
        self._attached, self._model, self._optimizer, self._plan = attached, model, optimizer, plan

    def __iter__(self) -> Iterator[int]:
        attached = self._attached
        try:
            attached.start(self._model, self._optimizer, self._plan)
            stop = False
            while attached.epoch < self._plan.epochs and not stop:
                epoch = attached.epoch
                attached.before_epoch(epoch)
                yield epoch
                stop = attached.after_epoch(epoch)
            attached.finish()
        finally:
            attached.close()

    def done(self) -> None:
        """End this epoch now, before its checkpoint is saved; else it ends when the next one is asked for."""
        self._attached.after_epoch(self._attached.epoch)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the regularizer and of the callbacks, and how many epochs are done."""
        return self._attached.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore it."""
        self._attached.load_state_dict(state)


def regularize(
    accelerator: Any,
    regularizer: Regularizer,
    model: nn.Module,
    optimizer: Optimizer,
    *,
    epochs: int,
    callbacks: Iterable[Callback] = (),
    steps: int = 0,
    schedule: Schedule = constant,
) -> Epochs:
    """Let a regularizer follow an optimizer of Accelerate, and return the epochs to train.

    ``reg.update(optimizer)`` follows each step that is taken, also under ``accelerator.accumulate`` and mixed
    precision. ``accelerator.save_state`` and ``load_state`` hold the state of the regularizer and the callbacks. The
    penalty is a term of your loss: ``accelerator.backward(loss + reg.penalty(outputs))``.

    Parameters
    ----------
    accelerator : accelerate.Accelerator
        That prepared the optimizer.
    regularizer : Regularizer
        Of the model.
    model : nn.Module
        As ``accelerator.prepare`` returned it, or as it went in.
    optimizer : Optimizer
        Likewise.
    epochs : int
        How many there are in all.
    callbacks : iterable of pruning_lib.Callback
        Around each epoch, as in `fit`; ``run`` has no data and no history here. One that sets ``run.stop`` ends the
        iteration.
    steps : int
        Steps of the optimizer in all, for callbacks that plan (`TargetSize`).
    schedule : callable
        Progress in [0, 1) → factor on the learning rate, for the same.

    Returns
    -------
    Epochs
        Iterate over it once.

    Raises
    ------
    TypeError
        If an argument is of another kind.
    ValueError
        When the iteration begins, if the optimizer trains nothing that the regularizer works on.

    Examples
    --------
    ::

        training = regularize(accelerator, reg, model, optimizer, epochs=10)
        for epoch in training:
            for x, y in loader:
                with accelerator.accumulate(model):
                    logits = model(x)
                    accelerator.backward(F.cross_entropy(logits, y) + reg.penalty(logits))
                    optimizer.step()
                    optimizer.zero_grad()
            training.done()
            accelerator.save_state("checkpoint")
    """
    if not callable(getattr(accelerator, "register_for_checkpointing", None)):
        raise TypeError(f"regularize got a {type(accelerator).__name__}; it needs an accelerate.Accelerator.")
    if not isinstance(model, nn.Module):
        raise TypeError(f"regularize got a {type(model).__name__} for the model; it needs an nn.Module.")
    plan = Plan(epochs, steps, schedule)
    training = Epochs(Attached(regularizer, callbacks, "regularize"), model, optimizer, plan)
    accelerator.register_for_checkpointing(training)
    return training
