"""Question one, on rows whose answer can be read off."""

from __future__ import annotations

import math
import statistics
from typing import Any

import pytest

from pruning_lib.companion.verdicts import MET, NOT_MET, NOT_TESTED, REPORTED, SLIGHT, claim_met, compare, runs_of

Rows = list[dict[str, Any]]
DENSE = [1.5, 1.6, 1.7]  # a spread of 0.1: the margin is 0.2
BASE = {"criterion": "own", "strength": 1e-3, "macs": 100, "units": [30, 10]}


def dense(errors: list[float] = DENSE, **more: Any) -> Rows:
    """Return networks without a penalty: whole, and trained as long as the pipeline."""
    common = BASE | {"recipe": "natural", "method": "dense-long", "criterion": None, "target": None, "strength": 0.0}
    return [common | {"seed": i, "test_error": e, "val_error": e, "trained_test_error": e} | more
            for i, e in enumerate(errors)]  # fmt: skip


def natural(errors: list[float], left: int = 20, strength: float = 1e-3, **more: Any) -> Rows:
    """Return networks whose units died by themselves, `left` of 40; before their removal they err as much."""
    return [
        BASE
        | {"recipe": "natural", "method": "stochastic-l2", "target": "natural", "strength": strength, "seed": i}
        | {"units": [left - 5, 5], "trained_test_error": e, "shrunk_test_error": e, "shrunk_val_error": e}
        | {"finetuned_test_error": e - 1, "finetuned_val_error": e - 1, "test_error": e - 1, "val_error": e - 1}
        | more
        for i, e in enumerate(errors)
    ]


CLAIM: dict[str, Any] = {"method": "stochastic-l2", "target": "natural", "stage": "shrunk"} | {
    "removed": 0.5, "loss": None, "slight": 0.5
}  # fmt: skip


@pytest.mark.parametrize(
    ("errors", "word"),
    [
        ([1.7, 1.8, 1.9], MET),  # 0.2 above dense, which is the margin
        ([1.0, 1.1, 1.2], MET),
        ([1.8, 1.9, 1.91], SLIGHT),
        ([2.2, 2.3, 2.4], SLIGHT),  # 0.7 = the margin and 0.5
        ([2.3, 2.3, 2.4], NOT_MET),
    ],
)
def test_a_claim_is_met_within_the_margin(errors: list[float], word: str) -> None:
    answer = claim_met(dense() + natural(errors), CLAIM)
    assert answer.word == word
    assert answer.margin == pytest.approx(2 * statistics.stdev(DENSE)) == pytest.approx(0.2)
    expected = compare(errors, DENSE)
    assert answer.dense == pytest.approx((expected.difference, expected.half))
    assert (answer.own, answer.seeds, answer.removed, answer.departs) == ((0.0, 0.0), 3, 0.5, ())


def test_the_published_loss_is_allowed_on_top() -> None:
    rows = dense() + natural([2.3, 2.3, 2.4])
    assert claim_met(rows, CLAIM | {"loss": 1.0}).word == MET
    assert claim_met(rows, CLAIM | {"loss": -0.5, "slight": 1.0}).word == NOT_MET
    assert claim_met(rows, CLAIM | {"loss": -0.5, "slight": 1.1}).word == SLIGHT


def test_what_the_cut_costs_the_own_network_counts_as_much() -> None:
    pruned = natural([1.6, 1.6, 1.6], recipe="prune", target="fraction-0.5", trained_test_error=0.8)
    answer = claim_met(dense() + pruned, CLAIM | {"target": "fraction-0.5"})
    assert answer.word == NOT_MET
    assert answer.own == pytest.approx((0.8, 0.0))
    assert "+0.80 points" in answer.why


def test_the_stage_is_the_claims() -> None:
    rows = dense() + natural([2.6, 2.6, 2.7])
    assert claim_met(rows, CLAIM).word == NOT_MET
    assert claim_met(rows, CLAIM | {"stage": "finetuned"}).word == MET


def test_a_strength_that_removes_too_little_is_not_chosen_however_well_it_does() -> None:
    weak, strong = natural([1.0, 1.0, 1.0], 30, 1e-4), natural([1.7, 1.7, 1.8], 20, 1e-3)
    stronger = natural([3.0, 3.0, 3.0], 10, 1e-2)
    answer = claim_met(dense() + weak + strong + stronger, CLAIM)
    assert (answer.word, answer.strength, answer.removed) == (MET, 1e-3, 0.5)
    alone = claim_met(dense() + weak, CLAIM)
    assert (alone.word, alone.removed) == (NOT_MET, 0.25)
    assert alone.why == "At most 25 % of the units died, where the claim says 50 %."
    assert claim_met(dense() + weak, CLAIM | {"removed": None}).word == MET
    both = claim_met(dense() + natural([1.0] * 3, 34, 1e-5) + weak, CLAIM)
    assert both.removed == 0.25, "the strength that comes closest"
    assert [row["strength"] for row in runs_of(dense() + strong + stronger, CLAIM | {"removed": 0.7}).rows] == [
        1e-2
    ] * 3


def test_a_mean_share_counts_not_that_of_every_seed() -> None:
    rows = natural([1.6, 1.6, 1.6])
    for row, left in zip(rows, (25, 20, 15), strict=True):
        row["units"] = [left, 0]
    assert claim_met(dense() + rows, CLAIM).removed == pytest.approx(0.5)


def test_a_fraction_is_removed_by_name_whatever_layers_may_not_be_pruned() -> None:
    rows = natural([1.6, 1.6, 1.6], 35, recipe="prune", target="fraction-0.5")
    answer = claim_met(dense() + rows, CLAIM | {"target": "fraction-0.5"})
    assert (answer.word, answer.removed) == (MET, 0.5)


def test_fewer_than_three_seeds_are_reported_and_no_runs_are_not_tested() -> None:
    one = claim_met(dense() + natural([1.6]), CLAIM)
    assert (one.word, one.seeds, one.margin, one.why) == (REPORTED, 1, None, "There are 1 of 3 seeds.")
    assert one.dense == pytest.approx((0.0, math.inf))
    assert claim_met(dense([1.5, 1.6]) + natural([1.6] * 3), CLAIM).word == REPORTED
    assert claim_met(natural([1.6] * 3), CLAIM).why == "There are 0 of 3 seeds of dense."
    for rows in ([], dense()):
        answer = claim_met(rows, CLAIM)
        assert (answer.word, answer.seeds, answer.own) == (NOT_TESTED, 0, None)


def test_dense_is_the_one_that_was_trained_as_long_with_the_decay_that_validation_chooses() -> None:
    decayed = dense([1.0, 1.1, 1.2], strength=1e-3, val_error=9.0)
    short = [row | {"method": "dense", "criterion": "own", "target": "natural", "trained_test_error": 0.1}
             | {"shrunk_val_error": 0.1, "val_error": 0.1} for row in dense()]  # fmt: skip
    answer = claim_met(dense() + decayed + short + natural([1.6, 1.7, 1.8]), CLAIM)
    assert answer.dense
    assert answer.dense[0] == pytest.approx(0.1)
    without = claim_met(short + natural([1.6, 1.7, 1.8]), CLAIM)
    assert without.dense
    assert without.dense[0] == pytest.approx(1.6)
    assert "not for the fine-tuning" in without.departs[0]
    two = claim_met(dense([1.5, 1.6]) + short + natural([1.6, 1.7, 1.8]), CLAIM)
    assert two.departs == without.departs, "two long ones are no test, three short ones are"


def test_the_loop_has_no_target_and_its_strength_is_chosen_all_the_same() -> None:
    loop = {"recipe": "loop", "target": None, "criterion": None}
    rows = dense() + natural([1.6] * 3, 20, 1e-3, **loop) + natural([2.6] * 3, 10, 1e-2, **loop)
    answer = claim_met(rows, CLAIM | {"target": "loop", "removed": None})
    assert (answer.word, answer.strength, answer.removed) == (MET, 1e-3, 0.5)
    assert claim_met(rows, CLAIM | {"target": "loop", "removed": 0.6}).strength == 1e-2


def retrained(method: str, errors: list[float]) -> Rows:
    """Return networks cut to half of their units and retrained as long as they were trained."""
    more = {"recipe": "prune", "method": method, "target": "fraction-0.5", "criterion": "own-retrained"}
    of = [{"finetuned_test_error": e, "finetuned_val_error": e, "trained_test_error": 1.6} for e in errors]
    return [row | it for row, it in zip(natural(errors, **more), of, strict=True)]


RETRAINED = CLAIM | {"method": "rni", "target": "fraction-0.5", "stage": "finetuned", "criterion": "own-retrained"}


def test_what_is_retrained_is_asked_for_by_name_and_compared_with_dense_trained_twice_as_long() -> None:
    rows = dense() + retrained("rni", [1.6, 1.6, 1.7])
    assert claim_met(rows, RETRAINED | {"criterion": "own"}).word == NOT_TESTED
    answer = claim_met(rows, RETRAINED)
    assert (answer.word, len(answer.departs)) == (MET, 1)
    assert "fewer epochs than the network" in answer.departs[0]
    twice = dense([0.8, 0.9, 1.0], method="dense-twice")
    answer = claim_met(rows + twice, RETRAINED)
    assert (answer.word, answer.departs) == (NOT_MET, ())


def test_a_rival_that_should_lose_more_has_to() -> None:
    rows = dense() + retrained("rni", [1.6, 1.6, 1.7])
    claim = RETRAINED | {"rival": "slimming"}
    assert claim_met(rows, claim).word == REPORTED
    assert "0 of 3 seeds of slimming" in claim_met(rows, claim).why
    assert claim_met(rows + retrained("slimming", [1.7, 1.7, 1.8]), claim).word == MET
    answer = claim_met(rows + retrained("slimming", [1.5, 1.6, 1.7]), claim)
    assert answer.word == NOT_MET
    assert "+0.03 ± " in answer.why


def test_a_loop_is_compared_with_dense_trained_as_long() -> None:
    loop = natural([1.7, 1.7, 1.7], recipe="loop", target=None, criterion=None)
    claim = CLAIM | {"target": "loop"}
    answer = claim_met(dense() + loop, claim)
    assert (answer.word, answer.departs) == (MET, ("Dense was trained for fewer epochs than the loop takes.",))
    answer = claim_met(dense() + dense([1.0, 1.1, 1.2], method="dense-loop") + loop, claim)
    assert (answer.word, answer.departs) == (SLIGHT, ())
    assert answer.dense is not None
    assert answer.dense[0] == pytest.approx(0.6)
