"""`fit`: the training loop of the book, with everything around it that a long run needs.

The step itself is what any loop would write:

    logits = model(x)
    loss = loss_fn(logits, y) + reg.penalty(logits)
    optimizer.zero_grad(); loss.backward(); optimizer.step(); reg.update(optimizer)
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm import tqdm

from pruning_lib._arguments import checked, optional
from pruning_lib._model import at_least_float
from pruning_lib._types import Augment, LossFn, TensorPair
from pruning_lib.regularizers import Regularizer
from pruning_lib.training._callbacks import Callback, Epoch, History, Run
from pruning_lib.training._checkpoint import Checkpoint, Settings, describe
from pruning_lib.training._checks import check_data, check_run, pair, trained
from pruning_lib.training._schedules import Schedule, check_schedules, constant, factor
from pruning_lib.training._threads import compute
from pruning_lib.units import BatchNorm


def fit(
    model: nn.Module,
    train: TensorPair,
    val: TensorPair,
    *,
    epochs: int,
    optimizer: Optimizer,
    regularizer: Regularizer | None = None,
    loss_fn: LossFn = F.cross_entropy,
    batch_size: int = 128,
    schedule: Schedule | None = None,
    strength_schedule: Schedule | None = None,
    augment: Augment | None = None,
    autocast: torch.dtype | None = None,
    callbacks: Iterable[Callback] = (),
    seed: int = 0,
    checkpoint: str | Path | None = None,
    progress: bool = True,
    threads: int = 1,
) -> History:
    """Train a model on tensors in memory, on one thread unless `threads` names more.

    One thread repeats its numbers on one machine to the last digit; several are faster and agree to rounding. The
    order of the examples comes from a generator of its own, so the global random state is left as found, unless the
    model itself draws from it (dropout). Learning rates, strength and the number of threads are put back at the end.
    Denormal numbers, which weights on their way to 0 become, are flushed on every thread that computes.

    Parameters
    ----------
    model : nn.Module
        Changed in place; left in the mode (train or eval) that it came in.
    train, val : TensorPair
        Inputs (examples, …) and targets (examples, …), on the model's device.
    epochs : int
        Passes over `train`.
    optimizer : Optimizer
        Over the model's parameters; its learning rates are the ones that `schedule` multiplies.
    regularizer : Regularizer, optional
        Its `penalty` joins the loss, its `update` follows each step.
    loss_fn : callable
        Mean loss of (outputs, targets), a scalar.
    batch_size : int
        Examples a step; the last step of an epoch takes what is left. A single one, which has no variance, joins the
        step before where the model has a BatchNorm.
    schedule, strength_schedule : callable, optional
        Progress in [0, 1) → factor on the learning rates, and on the regularizer's strength, at each step: `cosine`,
        ``steps(0.5, 0.75)``, ``ramp(0.2)``, or your own. Default: constant.
    augment : callable, optional
        Changes the inputs of each training batch: (inputs, generator) → inputs.
    autocast : dtype, optional
        ``torch.bfloat16``: the forward passes of the training compute in it where torch holds that safe. Losses,
        penalties, weights and validation stay in the weights' own dtype.
    callbacks : iterable of Callback
        Called around each epoch, in this order.
    seed : int
        Of the order of the examples, and of what `augment` draws.
    checkpoint : path, optional
        Written after each epoch, atomically. A run that finds its own goes on from there and ends identical to an
        uninterrupted one; a finished one is loaded without training. Checksums in the file notice damage.
    progress : bool
        Show a progress bar on stderr.
    threads : int
        Threads to compute with, whatever the machine has.

    Returns
    -------
    History
        One entry an epoch.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong kind or out of range, if optimizer or regularizer hold nothing of this model,
        or (`CheckpointError`) if `checkpoint` is damaged or belongs to another configuration; nothing is changed then.
    OSError
        If `checkpoint` cannot be read at the moment, or cannot be written; tried before the first epoch.
    FloatingPointError
        If the loss or, after an epoch, a weight is no longer finite; the model keeps the weights of that moment.

    Examples
    --------
    >>> import torch
    >>> import pruning_lib as prl
    >>> model = torch.nn.Linear(4, 2)
    >>> data = torch.eye(4), torch.tensor([0, 0, 1, 1])
    >>> history = fit(
    ...     model, data, data, epochs=30, optimizer=torch.optim.SGD(model.parameters(), 1.0),
    ...     regularizer=prl.L2(model, strength=1e-4), schedule=prl.cosine, progress=False,
    ... )
    >>> history["val_accuracy"][-1]
    1.0
    """
    checked("fit", model=model, epochs=epochs, optimizer=optimizer, loss_fn=loss_fn, batch_size=batch_size)
    checked("fit", callbacks=callbacks, seed=seed, progress=progress, threads=threads)
    optional("fit", regularizer=regularizer, augment=augment, autocast=autocast, checkpoint=checkpoint)
    check_schedules("fit", schedule=schedule, strength_schedule=strength_schedule)
    run = Run(model, optimizer, regularizer, pair(train, "train"), pair(val, "val"), loss_fn, int(epochs))
    settings = Settings(
        batch_size=int(batch_size),
        schedule=schedule or constant,
        strength_schedule=strength_schedule or constant,
        augment=augment,
        autocast=autocast,
        callbacks=list(callbacks),
        seed=int(seed),
    )
    check_run(run, settings.callbacks)
    loop = _Loop.of(run, settings, checkpoint, progress)
    compute(loop.go, int(threads), loop.abandoned)
    return run.history


@dataclass(eq=False)
class _Loop:
    """One call of `fit`: what it was given, and what it changes on the way and puts back."""

    run: Run
    settings: Settings
    generator: torch.Generator  # of the order of the examples, and of what is drawn to augment them
    rates: list[float]  # what the schedules multiply: the learning rate of each parameter group, …
    strength: float  # … and the regularizer's strength
    checkpoint: Checkpoint | None
    progress: bool
    abandoned: Event = field(default_factory=Event)

    @classmethod
    def of(cls, run: Run, settings: Settings, path: str | Path | None, progress: bool) -> _Loop:
        generator = torch.Generator().manual_seed(settings.seed)
        rates = [float(group["lr"]) for group in run.optimizer.param_groups]
        strength = run.regularizer.strength if run.regularizer is not None else 0.0
        checkpoint = None
        if path is not None:
            configuration = describe(run, settings, rates)
            checkpoint = Checkpoint(Path(path), run, settings.callbacks, generator, configuration)
        return cls(run, settings, generator, rates, strength, checkpoint, progress)

    def go(self) -> None:
        """Resume where the checkpoint ends, train, and put back what the training borrowed."""
        run, callbacks, given = self.run, self.settings.callbacks, self.strength
        check_data(run, self.settings.augment)
        run.batches = len(_split(torch.arange(len(run.train.targets)), self.settings.batch_size, run.model))
        run.schedule = self.settings.schedule
        done = self.resume()
        self.scale(1.0, 1.0)  # callbacks see the strength before the schedule multiplies it, and may set another one
        # Not `eval_mode`: until the first epoch, callbacks see the model in the mode that it came in.
        modes = {module: module.training for module in run.model.modules()}
        try:
            for callback in callbacks:
                callback.start(run)
            self.steer()
            if not done:
                self.train()
        finally:
            for callback in callbacks:
                callback.close()
            self.strength = given
            self.scale(1.0, 1.0)
            for module, mode in modes.items():
                module.training = mode

    def resume(self) -> bool:
        """Go on from the checkpoint, if there is one, and return whether nothing is left to train."""
        state = self.checkpoint.read() if self.checkpoint is not None else None
        if self.checkpoint is not None and (state is None or not state["done"]):
            self.checkpoint.probe()
        if self.checkpoint is not None and state is not None:
            self.checkpoint.restore(state)
            self.steer()  # a callback may have set another strength than this run begins with
        return state is not None and bool(state["done"])

    def train(self) -> None:
        run, settings = self.run, self.settings
        total = run.epochs * run.batches
        with tqdm(total=total, initial=run.epoch * run.batches, disable=not self.progress, unit="step") as bar:
            while run.epoch < run.epochs and not run.stop:
                self.epoch(bar, total)
                if run.epoch < run.epochs and not run.stop:
                    self.save(done=False)
        for callback in settings.callbacks:
            callback.finish(run)
        self.save(done=True)

    def save(self, done: bool) -> None:
        self.check_weights()
        if self.checkpoint is not None:
            self.checkpoint.save(done)

    def epoch(self, bar: tqdm[Any], total: int) -> None:
        run, settings, start, loss_sum = self.run, self.settings, time.perf_counter(), 0.0
        for callback in settings.callbacks:
            callback.before_epoch(run)
        self.steer()
        run.model.train()
        order = torch.randperm(len(run.train.targets), generator=self.generator).to(run.train.targets.device)
        batches = _split(order, settings.batch_size, run.model)
        bar.set_description(f"epoch {run.epoch + 1}/{run.epochs}")
        for i, places in enumerate(batches):
            progress = (run.epoch * len(batches) + i) / total
            rate = factor("fit", "schedule", settings.schedule, progress)
            self.scale(rate, factor("fit", "strength_schedule", settings.strength_schedule, progress))
            loss_sum += self.step(places, i) * len(places)
            bar.update()
        loss, accuracy = run.evaluate()
        seconds = time.perf_counter() - start
        lr = float(run.optimizer.param_groups[0]["lr"])
        self.scale(1.0, 1.0)
        run.history.epochs.append(Epoch(run.epoch, loss_sum / len(order), loss, accuracy, lr, seconds))
        bar.set_postfix(val_loss=f"{loss:.4f}", val_accuracy=f"{accuracy:.4f}")
        for callback in settings.callbacks:
            callback.after_epoch(run)
        self.steer()

    def steer(self) -> None:
        """Take over the strength that a callback has set."""
        if self.run.regularizer is not None:
            self.strength = self.run.regularizer.strength

    def scale(self, rate_factor: float, strength_factor: float) -> None:
        for group, rate in zip(self.run.optimizer.param_groups, self.rates, strict=True):
            if isinstance(group["lr"], Tensor):  # captured by a graph, it has to stay the tensor it is
                group["lr"].fill_(rate * rate_factor)
            else:
                group["lr"] = rate * rate_factor
        if self.run.regularizer is not None:
            self.run.regularizer.strength = self.strength * strength_factor

    def step(self, places: Tensor, number: int) -> float:
        """Take one step on the examples at these places and return its loss without penalty."""
        run, reg = self.run, self.run.regularizer
        logits = self.forward(run.train.inputs[places])
        task = run.loss_fn(logits, run.train.targets[places])
        loss = task if reg is None else task + reg.penalty(logits)
        self.check_finite(float(loss.detach()), number)
        run.optimizer.zero_grad()
        # Autograd's own types are incomplete.
        loss.backward()  # type: ignore[no-untyped-call]
        run.optimizer.step()
        if reg is not None:
            reg.update(run.optimizer)
        # A thread cannot be stopped from outside: where the caller was interrupted, it has to end itself.
        if self.abandoned.is_set():
            raise KeyboardInterrupt
        return float(task.detach())

    def forward(self, inputs: Tensor) -> Tensor:
        model, settings = self.run.model, self.settings
        if settings.augment is not None:
            inputs = settings.augment(inputs, self.generator)
        if settings.autocast is None:
            return model(inputs)  # type: ignore[no-any-return]
        with torch.autocast(inputs.device.type, settings.autocast):
            outputs: Tensor = model(inputs)
        # Losses and penalties are sums over many terms, which half precision would round away; inputs may be numbers of
        # words.
        return outputs.to(at_least_float(inputs.dtype))

    def check_finite(self, loss: float, number: int) -> None:
        if not math.isfinite(loss):
            self.diverged(f"the loss became {loss} in epoch {self.run.epoch + 1}, step {number + 1}")

    def check_weights(self) -> None:
        """Look at what the last step of an epoch made: no loss is computed from it any more."""
        wrong = next((name for name, tensor in trained(self.run.model) if not bool(tensor.isfinite().all())), None)
        if wrong is not None:
            self.diverged(f"'{wrong}' was not finite after epoch {self.run.epoch}")

    def diverged(self, what: str) -> NoReturn:
        run = self.run
        strength = "" if run.regularizer is None else f" or the strength ({run.regularizer.strength:g})"
        raise FloatingPointError(
            f"fit stopped: {what}; lower the learning rate ({float(run.optimizer.param_groups[0]['lr']):g}){strength}."
        )


def _split(order: Tensor, batch_size: int, model: nn.Module) -> list[Tensor]:
    """Return the batches of an epoch; one example has no variance, so before a BatchNorm it joins the batch before."""
    batches = list(torch.split(order, batch_size))
    if len(batches) > 1 and len(batches[-1]) == 1 and any(isinstance(module, BatchNorm) for module in model.modules()):
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches
