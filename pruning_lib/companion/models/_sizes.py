"""What every network checks before it is built."""

from __future__ import annotations

from pruning_lib._arguments import said

MOST = 2**16
"""A layer of more units is a slip."""


def check_sizes(numbers: int = 0, **sizes: tuple[int, ...]) -> None:
    """Raise one sentence if one of the named sizes is no whole number in 1 … 65,536, or if they are not as many."""
    for name, values in sizes.items():
        if not isinstance(values, tuple | list) or not all(type(value) is int for value in values):
            raise TypeError(f"{name} must be whole numbers, got {said(name, values)}.")
        if not values or min(values) < 1 or max(values) > MOST:
            raise ValueError(f"{name} must be at least 1 each, and at most {MOST:,}; got {said(name, values)}.")
        if numbers and len(values) != numbers:
            raise ValueError(f"{name} must be {numbers} numbers, got {len(values)}.")
