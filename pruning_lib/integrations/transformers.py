"""A regularizer in a training by the Trainer of Transformers, or by one that inherits from it."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from pruning_lib.integrations._attached import Attached, Plan, schedule_of
from pruning_lib.regularizers import Regularizer
from pruning_lib.training import Callback

if find_spec("transformers") is None:
    raise ModuleNotFoundError(
        "pruning_lib.integrations.transformers needs Transformers, which is not installed; "
        "run `pip install transformers accelerate`."
    )
from transformers.trainer_callback import ExportableState, TrainerCallback

KEY = "PruningRegularizer"  # of the state in trainer_state.json


def regularize(
    trainer: Any,
    regularizer: Regularizer,
    *,
    callbacks: Iterable[Callback] = (),
    logits: Callable[[Any], Tensor] | None = None,
) -> None:
    """Penalize while a Trainer trains; call it once, before ``trainer.train()``.

    The loss of each backward pass gains ``reg.penalty(outputs)``, whoever computes it (the model, a label smoother, a
    `compute_loss` of your own), and ``reg.update(optimizer)`` follows each step that the optimizer takes. Of the
    batches whose gradients accumulate, each brings its share of the penalty. The losses that the Trainer logs are
    without penalty. Its checkpoints hold the state of the regularizer and of the callbacks (in ``trainer_state.json``).

    Parameters
    ----------
    trainer : transformers.Trainer
        With a model; not one that `model_init` makes anew, since the regularizer belongs to a model.
    regularizer : Regularizer
        Of ``trainer.model``.
    callbacks : iterable of pruning_lib.Callback
        Around each epoch, as in `fit`; ``run`` has no data and no history here. One that sets ``run.stop`` ends the
        training.
    logits : callable, optional
        What of the model's outputs the penalty reads, a tensor. Default: their ``logits``.

    Raises
    ------
    ModuleNotFoundError
        If Transformers is not installed, when this module is imported.
    TypeError
        If an argument is of another kind.
    ValueError
        If the trainer replicates the model by DataParallel. At the start of the training, if the optimizer trains
        nothing that the regularizer works on, or if a checkpoint holds no state of it.

    Examples
    --------
    ::

        trainer = Trainer(model, TrainingArguments("runs", num_train_epochs=3), train_dataset=data)
        regularize(trainer, prl.GroupLasso(model, strength=1e-2))
        trainer.train()
    """
    if not all(hasattr(trainer, part) for part in ("accelerator", "add_callback", "compute_loss")):
        raise TypeError(f"regularize got a {type(trainer).__name__}; it needs a transformers.Trainer.")
    if trainer.args.n_gpu > 1:
        raise ValueError(
            "regularize: the Trainer replicates the model over several GPUs (DataParallel), which is not supported; "
            "start one process a GPU by `torchrun` or `accelerate launch`."
        )
    attached = Attached(regularizer, callbacks, "regularize")
    backward = trainer.accelerator.backward

    def with_penalty(loss: Tensor, **named: Any) -> None:
        # The loss comes divided by the number of batches whose gradients accumulate, in one of several places.
        batches = getattr(trainer, "current_gradient_accumulation_steps", trainer.args.gradient_accumulation_steps)
        backward(loss + attached.penalty(logits) / batches, **named)

    trainer.accelerator.backward = with_penalty
    # A class of its own, since the Trainer may make its callbacks anew from a checkpoint, with no argument; and of its
    # own name, by which the checkpoint knows it.
    others = sum(isinstance(callback, _Following) for callback in trainer.callback_handler.callbacks)
    trainer.add_callback(type(f"{KEY}{others or ''}", (_Following,), {"attached": attached})())


class _Following(TrainerCallback, ExportableState):  # type: ignore[misc, unused-ignore]
    """Follows the training of one Trainer, and is saved and restored with it."""

    attached: Attached

    def on_train_begin(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        if state.global_step:
            self.attached.load_state_dict(_unpacked(state.stateful_callbacks.get(type(self).__name__)))
        scheduler = getattr(named["lr_scheduler"], "scheduler", named["lr_scheduler"])
        plan = Plan(state.num_train_epochs, state.max_steps, schedule_of(scheduler, state.max_steps))
        self.attached.start(named["model"], named["optimizer"], plan)
        self.attached.watch(named["model"])

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        self.attached.before_epoch(_whole(state.epoch or 0))

    def on_epoch_end(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        # A training by steps may end within an epoch, which is then not counted.
        if self.attached.after_epoch(_whole(state.epoch) - 1):
            control.should_training_stop = True

    def on_train_end(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        self.attached.finish()
        self.attached.close()

    def state(self) -> dict[str, Any]:
        return {"args": {}, "attributes": {"packed": _packed(self.attached.state_dict())}}


def _whole(epoch: float) -> int:
    """Return how many whole epochs these are; the Trainer adds up shares."""
    return math.floor(epoch + 1e-6)


def _packed(state: dict[str, Any]) -> str:
    """Return a state as text, since the Trainer keeps those of its callbacks in JSON."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return base64.b64encode(buffer.getvalue()).decode()


def _unpacked(entry: Any) -> dict[str, Any]:
    """Return the state in an entry of ``trainer_state.json``."""
    if not entry:
        raise ValueError(
            "The checkpoint holds no state of the regularizer, so that a resumed training would not equal an "
            "uninterrupted one; load its weights into the model and start a new training."
        )
    raw = base64.b64decode(entry["attributes"]["packed"])
    state: dict[str, Any] = torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
    return state
