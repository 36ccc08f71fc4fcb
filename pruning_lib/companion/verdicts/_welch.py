"""Differences of unpaired means: Welch's test, Holm's correction, and what so few seeds could have shown at all.

    t = (x̄ − ȳ) / s      s² = s_x²/n_x + s_y²/n_y      ν = s⁴ / (s_x⁴/(n_x²(n_x−1)) + s_y⁴/(n_y²(n_y−1)))

Seeds of a method and of a control hardly correlate (measured: −0.03, 0.12, −0.05), so pairs would only cost degrees of
freedom. Welch, Biometrika 34, 1947; Holm, Scandinavian Journal of Statistics 6, 1979.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from pruning_lib.companion._arguments import checked, numbers_of

LEVEL = 0.05
"""Of all tests of a case together, two-sided."""
POWER = 0.8
"""With which a difference is said to be one that these seeds could have shown."""
DRAWS = 10_000  # of errors, to find it: within about a hundredth


class Comparison(NamedTuple):
    """A difference of two means, as an unpaired test sees it.

    Parameters
    ----------
    difference : float
        Mean of ours − mean of theirs, in points of error: negative is better.
    ours, theirs : tuple of (float, int)
        s_x²/n_x and n_x: the squared error of each mean, and the number of its seeds.
    """

    difference: float
    ours: tuple[float, int]
    theirs: tuple[float, int]

    @property
    def error(self) -> float:
        """The standard error s of the difference."""
        return math.sqrt(self.ours[0] + self.theirs[0])

    @property
    def degrees(self) -> float:
        """The degrees of freedom ν, by Welch and Satterthwaite."""
        (a, n), (b, m) = self.ours, self.theirs
        return (a + b) ** 2 / (a**2 / (n - 1) + b**2 / (m - 1)) if a + b else float(n + m - 2)

    @property
    def p(self) -> float:
        """The two-sided p value."""
        if self.error == 0:
            return float(self.difference == 0)
        return float(2 * stats.t.sf(abs(self.difference) / self.error, self.degrees))

    @property
    def half(self) -> float:
        """Half the width of the 95 % interval."""
        return float(stats.t.ppf(1 - LEVEL / 2, self.degrees)) * self.error

    def detectable(self, level: float = LEVEL) -> float:
        """Return the smallest true difference that this test finds with a power of 80 %, if the spreads are as seen.

        A draw of the errors with means that differ by δ is significant if δ + noise > t·s, with t and s of that draw.
        So δ is the 80 % quantile of t·s − noise, over many draws: a noncentral t would take s and ν as known, which is
        far too hopeful at three seeds.
        """
        (a, n), (b, m) = self.ours, self.theirs
        rng = np.random.default_rng(0)
        noise = self.error * rng.standard_normal(DRAWS)
        seen_a, seen_b = a * rng.chisquare(n - 1, DRAWS) / (n - 1), b * rng.chisquare(m - 1, DRAWS) / (m - 1)
        squared = seen_a + seen_b
        if not squared.all():  # no spread at all: any difference shows
            return 0.0
        degrees = squared**2 / (seen_a**2 / (n - 1) + seen_b**2 / (m - 1))
        needed = stats.t.ppf(1 - level / 2, degrees) * np.sqrt(squared) - noise
        return float(np.quantile(needed, POWER))


def compare(ours: Sequence[float], theirs: Sequence[float]) -> Comparison:
    """Compare two lists of test errors, a value a seed; the seeds need not be the same.

    Parameters
    ----------
    ours, theirs : sequence of float
        At least two each.

    Raises
    ------
    ValueError
        If there are fewer.

    Examples
    --------
    >>> it = compare([1.0, 2.0, 3.0], [3.0, 4.0, 5.0])
    >>> it.difference, round(it.half, 3), round(it.p, 3)
    (-2.0, 2.267, 0.07)
    """
    ours, theirs = numbers_of(ours, "compare"), numbers_of(theirs, "compare")
    if min(len(ours), len(theirs)) < 2:
        raise ValueError(f"compare got {len(ours)} and {len(theirs)} values; a spread takes at least two of each.")
    first, second = ((statistics.variance(values) / len(values), len(values)) for values in (ours, theirs))
    return Comparison(statistics.fmean(ours) - statistics.fmean(theirs), first, second)


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """Return p values corrected for their number, by name: the smallest times m, the next times m − 1, never falling.

    Examples
    --------
    >>> holm({"a": 0.01, "b": 0.04, "c": 0.03})
    {'a': 0.03, 'c': 0.06, 'b': 0.06}
    """
    checked("holm", p=p)
    numbers_of(p.values(), "holm")
    corrected: dict[str, float] = {}
    last = 0.0
    for i, (name, value) in enumerate(sorted(p.items(), key=lambda item: item[1])):
        last = max(last, min(1.0, (len(p) - i) * value))
        corrected[name] = last
    return corrected
