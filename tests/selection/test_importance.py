"""Importances without a penalty: against NumPy, the true change of the loss, and what they are worth on digits."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import pruning_lib as prl
from pruning_lib.companion.data import Split, digits
from pruning_lib.companion.models import LeNet300, ResNet
from pruning_lib.selection import importance


class Residual(nn.Module):
    """A stream of two convolutions with BatchNorm, read by a depthwise one, a transposed one and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.bn_a = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.b, self.bn_b = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.depthwise = nn.Conv2d(4, 4, 3, groups=4)
        self.up = nn.ConvTranspose2d(4, 3, 2)
        self.out = nn.Linear(3 * 25, 3)

    def forward(self, x):
        x = torch.relu(self.bn_a(self.a(x)))
        x = x + self.bn_b(self.b(x))
        x = torch.relu(self.up(torch.relu(self.depthwise(x))))
        return self.out(x.flatten(1))


def network(make=Residual, shape=(2, 6, 6), seed: int = 0) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """Return a network in float64 with statistics of its own, 12 examples and their classes."""
    torch.manual_seed(seed)
    model = make().double()
    x, y = torch.randn(12, *shape, dtype=torch.float64), torch.randint(3, (12,))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.2, 1.5)
            nn.init.normal_(module.bias)
    for _ in range(3):
        model(x)
    return model, x, y


def two_layers() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))


@pytest.mark.parametrize("norm", [1, 2])
def test_magnitude_is_the_norm_of_what_a_unit_reads_averaged_over_its_writers(norm):
    model, x, _ = network()
    found = importance.magnitude(model, prl.find_units(model, x), norm=norm)
    w = {name: p.detach().numpy() for name, p in model.named_parameters()}

    def length(rows):
        return np.linalg.norm(rows.reshape(len(rows), -1), norm, axis=1)

    stream = np.mean([length(w[f"{name}.weight"]) for name in ("a", "b", "depthwise")], axis=0)
    assert found.keys() == {"a", "up"}
    assert found["a"].numpy() == pytest.approx(stream)
    assert found["up"].numpy() == pytest.approx(length(w["up.weight"].swapaxes(0, 1)))


def test_scales_are_gamma_and_leave_out_groups_that_have_none():
    model, x, _ = network()
    found = importance.magnitude(model, prl.find_units(model, x), of="scales")
    assert found.keys() == {"a"}
    assert torch.allclose(found["a"], (model.bn_a.weight.abs() + model.bn_b.weight.abs()) / 2)


def test_folded_is_the_row_that_torch_folds_and_ignores_what_batchnorm_undoes():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 3), nn.Flatten())
    x = torch.randn(9, 2, 5, 5)
    nn.init.uniform_(model[1].weight, -1, 1)
    units = prl.find_units(model, x)
    model(x)
    folded = torch.nn.utils.fusion.fuse_conv_bn_eval(copy.deepcopy(model[0]).eval(), copy.deepcopy(model[1]).eval())
    found = importance.magnitude(model, units, of="folded")["0"]
    assert torch.allclose(found, folded.weight.flatten(1).norm(dim=1))
    with torch.no_grad():
        model[0].weight.mul_(3)
        model[0].bias.mul_(3)
        model[1].running_mean.mul_(3)
        model[1].running_var.mul_(9)
        model[1].eps *= 9
    assert torch.allclose(importance.magnitude(model, units, of="folded")["0"], found)
    assert torch.allclose(importance.magnitude(model, units)["0"], model[0].weight.flatten(1).norm(dim=1))
    rows, deviation = model[0].weight.flatten(1).norm(dim=1), (model[1].running_var + model[1].eps).sqrt()
    model[1] = plain = nn.BatchNorm2d(4, affine=False, eps=model[1].eps)
    plain.running_var.copy_(deviation**2 - plain.eps)
    assert torch.allclose(importance.magnitude(model, units, of="folded")["0"], rows / deviation)
    with pytest.raises(ValueError, match="no group with a BatchNorm that has a scale"):
        importance.magnitude(model, units, of="scales")


def loss_of(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    with torch.no_grad():
        return F.cross_entropy(copy.deepcopy(model).eval()(x), y).item()


def scaled_columns(model: nn.Module, units, name: str, unit: int, factor: float) -> nn.Module:
    """Return a copy in which every layer reads the unit multiplied by a factor."""
    model = copy.deepcopy(model)
    layers = dict(model.named_modules())
    for member in units[name].readers:
        layer = layers[member.layer]
        columns = layer.weight.detach().movedim(0 if isinstance(layer, nn.ConvTranspose2d) else 1, 0)
        columns[member.index == unit] *= factor
    return model


class Branches(nn.Module):
    """One convolution read by two others, one of them twice; beside them, what a concatenation puts behind."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.one, self.two = nn.Conv2d(2, 3, 1), nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 2, 1)
        self.out = nn.Linear(5 * 36, 3)

    def forward(self, x):
        x = torch.relu(self.first(x))
        x = torch.cat([torch.relu(self.one(torch.relu(self.one(x)))), torch.tanh(self.two(x))], 1)
        return self.out(x.flatten(1))


@pytest.mark.parametrize("make", [two_layers, Residual, Branches])
def test_taylor_is_the_slope_of_the_loss_along_the_removal_of_a_unit(make):
    model, x, y = network(make, (2, 2, 2) if make is two_layers else (2, 6, 6))
    units = prl.find_units(model, x)
    found = importance.taylor(model, units, (x, y))
    for name, group in units.items():
        for unit in range(group.size):
            ends = [loss_of(scaled_columns(model, units, name, unit, 1 + h), x, y) for h in (1e-4, -1e-4)]
            assert found[name][unit].item() == pytest.approx(abs(ends[0] - ends[1]) / 2e-4, rel=1e-5, abs=1e-9)


def test_taylor_is_what_the_loss_loses_when_a_small_unit_goes():
    """To first order: a unit ten times smaller is missed by a remainder a hundred times smaller."""
    model, x, y = network(two_layers, (2, 2, 2))
    units = prl.find_units(model, x)
    for size in (1e-2, 1e-3):
        for layer in (model[1], model[3]):
            small = copy.deepcopy(model)
            rows = dict(small.named_modules())[next(n for n, m in model.named_modules() if m is layer)]
            with torch.no_grad():
                rows.weight[1] *= size
                rows.bias[1] *= size
            name = next(n for n, m in small.named_modules() if m is rows)
            gone = copy.deepcopy(small)
            mask = torch.arange(units[name].size) == 1
            prl.zero(gone, {name: mask}, units, shift="drop")
            true = abs(loss_of(gone, x, y) - loss_of(small, x, y))
            assert importance.taylor(small, units, (x, y))[name][1].item() == pytest.approx(true, abs=0.1 * size**2)
            assert true > 0.2 * size**2


def test_behind_a_relu_taylor_is_the_sum_over_the_weights_of_a_unit_or_over_scale_and_shift():
    model, x, y = network(two_layers, (2, 2, 2))
    F.cross_entropy(model(x), y).backward()
    w, b = model[1].weight, model[1].bias
    expected = ((w * w.grad).sum(1) + b * b.grad).abs()
    model.zero_grad()
    units = prl.find_units(model, x)
    assert torch.allclose(importance.taylor(model, units, (x, y))["1"], expected)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 4), nn.Flatten()).double()
    nn.init.normal_(model[1].bias)
    model.eval()
    F.cross_entropy(model(x := torch.randn(9, 2, 6, 6, dtype=torch.float64)), y[:9]).backward()
    gamma, beta = model[1].weight, model[1].bias
    expected = (gamma * gamma.grad + beta * beta.grad).abs()
    assert torch.allclose(importance.taylor(model, prl.find_units(model, x), (x, y[:9]))["0"], expected)


def test_batches_enter_by_their_mean_square():
    model, x, y = network(two_layers, (2, 2, 2))
    units = prl.find_units(model, x)
    parts = [importance.taylor(model, units, (x[part], y[part]))["1"] for part in (slice(0, 8), slice(8, 12))]
    expected = torch.sqrt((8 * parts[0] ** 2 + 4 * parts[1] ** 2) / 12)
    assert torch.allclose(importance.taylor(model, units, (x, y), batch_size=8)["1"], expected)


def test_taylor_leaves_everything_as_it_was():
    model, x, y = network()
    model.train()
    model.bn_a.eval()
    model.a.requires_grad_(False)
    model.out.weight.grad = torch.full_like(model.out.weight, 7.0)
    units = prl.find_units(model, x)
    before = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        frozen = importance.taylor(model, units, (x, y))
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert [m.training for m in (model, model.bn_a, model.bn_b)] == [True, False, True]
    assert (model.out.weight.grad == 7).all()
    assert all(p.grad is None for name, p in model.named_parameters() if name != "out.weight")
    assert not any(module._forward_pre_hooks for module in model.modules())
    model.requires_grad_(True)
    assert torch.equal(frozen["a"], importance.taylor(model, units, (x, y))["a"])

    def broken(outputs, targets):
        raise RuntimeError("no such loss")

    with pytest.raises(ValueError, match="taylor cannot compute the loss: no such loss"):
        importance.taylor(model, units, (x, y), broken)
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert model.training
    assert not model.bn_a.training


def test_random_repeats_by_its_seed_alone():
    model, x, _ = network()
    units = prl.find_units(model, x)
    state = torch.get_rng_state()
    a, b, c = (importance.random(units, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(a["a"], b["a"])
    assert not torch.equal(a["a"], c["a"])
    assert {name: len(value) for name, value in a.items()} == {"a": 4, "up": 3}


def test_scope_local_makes_uniform_widths_at_a_fraction_and_at_a_budget():
    model = LeNet300()
    units = prl.find_units(model, torch.zeros(1, 1, 28, 28))
    scores = importance.random(units, 0)
    halved = prl.select(scores, units, fraction=0.5, scope="local")
    assert [int(mask.sum()) for mask in halved.values()] == [150, 50]
    budget = prl.select(scores, units, max_macs=60_000, scope="local")
    kept = [int((~mask).sum()) for mask in budget.values()]
    assert kept[0] / 300 == pytest.approx(kept[1] / 100, abs=0.01)
    assert 784 * kept[0] + kept[0] * kept[1] + 10 * kept[1] <= 60_000
    assert 784 * (kept[0] + 1) + (kept[0] + 1) * (kept[1] + 1) + 10 * (kept[1] + 1) > 60_000


def test_all_work_on_a_residual_network():
    torch.manual_seed(0)
    model = ResNet(8)
    x, y = torch.randn(4, 3, 32, 32), torch.randint(10, (4,))
    units = prl.find_units(model, x[:1])
    for scores in (
        importance.magnitude(model, units, norm=1),
        importance.magnitude(model, units, of="folded"),
        importance.taylor(model, units, (x, y)),
        importance.random(units),
    ):
        assert {name: len(score) for name, score in scores.items()} == {n: g.size for n, g in units.items()}
        assert all((score >= 0).all() and score.std() > 0 for score in scores.values())
        chosen = prl.select(scores, units, fraction=0.25)
        assert sum(int(mask.sum()) for mask in chosen.values()) == sum(g.size for g in units.values()) // 4


def test_wrong_use_is_named():
    model, x, y = network()
    units = prl.find_units(model, x)
    with pytest.raises(ValueError, match="of='gamma' is unknown; choose one of 'weights', 'scales', 'folded'"):
        importance.magnitude(model, units, of="gamma")
    with pytest.raises(ValueError, match=r"norm=0.5; it needs a number ≥ 1, the p"):
        importance.magnitude(model, units, norm=0.5)
    with pytest.raises(ValueError, match="magnitude got units of another model: it has no layer 'a'"):
        importance.magnitude(two_layers(), units)
    with pytest.raises(ValueError, match="found no group with a BatchNorm that has a scale; use of='weights'"):
        importance.magnitude(two_layers(), prl.find_units(two_layers(), torch.zeros(1, 8)), of="scales")
    with pytest.raises(ValueError, match="these hold no sample"):
        importance.taylor(model, units, (x[:0], y[:0]))
    model.bn_a.running_var = None
    with pytest.raises(ValueError, match="needs the running variance of 'bn_a'"):
        importance.magnitude(model, units, of="folded")


@pytest.fixture(scope="module")
def digits_net() -> tuple[nn.Module, Split]:
    split = digits()
    torch.manual_seed(0)
    model = LeNet300(10, tuple(split.train.inputs.shape[1:]))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    prl.fit(model, split.train, split.val, epochs=12, optimizer=optimizer, progress=False)
    return model, split


def test_on_digits_magnitude_and_taylor_beat_random(digits_net):
    """Four of five hidden units go from a trained network, none of them trained after."""
    model, split = digits_net
    units = prl.find_units(model, split.train.inputs[:1])
    losses = {}
    for name, scores in {
        "magnitude": importance.magnitude(model, units),
        "taylor": importance.taylor(model, units, split.train),
        **{f"random {seed}": importance.random(units, seed) for seed in range(5)},
    }.items():
        pruned = copy.deepcopy(model)
        prl.zero(pruned, prl.select(scores, units, fraction=0.8, scope="local"), units, shift="drop")
        losses[name] = prl.evaluate(pruned, split.train).loss
    chance = [losses[f"random {seed}"] for seed in range(5)]
    assert losses["magnitude"] < 0.8 * min(chance)
    assert losses["taylor"] < 0.8 * min(chance)


def test_importances_of_a_network_in_half_precision_neither_vanish_nor_overflow():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 32), nn.Tanh(), nn.Linear(32, 4))
    x, y = torch.randn(256, 20), torch.randint(4, (256,))
    units, half = prl.find_units(model, x), copy.deepcopy(model).half()
    # The squares of these slopes are below the smallest number of half precision.
    judged = [importance.taylor(m, units, (a, y), lambda o, t: 1e-3 * F.cross_entropy(o.float(), t))["0"]
              for m, a in ((model, x), (half, x.half()))]  # fmt: skip
    assert judged[0].max() < 2e-4
    torch.testing.assert_close(judged[1].float(), judged[0], rtol=0.1, atol=1e-6)
    with torch.no_grad():
        for m in (model, half):
            m[2].weight.mul_(3000)
    for judge in (importance.fluctuation, importance.wanda):
        whole, small = judge(model, units, x)["0"], judge(half, units, x.half())["0"]
        torch.testing.assert_close(small.float(), whole, rtol=0.02, atol=0)
    assert importance.fluctuation(half, units, x.half())["0"].max() > torch.finfo(torch.float16).max


def test_layers_that_are_called_by_name_are_judged_as_others():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(3, 5), nn.Linear(5, 2)

        def forward(self, x):
            return self.two(input=torch.relu(self.one(x)))

    torch.manual_seed(0)
    named, x, y = Named(), torch.randn(20, 3), torch.randint(2, (20,))
    plain = nn.Sequential(named.one, nn.ReLU(), named.two)
    units, others = prl.find_units(named, x), prl.find_units(plain, x)
    for judge, data in ((importance.taylor, (x, y)), (importance.fluctuation, x)):
        assert torch.equal(judge(named, units, data)["one"], judge(plain, others, data)["0"])
    prl.zero(named, {"one": torch.arange(5) < 2}, units, shift="mean", inputs=x)


def test_what_a_layer_reads_is_its_first_parameter_in_whatever_order_it_is_called():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(2, 5))

        def forward(self, x, gain):
            return F.linear(x * gain, self.weight)

    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(3, 5), Scaled()

        def forward(self, x):
            return self.two(gain=torch.full((len(x), 5), 2.0), x=torch.relu(self.one(x)))

    torch.manual_seed(0)
    model, x = Named(), torch.randn(20, 3)
    every = torch.arange(5)
    units = prl.Units([prl.Group("one", 5, "inner", (prl.Member("one", every),), (), (prl.Member("two", every),))])
    read = torch.relu(model.one(x)).detach()
    expected = read.var(0, correction=0) * model.two.weight.detach().square().sum(0)
    torch.testing.assert_close(importance.fluctuation(model, units, x)["one"], expected)
