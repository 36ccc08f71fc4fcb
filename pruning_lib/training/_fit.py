"""`fit`: the training loop of the book, with everything around it that a long run needs.

The step itself is what any loop would write:

    logits = model(x)
    loss = loss_fn(logits, y) + reg.penalty(logits)
    optimizer.zero_grad(); loss.backward(); optimizer.step(); reg.update(optimizer)
"""

from __future__ import annotations

import copy
import math
import os
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm import tqdm

from pruning_lib._types import TensorPair
from pruning_lib.regularizers._base import Regularizer
from pruning_lib.selection import Hold, hold, threshold_weights
from pruning_lib.units import BatchNorm

LossFn = Callable[[Tensor, Tensor], Tensor]
Augment = Callable[[Tensor, torch.Generator], Tensor]
"""A batch of inputs and a generator on the CPU → another batch, as `pruning_lib.companion.data.crop_and_flip`."""
Schedule = Callable[[float], float]
"""Progress in [0, 1) → factor on a learning rate or a strength."""
SAMPLED = 1000  # examples, of inputs whose sum tells a checkpoint's data from others


class CheckpointError(ValueError):
    """A checkpoint is damaged or belongs to another run."""


class Evaluation(NamedTuple):
    """Mean loss and share of right answers, 0 … 1, over a set of examples; NaN where the targets are no classes."""

    loss: float
    accuracy: float


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
    """Epochs in order; `history["val_loss"]` is a column."""

    epochs: list[Epoch] = field(default_factory=list)

    def __getitem__(self, column: str) -> list[float]:
        return [getattr(epoch, column) for epoch in self.epochs]

    def __len__(self) -> int:
        return len(self.epochs)

    def __iter__(self) -> Iterator[Epoch]:
        return iter(self.epochs)


def constant(progress: float) -> float:
    """Stay at the full value."""
    return 1.0


def cosine(progress: float) -> float:
    """Fall from the full value to 0 along half a cosine."""
    return 0.5 * (1 + math.cos(math.pi * progress))


def steps(*milestones: float, factor: float = 0.1) -> Schedule:
    """Return a schedule that multiplies by `factor` at each milestone.

    Parameters
    ----------
    *milestones : float
        Shares of the training in [0, 1], as in ``steps(0.5, 0.75)``.
    factor : float
        What each milestone multiplies by.

    Raises
    ------
    ValueError
        If a milestone lies outside [0, 1].
    """
    if any(not 0 <= milestone <= 1 for milestone in milestones):
        raise ValueError(f"milestones are shares of the training in [0, 1], got {milestones}.")

    def schedule(progress: float) -> float:
        return math.prod(factor for milestone in milestones if progress >= milestone)

    schedule.__qualname__ = f"steps({', '.join(map(str, milestones))}, factor={factor})"
    return schedule


def ramp(share: float) -> Schedule:
    """Return a schedule that rises linearly from 0 to the full value over the first `share` of the training.

    Parameters
    ----------
    share : float
        In (0, 1].

    Raises
    ------
    ValueError
        If `share` lies outside (0, 1].
    """
    if not 0 < share <= 1:
        raise ValueError(f"ramp got share={share}; it is a share of the training in (0, 1].")

    def schedule(progress: float) -> float:
        return min(1.0, progress / share)

    schedule.__qualname__ = f"ramp({share})"
    return schedule


@torch.no_grad()
def evaluate(
    model: nn.Module, data: TensorPair, batch_size: int = 1000, loss_fn: LossFn = F.cross_entropy
) -> Evaluation:
    """Return mean loss and accuracy of a model in evaluation mode; each module's mode is put back afterwards.

    Parameters
    ----------
    model : nn.Module
        Gives outputs of shape (examples, classes, …), or any other that `loss_fn` takes.
    data : TensorPair
        Inputs (examples, …) and targets (examples, …). Integer targets in the shape of the outputs without their axis 1
        are classes: each of them, each pixel of a map, is an answer. For all others the accuracy is NaN.
    batch_size : int
        Examples per forward pass; it changes the result by rounding alone.
    loss_fn : callable
        Mean loss of (outputs, targets), a scalar.

    Raises
    ------
    ValueError
        If there are no examples, or not as many inputs as targets.
    """
    inputs, targets = data
    if len(inputs) != len(targets) or not len(inputs):
        raise ValueError(
            f"evaluate got {len(inputs)} inputs and {len(targets)} targets; it needs as many of each, and at least one."
        )
    modes = {module: module.training for module in model.modules()}
    model.eval()
    loss, right = 0.0, 0.0
    try:
        for x, y in zip(torch.split(inputs, batch_size), torch.split(targets, batch_size), strict=True):
            outputs = model(x)
            loss += loss_fn(outputs, y).item() * len(y)
            right += int((outputs.argmax(1) == y).sum()) if _are_classes(y, outputs) else math.nan
    finally:
        for module, mode in modes.items():
            module.training = mode
    return Evaluation(loss / len(targets), right / targets.numel())


def _are_classes(targets: Tensor, outputs: Tensor) -> bool:
    """Whether the targets are classes along axis 1 of the outputs."""
    whole = not targets.is_floating_point() and not targets.is_complex()
    return whole and outputs.ndim > 1 and targets.shape == outputs.shape[:1] + outputs.shape[2:]


@dataclass(eq=False)
class Run:
    """A training in progress, as callbacks see it; set `stop` to end it after the current epoch."""

    model: nn.Module
    optimizer: Optimizer
    regularizer: Regularizer | None
    train: TensorPair
    val: TensorPair
    loss_fn: LossFn
    epochs: int
    history: History = field(default_factory=History)
    stop: bool = False

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return len(self.history)

    def evaluate(self, model: nn.Module | None = None) -> Evaluation:
        """Evaluate on the validation set."""
        return evaluate(model or self.model, self.val, loss_fn=self.loss_fn)


class Callback:
    """Something to do around epochs. All methods do nothing here; override those you need."""

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
        """Take up what `state_dict` returned."""


class ThresholdOnPlateau(Callback):
    """SeReNe's loop: train until the validation loss stalls, go back to its best weights, zero the small ones, go on.

    Tartaglione et al. (2021), as released: an epoch is bad if its validation loss is at least (1 + slack) times the
    best; after `patience` bad epochs in a row the best weights return, and all weights and biases of linear and
    convolution layers below one threshold become 0 (`threshold_weights`). From then on zero weights stay 0, and so does
    the zero bias of a neuron without any other weight; in the released code holding is an option. At the end of the
    training the same happens once more, which is ours. Derived in the chapter `serene`.

    Parameters
    ----------
    patience : int
        Bad epochs in a row that make a plateau.
    tolerance : float
        By what share thresholding may raise the validation loss.
    slack : float
        By what share an epoch may be worse than the best without being bad.

    Attributes
    ----------
    log : list of dict
        One entry a thresholding: epoch, threshold, validation loss before and after, weights left.
    """

    def __init__(self, patience: int, tolerance: float, slack: float = 0.01) -> None:
        if patience < 1 or not (math.isfinite(tolerance) and tolerance >= 0) or slack < 0:
            raise ValueError(
                f"ThresholdOnPlateau got patience={patience}, tolerance={tolerance}, slack={slack}; "
                "it needs patience ≥ 1 and tolerance, slack ≥ 0."
            )
        self.patience, self.tolerance, self.slack = patience, tolerance, slack
        self.log: list[dict[str, float]] = []
        self._bad = 0
        self._best = math.inf
        self._weights: dict[str, Tensor] = {}
        self._hold: Hold | None = None

    def start(self, run: Run) -> None:
        """After a resume, hold what was zero."""
        if self.log:
            self._hold = hold(run.model, run.optimizer)

    def after_epoch(self, run: Run) -> None:
        """Count bad epochs, keep the best weights, threshold on a plateau."""
        loss = run.history.epochs[-1].val_loss
        # Written so that a NaN counts as bad.
        self._bad = 0 if loss < self._best * (1 + self.slack) else self._bad + 1
        if loss < self._best:
            self._best = loss
            self._weights = {name: value.detach().clone() for name, value in run.model.state_dict().items()}
        if self._bad >= self.patience:
            self._threshold(run)

    def finish(self, run: Run) -> None:
        """Threshold once more."""
        if self._weights:
            self._threshold(run)

    def _threshold(self, run: Run) -> None:
        if self._weights:
            run.model.load_state_dict(self._weights)
        # The momentum belongs to the weights that were left behind.
        run.optimizer.state.clear()
        self.close()
        before = run.evaluate().loss
        threshold = threshold_weights(run.model, lambda model: run.evaluate(model).loss, self.tolerance)
        self._hold = hold(run.model, run.optimizer)
        weights = [p for p in run.model.parameters() if p.ndim > 1]
        self.log.append(
            {
                "epoch": run.epoch,
                "threshold": threshold,
                "val_loss_before": before,
                "val_loss_after": run.evaluate().loss,
                "weights_left": sum(int(p.count_nonzero()) for p in weights),
            }
        )
        self._bad, self._best, self._weights = 0, math.inf, {}

    def close(self) -> None:
        """Release the zeros."""
        if self._hold is not None:
            self._hold.remove()
            self._hold = None

    def state_dict(self) -> dict[str, Any]:
        """Return the log, the counters and the best weights."""
        return {"log": self.log, "bad": self._bad, "best": self._best, "weights": self._weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take them up."""
        self.log, self._bad, self._best = list(state["log"]), int(state["bad"]), float(state["best"])
        self._weights = dict(state["weights"])


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
    """Train a model on tensors in memory; the chapter `serene` uses it from the first page on.

    The order of the examples comes from a generator of its own, so the global random state is left as found, unless
    the model itself draws from it (dropout). Learning rates, strength and the number of threads are put back at the
    end. Denormal numbers, which weights on their way to 0 become, are flushed on every thread that computes.

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
        uninterrupted one; a finished one is loaded without training.
    progress : bool
        Show a progress bar on stderr.
    threads : int
        Threads to compute with. One is repeatable on one machine.

    Returns
    -------
    History
        One entry an epoch.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong kind or out of range, or (`CheckpointError`) if `checkpoint` is damaged or
        belongs to another configuration; nothing is changed then.
    FloatingPointError
        If the loss is no longer finite; the model keeps the weights of that moment.
    """
    train, val = _pair(train, "train"), _pair(val, "val")
    run = Run(model, optimizer, regularizer, train, val, loss_fn, epochs)
    schedules = (schedule or constant, strength_schedule or constant)
    loop = _Loop(run, batch_size, schedules, augment, autocast, list(callbacks), seed, checkpoint, progress)
    loop.check()
    if threads < 1:
        raise ValueError(f"fit got threads={threads}; it needs 1 or more.")
    with _threads(threads):
        if threads == 1:
            with flushed():
                loop.go()
        else:
            _on_new_thread(loop, threads)
    return run.history


def _pair(part: object, name: str) -> TensorPair:
    if not isinstance(part, tuple) or len(part) != 2 or not all(isinstance(tensor, Tensor) for tensor in part):
        raise TypeError(f"fit got a {type(part).__name__} for {name}; it needs two tensors, (inputs, targets).")
    return TensorPair(*part)


@dataclass(eq=False)
class _Loop:
    run: Run
    batch_size: int
    schedules: tuple[Schedule, Schedule]  # of the learning rates, of the strength
    augment: Augment | None
    autocast: torch.dtype | None
    callbacks: list[Callback]
    seed: int
    checkpoint: str | Path | None
    progress: bool
    abandoned: threading.Event = field(default_factory=threading.Event)

    def check(self) -> None:
        for name, value in (("epochs", self.run.epochs), ("batch_size", self.batch_size)):
            if value < 1:
                raise ValueError(f"fit got {name}={value}; it needs 1 or more.")
        for name, (inputs, targets) in (("train", self.run.train), ("val", self.run.val)):
            if len(inputs) != len(targets) or not len(inputs):
                raise ValueError(
                    f"fit got {len(inputs)} inputs and {len(targets)} targets in {name}; it needs as many of each, "
                    "and at least one."
                )

    def go(self) -> None:
        run = self.run
        self.rates = [float(group["lr"]) for group in run.optimizer.param_groups]
        self.strength = run.regularizer.strength if run.regularizer is not None else 0.0
        self.generator = torch.Generator().manual_seed(self.seed)
        self.configuration = self.describe() if self.checkpoint is not None else {}
        done = self.load() if self.checkpoint is not None and Path(self.checkpoint).exists() else False
        modes = {module: module.training for module in run.model.modules()}
        try:
            for callback in self.callbacks:
                callback.start(run)
            if not done:
                self.train()
        finally:
            for callback in self.callbacks:
                callback.close()
            self.scale(1.0, 1.0)
            for module, mode in modes.items():
                module.training = mode

    def train(self) -> None:
        run = self.run
        batches = len(_split(torch.arange(len(run.train.targets)), self.batch_size, run.model))
        total = run.epochs * batches
        with tqdm(total=total, initial=run.epoch * batches, disable=not self.progress, unit="step") as bar:
            while run.epoch < run.epochs and not run.stop:
                self.epoch(bar, total)
                if run.epoch < run.epochs and not run.stop:
                    self.save(done=False)
        for callback in self.callbacks:
            callback.finish(run)
        self.save(done=True)

    def epoch(self, bar: tqdm[Any], total: int) -> None:
        run, start, seen = self.run, time.perf_counter(), 0.0
        for callback in self.callbacks:
            callback.before_epoch(run)
        run.model.train()
        order = torch.randperm(len(run.train.targets), generator=self.generator).to(run.train.targets.device)
        batches = _split(order, self.batch_size, run.model)
        bar.set_description(f"epoch {run.epoch + 1}/{run.epochs}")
        for i, batch in enumerate(batches):
            self.scale(*(schedule((run.epoch * len(batches) + i) / total) for schedule in self.schedules))
            seen += self.step(batch, i) * len(batch)
            bar.update()
        loss, accuracy = run.evaluate()
        seconds = time.perf_counter() - start
        lr = run.optimizer.param_groups[0]["lr"]
        run.history.epochs.append(Epoch(run.epoch, seen / len(order), loss, accuracy, lr, seconds))
        bar.set_postfix(val_loss=f"{loss:.4f}", val_accuracy=f"{accuracy:.4f}")
        for callback in self.callbacks:
            callback.after_epoch(run)

    def scale(self, rate_factor: float, strength_factor: float) -> None:
        for group, rate in zip(self.run.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * rate_factor
        if self.run.regularizer is not None:
            self.run.regularizer.strength = self.strength * strength_factor

    def step(self, batch: Tensor, number: int) -> float:
        """Take one step and return its loss without penalty."""
        run = self.run
        outputs = self.forward(run.train.inputs[batch])
        task = run.loss_fn(outputs, run.train.targets[batch])
        loss = task if run.regularizer is None else task + run.regularizer.penalty(outputs)
        value = float(loss.detach())
        if not math.isfinite(value):
            what = "" if run.regularizer is None else f" or the strength ({run.regularizer.strength:g})"
            raise FloatingPointError(
                f"fit stopped: the loss became {value} in epoch {run.epoch + 1}, step {number + 1}; lower the learning "
                f"rate ({run.optimizer.param_groups[0]['lr']:g}){what}."
            )
        run.optimizer.zero_grad()
        # Autograd's own types are incomplete.
        loss.backward()  # type: ignore[no-untyped-call]
        run.optimizer.step()
        if run.regularizer is not None:
            run.regularizer.update(run.optimizer)
        if self.abandoned.is_set():
            raise KeyboardInterrupt
        return float(task.detach())

    def forward(self, inputs: Tensor) -> Tensor:
        if self.augment is not None:
            inputs = self.augment(inputs, self.generator)
        if self.autocast is None:
            return self.run.model(inputs)  # type: ignore[no-any-return]
        with torch.autocast(inputs.device.type, self.autocast):
            outputs: Tensor = self.run.model(inputs)
        return outputs.to(inputs.dtype)

    def describe(self) -> dict[str, Any]:
        """Return what must agree between a checkpoint and the run that finds it."""
        run, regularizer = self.run, self.run.regularizer
        groups = [
            {k: v for k, v in group.items() if isinstance(v, (int, float, str, bool, tuple)) and k != "lr"}
            for group in run.optimizer.param_groups
        ]
        return {
            "model": {name: str(tuple(value.shape)) for name, value in run.model.state_dict().items()},
            "data": [
                str(tuple(run.train.inputs.shape)),
                *(_checksum(part.inputs[:: max(1, len(part.inputs) // SAMPLED)]) for part in (run.train, run.val)),
                *(_checksum(part.targets) for part in (run.train, run.val)),
            ],
            "loss": _name(run.loss_fn),
            "epochs": run.epochs,
            "batch size": self.batch_size,
            "seed": self.seed,
            "schedule": [_name(schedule) for schedule in self.schedules],
            "augmentation": _name(self.augment),
            "autocast": str(self.autocast),
            "optimizer": [type(run.optimizer).__name__, *map(str, groups)],
            "parameters": [[tuple(p.shape) for p in group["params"]] for group in run.optimizer.param_groups],
            "learning rates": self.rates,
            "regularizer": [*_settings(regularizer), *getattr(regularizer, "_layers", ())],
            "callbacks": [_settings(callback) for callback in self.callbacks],
        }

    def save(self, done: bool) -> None:
        if self.checkpoint is None:
            return
        run = self.run
        state = {
            "configuration": self.configuration,
            "done": done,
            "model": run.model.state_dict(),
            "optimizer": run.optimizer.state_dict(),
            "regularizer": run.regularizer.state_dict() if run.regularizer is not None else {},
            "callbacks": [callback.state_dict() for callback in self.callbacks],
            "order": self.generator.get_state(),
            "random": torch.get_rng_state(),
            "history": [asdict(epoch) for epoch in run.history],
        }
        path = Path(self.checkpoint)
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        try:
            torch.save(state, draft)
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)

    def load(self) -> bool:
        """Take up the checkpoint; return whether its run had finished. Nothing is changed if it does not fit."""
        run, state = self.run, _read(Path(str(self.checkpoint)))
        theirs = state["configuration"]
        if different := [name for name, value in self.configuration.items() if theirs.get(name) != value]:
            raise CheckpointError(
                f"The checkpoint {self.checkpoint} belongs to another run: it differs in {', '.join(different)}; "
                "delete it or name another file."
            )
        owners: list[Any] = [run.model, run.optimizer, *self.callbacks]
        values = [state["model"], state["optimizer"], *state["callbacks"]]
        if run.regularizer is not None:
            owners.append(run.regularizer)
            values.append(state["regularizer"])
        before = [copy.deepcopy(owner.state_dict()) for owner in owners]
        for i, (owner, value) in enumerate(zip(owners, values, strict=True)):
            try:
                owner.load_state_dict(value)
            except Exception as error:
                for earlier, own in zip(owners[:i], before[:i], strict=True):
                    earlier.load_state_dict(own)
                raise CheckpointError(
                    f"The checkpoint {self.checkpoint} does not fit the {type(owner).__name__} of this run; delete it "
                    "or name another file."
                ) from error
        self.generator.set_state(state["order"])
        if not state["done"]:
            torch.set_rng_state(state["random"])
        run.history.epochs = [Epoch(**epoch) for epoch in state["history"]]
        return bool(state["done"])


def _split(order: Tensor, batch_size: int, model: nn.Module) -> list[Tensor]:
    """Return the batches of an epoch; one example has no variance, so before a BatchNorm it joins the batch before."""
    batches = list(torch.split(order, batch_size))
    if len(batches) > 1 and len(batches[-1]) == 1 and any(isinstance(module, BatchNorm) for module in model.modules()):
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches


def _read(path: Path) -> dict[str, Any]:
    try:
        state = torch.load(path, weights_only=True)
    except Exception as error:  # a damaged archive raises whatever its reader stumbles over
        raise CheckpointError(
            f"The checkpoint {path} is cut short or was not written by fit ({type(error).__name__}); "
            "delete it to start over."
        ) from error
    if not isinstance(state, dict) or "configuration" not in state:
        raise CheckpointError(f"{path} is no checkpoint of fit; delete it or name another file.")
    return state


def _settings(owner: object) -> list[str]:
    """Return the class and the public settings of a regularizer or callback, as they are at the start."""
    values = {k: v for k, v in getattr(owner, "__dict__", {}).items() if not k.startswith("_")}
    return [type(owner).__name__, *(f"{k}={_setting(v)}" for k, v in values.items())]


def _setting(value: object) -> object:
    """Return what tells a setting from another: a number or text itself, a method's own settings, a tensor's sum."""
    if isinstance(value, Tensor):
        return _checksum(value)
    if isinstance(value, Mapping):
        return {str(key): _setting(item) for key, item in value.items()}
    if hasattr(value, "penalty") and not isinstance(value, type):
        return _settings(value)
    return value if isinstance(value, (int, float, str)) else _name(value)


def _name(value: object) -> str:
    return getattr(value, "__qualname__", type(value).__name__)


def _checksum(values: Tensor) -> int:
    return zlib.crc32(values.detach().cpu().contiguous().numpy().tobytes())


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def flushed() -> Iterator[None]:
    """Flush denormal numbers to 0 on this thread while the block runs; for a training loop of your own.

    Weights on their way to 0, their slopes and their momentum pass below 1.2e-38, where some CPUs take a hundred times
    as long over each. `fit` flushes by itself. The state belongs to the thread, and torch's workers inherit it when
    they start: with several threads enter the block before the first computation, or compute with one.
    """
    # torch can set the state but not tell it: 1e-40 is denormal in float32, and 0 where they are flushed.
    before = bool((torch.tensor(1e-30) * torch.tensor(1e-10)).item() == 0)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def _on_new_thread(loop: _Loop, threads: int) -> None:
    """Run the loop on a thread of its own, whose pool of workers inherits its flushing; an old pool cannot be told."""

    def body() -> None:
        torch.set_num_threads(threads)
        torch.set_flush_denormal(True)
        loop.go()

    with ThreadPoolExecutor(1) as pool:
        try:
            pool.submit(body).result()
        except BaseException:
            loop.abandoned.set()
            raise
