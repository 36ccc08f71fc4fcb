"""Interleaved timing of several variants of one thing."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

Step = Callable[[], object]


def interleaved(steps: Mapping[str, Step], rounds: int, inner: int = 2) -> dict[str, list[float]]:
    """Time every step in turn, `rounds` times, so that all of them meet the same machine.

    Parameters
    ----------
    steps : mapping of str to callable
        What to time.
    rounds, inner : int
        Turns, and calls a turn of which the mean counts; one more call before each turn warms up.

    Returns
    -------
    dict of str to list of float
        Seconds a call, one entry a turn.
    """
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            step()
            start = time.perf_counter()
            for _ in range(inner):
                step()
            seconds[name].append((time.perf_counter() - start) / inner)
    return seconds


def ratios(seconds: Mapping[str, list[float]], base: str) -> dict[str, tuple[float, float, float]]:
    """Return {name: (median, lower quartile, upper quartile)} of each turn's time over `base`'s in the same turn."""
    found = {}
    for name, values in seconds.items():
        lower, median, upper = statistics.quantiles([v / b for v, b in zip(values, seconds[base], strict=True)], n=4)
        found[name] = (median, lower, upper)
    return found
