"""A regularizer in a training by Lightning (`lightning` or `pytorch_lightning`)."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from torch import Tensor, nn

from pruning_lib.integrations._attached import Attached, Plan, schedule_of
from pruning_lib.regularizers import Regularizer
from pruning_lib.training import Callback, Schedule, constant


def _base() -> Any:
    """Return the class of Lightning's callbacks, of the package in use: its trainers refuse those of the other one."""
    names = {"lightning.pytorch": "lightning", "pytorch_lightning": "pytorch_lightning"}
    used = [name for name in names if name in sys.modules]
    for name in used or [name for name, package in names.items() if find_spec(package)]:
        return import_module(name).Callback
    raise ModuleNotFoundError(
        "pruning_lib.integrations.lightning needs Lightning, which is not installed; run `pip install lightning`."
    )


class RegularizerCallback(_base()):  # type: ignore[misc, unused-ignore]
    """Penalize while Lightning trains: give it to ``Trainer(callbacks=[…])``.

    What ``training_step`` returns gains ``reg.penalty(outputs)``, and ``reg.update(optimizer)`` follows each step that
    the optimizer takes. Accumulation, mixed precision, clipping and DDP work as they do for the loss itself: of the
    batches whose gradients accumulate, each brings its share of the penalty. The checkpoints of the trainer hold the
    state of the regularizer and of the callbacks.

    Parameters
    ----------
    regularizer : Regularizer
        Of the network, or of a part of it.
    network : nn.Module
        The module whose outputs the penalty reads, as ``training_step`` calls it: ``module.net``, or the
        LightningModule itself where it is called by ``self(x)``. Of several calls in a step the last counts.
    callbacks : iterable of pruning_lib.Callback
        Around each epoch, as in `fit`; ``run`` has no data and no history here. One that sets ``run.stop`` ends the
        training.
    logits : callable, optional
        What of the network's outputs the penalty reads, a tensor. Default: the outputs, or
        their ``logits``.
    schedule : callable, optional
        Progress in [0, 1) → factor on the learning rate, for callbacks that plan. Default: that of a `LambdaLR`;
        constant, where there is no scheduler.

    Raises
    ------
    ModuleNotFoundError
        If Lightning is not installed, when this module is imported. Import it after ``pytorch_lightning``, where that
        is what you use and ``lightning`` is installed, too.
    TypeError
        If `regularizer` or `network` is something else.
    ValueError
        At the start of the training, if the module optimizes by hand (call the two methods there), if the optimizer
        trains nothing that the regularizer works on, or if a checkpoint holds no state of it.

    Examples
    --------
    ::

        reg = prl.GroupLasso(module.net, strength=1e-2)
        trainer = lightning.Trainer(max_epochs=10, callbacks=[RegularizerCallback(reg, module.net)])
        trainer.fit(module, loader)
    """

    def __init__(
        self,
        regularizer: Regularizer,
        network: nn.Module,
        callbacks: Iterable[Callback] = (),
        *,
        logits: Callable[[Any], Tensor] | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        if not isinstance(network, nn.Module):
            raise TypeError(f"RegularizerCallback got a {type(network).__name__}; it needs the nn.Module to watch.")
        self._attached = Attached(regularizer, callbacks, "RegularizerCallback")
        self._network, self._logits = network, logits
        self._schedule = schedule

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Follow the optimizer, watch the network, and let `training_step` return the loss with its penalty."""
        if not pl_module.automatic_optimization:
            raise ValueError(
                f"RegularizerCallback cannot see the loss of {type(pl_module).__name__}, which optimizes by hand; add "
                "`reg.penalty(outputs)` and call `reg.update(optimizer)` in its training_step."
            )
        attached, step = self._attached, pl_module.training_step
        attached.start(self._network, trainer.optimizers[0], self._plan(trainer), trainer.current_epoch)
        attached.watch(self._network)

        @functools.wraps(step)
        def training_step(*arguments: Any, **named: Any) -> Any:
            attached.forget()
            result = step(*arguments, **named)
            if result is None:  # the step is skipped
                return None
            if isinstance(result, Mapping):
                return {**result, "loss": result["loss"] + attached.penalty(self._logits)}
            return result + attached.penalty(self._logits)

        vars(training_step).update(attached=attached, before=vars(pl_module).get("training_step"))
        pl_module.training_step = training_step

    def _plan(self, trainer: Any) -> Plan:
        known = trainer.max_epochs is not None and 0 < trainer.max_epochs < float("inf")
        epochs, steps = (trainer.max_epochs, int(trainer.estimated_stepping_batches)) if known else (0, 0)
        schedule = self._schedule or constant
        for config in () if self._schedule else trainer.lr_scheduler_configs:
            times = (steps if config.interval == "step" else epochs) // config.frequency
            schedule = schedule_of(config.scheduler, times)
        return Plan(epochs, steps, schedule)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Call the callbacks."""
        self._attached.before_epoch(trainer.current_epoch)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Call the callbacks, and stop where one wants to."""
        if self._attached.after_epoch(trainer.current_epoch):
            trainer.should_stop = True

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Call the callbacks."""
        self._attached.finish()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Take everything off the module again, after an error too."""
        self._attached.close()
        # Several regularizers wrap each other, and end in the order in which they began.
        step = vars(pl_module).get("training_step")
        while isinstance(attached := getattr(step, "attached", None), Attached) and not attached.following:
            step = step.before
        vars(pl_module).pop("training_step", None)
        if step is not None:
            pl_module.training_step = step

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Take everything off, for then Lightning does not call `teardown`."""
        self.teardown(trainer, pl_module, "fit")

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: Mapping[str, Any]) -> None:
        """Refuse a checkpoint of a training without this regularizer, which Lightning passes over."""
        if trainer.state.fn == "fit" and self.state_key not in checkpoint.get("callbacks", {}):
            raise ValueError(
                "The checkpoint holds no state of the regularizer, so that a resumed training would not equal an "
                "uninterrupted one; load its weights into the module and start a new training."
            )

    @property
    def state_key(self) -> str:
        """Return the name in a checkpoint: several regularizers of different kinds may train together."""
        return f"RegularizerCallback[{type(self._attached.regularizer).__name__}]"

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the regularizer and of the callbacks, for the trainer's checkpoint."""
        return self._attached.state_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore it."""
        self._attached.load_state_dict(state_dict)
