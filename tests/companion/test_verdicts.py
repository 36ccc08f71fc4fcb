"""The rule of the ledger, on rows whose verdict can be read off."""

from __future__ import annotations

import math
from typing import Any

import pytest

from pruning_lib.companion import records, verdicts

T = 4.303  # Student's t, 0.975, two degrees of freedom


def rows(method: str, errors: list[float], recipe: str = "prune", **more: Any) -> list[dict[str, Any]]:
    """Return a row a seed; trained errors are 2.0, 2.1, 2.2 unless told."""
    criterion = "own" if recipe == "prune" else None
    base = {"recipe": recipe, "method": method, "criterion": criterion, "target": "fraction-0.5", "strength": 0.0}
    return [
        base
        | {"seed": seed, "test_error": error, "val_error": error, "zeroed_val_error": 9 - error}
        | {"trained_test_error": 2 + seed / 10, "trained_val_error": 3.0, "macs": 100}
        | more
        for seed, error in enumerate(errors)
    ]


def suite(ours: list[float]) -> list[dict[str, Any]]:
    found = rows("rni", ours) + rows("dense", [2.3, 2.4, 2.5]) + rows("dense", [5.0, 5.1, 5.2], criterion="random")
    return found + rows("uniform", [4.0, 4.1, 4.2], recipe="control")


@pytest.mark.parametrize(
    ("ours", "word"),
    [
        ([2.1, 2.2, 2.3], "holds"),  # 0.1 above dense, 1.9 below uniform width
        ([2.6, 2.7, 2.8], "in part"),  # 0.6 above dense
        ([2.1, 2.2, 3.0], "in part"),  # 0.33 ± 1.03: within the margin by its mean alone
        ([4.1, 4.2, 4.3], "does not hold here"),  # worse than uniform width
        ([2.1, 4.0, 4.2], "does not hold here"),  # 0.67 ± 2.38 below: not told from it
    ],
)
def test_a_verdict_is_what_the_intervals_say(ours: list[float], word: str) -> None:
    assert verdicts.judge(suite(ours), "rni", "fraction-0.5", margin=0.5).word == word


def test_a_verdict_has_its_numbers_by_hand() -> None:
    found = verdicts.judge(suite([2.1, 2.2, 3.0]), "rni", "fraction-0.5", margin=0.5)
    # Differences to dense 0.1, 0.1, 0.8; to uniform width −1.9, −1.9, −1.2: both with a deviation of 0.7 / √3.
    half = T * (0.7 / math.sqrt(3)) / math.sqrt(3)
    assert found.above["dense"] == pytest.approx((1 / 3, half), rel=1e-3)
    assert found.against["uniform"] == pytest.approx((-5 / 3, half), rel=1e-3)
    assert (found.hardest, found.seeds, list(found.against)) == ("uniform", 3, ["uniform", "random units"])
    assert found.told("uniform") == "better than"
    assert found.above_dense == found.above["dense"]


def test_two_seeds_are_no_test_and_neither_is_a_suite_without_controls() -> None:
    two = [row for row in suite([2.1, 2.2, 2.3]) if row["seed"] < 2 or row["method"] != "uniform"]
    none = rows("rni", [2.1, 2.2, 2.3]) + rows("dense", [2.3, 2.4, 2.5])
    assert verdicts.judge(two, "rni", "fraction-0.5", 0.5)[:2] == ("not tested here", 2)
    all_of_it = suite([2.1, 2.2, 2.3])
    no_uniform = [row for row in all_of_it if row["method"] != "uniform"]
    no_random = [row for row in all_of_it if row["criterion"] != "random"]
    no_whole = [row for row in all_of_it if (row["method"], row["criterion"]) != ("dense", "own")]
    for untested in (none, no_uniform, no_random, no_whole, rows("dense", [2.3, 2.4, 2.5]), []):
        found = verdicts.judge(untested, "rni", "fraction-0.5", 0.5)
        assert (found.word, found.seeds, found.hardest) == ("not tested here", 0, "")


def test_the_whole_network_with_l2_is_chosen_on_validation_data_of_the_whole_network() -> None:
    # By its test error the stronger would be chosen, and by what is left after pruning, too.
    weak = rows("l2", [3.0, 3.0, 3.0], strength=1e-4, trained_val_error=2.0)
    strong = rows("l2", [1.0, 1.0, 1.0], strength=1e-3, trained_val_error=2.5, trained_test_error=1.0)
    found = verdicts.whole(suite([2.1, 2.2, 2.3]) + weak + strong)
    assert {name: [row["strength"] for row in its] for name, its in found.items()} == {
        "dense": [0.0] * 3,
        "l2": [1e-4] * 3,
    }


def test_it_takes_both_whole_networks_to_be_dense_level() -> None:
    better = rows("l2", [3.0, 3.0, 3.0], strength=1e-3, trained_test_error=1.0)
    found = verdicts.judge(suite([2.1, 2.2, 2.3]) + better, "rni", "fraction-0.5", margin=0.5)
    assert (found.word, round(found.above["dense"][0], 6), round(found.above["l2"][0], 6)) == ("in part", 0.1, 1.2)
    assert found.above_dense == found.above["l2"]


def test_strengths_are_chosen_by_the_error_that_is_judged() -> None:
    both = rows("l1", [2.0, 2.0, 2.0], strength=1e-3) + rows("l1", [3.0, 3.0, 3.0], strength=1e-2)
    assert {row["strength"] for row in records.choose(both)} == {1e-3}
    assert {row["strength"] for row in records.choose(both, by="zeroed_val_error")} == {1e-2}
    assert records.choose(rows("uniform", [1.0], zeroed_val_error=None), by="zeroed_val_error") == []


def test_the_control_that_is_named_is_one_that_beats_the_method_where_there_is_one() -> None:
    wide = rows("scratch-b-rni", [1.0, 4.0, 2.8], recipe="control")  # -0.5 by the mean, not told apart
    narrow = rows("scratch-e-rni", [2.9, 3.0, 3.1], recipe="control")  # -0.2 by the mean, and told so
    found = verdicts.judge(suite([3.1, 3.2, 3.3]) + wide + narrow, "rni", "fraction-0.5", margin=0.5)
    assert found.told("scratch-b-rni") == "not told apart from"
    assert found.against["scratch-b-rni"][0] > found.against["scratch-e-rni"][0] > 0
    assert (found.hardest, found.told(found.hardest)) == ("scratch-e-rni", "worse than")


def test_a_control_with_over_a_tenth_more_work_is_none() -> None:
    worse = suite([4.1, 4.2, 4.3])
    assert verdicts.judge(worse, "rni", "fraction-0.5", 3.0).word == "does not hold here"
    for macs, told, word in ((110, "worse than", "does not hold here"), (111, "not compared with", "holds")):
        found = [row | {"macs": macs} if row["method"] == "uniform" else row for row in worse]
        verdict = verdicts.judge(found, "rni", "fraction-0.5", margin=3.0)  # 0.9 points better than random units
        assert (verdict.told("uniform"), verdict.word) == (told, word)
        assert verdict.work == {"uniform": macs / 100, "random units": 1.0}
    small = [row | {"macs": 10} if row["method"] == "rni" else row for row in worse]
    assert verdicts.judge(small, "rni", "fraction-0.5", margin=3.0)[:2] == ("not tested here", 3)
    assert verdicts.judge(small, "rni", "fraction-0.5", margin=1.0)[:2] == ("does not hold here", 3)


def test_seeds_count_that_all_have_in_common() -> None:
    others = [row | {"seed": row["seed"] + 2} if row["method"] == "uniform" else row for row in suite([2.1, 2.2, 2.3])]
    assert verdicts.judge(others, "rni", "fraction-0.5", margin=0.5)[:2] == ("not tested here", 1)
