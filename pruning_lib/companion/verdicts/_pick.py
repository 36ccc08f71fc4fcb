"""What both questions take from the rows of a suite."""

from __future__ import annotations

from collections.abc import Iterable

from pruning_lib.companion.records import Row

SEEDS = 3
"""Fewer are no test."""
MOST_WORK = 1.1
"""The multiply-adds that a control may have, as a multiple of the method's."""


def pick(
    rows: Iterable[Row], method: str, target: str, criterion: str | None = "own", recipe: str = "prune"
) -> list[Row]:
    """Return the rows of a method at a budget: of chosen rows one a seed."""
    wanted = (recipe, method, criterion, target)
    return [row for row in rows if (row["recipe"], row["method"], row["criterion"], row["target"]) == wanted]
