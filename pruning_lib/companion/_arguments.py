"""What arguments of the companion's functions have to be; see `pruning_lib._arguments`, whose table this adds to."""

from __future__ import annotations

import os
from collections.abc import Mapping

from pruning_lib._arguments import KINDS, Kind, instance, is_whole, number, numbered, said, whole
from pruning_lib._arguments import a_ as a_
from pruning_lib._arguments import checked as checked
from pruning_lib._arguments import optional as optional

MOST = 2**16
"""A layer of more units is a slip."""
KINDS |= {
    "root": instance("a folder", str, os.PathLike),
    "originals": instance("a folder", str, os.PathLike),
    "validation": whole("how many examples to carve", 0),
    "noncommercial": instance("True or False", bool),
    "padding": whole("0 or more pixels", 0, 2**16),
    "bn": instance("True or False", bool),
    "UNet.depth": whole("1 … 8", 1, 8),
    "VGG16.width": number("a positive factor", lambda value: 0 < value <= 2**8),
    "predicted": Kind("a tensor", numbered),
    "targets": Kind("a tensor", numbered),
    "maps": Kind("a tensor (n, height, width)", numbered),
    "scores": Kind("a tensor (n, classes)", numbered),
    "suite": instance("the name of a suite, such as 'mnist-lenet300'", str),
    "by": instance("the name of a column, such as 'val_error'", str),
    "fields": instance("what `shrinkage_field` returned, by name", Mapping),
    "relative": instance("True or False", bool),
}


def check_sizes(numbers: int = 0, **sizes: tuple[int, ...]) -> None:
    """Raise one sentence if one of the named sizes is no whole number in 1 … 65,536, or if they are not as many."""
    for name, values in sizes.items():
        if not isinstance(values, tuple | list) or not all(map(is_whole, values)):
            raise TypeError(f"{name} must be whole numbers, got {said(name, values)}.")
        if not values or min(values) < 1 or max(values) > MOST:
            raise ValueError(f"{name} must be at least 1 each, and at most {MOST:,}; got {said(name, values)}.")
        if numbers and len(values) != numbers:
            raise ValueError(f"{name} must be {numbers} numbers, got {len(values)}.")
