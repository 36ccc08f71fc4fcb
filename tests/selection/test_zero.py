"""Zeroing: what is touched, what a zeroed unit emits, and that a refusal changes nothing."""

import copy

import pytest
import torch
from torch import nn

import pruning_lib as prl
from pruning_lib.selection import zero
from tests.selection.chain import CHOSEN, chain, groups_of_chain


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


def test_groups_of_the_network_before_shrink_are_named_and_nothing_is_changed():
    model = chain()
    units = prl.find_units(model, torch.randn(1, 1, 4, 4))
    zero(model, {"5": torch.tensor([True, False, False])}, units)
    small = prl.shrink(model, torch.randn(1, 1, 4, 4)).model
    before = copy.deepcopy(small.state_dict())
    chosen = {"0": torch.tensor([True, False, True, False]), "5": torch.tensor([False, True, False])}
    with pytest.raises(ValueError, match="has 2 channels, theirs has 3. After `shrink`, call `find_units` again"):
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
    units, chosen = prl.find_units(model, x), {"0": torch.tensor([True, False, False, False])}
    with pytest.raises(ValueError, match="shift='mean' missed the mean"):
        zero(model, chosen, units, shift="mean", inputs=x, optimizer=optimizer)
    after = [state["momentum_buffer"] for state in optimizer.state.values()]
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))
    model[1] = nn.ReLU()
    zero(model, chosen, units, shift="mean", inputs=x, optimizer=optimizer)
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
