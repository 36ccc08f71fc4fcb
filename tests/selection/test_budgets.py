"""What units cost, and the fewest that meet a budget, counted by hand."""

import pytest
import torch

from pruning_lib.selection import cost, select
from tests.selection.chain import SCORES, groups_of_chain, indices


def test_cost_counts_what_each_layer_writes_and_reads():
    units = groups_of_chain()
    nothing = select(SCORES, units, fraction=0.0)
    assert cost(nothing, units) == 576 + 48 + 6
    half = {"0": torch.tensor([True, True, False, False]), "5": torch.tensor([True, False, False])}
    assert cost(half, units) == 288 + 2 * 8 + 2 * 2


def test_budget_is_met_by_as_few_units_as_the_order_allows():
    units = groups_of_chain()
    chosen = select(SCORES, units, max_macs=400)
    # order 0.5, 1, 2, (2.5), 3: after one 576 + 32 + 4, after two 432 + 24 + 4, after three 288 + 16 + 4
    assert indices(chosen) == {"0": [1, 3], "5": [0]}
    with pytest.raises(ValueError, match="budget of 10 .* cannot be met: with floor=1 the smallest network costs 150"):
        select(SCORES, units, max_macs=10)  # 144 + 4 + 2


def test_a_share_of_the_multiply_adds_is_what_stays():
    units = groups_of_chain()
    assert indices(select(SCORES, units, macs_left=400 / 630)) == indices(select(SCORES, units, max_macs=400))
    assert indices(select(SCORES, units, macs_left=1.0)) == {"0": [], "5": []}
