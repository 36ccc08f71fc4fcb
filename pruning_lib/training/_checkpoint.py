"""Checkpoints of `fit`: a resumed run equals an uninterrupted one, and a file of another run is recognized.

What `describe` returns is compared with what a file holds, name by name. Files of long runs outlive a version of this
library: nothing that goes into it may change, names of functions and classes included.
"""

from __future__ import annotations

import copy
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pruning_lib._model import atomic_draft
from pruning_lib._types import Augment
from pruning_lib.regularizers import Regularizer
from pruning_lib.training._callbacks import Callback, Epoch, Run
from pruning_lib.training._schedules import Schedule

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


def _checksum(values: Tensor) -> int:
    return zlib.crc32(values.detach().cpu().contiguous().numpy().tobytes())


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
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_draft(self.path) as draft:
            torch.save(state, draft)

    def load(self) -> bool:
        """Restore the state of the file, if there is one, and return whether its run had finished.

        Raises
        ------
        CheckpointError
            If the file is damaged or belongs to another run; nothing is changed then.
        """
        if not self.path.exists():
            return False
        state = _read(self.path)
        stored = state["configuration"]
        if different := [name for name, value in self.configuration.items() if stored.get(name) != value]:
            raise CheckpointError(
                f"The checkpoint {self.path} belongs to another run: it differs in {', '.join(different)}; "
                "delete it or name another file."
            )
        self._restore(state)
        self.generator.set_state(state["order"])
        if not state["done"]:
            torch.set_rng_state(state["random"])
        self.run.history.epochs = [Epoch(**epoch) for epoch in state["history"]]
        return bool(state["done"])

    def _restore(self, state: Mapping[str, Any]) -> None:
        """Load the state of model, optimizer, callbacks and regularizer, or leave all of them as they were."""
        run = self.run
        owners: list[Any] = [run.model, run.optimizer, *self.callbacks]
        values = [state["model"], state["optimizer"], *state["callbacks"]]
        if run.regularizer is not None:
            owners.append(run.regularizer)
            values.append(state["regularizer"])
        before = [copy.deepcopy(owner.state_dict()) for owner in owners]
        for i, (owner, value) in enumerate(zip(owners, values, strict=True)):
            try:
                owner.load_state_dict(value)
            except Exception as error:  # an owner raises whatever a state that is not its own leads it to
                for earlier, own in zip(owners[:i], before[:i], strict=True):
                    earlier.load_state_dict(own)
                raise CheckpointError(
                    f"The checkpoint {self.path} does not fit the {type(owner).__name__} of this run; delete it "
                    "or name another file."
                ) from error


def _read(path: Path) -> dict[str, Any]:
    try:
        state = torch.load(path, weights_only=True)
    except Exception as error:  # a damaged archive raises whatever its reader stumbles over
        raise CheckpointError(
            f"The checkpoint {path} is cut short or was not written by fit ({type(error).__name__}); "
            "delete it to start over."
        ) from error
    if not isinstance(state, dict) or "configuration" not in state:
        raise CheckpointError(f"{path} is not a checkpoint of fit; delete it or name another file.")
    return state
