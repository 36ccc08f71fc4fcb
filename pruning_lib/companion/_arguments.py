"""What arguments of the companion's functions have to be; see `pruning_lib._arguments`, whose table this adds to."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any

from torch import Tensor

from pruning_lib._arguments import KINDS, Kind, instance, is_float, number, numbered, path, whole
from pruning_lib._arguments import a_ as a_
from pruning_lib._arguments import checked as checked
from pruning_lib._arguments import is_whole as is_whole
from pruning_lib._arguments import optional as optional
from pruning_lib._arguments import said as said
from pruning_lib._arguments import shown as shown

MOST = 2**16
"""A layer of more units is a slip."""


def _finite(value: object) -> bool:
    return isinstance(value, Tensor) and numbered(value) and not value.is_complex() and bool(value.isfinite().all())


def _classes(value: object) -> bool:
    if not isinstance(value, Tensor) or not numbered(value) or value.is_floating_point() or value.is_complex():
        return False
    return bool((value >= 0).all())


KINDS |= {
    "root": path("a folder"),
    "originals": path("a folder"),
    "validation": whole("how many examples to carve", 0),
    "noncommercial": instance("True or False", bool),
    "padding": whole("0 or more pixels", 0, 2**16),
    "bn": instance("True or False", bool),
    "UNet.depth": whole("1 … 8", 1, 8),
    "VGG16.width": number("a positive factor", lambda value: 0 < value <= 2**8),
    "predicted": Kind("a tensor of finite numbers", _finite),
    "targets": Kind("a tensor of finite numbers", _finite),
    "instances": Kind("a tensor of whole numbers, 0 or more", _classes),
    "classes": Kind("a tensor of whole numbers, 0 or more", _classes),
    "folder": path("a folder"),
    "maps": Kind("a tensor (n, height, width)", numbered),
    "scores": Kind("a tensor (n, classes) of finite numbers", _finite),
    "suite": instance("the name of a suite, such as 'mnist-lenet300'", str),
    "measured.name": instance("the name of a measurement, such as 'zoo'", str),
    "p": instance("p values by name", Mapping),
    "by": instance("the name of a column, such as 'val_error'", str),
    "fields": instance("what `shrinkage_field` returned, by name", Mapping),
    "relative": instance("True or False", bool),
}


def check_sizes(numbers: int = 0, **sizes: tuple[int, ...]) -> None:
    """Raise one sentence if one of the named sizes is no whole number in 1 … 65,536, or if they are not as many."""
    for name, values in sizes.items():
        if not isinstance(values, tuple | list) or not all(map(is_whole, values)):
            raise TypeError(f"{name} must be whole numbers, got {said(name, values)}.")
        if not values or (numbers and len(values) != numbers):
            raise ValueError(f"{name} must be {numbers or 'one or more'} numbers, got {len(values)}.")
        if min(values) < 1 or max(values) > MOST:
            raise ValueError(f"{name} must be at least 1 each, and at most {MOST:,}; got {shown(values)}.")


def numbers_of(values: Iterable[float], owner: str) -> list[float]:
    """Return finite numbers as a list, or raise one sentence."""
    if not isinstance(values, Iterable) or isinstance(values, str | bytes | Tensor):
        raise TypeError(f"{owner} got {said('values', values)}; it needs a list of numbers.")
    found = list(values)
    for value in found:
        if isinstance(value, bool) or not isinstance(value, Real):
            raise TypeError(f"{owner} got {said('a value', value)}; it needs a list of numbers.")
        if not is_float(value) or not math.isfinite(value):
            raise ValueError(f"{owner} got {said('a value', value)}; a mean takes finite numbers.")
    return [float(value) for value in found]


def rows_of(rows: Any, owner: str) -> list[Any]:
    """Return the rows of a table as a list, or raise one sentence."""
    if not isinstance(rows, Iterable) or isinstance(rows, str | bytes | Tensor):
        raise TypeError(f"{owner} got {said('the rows', rows)}; it needs a list of them, as `load` gives it.")
    return list(rows)


def check_columns(row: Mapping[str, Any], owner: str, *columns: str) -> None:
    """Raise one sentence unless a row of a table has these columns."""
    if not isinstance(row, Mapping):
        raise TypeError(f"{owner} got {a_(row)} among its rows; each is a mapping of columns, as `load` gives them.")
    for column in columns:
        if not isinstance(column, str) or column not in row:
            raise ValueError(f"{owner} got rows without a column {shown(column)}.")
        if not isinstance(row[column], str | Real | None):
            raise TypeError(f"{owner} got {a_(row[column])} for {shown(column)} of a row; it needs a number or a text.")
