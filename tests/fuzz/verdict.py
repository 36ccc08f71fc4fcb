"""What came of a try: accepted, refused in a sentence, or a fault."""

from __future__ import annotations

import copy
import time
import traceback
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import pruning_lib
from pruning_lib.training import CheckpointError

LIBRARY = str(Path(pruning_lib.__file__).parent)
KINDS = (TypeError, ValueError, RuntimeError, FloatingPointError, CheckpointError)
SECONDS = 1.0  # of computing, whatever else the machine does


class Try(NamedTuple):
    """One try: of which case, what came of it, and what to read of it."""

    case: str
    outcome: str
    text: str


def tried(
    case: str, what: str, call: Callable[[], Any], owners: Mapping[str, Any], pure: bool = False, most: int = 0
) -> Try:
    """Call, and say what came of it.

    `owners` may not change by an error, nor at all if the function is `pure`; `most` bounds the memory, in megabytes.
    """
    before, hurt = snapshot(owners), _hurt(owners)
    settings = _settings()
    memory = _highest(reset=True) if most else 0
    start, error = time.process_time(), None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            call()
    except Exception as caught:  # whatever is raised is what is looked at
        error = caught
    took = time.process_time() - start
    faults = [] if error is None else [*_faults(error)]
    if (error is not None or pure) and not same(before, snapshot(owners)):
        faults.append("something was changed")
    if error is None and not hurt and _hurt(owners):
        faults.append("numbers that are not finite were written")
    if settings != _settings():
        faults.append("a setting of torch was changed")
    if most and _highest() - memory > most:
        faults.append(f"it took {_highest() - memory} MB")
    if took > SECONDS:
        faults.append(f"it took {took:.1f} s")
    said = "" if error is None else f" -> {type(error).__name__}: {error}"
    if faults:
        return Try(case, "faulty", f"{what}: {'; '.join(faults)}{said}")
    return Try(case, "accepted" if error is None else "refused", f"{what}{said}")


def _faults(error: Exception) -> list[str]:
    """Return what is wrong with an error: it should be a sentence of the library's own."""
    faults, text = [], str(error)
    if type(error) not in KINDS and not isinstance(error, OSError):
        faults.append(f"a {type(error).__name__}")
    named = isinstance(error, OSError) and error.filename is not None  # the system adds the path behind a full stop
    if not named and not text.endswith((".", "`", "FOLDER")):
        faults.append("no full stop")
    if "\n" in text or len(text) > 1000:
        faults.append("not one line")
    innermost = traceback.extract_tb(error.__traceback__)[-1].filename
    if not innermost.startswith(LIBRARY):
        faults.append(f"raised in {Path(innermost).name}")
    return faults


def snapshot(value: Any) -> Any:
    """Return everything that a call may change of what it got, as plain data."""
    if isinstance(value, nn.Module):
        hooks = [len(getattr(m, name)) for m in value.modules() for name in ("_forward_hooks", "_forward_pre_hooks")]
        modes = [m.training for m in value.modules()]
        gradients = [None if p.grad is None or p.is_meta else p.grad.clone() for p in value.parameters()]
        trained = [p.requires_grad for p in value.parameters()]
        return [snapshot(dict(value.state_dict())), gradients, trained, modes, hooks]
    if isinstance(value, Tensor):
        return value if value.is_meta or nn.parameter.is_lazy(value) else value.detach().to_dense().clone()
    if isinstance(value, Mapping):
        return {key: snapshot(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [snapshot(item) for item in value]
    if hasattr(value, "state_dict") and not isinstance(value, type):
        return snapshot(copy.deepcopy(value.state_dict()))
    return None


def same(a: Any, b: Any) -> bool:
    """Whether two snapshots are equal, NaN to NaN."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        if any(nn.parameter.is_lazy(tensor) or tensor.is_meta for tensor in (a, b)):
            return type(a) is type(b) and a.is_meta == b.is_meta
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(*(_filled(t) for t in (a, b)))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(item, b[key]) for key, item in a.items())
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and bool(a == b)


def _filled(tensor: Tensor) -> Tensor:
    return tensor.nan_to_num(7.7) if tensor.is_floating_point() else tensor


def _hurt(owners: Mapping[str, Any]) -> bool:
    """Whether a model among these holds numbers that are not finite."""
    tensors = [t for value in owners.values() if isinstance(value, nn.Module) for t in value.state_dict().values()]
    plain = [t for t in tensors if not (t.is_meta or nn.parameter.is_lazy(t)) and t.is_floating_point()]
    return not all(bool(tensor.isfinite().all()) for tensor in plain)


def _settings() -> tuple[Any, ...]:
    denormal = (torch.tensor(1e-30) * torch.tensor(1e-10)).item() == 0
    return torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled(), denormal


def _highest(reset: bool = False) -> int:
    """Return the most memory that this process has held, in megabytes, from the last reset on; 0 where Linux is not."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) // 1024
