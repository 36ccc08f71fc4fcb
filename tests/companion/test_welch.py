"""Welch's test, Holm's correction and the smallest difference that could have been shown, by hand and by simulation."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from scipy import stats

from pruning_lib.companion.verdicts import LEVEL, POWER, compare, holm

OURS, THEIRS = [1.0, 1.4, 0.9, 1.3], [2.0, 1.2, 1.9]


def test_the_test_is_scipys_and_its_degrees_of_freedom_are_by_hand() -> None:
    found, expected = compare(OURS, THEIRS), stats.ttest_ind(OURS, THEIRS, equal_var=False)
    assert found.difference == pytest.approx(statistics.fmean(OURS) - statistics.fmean(THEIRS))
    assert found.p == pytest.approx(expected.pvalue, rel=1e-9)
    a, b = statistics.variance(OURS) / 4, statistics.variance(THEIRS) / 3
    assert found.error == pytest.approx(math.sqrt(a + b))
    assert found.degrees == pytest.approx((a + b) ** 2 / (a**2 / 3 + b**2 / 2))
    low, high = expected.confidence_interval(0.95)
    assert (found.difference - found.half, found.difference + found.half) == pytest.approx((low, high))


def test_without_spread_a_difference_is_sure_and_none_is_none() -> None:
    assert compare([1.0, 1.0], [1.0, 1.0, 1.0]).p == 1
    apart = compare([1.0, 1.0], [2.0, 2.0])
    assert (apart.p, apart.half, apart.detectable()) == (0, 0, 0)
    with pytest.raises(ValueError, match="got 1 and 3 values"):
        compare([1.0], [1.0, 2.0, 3.0])


def test_holm_by_hand() -> None:
    # 0.01·4, then 0.02·3, 0.03·2 (no less than before), 0.9·1.
    assert holm({"d": 0.9, "b": 0.02, "a": 0.01, "c": 0.03}) == pytest.approx(
        {"a": 0.04, "b": 0.06, "c": 0.06, "d": 0.9}
    )
    assert holm({"a": 0.4, "b": 0.6}) == pytest.approx({"a": 0.8, "b": 0.8})
    assert holm({"a": 0.7, "b": 0.6})["b"] == 1
    assert holm({}) == {}


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("level", [LEVEL, LEVEL / 4])
def test_the_detectable_difference_is_found_four_times_in_five(seeds: int, level: float) -> None:
    unit = np.arange(seeds) - (seeds - 1) / 2
    values = 0.3 * unit / unit.std(ddof=1)  # a spread of exactly 0.3
    found = compare(list(values), list(values))
    assert found.degrees == pytest.approx(2 * seeds - 2)
    shift = found.detectable(level)
    rng = np.random.default_rng(1)
    ours, theirs = 0.3 * rng.standard_normal((2, 40_000, seeds))
    test = stats.ttest_ind(ours + shift, theirs, axis=1, equal_var=False)
    assert ((test.pvalue < level) & (test.statistic > 0)).mean() == pytest.approx(POWER, abs=0.015)


def test_at_many_seeds_the_detectable_difference_is_that_of_a_noncentral_t() -> None:
    rng = np.random.default_rng(0)
    found = compare(list(rng.standard_normal(60)), list(2 * rng.standard_normal(50)))
    critical = stats.t.ppf(1 - LEVEL / 2, found.degrees)
    power = stats.nct.sf(critical, found.degrees, found.detectable() / found.error)
    assert power == pytest.approx(POWER, abs=0.01)


def test_a_null_is_rejected_as_often_as_the_level_says() -> None:
    rng = np.random.default_rng(1)
    for seeds in (3, 5):
        draws = rng.standard_normal((2, 2000, seeds))
        p = [compare(list(a), list(b)).p for a, b in zip(*draws, strict=True)]
        assert np.mean(np.array(p) < LEVEL) <= LEVEL + 2 * math.sqrt(LEVEL * (1 - LEVEL) / 2000)
