"""Selecting: small cases counted by hand, and properties over random ones."""

import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations, prune

import pruning_lib as prl
from pruning_lib.selection import hold, select, threshold_weights, zero
from pruning_lib.units import Group, Member, Units
from tests.selection.chain import CHOSEN, SCORES, chain, groups_of_chain, indices


def test_fraction_takes_exactly_the_floor_of_it():
    units = groups_of_chain()
    assert indices(select(SCORES, units, fraction=0.5)) == {"0": [1, 3], "5": [0]}  # ⌊2⌋ and ⌊1.5⌋
    assert indices(select(SCORES, units, fraction=0.25)) == {"0": [1], "5": []}  # ⌊1⌋ and ⌊0.75⌋
    together = {"scope": "global"}
    assert indices(select(SCORES, units, fraction=0.5, **together)) == {"0": [1, 3], "5": [0]}  # ⌊3.5⌋: 0.5, 1, 2
    assert indices(select(SCORES, units, fraction=0.28, **together)) == {"0": [], "5": [0]}  # ⌊1.96⌋
    hundred = Units([Group("a", 100, "inner", (Member("a", torch.arange(100)),), (), ())], {})
    for fraction, count in ((0.29, 29), (0.57, 57), (0.295, 29)):
        assert select({"a": torch.rand(100)}, hundred, fraction=fraction)["a"].sum() == count
    assert indices(select(SCORES, units, fraction=0.0)) == {"0": [], "5": []}
    assert indices(select(SCORES, units, threshold=2.5)) == {"0": [1, 3], "5": [0]}


def test_ties_go_by_index():
    scores = {"0": torch.ones(4), "5": torch.ones(3)}
    assert indices(select(scores, groups_of_chain(), fraction=0.5)) == {"0": [0, 1], "5": [0]}
    assert indices(select(scores, groups_of_chain(), fraction=3 / 7, scope="global")) == {"0": [0, 1, 2], "5": []}


def test_floor_protects_the_best_and_reports_a_shortfall():
    with pytest.warns(UserWarning, match="6 units were to go, but floor=2 a group leaves 3"):
        chosen = select(SCORES, groups_of_chain(), fraction=0.9, floor=2, scope="global")
    assert indices(chosen) == {"0": [1, 3], "5": [0]}
    for target in ({"threshold": 99.0}, {"fraction": 0.9}):
        with pytest.warns(UserWarning, match="units were to go, but floor=2 a group leaves 3"):
            select(SCORES, groups_of_chain(), floor=2, **target)


def test_round_to_keeps_the_best_of_the_chosen():
    assert indices(select(SCORES, groups_of_chain(), fraction=0.5, round_to=3)) == {"0": [1], "5": []}


def test_norm_names_are_translated_and_groups_without_importance_stay():
    assert indices(select({"1": SCORES["0"]}, groups_of_chain(), fraction=0.5)) == {"0": [1, 3], "5": []}


def test_scores_may_come_by_group_one_a_unit():
    """A layer that writes two units by two channels each, and something else by a fifth."""
    group = Group("a", 2, "inner", (Member("a", torch.tensor([0, 1, 1, 0, -1])),), (), ())
    units = Units([group], {})
    assert indices(select({"a": torch.tensor([2.0, 1.0])}, units, fraction=0.5)) == {"a": [1]}
    assert indices(select({"a": torch.tensor([1.0, 3.0, 3.0, 2.0, 0.0])}, units, fraction=0.5)) == {"a": [0]}
    with pytest.raises(ValueError, match=r"importance of 'a' has shape \(3,\); the layer has 5"):
        select({"a": torch.ones(3)}, units, fraction=0.5)


def test_scope_local_takes_equal_shares_to_a_budget_and_to_a_loss():
    units, model = groups_of_chain(), chain()
    # By standing in its group, (i + ½)/n: ⅛ in "0", ⅙ in "5", ⅜ in "0", ½ in "5" …
    assert indices(select(SCORES, units, max_macs=500, scope="local")) == {"0": [1], "5": []}  # 432 + 36 + 6
    assert indices(select(SCORES, units, max_macs=470, scope="local")) == {"0": [1], "5": [0]}  # 432 + 24 + 4
    assert indices(select(SCORES, units, max_macs=400, scope="local")) == {"0": [1, 3], "5": [0]}  # 288 + 16 + 4

    def count(m: nn.Module) -> float:
        return 1.0 + sum((row == 0).all().item() for layer in (m[0], m[5]) for row in layer.weight.flatten(1))

    found = select(SCORES, units, loss_fn=count, tolerance=2.0, model=model, scope="local")
    assert indices(found) == {"0": [1], "5": [0]}
    shifted = {"0": SCORES["0"], "5": SCORES["5"] + 100}
    assert indices(select(shifted, units, max_macs=400, scope="local")) == {"0": [1, 3], "5": [0]}, "scale says nothing"


def test_stream_writers_are_averaged():
    index = torch.arange(2)
    group = Group("a", 2, "stream", (Member("a", index), Member("b", index)), (), ())
    units = Units([group], {})
    scores = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([4.0, 0.0])}  # means 2.5 and 1
    assert indices(select(scores, units, fraction=0.5)) == {"a": [1]}
    with pytest.raises(ValueError, match="found no group to choose from"):
        select(scores, units, fraction=0.5, kinds=("inner",))
    with pytest.raises(TypeError, match="importance of 'a' is a tensor of another layout; give `.to_dense"):
        select({"a": scores["a"].to_sparse()}, units, fraction=0.5)
    none = Units([], {"a": "writes the model's output"})
    with pytest.raises(
        ValueError, match="no units to choose from: every layer stays, as 'a', which writes the model's"
    ):
        select({}, none, fraction=0.5)
    with pytest.raises(ValueError, match="no units to choose from: there are none"):
        select({}, Units([]), fraction=0.5)


def test_loss_bound_is_the_last_that_holds():
    units, model = groups_of_chain(), chain()
    best_stay = {"0": [1, 2, 3], "5": [0, 2]}
    assert indices(select(SCORES, units, loss_fn=lambda m: 1.0, tolerance=0.0, model=model)) == best_stay

    def count(m: nn.Module) -> float:
        return 1.0 + sum((row == 0).all().item() for layer in (m[0], m[5]) for row in layer.weight.flatten(1))

    assert indices(select(SCORES, units, loss_fn=count, tolerance=2.0, model=model)) == {"0": [1], "5": [0]}


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_fraction_takes_the_lowest_and_exactly_so_many(data):
    size = data.draw(st.integers(2, 30))
    values = data.draw(st.lists(st.floats(-5, 5, width=32), min_size=size, max_size=size))
    fraction = data.draw(st.floats(0, 0.99))
    units = Units([Group("a", size, "inner", (Member("a", torch.arange(size)),), (), ())], {})
    score = torch.tensor(values)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mask = select({"a": score}, units, fraction=fraction)["a"]
    assert mask.sum() == min(int(fraction * size), size - 1)
    if mask.any():
        assert score[mask].max() <= score[~mask].min()


def test_wrong_use_of_select_is_named():
    units = groups_of_chain()
    for fraction in (1.0, -0.1, float("nan")):
        with pytest.raises(ValueError, match=r"fraction=.*; it needs a number in \[0, 1\)"):
            select(SCORES, units, fraction=fraction)
    with pytest.raises(ValueError, match="got 0 targets; give exactly one of fraction"):
        select(SCORES, units)
    with pytest.raises(ValueError, match="got 2 targets"):
        select(SCORES, units, fraction=0.5, max_macs=100)
    for layer in ("conv9", "bn_of_the_output"):
        with pytest.raises(
            ValueError, match=f"importance of '{layer}', which writes .* units=units.* The groups are 0, 5"
        ):
            select({layer: torch.ones(2)}, units, fraction=0.5)
    with pytest.raises(ValueError, match=r"importance of '0' has shape \(3,\); the layer has 4 units"):
        select({"0": torch.ones(3)}, units, fraction=0.5)
    with pytest.raises(ValueError, match="importance of '5' holds NaN"):
        select({"5": torch.tensor([1.0, float("nan"), 2.0])}, units, fraction=0.5)
    with pytest.raises(ValueError, match="loss_fn without model"):
        select(SCORES, units, loss_fn=lambda m: 1.0)
    with pytest.raises(ValueError, match="tolerance=-1"):
        select(SCORES, units, loss_fn=lambda m: 1.0, tolerance=-1, model=chain())


def test_computed_weights_are_refused_where_they_would_stay_as_they_are():
    for make_computed in (
        lambda layer: parametrizations.weight_norm(layer),
        lambda layer: prune.l1_unstructured(layer, "weight", 0.1),
    ):
        model, units = chain(), groups_of_chain()
        make_computed(model[5])
        for change in (
            lambda m, g: zero(m, CHOSEN, g),
            lambda m, g: hold(m),
            lambda m, g: threshold_weights(m, lambda _: 1.0, 0.0),
        ):
            with pytest.raises(ValueError, match="changes weights in place, and that of '5' is computed from others"):
                change(model, units)


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda model: torch.compile(model, backend="eager")])
def test_wrappers_are_looked_through(wrap):
    model, x = chain(), torch.randn(2, 1, 4, 4)
    wrapped, units = wrap(model), prl.find_units(model, x)
    assert list(prl.find_units(wrapped, x)) == list(units) == ["0", "5"]
    chosen = select(prl.GroupLasso(wrapped, 1e-3).importance(), prl.find_units(wrapped, x), fraction=0.5)
    scores = prl.importance.taylor(wrapped, units, (x, torch.tensor([0, 1])))
    assert all(
        torch.equal(score, prl.importance.taylor(model, units, (x, torch.tensor([0, 1])))[name])
        for name, score in scores.items()
    )
    assert prl.importance.magnitude(wrapped, units).keys() == scores.keys()
    zero(wrapped, chosen, units)
    assert (model[5].weight[chosen["5"]] == 0).all()


def test_numbers_that_are_none_are_named():
    units = groups_of_chain()
    for wrong in (
        {"macs_left": float("nan")},
        {"max_macs": float("nan")},
        {"fraction": 0.5, "floor": 1.5},
        {"fraction": 0.5, "round_to": 2.5},
    ):
        with pytest.raises((TypeError, ValueError), match="select got"):
            select(SCORES, units, **wrong)
    for wrong in ({"fraction": 1.5}, {"max_macs": -5}):
        with pytest.raises(ValueError, match="select got"):
            prl.iterative(chain(), units, lambda _: SCORES, lambda _: None, rounds=2, **wrong)
    assert indices(select({name: score.numpy() for name, score in SCORES.items()}, units, fraction=0.5)) == indices(
        select(SCORES, units, fraction=0.5)
    )
    with pytest.raises(TypeError, match="the choice for '0' is a list; it must be a bool tensor"):
        zero(chain(), {"0": [True, False, False, False]}, units)


def test_scope_isomorphic_ranks_groups_of_one_structure_together():
    """Two convolutions of one structure and a linear layer: each class loses the same share, by score within it."""

    def group(name: str, size: int, structure: str) -> Group:
        return Group(name, size, "inner", (Member(name, torch.arange(size)),), (), (), structure=structure)

    units = Units([group("a", 4, "conv"), group("b", 4, "conv"), group("c", 4, "linear")], {})
    scores = {
        "a": torch.tensor([1.0, 2.0, 3.0, 9.0]),
        "b": torch.tensor([10.0, 11.0, 12.0, 4.0]),
        "c": torch.arange(4.0),
    }
    assert indices(select(scores, units, fraction=0.5, scope="isomorphic")) == {"a": [0, 1, 2], "b": [3], "c": [0, 1]}
    assert indices(select(scores, units, fraction=0.25, scope="isomorphic")) == {"a": [0, 1], "b": [], "c": [0]}
    alone = Units([group(name, 4, "") for name in "abc"], {})
    local = select(scores, alone, fraction=0.5, scope="local")
    assert indices(select(scores, alone, fraction=0.5, scope="isomorphic")) == indices(local), (
        "no structure, no likeness"
    )


def test_structures_are_types_and_kernel_sizes_of_layers():
    model = nn.Sequential(
        *(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU()),
        *(nn.Conv2d(6, 6, 1), nn.ReLU(), nn.Conv2d(6, 2, 3)),
    )
    units = prl.find_units(model, torch.ones(1, 3, 12, 12))
    assert units["0"].structure == units["2"].structure, "widths make no difference"
    assert len({group.structure for group in units.values()}) == 3
