"""Question two, on rows whose answer can be read off, and its errors by simulation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from pruning_lib.companion.verdicts import (
    BETTER,
    LEVEL,
    NO_DIFFERENCE,
    UNDECIDED,
    WORSE,
    _welch,
    compare,
    opponents,
    reason,
)

Rows = list[dict[str, Any]]
T = "fraction-0.5"
BASE = {"recipe": "control", "criterion": None, "target": T, "strength": 0.0, "macs": 100, "units": [4, 2]}


def rows(method: str, errors: list[float], **more: Any) -> Rows:
    """Return a row a seed."""
    return [BASE | {"method": method, "seed": i, "test_error": e, "val_error": e} | more for i, e in enumerate(errors)]


def ours(errors: list[float], **more: Any) -> Rows:
    return rows("rni", errors, **{"recipe": "prune", "criterion": "own"} | more)


def random(errors: list[float], **more: Any) -> Rows:
    return rows("dense", errors, **{"recipe": "prune", "criterion": "random"} | more)


def all_controls(base: float = 4.0) -> Rows:
    errors = [base, base + 0.1, base + 0.2]
    names = ("uniform", "scratch-e-rni", "scratch-b-rni")
    return [row for name in names for row in rows(name, errors)] + random(errors)


@pytest.mark.parametrize(
    ("errors", "word"),
    [([2.0, 2.1, 2.2], BETTER), ([4.0, 4.1, 4.3], NO_DIFFERENCE), ([1.0, 4.0, 5.0], NO_DIFFERENCE),
     ([6.0, 6.1, 6.2], WORSE)],
)  # fmt: skip
def test_the_word_is_what_all_controls_say(errors: list[float], word: str) -> None:
    found = reason(ours(errors) + all_controls(), "rni", T)
    assert (found.word, found.seeds, found.missing, found.departs) == (word, 3, (), ())
    assert set(found.controls) == {"uniform", "scratch-e-rni", "scratch-b-rni", "random units"}


def test_the_numbers_are_welchs_corrected_by_holm() -> None:
    mine = [3.0, 3.4, 3.1, 3.3, 2.9]
    theirs = {"uniform": [3.9, 3.6, 3.8], "scratch-e-rni": [3.0, 3.9, 3.5], "scratch-b-rni": [3.3, 3.0, 3.1, 3.4]}
    them = [row for name, errors in theirs.items() for row in rows(name, errors, macs=105)]
    found = reason(ours(mine) + them, "rni", T)
    p = {name: stats.ttest_ind(mine, errors, equal_var=False).pvalue for name, errors in theirs.items()}
    first, second, third = sorted(p, key=p.__getitem__)
    assert found.controls[first].p == pytest.approx(3 * p[first])
    assert found.controls[second].p == pytest.approx(max(3 * p[first], min(1, 2 * p[second])))
    assert found.controls[third].p == pytest.approx(max(found.controls[second].p, p[third]))
    assert found.controls["uniform"].word == BETTER
    for name, errors in theirs.items():
        it = compare(mine, errors)
        assert found.controls[name].difference == pytest.approx(np.mean(mine) - np.mean(errors))
        assert found.controls[name].half == pytest.approx(it.half)
        assert found.controls[name].detectable == pytest.approx(it.detectable(LEVEL / 3))
        assert found.controls[name].work == pytest.approx(1.05)
    assert (found.word, found.missing, found.deciding) == (NO_DIFFERENCE, ("random units",), "scratch-b-rni")


def test_one_control_that_is_better_makes_it_worse_and_decides() -> None:
    found = reason(ours([2.0, 2.1, 2.2]) + all_controls() + rows("uniform-x", [1.0, 1.1, 1.2]), "rni", T)
    assert (found.word, found.deciding) == (WORSE, "uniform-x")


def test_better_takes_all_standard_controls_and_three_seeds_of_each() -> None:
    whole = ours([2.0, 2.1, 2.2]) + all_controls()
    for name, words in (("uniform", "uniform width"), ("scratch-e-rni", "Scratch-E"), ("dense", "random units")):
        fewer = [row for row in whole if (row["method"], row["seed"]) != (name, 2)]
        found = reason(fewer, "rni", T)
        assert (found.word, found.missing) == (UNDECIDED, (words,))
        worse = [row | {"test_error": 9.0} if row["method"] == "rni" else row for row in fewer]
        assert reason(worse, "rni", T).word == WORSE
    assert reason(ours([2.0, 2.1]) + all_controls(), "rni", T) == reason(ours([9.0, 9.1]) + all_controls(), "rni", T)
    assert reason(ours([2.0, 2.1, 2.2]), "rni", T).word == UNDECIDED
    assert reason([], "rni", T).seeds == 0


def test_a_control_with_more_work_is_none_and_one_with_less_cannot_make_it_better() -> None:
    def with_work(macs: int, errors: list[float]) -> Any:
        them = [row | {"macs": macs} if row["method"] == "uniform" else row for row in all_controls()]
        return reason(ours(errors) + them, "rni", T)

    assert with_work(110, [2.0, 2.1, 2.2]).word == BETTER
    more = with_work(111, [2.0, 2.1, 2.2])
    assert (more.word, more.missing) == (UNDECIDED, ("uniform width (1.11 times its work)",))
    assert "uniform" not in more.controls
    less = with_work(50, [2.0, 2.1, 2.2])
    assert (less.word, less.missing) == (UNDECIDED, ("uniform width (0.50 times its work)",))
    assert less.controls["uniform"].word == BETTER
    assert with_work(50, [6.0, 6.1, 6.2]).controls["uniform"].word == WORSE


def test_the_own_small_network_is_preferred_and_that_of_others_will_do() -> None:
    own = rows("scratch-e-rni", [4.0] * 3) + rows("scratch-e-dense", [3.0] * 3) + rows("scratch-b-dense", [3.0] * 3)
    found = opponents(ours([2.0] * 3) + own, "rni", T)
    assert set(found) == {"scratch-e-rni", "scratch-b-dense"}


def test_a_small_network_of_another_strength_is_said_to_be_so() -> None:
    them = [row | {"units": [3, 3]} if row["method"] == "scratch-b-rni" else row for row in all_controls()]
    assert reason(ours([4.0, 4.1, 4.3]) + them, "rni", T).departs == ("Scratch-B has the widths of another strength.",)


def test_the_strength_of_a_control_is_chosen_on_validation_data_too() -> None:
    weak = rows("uniform", [1.0] * 3, strength=1e-3, val_error=9.0)
    found = opponents(all_controls() + weak, "rni", T)
    assert {row["strength"] for row in found["uniform"]} == {0.0}


def test_units_that_die_are_compared_with_controls_matched_to_them_and_with_as_many_random_ones() -> None:
    natural = {"target": "natural", "recipe": "natural", "criterion": "own", "shrunk_val_error": 1.0}
    mine = rows("l2", [2.0, 2.1, 2.2], **natural, strength=1e-3) + rows("l2", [9.0, 9.1, 9.2], **natural, strength=1e-2)
    matched = [row for kind in ("uniform", "scratch-e", "scratch-b") for of in ("l2", "stochastic-l2")
               for row in rows(f"{kind}-{of}", [4.0, 4.1, 4.2], target="natural")]  # fmt: skip
    found = reason(mine + matched + random([5.0, 5.1, 5.2]) + rows("uniform", [1.0] * 3), "l2", "natural", removed=0.5)
    assert set(found.controls) == {"uniform-l2", "scratch-e-l2", "scratch-b-l2", "random units"}
    assert reason(mine + matched, "l2", "natural").missing == ("random units",)


@pytest.mark.parametrize("target", ["loop", "epsilon-0.01"])
def test_random_units_are_as_many_of_each_layer_where_a_suite_has_such(target: str) -> None:
    loop = target == "loop"
    its = {"recipe": "loop", "criterion": None, "target": None} if loop else {"recipe": "natural", "criterion": "own"}
    mine = rows("l2", [2.0, 2.1, 2.2], **{"target": target} | its)
    small = [row for kind in ("uniform", "scratch-e", "scratch-b")
             for row in rows(f"{kind}-l2", [4.0, 4.1, 4.2], target=target)]  # fmt: skip
    others = rows("uniform-l1", [1.0] * 3, target=target) + random([1.0] * 3, target="fraction-0.5")
    found = reason(mine + small + others, "l2", target)
    assert (found.word, found.missing) == (UNDECIDED, ("random units",))
    own = rows("random-l2", [5.0, 5.1, 5.2], target=target, criterion="random")
    found = reason(mine + small + others + own, "l2", target)
    assert (found.word, found.missing) == (BETTER, ())
    assert set(found.controls) == {"uniform-l2", "scratch-e-l2", "scratch-b-l2", "random units"}


def test_what_is_retrained_says_that_its_controls_trained_for_less() -> None:
    mine = ours([2.0, 2.1, 2.2], criterion="own-retrained")
    found = reason(mine + all_controls(), "rni", T, criterion="own-retrained")
    assert found.word == BETTER
    assert "fewer epochs" in found.departs[0]
    assert reason(mine + all_controls(), "rni", T).seeds == 0


def test_where_nothing_differs_something_is_seen_at_most_as_often_as_the_level_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_welch, "DRAWS", 10)  # what could have been shown is not asked
    rng = np.random.default_rng(0)
    n, seen = 1000, 0
    for _ in range(n):
        draws = 4 + 0.2 * rng.standard_normal((5, 5))
        them = [row for name, errors in zip(("uniform", "scratch-e-rni", "scratch-b-rni"), draws, strict=False)
                for row in rows(name, list(errors))]  # fmt: skip
        found = reason(ours(list(draws[3])) + them + random(list(draws[4])), "rni", T)
        seen += any(control.word != NO_DIFFERENCE for control in found.controls.values())
    assert seen / n <= LEVEL


def test_a_difference_that_could_have_been_shown_is_seen_in_most_draws() -> None:
    rng = np.random.default_rng(0)
    seen, n = 0, 100
    for _ in range(n):
        # 0.56 points are 2.8 standard deviations of a run: what five seeds show at the level left to one of four.
        draws = 0.2 * rng.standard_normal((5, 5))
        names = ("uniform", "scratch-e-rni", "scratch-b-rni")
        them = [row for name, e in zip(names, 4 + draws, strict=False) for row in rows(name, list(e))]
        found = reason(ours(list(3.44 + draws[3])) + them + random(list(4 + draws[4])), "rni", T)
        seen += found.controls["uniform"].word == BETTER
    assert seen / n > 0.7
