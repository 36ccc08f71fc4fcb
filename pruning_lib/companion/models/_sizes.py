"""What every network checks before it is built."""

from __future__ import annotations


def check_sizes(**sizes: tuple[int, ...]) -> None:
    """Raise ValueError if one of the named sizes is below 1."""
    for name, values in sizes.items():
        if min(values) < 1:
            raise ValueError(f"{name} must be at least 1 each, got {values}.")
