"""Checkpoints of `fit`: a resumed run equals an uninterrupted one, and a file of another run is recognized.

What `describe` returns is compared with what a file holds, name by name. Files of long runs outlive a version of this
library: nothing that goes into it may change, names of functions and classes included.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import io
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pruning_lib._model import atomic_draft
from pruning_lib._types import Augment
from pruning_lib.regularizers import Regularizer
from pruning_lib.training._callbacks import Callback, Epoch, Run
from pruning_lib.training._schedules import Schedule

PARTS = {  # of a file, and their types
    **dict.fromkeys(("configuration", "model", "optimizer", "regularizer"), Mapping),
    **dict.fromkeys(("callbacks", "history"), list),
    **dict.fromkeys(("order", "random"), Tensor),
    "done": bool,
}
SAMPLED = 1000  # inputs of a data set, evenly spread, whose checksum recognizes it


class CheckpointError(ValueError):
    """A checkpoint is damaged or belongs to another run."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What `fit` was asked for beside what a `Run` holds."""

    batch_size: int
    schedule: Schedule  # of the learning rates
    strength_schedule: Schedule
    augment: Augment | None
    autocast: torch.dtype | None
    callbacks: Sequence[Callback]
    seed: int


LOSS = "settings of the loss"


def describe(run: Run, settings: Settings, rates: list[float]) -> dict[str, Any]:
    """Return what must agree between a checkpoint and the run that finds it; `rates` are those of the optimizer."""
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
        **({LOSS: settings_of_loss} if (settings_of_loss := _settings_of_loss(run.loss_fn)) else {}),
        "epochs": run.epochs,
        "batch size": settings.batch_size,
        "seed": settings.seed,
        "schedule": [_name(settings.schedule), _name(settings.strength_schedule)],
        "augmentation": _name(settings.augment),
        "autocast": str(settings.autocast),
        "optimizer": [type(run.optimizer).__name__, *map(str, groups)],
        "parameters": [[tuple(p.shape) for p in group["params"]] for group in run.optimizer.param_groups],
        "learning rates": rates,
        "regularizer": [*_settings_of(run.regularizer), *_layers_of(run.regularizer)],
        "callbacks": [_settings_of(callback) for callback in settings.callbacks],
    }


def _layers_of(regularizer: Regularizer | None) -> Sequence[str]:
    return getattr(regularizer, "layers", ())  # one of the reader's own may follow the protocol without inheriting it


def _settings_of(owner: object) -> list[str]:
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
        return _settings_of(value)
    return value if isinstance(value, (int, float, str)) else _name(value)


def _name(value: object) -> str:
    return getattr(value, "__qualname__", type(value).__name__)


def _settings_of_loss(loss_fn: object) -> list[str]:
    """Return what a loss was bound to, or a module's settings and buffers; what it trains changes with the run."""
    if isinstance(loss_fn, functools.partial):
        bound = [*map(_setting, loss_fn.args), *(f"{k}={_setting(v)}" for k, v in sorted(loss_fn.keywords.items()))]
        return [_name(loss_fn.func), *map(str, bound)]
    if isinstance(loss_fn, nn.Module):
        return [*_settings_of(loss_fn), *(f"{name}={_checksum(buffer)}" for name, buffer in loss_fn.named_buffers())]
    return []


def _checksum(values: Tensor) -> int:
    return zlib.crc32(values.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())


@dataclass(eq=False)
class Checkpoint:
    """The file of a run, and everything that goes into it."""

    path: Path
    run: Run
    callbacks: Sequence[Callback]
    generator: torch.Generator
    configuration: dict[str, Any]

    def save(self, done: bool) -> None:
        """Write the state of the run, whole or not at all; `done` says that there is nothing left to train."""
        with self._draft() as draft:
            self._write(done, draft)

    def probe(self) -> None:
        """Write the state to the place of the checkpoint and take it away again, to fail before hours of training."""
        with contextlib.suppress(_ProbedError), self._draft() as draft:
            self._write(False, draft)
            raise _ProbedError

    @contextlib.contextmanager
    def _draft(self) -> Iterator[Path]:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(
                error.errno, f"No checkpoint can be written here ({error.strerror})", str(self.path)
            ) from error
        with atomic_draft(self.path) as draft:
            yield draft

    def _write(self, done: bool, draft: Path) -> None:
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
        # Through memory, because torch tells a full disk in a sentence of its own writer, without errno or path.
        buffer = io.BytesIO()
        torch.save(state, buffer)
        draft.write_bytes(buffer.getbuffer())

    def read(self) -> dict[str, Any] | None:
        """Return what the file holds, or None if there is none; nothing is changed.

        Raises
        ------
        CheckpointError
            If the file is damaged or belongs to another run.
        OSError
            If it cannot be read at the moment, which says nothing about what is in it.
        """
        try:
            raw = self.path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            reason = f"The checkpoint cannot be read at the moment ({error.strerror}); it may be whole, so keep it"
            raise OSError(error.errno, reason, str(self.path)) from error
        state = _parsed(raw, self.path)
        stored = state["configuration"]
        # Older files say nothing of the loss's settings.
        wanted = {name: value for name, value in self.configuration.items() if name != LOSS or LOSS in stored}
        if different := [name for name, value in wanted.items() if stored.get(name) != value]:
            raise CheckpointError(
                f"The checkpoint {self.path} belongs to another run: it differs in {', '.join(different)}; "
                "delete it or name another file."
            )
        if len(state["callbacks"]) != len(self.callbacks) or len(state["history"]) > self.run.epochs:
            raise self._misfit("callbacks or epochs")
        return state

    def restore(self, state: Mapping[str, Any]) -> None:
        """Load what `read` returned into model, optimizer, callbacks, regularizer and generators, or change nothing.

        Raises
        ------
        CheckpointError
            If one of them refuses its part.
        """
        run = self.run
        owners: list[Any] = [run.model, run.optimizer, *self.callbacks]
        values = [state["model"], state["optimizer"], *state["callbacks"]]
        if run.regularizer is not None:
            owners.append(run.regularizer)
            values.append(state["regularizer"])
        before = [copy.deepcopy(owner.state_dict()) for owner in owners]
        order, random = self.generator.get_state(), torch.get_rng_state()
        owner: Any = None
        try:
            for owner, value in zip(owners, values, strict=True):
                owner.load_state_dict(value)
            for owner in self.callbacks:
                if hasattr(owner, "fits") and not owner.fits(run):
                    raise ValueError
            owner = run.optimizer
            _rehearse(owner)
            owner = self.generator
            self.generator.set_state(state["order"])
            if not state["done"]:
                torch.set_rng_state(state["random"])
        except Exception as error:  # an owner raises whatever a state that is not its own leads it to
            # A part may be half-loaded when it raises, so every one is put back, this one included.
            for each, own in zip(owners, before, strict=True):
                with contextlib.suppress(Exception):  # one that takes nothing at all was not changed either
                    each.load_state_dict(own)
            self.generator.set_state(order)
            torch.set_rng_state(random)
            raise self._misfit(type(owner).__name__) from error
        run.history.epochs = [Epoch(**epoch) for epoch in state["history"]]

    def _misfit(self, part: str) -> CheckpointError:
        return CheckpointError(
            f"The checkpoint {self.path} does not fit the {part} of this run; delete it or name another file."
        )


class _ProbedError(Exception):
    """Ends a draft that was written only to see that it can be."""


def _rehearse(optimizer: Optimizer) -> None:
    """Take a step on copies: what an optimizer holds of a parameter is checked by no `load_state_dict` of torch."""
    if isinstance(optimizer, torch.optim.SparseAdam):  # takes other gradients
        return
    twin = copy.deepcopy(optimizer)
    for group in twin.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    twin.step()


def _parsed(raw: bytes, path: Path) -> dict[str, Any]:
    """Return the state in a file, checked for damage and for the types of its parts."""
    try:
        # torch writes a checksum of each part and does not look at it when it reads.
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            stored = all(part.compress_type == zipfile.ZIP_STORED for part in archive.infolist())
            damaged = archive.testzip() if stored else "its compression"
        state = torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True) if damaged is None else None
    except MemoryError:
        raise
    except Exception as error:  # a damaged archive raises whatever its reader stumbles over
        raise CheckpointError(
            f"The checkpoint {path} is cut short or was not written by fit ({type(error).__name__}); "
            "delete it to start over."
        ) from error
    if damaged is not None:
        raise CheckpointError(f"The checkpoint {path} is damaged: {damaged} has changed; delete it to start over.")
    if not isinstance(state, dict) or "configuration" not in state:
        raise CheckpointError(f"{path} is not a checkpoint of fit; delete it or name another file.")
    if wrong := [name for name, kind in PARTS.items() if not isinstance(state.get(name), kind)]:
        raise CheckpointError(f"The checkpoint {path} lacks a whole {wrong[0]}; delete it or name another file.")
    numbers = {field.name for field in fields(Epoch)}
    for epoch in state["history"]:
        if (
            not isinstance(epoch, dict)
            or {*epoch} != numbers
            or not all(type(v) in (int, float) for v in epoch.values())
        ):
            raise CheckpointError(f"The checkpoint {path} lacks a whole history; delete it or name another file.")
    return state
