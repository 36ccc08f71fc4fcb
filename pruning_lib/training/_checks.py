"""What `fit` is given, looked at before the first step: a slip costs a sentence instead of an epoch."""

from __future__ import annotations

import contextlib
import operator
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pruning_lib._model import clone, eval_mode, first_line, place
from pruning_lib._types import TensorPair
from pruning_lib.training._callbacks import Callback, Run
from pruning_lib.units import BatchNorm

Kind = type | tuple[type, ...] | str
ABSENT = type(None)
KINDS: dict[str, tuple[Kind, str]] = {  # types, or the names of methods, and the words for both
    "model": (nn.Module, "a torch.nn.Module"),
    "optimizer": (Optimizer, "a torch.optim.Optimizer"),
    "regularizer": ("penalty update state_dict load_state_dict", "a regularizer such as `L2(model, 1e-4)`"),
    "loss_fn": ("__call__", "a function of (outputs, targets)"),
    "augment": ("__call__", "a function of (inputs, generator)"),
    "schedule": ("__call__", "a function of the progress, such as `cosine`"),
    "strength_schedule": ("__call__", "a function of the progress, such as `ramp(0.2)`"),
    "autocast": (torch.dtype, "a dtype such as `torch.bfloat16`"),
    "callbacks": ("__iter__", "a list of callbacks"),
    "checkpoint": ((str, os.PathLike), "a path"),
}
OPTIONAL = {"regularizer", "augment", "schedule", "strength_schedule", "autocast", "checkpoint"}
NUMBERS = {"epochs": (1, 2**62), "batch_size": (1, 2**62), "seed": (-(2**63), 2**64 - 1)}


def checked(**arguments: object) -> None:
    """Raise one sentence for the first argument of `fit` that is of the wrong kind or out of range."""
    for name, value in arguments.items():
        if name in NUMBERS:
            low, high = NUMBERS[name]
            try:
                number = operator.index(value)  # type: ignore[arg-type]
            except TypeError:
                raise TypeError(f"fit got {name}={value!r}; it needs a whole number.") from None
            if not low <= number <= high:
                wanted = f"{low} or more" if low == 1 and number < low else f"{low} … {high}"
                raise ValueError(f"fit got {name}={value!r}; it needs {wanted}.")
            continue
        kind, words = KINDS[name]
        fits = isinstance(value, kind) if not isinstance(kind, str) else _has(value, kind.split())
        if not fits and not (value is None and name in OPTIONAL):
            raise TypeError(f"fit got {_named(value)} for {name}; it needs {words}.")


def _has(value: object, methods: Iterable[str]) -> bool:
    return not isinstance(value, type) and all(callable(getattr(value, method, None)) for method in methods)


def _named(value: object) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"


def pair(part: object, name: str) -> TensorPair:
    """Return the inputs and targets of a data set, as many of each."""
    if not isinstance(part, tuple) or len(part) != 2 or not all(isinstance(tensor, Tensor) for tensor in part):
        raise TypeError(f"fit got a {type(part).__name__} for {name}; it needs two tensors, (inputs, targets).")
    inputs, targets = part
    sizes = [len(tensor) if tensor.ndim else 0 for tensor in part]
    if sizes[0] != sizes[1] or not sizes[0]:
        raise ValueError(
            f"fit got {sizes[0]} inputs and {sizes[1]} targets in {name}; it needs as many of each, and at least one."
        )
    return TensorPair(inputs, targets)


def check_run(run: Run, callbacks: Sequence[Callback]) -> None:
    """Raise one sentence if the parts of a run do not belong together."""
    for callback in callbacks:
        if not _has(callback, ("start", "before_epoch", "after_epoch", "finish", "close", "state_dict")):
            raise TypeError(f"fit got {_named(callback)} among callbacks; they need the methods of `Callback`.")
    own = {id(parameter) for parameter in run.model.parameters()}
    held = {"optimizer": [p for group in run.optimizer.param_groups for p in group["params"]]}
    held["regularizer"] = [] if run.regularizer is None else list(parameters_in(run.regularizer))
    for name, parameters in held.items():
        # A method of the reader's own may hold none where this can see it.
        if parameters and own.isdisjoint(map(id, parameters)):
            raise ValueError(
                f"fit got the {name} of another model: it holds none of this one's parameters. Make a new one, after "
                "`shrink` too."
            )


def parameters_in(owner: object, depth: int = 5) -> Iterator[nn.Parameter]:
    """Yield the parameters that an object holds, in modules, containers and objects of its own."""
    if isinstance(owner, nn.Parameter):
        yield owner
    elif isinstance(owner, nn.Module):
        yield from owner.parameters()
    elif depth and not isinstance(owner, str | bytes | Tensor | type | Callable):
        parts = owner.values() if isinstance(owner, Mapping) else owner if isinstance(owner, list | tuple) else None
        for part in vars(owner).values() if parts is None and hasattr(owner, "__dict__") else parts or ():
            yield from parameters_in(part, depth - 1)


@torch.no_grad()
def check_data(run: Run) -> None:
    """Raise one sentence if a set holds what is not finite, or if its loss cannot be computed.

    Every target meets the outputs of one example, which finds wrong shapes, dtypes and classes for one forward pass.
    """
    random = torch.get_rng_state()
    model = run.model
    with contextlib.suppress(RuntimeError):  # a copy, because a forward may count its calls or draw
        model = clone(run.model, share=True)
    for name, (inputs, targets) in (("train", run.train), ("val", run.val)):
        if inputs.is_floating_point() and not bool(inputs.isfinite().all()):
            raise ValueError(f"fit got inputs in {name} that are not finite; leave those examples out or mend them.")
        try:
            with eval_mode(model):
                outputs = model(inputs[:1])
            alike = isinstance(outputs, Tensor) and outputs.shape[:1] == (1,)
            for part in torch.split(targets, 1000) if alike else [targets[:1]]:
                run.loss_fn(outputs.expand(len(part), *outputs.shape[1:]) if alike else outputs, part)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise ValueError(f"fit cannot compute the loss of {name}: {first_line(error)}{place(error)}.") from error
        finally:
            torch.set_rng_state(random)


def trained(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield what has to stay finite: parameters that are trained, and the statistics of BatchNorms."""
    yield from ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)
    for prefix, module in model.named_modules():
        if isinstance(module, BatchNorm):
            yield from ((f"{prefix}.{name}", buffer) for name, buffer in module.named_buffers())
