"""What arguments of public functions have to be, by their names: a name means the same in every room.

A function says in its first line what it was given, and is sure of it from there on:

    checked("evaluate", model=model, loss_fn=loss_fn, batch_size=batch_size)

A wrong kind is a TypeError, a number out of range a ValueError; both say what came and what is needed. Where a name
means something else in one function, the table has a line for both: ``recalibrate.batch_size``.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Iterable, Mapping
from numbers import Integral, Real
from typing import Any, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pruning_lib.units import Kind as GroupKind
from pruning_lib.units import Units

MOST_THREADS = max(64, os.cpu_count() or 1)
"""What torch survives: starting 100,000 ends the interpreter."""
LARGEST = 2**64 - 1
"""The largest whole number that torch takes anywhere, as a seed."""


class Kind(NamedTuple):
    """What a value has to be.

    Parameters
    ----------
    words : str
        They end the sentence "it needs …".
    fits : callable
        Whether a value is of the type.
    holds : callable
        Whether one of this type is in range.
    """

    words: str
    fits: Callable[[Any], bool]
    holds: Callable[[Any], bool] = lambda value: True


def is_real(value: object) -> bool:
    """Whether a value is a real number, of Python or of NumPy; True is none, nor is a tensor."""
    return isinstance(value, Real) and not isinstance(value, bool)


def is_float(value: Real) -> bool:
    """Whether a number is one in double precision, too; one of thousands of digits is not."""
    try:
        float(value)
    except OverflowError:
        return False
    return True


def _is_kind(value: object) -> bool:
    return isinstance(value, str) and value in get_args(GroupKind)


def is_whole(value: object) -> bool:
    """Whether a value is a whole number, of Python or of NumPy; True is none."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def numbered(value: object) -> bool:
    """Whether a value is a tensor whose numbers can be worked with, unlike a sparse one or one on the meta device."""
    return isinstance(value, Tensor) and value.layout is torch.strided and not value.is_meta


def _call(value: object) -> bool:
    return callable(value) and not isinstance(value, type)


def instance(words: str, *types: type) -> Kind:
    """Return the kind of what is an instance of these types."""
    return Kind(words, lambda value: isinstance(value, types))


def doing(words: str, *methods: str) -> Kind:
    """Return the kind of objects, not classes, that have these methods."""
    return Kind(words, lambda value: has(value, methods))


def path(words: str) -> Kind:
    """Return the kind of what names a file or a folder in a sentence: one line, and no longer than systems allow."""
    return Kind(
        f"{words} of one line, 1 to 4,096 characters and no NUL",
        lambda value: isinstance(value, str | os.PathLike),
        lambda value: 0 < len(text := str(value)) <= 4096 and "\0" not in text and len(f"{text}.".splitlines()) == 1,
    )


def function(words: str) -> Kind:
    """Return the kind of what can be called, but for classes: `nn.MSELoss` for ``nn.MSELoss()`` is a slip."""
    return Kind(words, _call)


def of_model(words: str) -> Kind:
    """Return the kind of functions of a model. A module is none: `nn.CrossEntropyLoss()` takes outputs and targets."""
    return Kind(words, lambda value: _call(value) and not isinstance(value, nn.Module))


def number(words: str, holds: Callable[[float], bool] = math.isfinite) -> Kind:
    """Return the kind of numbers in a range; True is none, nor is a tensor."""
    return Kind(words, is_real, lambda value: is_float(value) and holds(value))


def whole(words: str, least: int, most: int = 2**62) -> Kind:
    """Return the kind of whole numbers in a range."""
    return Kind(
        f"a whole number, {words}",
        is_whole,
        lambda value: least <= value <= most,
    )


METHODS = ("penalty", "update", "importance", "state_dict", "load_state_dict")
KINDS: dict[str, Kind] = {
    "model": instance("a torch.nn.Module", nn.Module),
    "optimizer": instance("a torch.optim.Optimizer", Optimizer),
    "units": instance("the units that `find_units(model, example)` returns", Units),
    "regularizer": doing("a regularizer such as `L2(model, 1e-4)`", *METHODS),
    "generator": instance("a torch.Generator", torch.Generator),
    "outputs": Kind("the tensor of the model's outputs, not empty", numbered, lambda value: value.numel() > 0),
    "inputs": Kind("a tensor of inputs (examples, …)", numbered),
    "state": instance("what state_dict() returned", Mapping),
    "text": instance("the text that `to_json` returned", str),
    "path": path("a path"),
    "latency": instance("True or False", bool),
    "loss_fn": function("a function of (outputs, targets)"),
    # Numbers.
    "strength": number("a finite number ≥ 0 (0 switches it off)", lambda value: 0 <= value < math.inf),
    "lr": number("a finite number above 0", lambda value: 0 < value < math.inf),
    "weight_decay": number("a finite number ≥ 0", lambda value: 0 <= value < math.inf),
    "batch_size": whole("1 or more", 1),
    "recalibrate.batch_size": whole("2 or more, as one sample has no variance", 2),
    "repeats": whole("1 or more", 1),
    "threads": whole(f"1 or more, and here up to {MOST_THREADS}", 1, MOST_THREADS),
    "seed": whole("−2^63 … 2^64 − 1", -(2**63), 2**64 - 1),
    # fit.
    "epochs": whole("1 or more", 1),
    "fit.progress": instance("True or False", bool),
    "progress": number("a finite number, the share that is done"),
    "augment": function("a function of (inputs, generator)"),
    "schedule": function("a function of the progress, such as `cosine`"),
    "strength_schedule": function("a function of the progress, such as `ramp(0.2)`"),
    "autocast": instance("a dtype such as `torch.bfloat16`", torch.dtype),
    "callbacks": doing("a list of callbacks", "__iter__"),
    "checkpoint": path("a path"),
    "milestone": number("a share of the training in [0, 1]", lambda value: 0 <= value <= 1),
    "factor": number("a finite number"),
    "share": number("a share of the training in (0, 1]", lambda value: 0 < value <= 1),
    "patience": whole("1 or more", 1),
    "strength_for.share": number("a share of units in (0, 1]", lambda value: 0 < value <= 1),
    "reg": doing("a regularizer such as `GroupLasso(model, 1e-4)`", *METHODS, "distance"),
    "steps": whole("1 or more", 1),
    "within": number("a share of the training in (0, 1]", lambda value: 0 < value <= 1),
    "units_left": number("a number between 0 and 1: the share that stays", lambda value: 0 < value < 1),
    "TargetSize.macs_left": number("a number between 0 and 1: the share that stays", lambda value: 0 < value < 1),
    "TargetSize.threshold": number("a finite distance, 0 or more", lambda value: 0 <= value < math.inf),
    "tolerance": number("a finite share ≥ 0 by which the loss may grow", lambda value: 0 <= value < math.inf),
    "slack": number("a finite share ≥ 0", lambda value: 0 <= value < math.inf),
    # Methods.
    "Polarization.t": number("a number in [−2, 2], where ½ − t/4 is a share", lambda value: -2 <= value <= 2),
    "RecedingNeurons.shift": number("a finite number (3.0 or 0.0 published)"),
    "SeReNe.strength": number(
        "a finite number ≥ 0 and below 1, a share of the weight per step", lambda value: 0 <= value < 1
    ),
    "alpha": number("a finite number ≥ 1 (1 is L2 on groups)", lambda value: 1 <= value < math.inf),
    "every": whole("1 or more: S is measured at each such step", 1),
    "smoothing": number("the share of the past kept, in [0, 1)", lambda value: 0 <= value < 1),
    "activation": function("a function of a tensor, such as `torch.relu`"),
    "guidance": Kind(
        "a name, a function of i/n, or a mapping of groups to tensors",
        lambda it: isinstance(it, str | Mapping) or (_call(it) and not isinstance(it, nn.Module)),
    ),
    "base": Kind(
        "a method's class, or a function of (model, strength)",
        lambda value: hasattr(value, "penalty") if isinstance(value, type) else callable(value),
    ),
    "probability": Kind("a name or a function of |w|/τ", lambda value: isinstance(value, str) or _call(value)),
    "temperature": Kind(
        "a positive number, or one for each layer by name",
        lambda value: all(map(is_real, value.values() if isinstance(value, Mapping) else [value])),
    ),
    "StochasticPruning.seed": whole("0 or more, the same on every rank", 0),
    "scales": instance("True or False", bool),
    # Selection.
    "select.loss_fn": of_model("a function of the model that returns its validation loss"),
    "threshold_weights.loss_fn": of_model("a function of the model that returns its validation loss"),
    "importance": instance("{layer or group: a number a unit}, as `importance()` of a method returns it", Mapping),
    "iterative.importance": of_model("a function of the model that returns what `select` takes"),
    "train": of_model("a function of the model"),
    "fraction": number("a number in [0, 1): the share of units that go", lambda value: 0 <= value < 1),
    "macs_left": number("a number in (0, 1]: the share of multiply-adds that stays", lambda value: 0 < value <= 1),
    "prune.macs_left": number("a number in (0, 1): the share that stays", lambda value: 0 < value < 1),
    "max_macs": whole("1 or more multiply-adds for one example; macs_left names a share of the network's", 1),
    "threshold": number("a number, below which units go", lambda value: not math.isnan(value)),
    "floor": whole("0 or more units that every group keeps", 0),
    "round_to": whole("1 or more, of which every group keeps a multiple", 1),
    "kinds": Kind(
        "a list or tuple of 'inner', 'stream' and 'heads'",
        lambda value: isinstance(value, list | tuple | set | frozenset) and all(map(_is_kind, value)),
    ),
    "rounds": whole("1 or more; 1 is one-shot pruning", 1),
    "norm": number("a number ≥ 1, the p of ‖w‖_p", lambda value: value >= 1),
    "chosen": instance("the choice that `select` returns, {group: bool (units,)}", Mapping),
    # Diagnostics.
    "Dynamics.threshold": number("a norm, 0 or more", lambda value: 0 <= value < math.inf),
    "time": number("a finite number"),
}


def checked(owner: str, **arguments: Any) -> None:
    """Raise one sentence for the first argument that is not of the kind that its name stands for.

    Parameters
    ----------
    owner : str
        The public function or class that got them, for the message.
    **arguments
        By name, as in `KINDS`.

    Raises
    ------
    TypeError
        If one is of another kind.
    ValueError
        If one is out of range, or a module holds parameters without a shape or without numbers.
    """
    for name, value in arguments.items():
        kind = KINDS.get(f"{owner}.{name}") or KINDS[name]
        if not kind.fits(value):
            raise TypeError(f"{owner} got {said(name, value)}; it needs {kind.words}.")
        if is_whole(value) and abs(value) > LARGEST:
            raise ValueError(f"{owner} got {said(name, value)}; torch holds no whole number of more than 64 bits.")
        if not kind.holds(value):
            raise ValueError(f"{owner} got {said(name, value)}; it needs {kind.words}.")
        if isinstance(value, nn.Module) and name == "model":
            _ready(value, owner)


def optional(owner: str, **arguments: Any) -> None:
    """Do as `checked`, but let None pass."""
    checked(owner, **{name: value for name, value in arguments.items() if value is not None})


def one_of(value: Any, name: str, choices: Iterable[str]) -> str:
    """Return `value` if it is one of `choices`, or raise one sentence that names them."""
    if isinstance(value, str) and value in (choices := tuple(choices)):
        return value
    unknown = ValueError if isinstance(value, str) else TypeError
    raise unknown(f"{said(name, value)} is unknown; choose one of {', '.join(map(repr, choices))}.")


def numbers(value: Any, what: str) -> Tensor:
    """Return real numbers as a tensor, or raise one sentence; `what` begins it."""
    try:
        tensor = torch.as_tensor(value)
    except Exception as error:  # torch raises whatever the value leads it to
        raise TypeError(f"{what} is {a_(value)}; it needs a tensor of numbers.") from error
    if tensor.layout is not torch.strided:
        raise TypeError(f"{what} is a tensor of another layout; give `.to_dense()` of it.")
    if tensor.is_complex() or tensor.is_meta:
        raise TypeError(f"{what} is {'complex' if tensor.is_complex() else 'on the meta device'}; it needs numbers.")
    return tensor


def said(name: str, value: object) -> str:
    """Return what an argument was: ``epochs='3'``, "a list for epochs"; on one line, however large it is."""
    if value is None or isinstance(value, Real | str | os.PathLike):
        text = _text(value)
        return f"{name}={text if len(text) < 100 else f'{text[:40]}…{text[-40:]}'}"
    if isinstance(value, Tensor):
        return f"a {value.dtype} tensor of shape {tuple(value.shape)} for {name}".replace("torch.", "")
    return f"{a_(value)} for {name}"


def shown(value: object) -> str:
    """Return what a value looks like: on one line, in at most a hundred characters."""
    return " ".join(_text(value).split())[:100]


def a_(value: object) -> str:
    """Return the type of a value with its article; a class is called one."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    kind = type(value).__name__
    return f"{'an' if kind[0].lower() in 'aeiou' else 'a'} {kind}"


def _text(value: object) -> str:
    try:
        return repr(value)
    except ValueError:  # Python does not write numbers of more than 4,300 digits
        return f"{'a number' if isinstance(value, Real) else a_(value)} of thousands of digits"


def has(value: object, methods: Iterable[str]) -> bool:
    """Whether a value, which is no class, has these methods."""
    return not isinstance(value, type) and all(callable(getattr(value, method, None)) for method in methods)


def _ready(model: nn.Module, owner: str) -> None:
    """Raise ValueError for a parameter or buffer without a shape or without numbers."""
    for name, tensor in itertools.chain(model.named_parameters(), model.named_buffers()):
        if nn.parameter.is_lazy(tensor):
            raise ValueError(f"'{name}' has no shape yet: run the model once on the example, then try again.")
        if tensor.is_meta:
            raise ValueError(f"{owner} looks at numbers, and '{name}' is on the meta device: load the weights first.")
