"""A regularizer in a training that another loop runs: what the bridges to all of them share.

A loop of one's own has two lines, and so has each bridge:

    loss = task + reg.penalty(outputs)      once per backward
    optimizer.step(); reg.update(optimizer) once per step that was taken

The second is a hook of the optimizer itself. No step is counted: where gradients accumulate, or a gradient scaler skips
a step, `optimizer.step` is not called, and so there is no update.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from pruning_lib._model import parameters_in
from pruning_lib.regularizers import Regularizer
from pruning_lib.training import Callback, Run, Schedule, constant
from pruning_lib.units import unwrapped

PARTS = ("penalty", "update", "state_dict", "load_state_dict")


@dataclass(frozen=True)
class Plan:
    """What a loop is going to do, for callbacks that plan."""

    epochs: int
    steps: int  # of the optimizer, in all; 0 where the loop does not know
    schedule: Schedule  # progress → factor on the learning rates


class OutsideRun(Run):
    """What a callback sees of a training that `fit` does not run: no data in tensors, and no history of losses."""

    def __init__(self, model: nn.Module, optimizer: Optimizer, regularizer: Regularizer, plan: Plan, done: int) -> None:
        self.model, self.optimizer, self.regularizer = model, optimizer, regularizer
        self.epochs, self.batches, self.schedule = plan.epochs, plan.steps // max(plan.epochs, 1), plan.schedule
        self.stop = False
        self.done = done

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return self.done

    def __getattr__(self, name: str) -> Any:
        if name in ("train", "val", "loss_fn", "history"):
            raise AttributeError(
                f"A callback asked for `run.{name}`, which this loop does not hand over: the callback works with "
                "`fit` alone."
            )
        raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")


class Attached:
    """A regularizer, and callbacks around the epochs, on a training that another loop runs."""

    def __init__(self, regularizer: Regularizer, callbacks: Iterable[Callback], owner: str) -> None:
        if not all(callable(getattr(regularizer, part, None)) for part in PARTS) or isinstance(regularizer, type):
            raise TypeError(
                f"{owner} got {_named(regularizer)} for the regularizer; it needs one such as `L1(model, 1e-4)`."
            )
        self.regularizer, self.callbacks, self.owner = regularizer, list(callbacks), owner
        self.epoch = 0  # done
        self.run: OutsideRun | None = None
        self._loaded = False
        self._outputs: Any = None
        self._handles: list[Any] = []

    def start(self, network: nn.Module, optimizer: Optimizer, plan: Plan, epoch: int = 0) -> None:
        """Follow the optimizer's steps from now on; after a resume `load_state_dict` came first, else begin here."""
        self.stop_following()
        if not self._loaded:
            self.epoch = epoch
        # Wrappers that place tensors or accumulate hold the optimizer that takes the steps.
        optimizer = getattr(optimizer, "optimizer", optimizer)
        self._check(optimizer)
        self.run = OutsideRun(unwrapped(network), optimizer, self.regularizer, plan, self.epoch)
        for callback in self.callbacks:
            if self._loaded and not getattr(callback, "fits", lambda _: True)(self.run):
                raise ValueError(f"{self.owner}: the checkpoint's {type(callback).__name__} belongs to another run.")
        self._loaded = False
        self._handles.append(optimizer.register_step_post_hook(self._after_step))
        for callback in self.callbacks:
            callback.start(self.run)

    def watch(self, network: nn.Module) -> None:
        """Remember what the network puts out while it trains, for a penalty that another place adds."""

        def note(module: nn.Module, _: Any, outputs: Any) -> None:
            if module.training and torch.is_grad_enabled():
                self._outputs = outputs

        self._handles.append(network.register_forward_hook(note))

    def forget(self) -> None:
        """Forget the outputs, before a step whose own ones are wanted."""
        self._outputs = None

    def penalty(self, logits: Callable[[Any], Tensor] | None) -> Tensor:
        """Return the penalty of the last forward pass that `watch` saw, in full precision, and forget its outputs."""
        outputs, self._outputs = self._outputs, None
        if outputs is None:
            raise RuntimeError(
                f"{self.owner} saw no forward pass of the network in this step; name the module that the training step "
                "calls, as it is called."
            )
        logits = logits or _logits
        outputs = logits(outputs)
        if not isinstance(outputs, Tensor):
            raise TypeError(
                f"{self.owner} got {_named(outputs)} for the outputs of the network; say which tensor the penalty "
                "reads by `logits=lambda outputs: …`."
            )
        # A penalty is a sum over many terms, which half precision would round away.
        with torch.autocast(outputs.device.type, enabled=False):
            return self.regularizer.penalty(outputs.float() if outputs.dtype.itemsize < 4 else outputs)

    def before_epoch(self, epoch: int) -> None:
        """Begin an epoch; what a checkpoint from within the end of an epoch left out is done first."""
        while self.epoch < epoch:
            self.after_epoch(self.epoch)
        for callback in self.callbacks:
            callback.before_epoch(self._running())

    def after_epoch(self, epoch: int) -> bool:
        """End an epoch, once; return whether a callback wants to stop."""
        run = self._running()
        if self.epoch == epoch:
            self.epoch = run.done = epoch + 1
            for callback in self.callbacks:
                callback.after_epoch(run)
        return run.stop

    def finish(self) -> None:
        """End the training."""
        for callback in self.callbacks:
            callback.finish(self._running())

    def close(self) -> None:
        """Leave model and optimizer as they were found, after an error too."""
        self.stop_following()
        for callback in self.callbacks:
            callback.close()

    @property
    def following(self) -> bool:
        """Whether the training is under way."""
        return bool(self._handles)

    def stop_following(self) -> None:
        """Take off the hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._outputs = None

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed training needs to equal an uninterrupted one."""
        return {
            "regularizer": self.regularizer.state_dict(),
            "callbacks": [callback.state_dict() for callback in self.callbacks],
            "epoch": self.epoch,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned, or change nothing."""
        if {"regularizer", "callbacks", "epoch"} - state.keys() or len(state["callbacks"]) != len(self.callbacks):
            raise ValueError(
                f"{self.owner}: the checkpoint holds no state of this regularizer with {len(self.callbacks)} callbacks."
            )
        owners: list[Any] = [self.regularizer, *self.callbacks]
        before = [copy.deepcopy(owner.state_dict()) for owner in owners]
        try:
            for owner, value in zip(owners, [state["regularizer"], *state["callbacks"]], strict=True):
                owner.load_state_dict(value)
        except Exception:
            for owner, own in zip(owners, before, strict=True):
                with suppress(Exception):
                    owner.load_state_dict(own)
            raise
        self.epoch, self._loaded = int(state["epoch"]), True

    def _after_step(self, optimizer: Optimizer, *_: Any) -> None:
        # A fused optimizer is called under overflow too, and skips the step inside.
        overflow = getattr(optimizer, "found_inf", None)
        if overflow is None or not bool(overflow):
            self.regularizer.update(optimizer)

    def _running(self) -> OutsideRun:
        if self.run is None:
            raise RuntimeError(f"{self.owner}: the training has not started.")
        return self.run

    def _check(self, optimizer: Optimizer) -> None:
        """Raise a sentence unless the optimizer trains whole weights of the layers that the regularizer works on."""
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"{self.owner} got {_named(optimizer)} as optimizer; it needs a torch.optim.Optimizer.")
        trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        own = {id(parameter) for parameter in parameters_in(self.regularizer)}
        if own and own.isdisjoint(map(id, trained)):
            raise ValueError(
                f"{self.owner}: the optimizer trains no weight of the layers that {type(self.regularizer).__name__} "
                "works on. Make the regularizer of the network that is trained; sharded training (FSDP, DeepSpeed) is "
                "not supported."
            )
        if any(hasattr(parameter, "placements") for parameter in trained):
            raise ValueError(f"{self.owner}: weights are sharded over processes, which is not supported; use DDP.")


def schedule_of(scheduler: Any, times: int) -> Schedule:
    """Return what a scheduler of torch that is stepped so many times does to the learning rates."""
    if scheduler is None:
        return constant
    if isinstance(scheduler, LambdaLR):
        factor = scheduler.lr_lambdas[0]
        return lambda progress: float(factor(int(progress * times)))

    def unknown(progress: float) -> float:
        raise ValueError(
            f"A callback plans with the learning rate, and what {type(scheduler).__name__} will do to it is not known "
            "in advance; pass `schedule=`, a function of the progress such as `cosine`."
        )

    return unknown


def _logits(outputs: Any) -> Any:
    """Return the tensor that a network puts out: itself, or the logits of an output of Transformers."""
    return outputs.get("logits") if isinstance(outputs, Mapping) else getattr(outputs, "logits", outputs)


def _named(value: object) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"
