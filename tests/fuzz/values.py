"""Values that an argument should not have: some whatever it is, some made from the right one."""

from __future__ import annotations

import copy
import inspect
import math
import os
import random
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from pruning_lib import Units

Named = tuple[str, Any]


class Bare:
    """An object without anything."""

    def __repr__(self) -> str:
        return "Bare()"


ANYTHING: list[Named] = [
    *((repr(v), v) for v in (None, 5, -1, 0, 1, True, 0.5, -0.5, "", "x", "é\n", b"x", 1j, ..., 10**30, 2**62, 1e300)),
    *((repr(v), v) for v in (float("nan"), float("inf"), [], {}, (), set(), [1], {"x": 1}, {5: None}, [[]], (None,))),
    ("10**5000", 10**5000),
    ("-10**30", -(10**30)),
    ("'x' * 10**6", "x" * 10**6),
    ("a str with nul", "a\0b"),
    ("Bare()", Bare()),
    ("class Bare", Bare),
    ("class nn.Linear", nn.Linear),
    ("nn.Linear(2, 3)", nn.Linear(2, 3)),
    ("nn.Identity()", nn.Identity()),
    ("nn.ModuleList()", nn.ModuleList()),
    ("empty tensor", torch.empty(0)),
    ("tensor(nan)", torch.tensor(float("nan"))),
    ("tensor(0.5)", torch.tensor(0.5)),
    ("tensor(3)", torch.tensor(3)),
    ("ones(2, 3)", torch.ones(2, 3)),
    ("meta tensor", torch.ones(2, 3, device="meta")),
    ("sparse tensor", torch.eye(3).to_sparse()),
    ("complex tensor", torch.ones(2, 3, dtype=torch.complex64)),
    ("bool tensor", torch.ones(4, dtype=torch.bool)),
    ("np array", np.zeros(3)),
    ("np.float64 nan", np.float64("nan")),
    ("np str array", np.array(["x"])),
    ("Path", Path("no/such/file")),
    ("range", range(3)),
    ("generator", (i for i in ())),
    ("lambda", lambda *_, **__: None),
    ("lambda nan", lambda *_, **__: float("nan")),
    ("lambda str", lambda *_, **__: "x"),
    ("lambda vector", lambda *_, **__: torch.ones(3)),
    ("Generator", torch.Generator()),
    ("dtype", torch.int64),
    ("module", types),
]


def anything(rng: random.Random) -> Named:
    """Return a value whatever the right one is."""
    word, value = rng.choice(ANYTHING)
    return word, copy.deepcopy(value) if isinstance(value, nn.Module) else value


def around(rng: random.Random, value: Any) -> Named:
    """Return a value that is wrong in a way of its own kind."""
    ways = list(_around(value)) or ANYTHING
    return rng.choice(ways)


def _around(value: Any) -> Iterable[Named]:
    yield from ((f"{word} of it", made) for word, made in (("[]", [value]), ("()", (value,)), ("{}", {"x": value})))
    if isinstance(value, Tensor):
        yield from _tensors(value)
    elif isinstance(value, nn.Module):
        yield from _modules(value)
    elif isinstance(value, Optimizer):
        yield "foreign optimizer", SGD(nn.Linear(3, 4).parameters(), 0.1)
        yield "its class", type(value)
        yield "scheduler", torch.optim.lr_scheduler.ConstantLR(value)
        yield "parameter groups", value.param_groups
    elif isinstance(value, Units):
        yield "a dict of groups", dict(value)
        yield "no units", Units([])
        yield "half of the units", Units(list(value.values())[:1], value.fixed, value.macs)
        yield "names", list(value)
    elif isinstance(value, bool):
        yield from (("1", 1), ("'True'", "True"), ("None", None))
    elif isinstance(value, Real):
        numbers = (
            -value,
            value + 0.5,
            value * 10**12,
            str(value),
            np.float32(value),
            torch.tensor(value),
            complex(value),
        )
        yield from ((f"{type(number).__name__} {number}", number) for number in numbers)
    elif isinstance(value, str):
        yield from ((repr(text), text) for text in (value.upper(), value + " ", value[:1], value.encode(), list(value)))
    elif isinstance(value, Mapping):
        yield from _mappings(value)
    elif isinstance(value, tuple | list):
        yield from _sequences(value)


def _tensors(value: Tensor) -> Iterable[Named]:
    yield "empty", value[:0] if value.ndim else value.reshape(1)[:0]
    yield "double", value.double()
    yield "long", value.long()
    yield "bool", value.bool()
    yield "complex", value.to(torch.complex64)
    yield "half", value.half()
    yield "nan", torch.full(value.shape, float("nan"))
    yield "inf", torch.full(value.shape, float("inf"))
    yield "1e38", torch.full(value.shape, 1e38)
    yield "meta", value.to("meta")
    yield "unsqueezed", value.unsqueeze(0)
    yield "flat", value.reshape(-1)
    yield "one more", torch.cat([value.reshape(-1), value.reshape(-1)[:1]])
    yield "list", value.tolist()
    yield "numpy", value.detach().numpy()
    if value.ndim:
        yield "one", value[:1]
        yield "transposed", value.transpose(0, -1)
        yield "sparse", value.to_sparse()


def _modules(value: nn.Module) -> Iterable[Named]:
    yield "other", nn.Sequential(nn.Linear(3, 7), nn.ReLU(), nn.Linear(7, 5))
    yield "lazy", nn.Sequential(nn.LazyLinear(3), nn.LazyBatchNorm1d(), nn.ReLU(), nn.Linear(3, 2))
    yield "width 0", nn.Sequential(nn.Linear(4, 0), nn.BatchNorm1d(0), nn.ReLU(), nn.Linear(0, 3))
    yield "its class", type(value)
    yield "state dict", value.state_dict()
    yield "a wrapper", nn.DataParallel(value)
    for word, change in (
        ("meta", "meta"),
        ("half", torch.float16),
        ("double", torch.float64),
        ("bf16", torch.bfloat16),
    ):
        yield word, copy.deepcopy(value).to(change)
    broken = copy.deepcopy(value)
    with torch.no_grad():
        next(broken.parameters()).reshape(-1)[0] = float("nan")
    yield "with nan", broken
    yield "frozen", copy.deepcopy(value).requires_grad_(False)


def _mappings(value: Mapping[Any, Any]) -> Iterable[Named]:
    whole = dict(value)
    yield "its items", list(whole.items())
    if not whole:
        return
    first = next(iter(whole))
    yield "one less", {key: item for key, item in whole.items() if key != first}
    yield "a strange name", {"strange": whole[first], **whole}
    yield "a number as name", {5: whole[first], **whole}
    for word, item in [*_around(whole[first]), ("None", None), ("'x'", "x"), ("Bare()", Bare())]:
        yield f"with {word}", {**whole, first: item}


def _sequences(value: Sequence[Any]) -> Iterable[Named]:
    kind = tuple if isinstance(value, tuple) else list
    yield "reversed", kind(reversed(value))
    yield "less", kind(value[:-1])
    yield "more", kind([*value, *value])
    yield "twice", kind([value, value])
    yield "iterator", iter(value)
    for i, own in enumerate(value):
        for word, item in [*_around(own), ("None", None), ("'x'", "x"), ("5", 5)]:
            yield f"with {word}", kind([*value[:i], item, *value[i + 1 :]])


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is what an annotation says; containers are not looked into."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or hint is inspect.Parameter.empty or isinstance(hint, typing.TypeVar):
        return True
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, each) for each in inner)
    if origin is typing.Literal:
        return isinstance(value, str) and value in inner
    if hint is Callable or origin is Callable:
        return callable(value)
    if origin is type:
        return isinstance(value, type)
    if hint is None or hint is type(None):
        return value is None
    if hint in (float, int, bool, complex):
        tower = {float: Real, int: Integral, bool: bool, complex: complex}[hint]
        return isinstance(value, tower) and (hint is bool or not isinstance(value, bool))
    if hint is str or origin is os.PathLike:
        return isinstance(value, str if hint is str else os.PathLike)
    if getattr(hint, "_is_protocol", False):
        return all(hasattr(value, name) for name in ("penalty", "update")) and not isinstance(value, type)
    kind = origin or hint
    if isinstance(kind, type) and issubclass(kind, tuple):
        return isinstance(value, tuple)
    if kind is Iterable:
        return isinstance(value, Iterable) and not isinstance(value, str | bytes)
    return not isinstance(kind, type) or isinstance(value, kind)


def is_not_finite(value: Any) -> bool:
    """Whether a number is NaN or infinite."""
    return isinstance(value, Real) and not isinstance(value, Integral) and not math.isfinite(value)
