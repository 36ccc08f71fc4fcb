"""Means over seeds, with their intervals."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable

from scipy import stats

from pruning_lib.companion._arguments import check_columns, is_whole, numbers_of, rows_of, shown
from pruning_lib.companion.records._rows import Row

CONFIDENCE = 0.95


def interval(values: Iterable[float]) -> tuple[float, float]:
    """Return mean and half width of the 95 % interval (Student's t) of a few numbers, such as differences over seeds.

    Parameters
    ----------
    values : iterable of float
        At least one; with one the half width is infinite.

    Examples
    --------
    >>> mean, half = interval([1.0, 2.0, 3.0])
    >>> mean, round(half, 4)
    (2.0, 2.4841)
    """
    values = numbers_of(values, "interval")
    if not values:
        raise ValueError("interval got no number; a mean takes at least one.")
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, math.inf
    quantile = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1))
    return mean, quantile * statistics.stdev(values) / math.sqrt(len(values))


def paired(ours: Iterable[Row], theirs: Iterable[Row], column: str) -> tuple[float, float, int]:
    """Return mean, half width of the 95 % interval and number of the differences ours − theirs, paired by seed.

    Parameters
    ----------
    ours, theirs : iterable of Row
        One row a seed each.
    column : str
        What to compare, for example ``"finetuned_test_error"``.

    Raises
    ------
    ValueError
        If a seed comes twice, or no seed is in both.

    Examples
    --------
    >>> ours, theirs = [{"seed": 0, "e": 2.0}, {"seed": 1, "e": 3.0}], [{"seed": 0, "e": 1.0}, {"seed": 1, "e": 2.0}]
    >>> paired(ours, theirs, "e")
    (1.0, 0.0, 2)
    """
    left, right = _by_seed(ours, column), _by_seed(theirs, column)
    seeds = sorted(left.keys() & right.keys())
    if not seeds:
        raise ValueError(f"paired got rows without a common seed: {shown(sorted(left))} and {shown(sorted(right))}.")
    mean, half = interval(left[seed] - right[seed] for seed in seeds)
    return mean, half, len(seeds)


def _by_seed(rows: Iterable[Row], column: str) -> dict[int, float]:
    values: dict[int, float] = {}
    for row in rows_of(rows, "paired"):
        check_columns(row, "paired", column, "seed")
        seed = row["seed"]
        if not is_whole(seed) or seed in values:
            raise ValueError(f"paired got seed {shown(seed)} twice, or as no number; give one row a seed.")
        values[seed] = row[column]
    return values
