"""Selecting, zeroing, holding and thresholding: small cases counted by hand, and properties over random ones."""

import copy
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations, prune

import pruning_lib as prl
from pruning_lib.selection import cost, hold, select, threshold_weights, zero
from pruning_lib.units import Group, Member, Units


def chain() -> nn.Module:
    """conv(4) → bn → ReLU → pool → flatten → fc1(3) → ReLU → fc2(2), on 1×4×4 images."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten()]
    model = nn.Sequential(*layers, nn.Linear(16, 3), nn.ReLU(), nn.Linear(3, 2))
    nn.init.normal_(model[1].bias)
    return model.eval()


def groups_of_chain() -> Units:
    four, three = torch.arange(4), torch.arange(3)
    conv = Group("0", 4, "inner", (Member("0", four),), (Member("1", four),), (Member("5", four.repeat_interleave(4)),))
    fc1 = Group("5", 3, "inner", (Member("5", three),), (), (Member("7", three),))
    return Units([conv, fc1], {"7": "writes the model's output"}, {"0": 4 * 9 * 16, "5": 48, "7": 6})


SCORES = {"0": torch.tensor([4.0, 1.0, 3.0, 2.0]), "5": torch.tensor([0.5, 9.0, 2.5]), "7": torch.tensor([0.0, 0.0])}


def gone(chosen) -> dict[str, list[int]]:
    return {name: mask.nonzero().flatten().tolist() for name, mask in chosen.items()}


def test_fraction_takes_exactly_the_floor_of_it():
    units = groups_of_chain()
    assert gone(select(SCORES, units, fraction=0.5)) == {"0": [1, 3], "5": [0]}  # ⌊3.5⌋ lowest: 0.5, 1, 2
    assert gone(select(SCORES, units, fraction=0.5, scope="local")) == {"0": [1, 3], "5": [0]}
    assert gone(select(SCORES, units, fraction=0.28)) == {"0": [], "5": [0]}  # ⌊1.96⌋
    hundred = Units([Group("a", 100, "inner", (Member("a", torch.arange(100)),), (), ())], {})
    for fraction, count in ((0.29, 29), (0.57, 57), (0.295, 29)):
        assert select({"a": torch.rand(100)}, hundred, fraction=fraction)["a"].sum() == count
    assert gone(select(SCORES, units, fraction=0.0)) == {"0": [], "5": []}
    assert gone(select(SCORES, units, threshold=2.5)) == {"0": [1, 3], "5": [0]}


def test_ties_go_by_index():
    scores = {"0": torch.ones(4), "5": torch.ones(3)}
    assert gone(select(scores, groups_of_chain(), fraction=3 / 7)) == {"0": [0, 1, 2], "5": []}


def test_floor_protects_the_best_and_reports_a_shortfall():
    with pytest.warns(UserWarning, match="6 units were to go, but floor=2 a group leaves 3"):
        chosen = select(SCORES, groups_of_chain(), fraction=0.9, floor=2)
    assert gone(chosen) == {"0": [1, 3], "5": [0]}
    for target in ({"threshold": 99.0}, {"fraction": 0.9, "scope": "local"}):
        with pytest.warns(UserWarning, match="units were to go, but floor=2 a group leaves 3"):
            select(SCORES, groups_of_chain(), floor=2, **target)


def test_round_to_keeps_the_best_of_the_chosen():
    assert gone(select(SCORES, groups_of_chain(), fraction=0.5, round_to=3)) == {"0": [1], "5": []}


def test_norm_names_are_translated_and_groups_without_importance_stay():
    assert gone(select({"1": SCORES["0"]}, groups_of_chain(), fraction=0.5)) == {"0": [1, 3], "5": []}


def test_scores_may_come_by_group_one_a_unit():
    """A layer that writes two units by two channels each, and something else by a fifth."""
    group = Group("a", 2, "inner", (Member("a", torch.tensor([0, 1, 1, 0, -1])),), (), ())
    units = Units([group], {})
    assert gone(select({"a": torch.tensor([2.0, 1.0])}, units, fraction=0.5)) == {"a": [1]}
    assert gone(select({"a": torch.tensor([1.0, 3.0, 3.0, 2.0, 0.0])}, units, fraction=0.5)) == {"a": [0]}
    with pytest.raises(ValueError, match=r"importance of 'a' has shape \(3,\); the layer has 5"):
        select({"a": torch.ones(3)}, units, fraction=0.5)


def test_scope_local_takes_equal_shares_to_a_budget_and_to_a_loss():
    units, model = groups_of_chain(), chain()
    # By standing in its group, (i + ½)/n: ⅛ in "0", ⅙ in "5", ⅜ in "0", ½ in "5" …
    assert gone(select(SCORES, units, macs=500, scope="local")) == {"0": [1], "5": []}  # 432 + 36 + 6
    assert gone(select(SCORES, units, macs=470, scope="local")) == {"0": [1], "5": [0]}  # 432 + 24 + 4
    assert gone(select(SCORES, units, macs=400, scope="local")) == {"0": [1, 3], "5": [0]}  # 288 + 16 + 4

    def count(m: nn.Module) -> float:
        return 1.0 + sum((row == 0).all().item() for layer in (m[0], m[5]) for row in layer.weight.flatten(1))

    found = select(SCORES, units, loss_fn=count, tolerance=2.0, model=model, scope="local")
    assert gone(found) == {"0": [1], "5": [0]}
    shifted = {"0": SCORES["0"], "5": SCORES["5"] + 100}
    assert gone(select(shifted, units, macs=400, scope="local")) == {"0": [1, 3], "5": [0]}, "scale says nothing"


def test_cost_counts_what_each_layer_writes_and_reads():
    units = groups_of_chain()
    nothing = select(SCORES, units, fraction=0.0)
    assert cost(nothing, units) == 576 + 48 + 6
    half = {"0": torch.tensor([True, True, False, False]), "5": torch.tensor([True, False, False])}
    assert cost(half, units) == 288 + 2 * 8 + 2 * 2


def test_budget_is_met_by_as_few_units_as_the_order_allows():
    units = groups_of_chain()
    chosen = select(SCORES, units, macs=400)
    # order 0.5, 1, 2, (2.5), 3: after one 576 + 32 + 4, after two 432 + 24 + 4, after three 288 + 16 + 4
    assert gone(chosen) == {"0": [1, 3], "5": [0]}
    with pytest.raises(ValueError, match=r"macs=10 cannot be met: with floor=1 the smallest network costs 150"):
        select(SCORES, units, macs=10)  # 144 + 4 + 2


def test_stream_writers_are_averaged():
    index = torch.arange(2)
    group = Group("a", 2, "stream", (Member("a", index), Member("b", index)), (), ())
    units = Units([group], {})
    scores = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([4.0, 0.0])}  # means 2.5 and 1
    assert gone(select(scores, units, fraction=0.5)) == {"a": [1]}
    with pytest.raises(ValueError, match="found no group to choose from"):
        select(scores, units, fraction=0.5, kinds=("inner",))


def test_loss_bound_is_the_last_that_holds():
    units, model = groups_of_chain(), chain()
    best_stay = {"0": [1, 2, 3], "5": [0, 2]}
    assert gone(select(SCORES, units, loss_fn=lambda m: 1.0, tolerance=0.0, model=model)) == best_stay

    def count(m: nn.Module) -> float:
        return 1.0 + sum((row == 0).all().item() for layer in (m[0], m[5]) for row in layer.weight.flatten(1))

    assert gone(select(SCORES, units, loss_fn=count, tolerance=2.0, model=model)) == {"0": [1], "5": [0]}


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
        with pytest.raises(ValueError, match=r"fraction=.*; it must be in \[0, 1\)"):
            select(SCORES, units, fraction=fraction)
    with pytest.raises(ValueError, match="got 0 targets; give exactly one of fraction"):
        select(SCORES, units)
    with pytest.raises(ValueError, match="got 2 targets"):
        select(SCORES, units, fraction=0.5, macs=100)
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


CHOSEN = {"0": torch.tensor([True, False, True, False]), "5": torch.tensor([False, True, False])}


def test_zero_touches_the_chosen_units_and_nothing_else():
    model, units = chain(), groups_of_chain()
    model[1].running_mean.fill_(3.0)
    model[1].running_var.fill_(3.0)
    before = copy.deepcopy(model)
    zero(model, CHOSEN, units)
    for i, dead in enumerate([True, False, True, False]):
        assert (model[0].weight[i] == 0).all() == dead
        assert torch.equal(model[0].weight[i], before[0].weight[i]) != dead
        assert (model[0].bias[i] == 0) == dead
        assert (model[1].weight[i] == 0) == dead
        assert (model[1].running_mean[i], model[1].running_var[i]) == ((0, 1) if dead else (3, 3))
    assert torch.equal(model[1].bias, before[1].bias), "the shift is kept"
    assert torch.equal(model[5].bias, before[5].bias)
    assert (model[5].weight[1] == 0).all()
    assert torch.equal(model[7].weight, before[7].weight)


def test_a_zeroed_unit_emits_the_constant_that_shift_names():
    x = torch.randn(8, 1, 4, 4)
    for shift in ("keep", "drop", "mean"):
        model, units = chain(), groups_of_chain()
        pooled = model[:5](x).unflatten(1, (4, 4))
        hidden = torch.relu(model[5](model[:5](x)))
        wanted = {"keep": torch.relu(model[1].bias), "drop": torch.zeros(4), "mean": pooled.mean((0, 2))}[shift]
        wanted_fc1 = {"keep": torch.relu(model[5].bias), "drop": torch.zeros(3), "mean": hidden.mean(0)}[shift]
        zero(model, CHOSEN, units, shift=shift, inputs=x)
        other = torch.randn(3, 1, 4, 4)
        emitted = model[:5](other).unflatten(1, (4, 4))[:, CHOSEN["0"]]
        assert torch.allclose(emitted, wanted[CHOSEN["0"]][None, :, None].expand_as(emitted), atol=1e-6)
        assert torch.allclose(torch.relu(model[5](model[:5](other)))[:, 1], wanted_fc1[1], atol=1e-6)


def test_momentum_of_zeroed_weights_is_cleared():
    model, units = chain().train(), groups_of_chain()
    for optimizer in (torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), torch.optim.Adam(model.parameters())):
        model(torch.randn(4, 1, 4, 4)).sum().backward()
        optimizer.step()
        zero(model, CHOSEN, units, optimizer=optimizer)
        for key in ("momentum_buffer", "exp_avg", "exp_avg_sq"):
            if key in optimizer.state[model[0].weight]:
                assert (optimizer.state[model[0].weight][key][CHOSEN["0"]] == 0).all()
                assert (optimizer.state[model[0].weight][key][~CHOSEN["0"]] != 0).any()
                assert (optimizer.state[model[1].weight][key][CHOSEN["0"]] == 0).all()


def test_wrong_use_of_zero_changes_nothing():
    model, units = chain(), groups_of_chain()
    before = copy.deepcopy(model.state_dict())
    everything = {"0": CHOSEN["0"], "5": torch.ones(3, dtype=torch.bool)}
    cases = [
        (everything, {}, "all 3 units of '5' were chosen and nothing bypasses it"),
        ({"0": CHOSEN["0"], "fc9": CHOSEN["5"]}, {}, "'fc9' names no prunable group"),
        ({"0": CHOSEN["0"], "7": CHOSEN["5"]}, {}, "'7' names no prunable group: it writes the model's output"),
        ({"1": CHOSEN["0"]}, {}, "'1' writes the group '0'; choose units by that name"),
        ({"0": CHOSEN["5"]}, {}, r"the choice for '0' is torch.bool \(3,\); it must be bool \(4,\)"),
        (CHOSEN, {"shift": "mean"}, "shift='mean' without inputs"),
        (CHOSEN, {"shift": "down"}, "shift='down' is unknown"),
    ]
    for chosen, options, message in cases:
        with pytest.raises(ValueError, match=message):
            zero(model, chosen, units, **options)
    tanh = nn.Sequential(*[nn.Tanh() if isinstance(m, nn.ReLU) else m for m in model])
    with pytest.raises(ValueError, match="shift='mean' missed the mean"):
        zero(tanh, CHOSEN, units, shift="mean", inputs=torch.randn(8, 1, 4, 4))
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_unit_without_a_shift_cannot_emit_its_mean_and_nothing_is_changed():
    model, units = chain(), groups_of_chain()
    model[1].bias = None
    before = copy.deepcopy(model.state_dict())
    # 5 is zeroed before 0 is found to have nothing to shift.
    chosen = {"5": CHOSEN["5"], "0": CHOSEN["0"]}
    with pytest.raises(ValueError, match="needs a bias or β behind '0'; it has none. Use shift='keep'"):
        zero(model, chosen, units, shift="mean", inputs=torch.randn(8, 1, 4, 4))
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def train_a_little(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 5) -> None:
    for _ in range(steps):
        loss = model(torch.randn(8, 1, 4, 4)).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@pytest.mark.parametrize("make", [
    lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, weight_decay=1e-2),
    lambda p: torch.optim.AdamW(p, lr=0.01),
])  # fmt: skip
def test_held_zeros_stay_through_training_even_with_old_momentum(make):
    model, units = chain().train(), groups_of_chain()
    optimizer = make(model.parameters())
    train_a_little(model, optimizer)
    zero(model, CHOSEN, units)  # momentum left as it is
    held = hold(model, optimizer)
    before = copy.deepcopy(model)
    train_a_little(model, optimizer)
    assert (model[0].weight[CHOSEN["0"]] == 0).all()
    assert (model[1].weight[CHOSEN["0"]] == 0).all()
    assert (model[5].weight[1] == 0).all()
    assert not torch.equal(model[0].weight[~CHOSEN["0"]], before[0].weight[~CHOSEN["0"]])
    assert not torch.equal(model[1].bias, before[1].bias)
    held.remove()
    train_a_little(model, optimizer)
    assert (model[1].weight[CHOSEN["0"]] != 0).any(), "released zeros move again"


def test_threshold_zeroes_the_smallest_weights_the_loss_can_spare():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[0.1, -0.2], [0.3, -0.4]]))
        model[0].bias.copy_(torch.tensor([0.05, 0.6]))
        model[1].weight.copy_(torch.tensor([[-0.25, 0.7]]))

    def loss(m: nn.Module) -> float:
        return 1.0 + sum((p == 0).sum().item() for p in m.parameters())

    threshold = threshold_weights(model, loss, tolerance=3.5)  # three zeros are spared: 0.05, 0.1, 0.2
    assert threshold == pytest.approx(0.25)
    assert torch.equal(model[0].weight, torch.tensor([[0.0, 0.0], [0.3, -0.4]]))
    assert torch.equal(model[0].bias, torch.tensor([0.0, 0.6]))
    assert torch.equal(model[1].weight, torch.tensor([[-0.25, 0.7]]))
    assert threshold_weights(model, loss, tolerance=0.0) == 0.0


def test_threshold_leaves_everything_as_it_was_when_the_loss_fails():
    model = chain()
    before = copy.deepcopy(model.state_dict())
    calls = []

    def loss(m: nn.Module) -> float:
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("disk full")
        return 1.0

    with pytest.raises(RuntimeError, match="disk full"):
        threshold_weights(model, loss, 0.1)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    with pytest.raises(ValueError, match="loss_fn returned nan"):
        threshold_weights(model, lambda m: float("nan"), 0.1)


def test_frozen_layers_are_not_thresholded():
    model = chain()
    model[0].requires_grad_(False)
    before = copy.deepcopy(model[0].weight)
    threshold_weights(model, lambda m: 1.0, 0.0)
    assert torch.equal(model[0].weight, before)
    assert (model[5].weight == 0).all()


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


def test_groups_of_the_network_before_shrink_are_named_and_nothing_is_changed():
    model = chain()
    units = prl.find_units(model, torch.randn(1, 1, 4, 4))
    zero(model, {"5": torch.tensor([True, False, False])}, units)
    small = prl.shrink(model, torch.randn(1, 1, 4, 4)).model
    before = copy.deepcopy(small.state_dict())
    chosen = {"0": torch.tensor([True, False, True, False]), "5": torch.tensor([False, True, False])}
    with pytest.raises(ValueError, match="its '5' has 2 channels, theirs has 3. After `shrink`, call `find_units` again"):
        zero(small, chosen, units)
    assert all(torch.equal(value, before[name]) for name, value in small.state_dict().items())
    for look in (prl.importance.magnitude, prl.Dynamics):
        with pytest.raises(ValueError, match="its '5' has 2 channels"):
            look(small, units)
    for method in (prl.L1, prl.GroupLasso):
        with pytest.raises(ValueError, match="its '5' has 2 channels"):
            method(small, 1e-3, units=units)


class Depthwise(nn.Module):
    """A unit's shift is the bias of the depthwise layer behind its BatchNorm, or that of the branch without one."""

    def __init__(self, residual: bool) -> None:
        super().__init__()
        self.a, self.norm = nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4)
        self.b = nn.Conv2d(1, 4, 1) if residual else nn.Conv2d(4, 4, 1, groups=4)
        self.head = nn.Conv2d(4, 2, 1)
        self.residual = residual

    def forward(self, x):
        a = self.norm(self.a(x)).relu()
        return self.head((a + self.b(x) if self.residual else self.b(a)).relu())


@pytest.mark.parametrize("residual", [False, True])
def test_a_shift_past_the_batchnorm_is_kept_dropped_or_set(residual):
    torch.manual_seed(0)
    model, x = Depthwise(residual).double().eval(), torch.randn(8, 1, 5, 5).double()
    nn.init.constant_(model.b.bias, 0.7)
    units = prl.find_units(model, x)
    chosen = {"a": torch.tensor([True, False, False, True])}
    dropped = copy.deepcopy(model)
    zero(model, chosen, units)
    assert model.b.bias.tolist() == [0.7] * 4
    assert model.a.bias[chosen["a"]].tolist() == [0, 0]  # the BatchNorm divides it out
    zero(dropped, chosen, units, shift="drop")
    assert dropped.b.bias[chosen["a"]].tolist() == [0, 0]
    for zeroed in (model, dropped):
        small = prl.shrink(zeroed, x)
        assert small.model.head.in_channels == 2
        torch.testing.assert_close(small.model(x), zeroed(x))


def test_the_mean_of_a_unit_behind_a_depthwise_layer_is_reached():
    torch.manual_seed(0)
    model, x = Depthwise(residual=False).double().eval(), torch.randn(8, 1, 5, 5).double()
    seen = []
    model.head.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach().mean((0, 2, 3))))
    model(x)
    zero(model, {"a": torch.tensor([True, False, False, False])}, prl.find_units(model, x), shift="mean", inputs=x)
    model(x)
    assert seen[-1][0] == pytest.approx(seen[0][0].item())


def test_a_mean_that_is_refused_leaves_momentum_too():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    x = torch.randn(6, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(x).square().sum().backward()
    optimizer.step()
    before = [state["momentum_buffer"].clone() for state in optimizer.state.values()]
    units, gone = prl.find_units(model, x), {"0": torch.tensor([True, False, False, False])}
    with pytest.raises(ValueError, match="shift='mean' missed the mean"):
        zero(model, gone, units, shift="mean", inputs=x, optimizer=optimizer)
    after = [state["momentum_buffer"] for state in optimizer.state.values()]
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))
    model[1] = nn.ReLU()
    zero(model, gone, units, shift="mean", inputs=x, optimizer=optimizer)
    assert optimizer.state[model[0].weight]["momentum_buffer"][0].tolist() == [0, 0, 0]


def test_a_mean_needs_a_reader_that_is_called():
    class Past(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x):
            return nn.functional.linear(self.a(x).relu(), self.b.weight, self.b.bias)

    model, x = Past(), torch.randn(6, 3)
    with pytest.raises(ValueError, match="saw no layer read the units of 'a'"):
        zero(model, {"a": torch.ones(4) > torch.arange(4)}, prl.find_units(model, x), shift="mean", inputs=x)


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
    for wrong in ({"macs": float("nan")}, {"fraction": 0.5, "floor": 1.5}, {"fraction": 0.5, "round_to": 2.5}):
        with pytest.raises(ValueError, match="select got"):
            select(SCORES, units, **wrong)
    for wrong in ({"fraction": 1.5}, {"macs": -5}):
        with pytest.raises(ValueError, match="select got"):
            prl.iterative(chain(), units, lambda _: SCORES, lambda _: None, rounds=2, **wrong)
    assert gone(select({name: score.numpy() for name, score in SCORES.items()}, units, fraction=0.5)) == gone(
        select(SCORES, units, fraction=0.5)
    )
    with pytest.raises(TypeError, match="the choice for '0' is a list; it must be a bool tensor"):
        zero(chain(), {"0": [True, False, False, False]}, units)
    model = chain()
    with pytest.raises(TypeError, match="hold got a str for optimizer"):
        hold(model, "sgd")
    assert not any(parameter._backward_hooks for parameter in model.parameters())
