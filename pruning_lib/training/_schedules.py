"""Schedules: how a learning rate or a strength changes over a training.

Each is named in checkpoints by its ``__qualname__``, settings included, so that a run with another one is recognized.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import nn

from pruning_lib._arguments import a_, checked, is_real, optional

Schedule = Callable[[float], float]
"""Progress in [0, 1) → factor on a learning rate or a strength."""


def check_schedules(owner: str, **schedules: Schedule | None) -> None:
    """Raise one sentence unless each of these is None or returns a factor; it is asked at the beginning."""
    optional(owner, **schedules)
    for name, schedule in schedules.items():
        if isinstance(schedule, nn.Module):  # which torch lets one call
            raise TypeError(f"{owner} got a {name} that is {a_(schedule)}; it needs a function of progress in [0, 1).")
        if schedule is not None:
            factor(owner, name, schedule, 0.0)


def factor(owner: str, name: str, schedule: Schedule, progress: float) -> float:
    """Return what a schedule says, or raise one sentence where that is no factor."""
    value = schedule(progress)
    if not is_real(value):
        raise TypeError(f"{owner} got a {name} that returns {a_(value)}; it needs one that returns a number.")
    if not 0 <= value < math.inf:
        raise ValueError(
            f"{owner} got a {name} that returns {value} at a progress of {progress:.2f}; a factor is finite and at "
            "least 0."
        )
    return value


def constant(progress: float) -> float:
    """Stay at the full value.

    Examples
    --------
    >>> constant(0.7)
    1.0
    """
    return 1.0


def cosine(progress: float) -> float:
    """Fall from the full value to 0 along half a cosine.

    Examples
    --------
    >>> [cosine(progress) for progress in (0.0, 0.5, 1.0)]
    [1.0, 0.5, 0.0]
    """
    checked("cosine", progress=progress)
    return 0.5 * (1 + math.cos(math.pi * progress))


def steps(*milestones: float, factor: float = 0.1) -> Schedule:
    """Return a schedule that multiplies by `factor` at each milestone.

    Parameters
    ----------
    *milestones : float
        Shares of the training in [0, 1], as in ``steps(0.5, 0.75)``.
    factor : float
        What each milestone multiplies by.

    Raises
    ------
    ValueError
        If a milestone lies outside [0, 1].

    Examples
    --------
    >>> schedule = steps(0.5, 0.75, factor=0.5)
    >>> [schedule(progress) for progress in (0.0, 0.5, 0.9)]
    [1, 0.5, 0.25]
    """
    for milestone in milestones:
        checked("steps", milestone=milestone)
    checked("steps", factor=factor)

    def schedule(progress: float) -> float:
        return math.prod(factor for milestone in milestones if progress >= milestone)

    schedule.__qualname__ = f"steps({', '.join(map(str, milestones))}, factor={factor})"
    return schedule


def ramp(share: float) -> Schedule:
    """Return a schedule that rises linearly from 0 to the full value over the first `share` of the training.

    Parameters
    ----------
    share : float
        In (0, 1].

    Raises
    ------
    ValueError
        If `share` lies outside (0, 1].

    Examples
    --------
    >>> schedule = ramp(0.5)
    >>> [schedule(progress) for progress in (0.0, 0.25, 0.75)]
    [0.0, 0.5, 1.0]
    """
    checked("ramp", share=share)

    def schedule(progress: float) -> float:
        return min(1.0, progress / share)

    schedule.__qualname__ = f"ramp({share})"
    return schedule
