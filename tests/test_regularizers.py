"""Norm penalties: values and steps against formulas written out here, proximal maps against brute force."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import pruning_lib as prl
from pruning_lib.companion.data import TensorPair, digits
from pruning_lib.companion.models import LeNet5, LeNet300, ResNet
from pruning_lib.regularizers import L1, L2, GroupLasso
from pruning_lib.units import Group, Member, Units

STRENGTH = 0.03


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5), nn.ReLU(), nn.Linear(5, 3))


def weights(model: nn.Module) -> list[np.ndarray]:
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    return [m.weight.detach().double().numpy().reshape(len(m.weight), -1) for m in layers]


FORMULAS = {
    L1: lambda w: np.abs(w).sum(),
    L2: lambda w: 0.5 * (w**2).sum(),
    GroupLasso: lambda w: np.sqrt((w**2).sum(axis=1)).sum(),
}


@pytest.mark.parametrize("method", FORMULAS)
def test_penalty_is_the_formula_over_weights_without_biases(method):
    model = network()
    value = method(model, STRENGTH, apply="loss").penalty(torch.zeros(2, 3)).item()
    assert value == pytest.approx(STRENGTH * sum(FORMULAS[method](w) for w in weights(model)), rel=1e-5)


@pytest.mark.parametrize("apply", ["loss", "gradient"])
@pytest.mark.parametrize("method", FORMULAS)
def test_gradient_of_the_penalty_is_right_in_float64(method, apply):
    """Numerically, entry by entry; "gradient" has the slope of the "loss" and the value 0."""
    model = network().double()
    layers = [model[0], model[3], model[5]]
    method(model, STRENGTH, apply=apply).penalty(torch.zeros(1, 3)).backward()
    slopes = [layer.weight.grad for layer in layers]
    loss = method(model, STRENGTH, apply="loss")
    for layer, slope in zip(layers, slopes, strict=True):
        flat, epsilon = layer.weight.detach().view(-1), 1e-6
        for k in range(0, len(flat), 7):
            value = flat[k].item()
            ends = []
            for end in (value + epsilon, value - epsilon):
                flat[k] = end
                ends.append(loss.penalty(torch.zeros(1, 3)).item())
            flat[k] = value
            assert slope.view(-1)[k].item() == pytest.approx((ends[0] - ends[1]) / (2 * epsilon), abs=1e-7)
    assert (method(model, STRENGTH, apply=apply).penalty(torch.zeros(1, 3)).item() == 0) is (apply == "gradient")
    assert model[0].bias.grad is None


def brute_force_prox(norm, w: float, t: float) -> float:
    grid = np.linspace(-4, 4, 2001)
    for _ in range(2):  # the second time between the neighbours of the best
        best = grid[np.argmin(0.5 * (grid - w) ** 2 + t * norm(grid))]
        grid = np.linspace(best - 0.004, best + 0.004, 2001)
    return best


@settings(max_examples=40, deadline=None)
@given(w=st.floats(-3, 3), t=st.floats(0.01, 2))
def test_proximal_steps_minimize_distance_plus_penalty(w, t):
    norms = {L1: np.abs, L2: lambda v: 0.5 * v**2, GroupLasso: np.abs}  # one weight a row: group lasso is |w|
    for method, norm in norms.items():
        layer = nn.Linear(1, 1, bias=False)
        nn.init.constant_(layer.weight, w)
        reg = method(layer, strength=t / 0.5, apply="prox")
        reg.update(torch.optim.SGD(layer.parameters(), lr=0.5))
        assert layer.weight.item() == pytest.approx(brute_force_prox(norm, w, t), abs=2e-4)


def test_group_prox_shortens_a_row_and_keeps_its_direction():
    layer = nn.Linear(2, 2, bias=False)
    layer.weight = nn.Parameter(torch.tensor([[3.0, 4.0], [0.3, 0.4]]))
    GroupLasso(layer, strength=10.0).update(torch.optim.SGD(layer.parameters(), lr=0.1))
    # threshold 1: the first row has length 5 and keeps 4/5 of it, the second has length 0.5 and goes
    assert torch.allclose(layer.weight[0], torch.tensor([2.4, 3.2]))
    assert (layer.weight[1] == 0).all()


@pytest.mark.parametrize("over", ["rows", "columns", "coupled"])
def test_of_the_four_ways_to_apply_group_lasso_only_the_proximal_one_reaches_exact_zero(over):
    """The other three come as near as their step of ηλ and tread on the spot."""
    torch.manual_seed(0)
    x = torch.randn(64, 8)
    y = (x[:, 0] > 0).long()
    shortest = {}
    for apply in ("prox", "loss", "gradient", "decay"):
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        reg = GroupLasso(model, 0.05, apply=apply, over=over, units=prl.find_units(model, x[:1]))
        for _ in range(300):
            logits = model(x)
            loss = nn.functional.cross_entropy(logits, y) + reg.penalty(logits)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            reg.update(optimizer)
        shortest[apply] = reg.importance()["0"].min().item()
    assert shortest["prox"] == 0
    assert all(0 < shortest[apply] < 2 * 0.1 * 0.05 for apply in ("loss", "gradient", "decay"))


def test_loss_and_prox_of_l2_are_weight_decay_of_plain_sgd():
    x, y = torch.randn(16, 1, 8, 8), torch.randint(3, (16,))
    ours, theirs = network(), network()
    reg = L2(ours, STRENGTH)
    decayed = [m.weight for m in theirs.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    rest = [p for p in theirs.parameters() if not any(p is d for d in decayed)]
    a = torch.optim.SGD(ours.parameters(), lr=0.1)
    b = torch.optim.SGD([{"params": decayed, "weight_decay": STRENGTH}, {"params": rest}], lr=0.1)
    for model, optimizer in ((ours, a), (theirs, b)):
        for _ in range(3):
            logits = model(x)
            loss = nn.functional.cross_entropy(logits, y) + (reg.penalty(logits) if model is ours else 0)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(p, q, atol=1e-6)


def test_prox_reads_each_parameters_own_learning_rate():
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    for layer in model:
        nn.init.constant_(layer.weight, 1.0)
    units = [{"params": model[0].parameters(), "lr": 0.1}, {"params": model[1].parameters(), "lr": 0.5}]
    L1(model, 1.0).update(torch.optim.SGD(units, lr=1.0))
    assert torch.allclose(model[0].weight, torch.tensor(0.9))
    assert torch.allclose(model[1].weight, torch.tensor(0.5))


def test_frozen_and_untrained_weights_stay():
    model = network()
    before = copy.deepcopy(model)
    model[0].weight.requires_grad_(False)
    optimizer = torch.optim.SGD([*model[0].parameters(), *model[3].parameters()], lr=0.1)
    for method in FORMULAS:
        method(model, 1.0, apply="prox").update(optimizer)
    assert torch.equal(model[0].weight, before[0].weight)
    assert torch.equal(model[5].weight, before[5].weight)
    assert not torch.equal(model[3].weight, before[3].weight)


def test_shared_weights_count_once():
    a, b = nn.Linear(4, 4), nn.Linear(4, 4)
    b.weight = a.weight
    reg = L1(nn.Sequential(a, nn.ReLU(), b), 1.0, apply="loss")
    assert reg.penalty(torch.zeros(1, 4)).item() == pytest.approx(a.weight.abs().sum().item(), rel=1e-6)


def test_rows_of_a_transposed_convolution_are_its_output_channels():
    layer = nn.ConvTranspose2d(2, 3, 2)
    expected = layer.weight.detach().transpose(0, 1).reshape(3, -1).norm(dim=1)
    assert torch.allclose(GroupLasso(layer, 1.0).importance()[""], expected)


@pytest.mark.parametrize("method", FORMULAS)
@pytest.mark.parametrize("strength", [-1.0, float("nan"), float("inf")])
def test_bad_strength_is_named(method, strength):
    with pytest.raises(ValueError, match=rf"{method.__name__} got strength=.*finite number ≥ 0"):
        method(network(), strength)


def test_other_wrong_use_is_named():
    with pytest.raises(ValueError, match="no prunable layer in Sequential"):
        L1(nn.Sequential(nn.ReLU()), 0.1)
    with pytest.raises(ValueError, match="apply='hook' is unknown; choose one of"):
        L1(network(), 0.1, apply="hook")
    with pytest.raises(TypeError, match=r"L1 got a list; it needs the nn\.Module"):
        L1([1, 2], 0.1)


def test_strength_zero_changes_nothing():
    model = network()
    before = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for method in FORMULAS:
        method(model, 0.0, apply="prox").update(optimizer)
        assert method(model, 0.0, apply="loss").penalty(torch.ones(1, 3)).item() == 0
    for p, q in zip(model.parameters(), before.parameters(), strict=True):
        assert torch.equal(p, q)


def test_group_lasso_has_slope_zero_at_a_zero_row():
    layer = nn.Linear(3, 2)
    with torch.no_grad():
        layer.weight[0] = 0.0
    GroupLasso(layer, 2.0, apply="loss").penalty(torch.zeros(1, 2)).backward()
    assert (layer.weight.grad[0] == 0).all()
    assert torch.allclose(layer.weight.grad[1], 2 * layer.weight[1] / layer.weight[1].norm())


def test_units_narrow_the_penalty_to_what_can_go():
    model = network()
    index = torch.arange(4)
    units = Units([Group("0", 4, "inner", (Member("0", index),), (), ())], {})
    value = L1(model, 1.0, apply="loss", units=units).penalty(torch.zeros(1, 3)).item()
    assert value == pytest.approx(model[0].weight.abs().sum().item(), rel=1e-6)
    with pytest.raises(ValueError, match="L1 got units of another model: it has no layer '0'"):
        L1(nn.Linear(2, 2), 1.0, units=units)


def test_computed_weights_are_refused_by_proximal_steps_and_taken_by_losses():
    model = nn.Sequential(torch.nn.utils.parametrizations.weight_norm(nn.Linear(3, 2)))
    assert L2(model, 1.0, apply="loss").penalty(torch.zeros(1, 2)) > 0
    with pytest.raises(ValueError, match="L2 changes weights in place, and that of '0' is computed"):
        L2(model, 1.0, apply="prox")


# What follows: group lasso over columns and over coupled groups.


class Branches(nn.Module):
    """A stem with BatchNorm, read by a grouped convolution and by a transposed one, whose maps a linear layer reads."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4)
        self.grouped, self.up = nn.Conv2d(4, 6, 3, groups=2), nn.ConvTranspose2d(4, 3, 2)
        self.fc, self.out = nn.Linear(6 * 4 + 3 * 25, 5), nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        branches = [torch.relu(self.grouped(x)).flatten(1), torch.relu(self.up(x)).flatten(1)]
        return self.out(torch.relu(self.fc(torch.cat(branches, 1))))


class Recurrent(nn.Module):
    """One weight whose rows write what its columns read."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again, self.out = nn.Linear(5, 4), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x))
        return self.out(torch.relu(self.again(torch.relu(self.again(x)))))


SHAPES = {Branches: (1, 2, 6, 6), Recurrent: (1, 5)}


def in_float64(make: type[nn.Module]) -> tuple[nn.Module, Units]:
    torch.manual_seed(0)
    model = make().double().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.3, 1.0)
    return model, prl.find_units(model, torch.zeros(SHAPES[make], dtype=torch.float64))


def parts(model: nn.Module) -> dict[str, list[list[np.ndarray]]]:
    """Return the rows, scales and columns that belong to each unit of `Branches`, written out."""
    w = {name: p.detach().double().numpy() for name, p in model.named_parameters()}
    stem = [
        [w["stem.weight"][i], w["norm.weight"][i], w["grouped.weight"][3 * (i // 2) : 3 * (i // 2) + 3, i % 2],
         w["up.weight"][i]] for i in range(4)
    ]  # fmt: skip
    grouped = [[w["grouped.weight"][i], w["fc.weight"][:, 4 * i : 4 * i + 4]] for i in range(6)]
    up = [[w["up.weight"][:, i], w["fc.weight"][:, 24 + 25 * i : 49 + 25 * i]] for i in range(3)]
    fc = [[w["fc.weight"][i], w["out.weight"][:, i]] for i in range(5)]
    return {"stem": stem, "grouped": grouped, "up": up, "fc": fc}


def length(arrays: list[np.ndarray]) -> float:
    return np.sqrt(sum((a**2).sum() for a in arrays))


def test_columns_and_coupled_groups_are_what_the_graph_says():
    model, units = in_float64(Branches)
    expected = parts(model)
    assert units.keys() == expected.keys()
    coupled = [length(unit) for units in expected.values() for unit in units]
    # A column a reader: the stem has two.
    columns = [length([part]) for unit in expected["stem"] for part in unit[2:]]
    columns += [length(unit[1:]) for name in ("grouped", "up", "fc") for unit in expected[name]]
    for over, lengths in (("coupled", coupled), ("columns", columns)):
        reg = GroupLasso(model, STRENGTH, apply="loss", over=over, units=units)
        assert reg.penalty(torch.zeros(1, 3)).item() == pytest.approx(STRENGTH * sum(lengths), rel=1e-12)
    found = GroupLasso(model, 1.0, over="coupled", units=units).importance()
    assert {n: v.tolist() for n, v in found.items()} == {
        n: pytest.approx([length(unit) for unit in units]) for n, units in expected.items()
    }
    found = GroupLasso(model, 1.0, over="columns", units=units).importance()
    assert found["stem"].tolist() == pytest.approx([length(unit[2:]) for unit in expected["stem"]])


@pytest.mark.parametrize("make", [Branches, Recurrent])
@pytest.mark.parametrize("apply", ["loss", "gradient"])
@pytest.mark.parametrize("over", ["rows", "columns", "coupled"])
def test_slope_of_every_kind_of_group_is_right(make, apply, over):
    model, units = in_float64(make)
    loss = GroupLasso(model, STRENGTH, apply="loss", over=over, units=units)
    (3 * GroupLasso(model, STRENGTH, apply=apply, over=over, units=units).penalty(torch.zeros(1, 3))).backward()
    generator, seen = torch.Generator().manual_seed(0), 0
    for name, weight in model.named_parameters():
        if weight.grad is None:
            continue
        seen += 1
        assert name.endswith("weight")
        for _ in range(4):
            way = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
            ends = []
            for h in (1e-5, -1e-5):
                with torch.no_grad():
                    weight.add_(way, alpha=h)
                    ends.append(3 * loss.penalty(torch.zeros(1, 3)).item())
                    weight.sub_(way, alpha=h)
            assert (weight.grad * way).sum().item() == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-6)
    counts = {"rows": 4, "columns": 4, "coupled": 6} if make is Branches else {"rows": 2, "columns": 2, "coupled": 3}
    assert seen == counts[over]


def test_slope_is_0_where_a_unit_is_gone_and_that_of_the_other_group_where_one_of_two_is():
    model, units = in_float64(Branches)
    with torch.no_grad():
        for part in (model.grouped.weight[0], model.fc.weight[:, :4]):
            part.zero_()
    GroupLasso(model, 1.0, apply="loss", over="coupled", units=units).penalty(torch.zeros(1, 3)).backward()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in model.parameters())
    assert (model.grouped.weight.grad[0] == 0).all()
    assert (model.fc.weight.grad[:, :4] == 0).all()
    fc, out = model.fc.weight, model.out.weight
    own = (fc[2].square().sum() + out[:, 2].square().sum()).sqrt()
    reading = (model.grouped.weight[1].square().sum() + fc[:, 4:8].square().sum()).sqrt()
    assert torch.allclose(fc.grad[2, 4:8], fc[2, 4:8] / own + fc[2, 4:8] / reading)


def one_hidden_layer(seed: int) -> tuple[nn.Module, Units]:
    """One group of units whose parts do not overlap: rows of 4 weights, a scale, columns of 3."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3)).double().eval()
    nn.init.uniform_(model[1].weight, 0.0, 0.5)
    return model, prl.find_units(model, torch.zeros(1, 4, dtype=torch.float64))


RATES = {"one rate": (0.5, 0.5, 0.5), "its own each": (0.5, 2.0, 0.2), "scales stay": (0.5, None, 0.3)}


@pytest.mark.parametrize("over", ["rows", "columns", "coupled"])
@pytest.mark.parametrize("rates", RATES.values(), ids=RATES)
def test_the_proximal_map_is_the_minimum_that_no_search_betters(over, rates):
    """Σ_k ‖u_k − v_k‖²/2η_k + λ Σ_i ‖u_i‖ is convex: a point that no step in any direction improves minimizes it."""
    generator, gone = torch.Generator().manual_seed(0), 0
    for seed in range(6):
        model, units = one_hidden_layer(seed)
        trained = [model[0].weight, model[1].weight, model[3].weight]
        before = [w.detach().clone() for w in trained]
        sides = {"rows": [0], "columns": [2], "coupled": [0, 1, 2]}[over]

        def objective(ws, strength, before=before, sides=sides):
            rows = [ws[0], ws[1][:, None], ws[2].T]
            lengths = sum(rows[k].square().sum(1) for k in sides).sqrt()
            near = sum((w - v).square().sum() / (2 * eta) for w, v, eta in zip(ws, before, rates, strict=True) if eta)
            return (near + strength * lengths.sum()).item()

        strength = 0.6 * (seed + 1)
        moved = [{"params": [w], "lr": eta} for w, eta in zip(trained, rates, strict=True) if eta]
        GroupLasso(model, strength, over=over, units=units).update(torch.optim.SGD(moved, lr=1.0))
        after = [w.detach().clone() for w in trained]
        least = objective(after, strength)
        assert least < objective(before, strength)
        for scale in (1e-1, 1e-2, 1e-3, 1e-4):
            for _ in range(60):
                step = [scale * torch.randn(w.shape, generator=generator, dtype=w.dtype) for w in after]
                trial = [w + d if eta else w for w, d, eta in zip(after, step, rates, strict=True)]
                assert objective(trial, strength) >= least - 1e-12
        for k, eta in enumerate(rates):
            if eta is None or k not in sides:
                assert torch.equal(after[k], before[k])
        lost = [(after[k] == 0).all(1 if k == 0 else 0) for k in sides if k != 1]
        assert all(torch.equal(lost[0], other) for other in lost), "the parts of a unit go together"
        gone += int(lost[0].sum())
    # A frozen scale holds its group: it may become short, and does not go.
    held = over == "coupled" and None in rates
    assert gone == 0 if held else gone > 3


def test_what_is_frozen_at_0_lets_its_group_go_and_a_lone_part_is_mapped_as_if_alone():
    model, units = one_hidden_layer(0)
    with torch.no_grad():
        model[1].weight.zero_()
        model[3].weight[:, 1] = 0
        model[0].weight[0] *= 1e-3
        model[3].weight[:, 0] *= 1e-3
    model[1].weight.requires_grad_(False)
    before = copy.deepcopy(model)
    rates = [{"params": model[0].parameters(), "lr": 0.1}, {"params": model[3].parameters(), "lr": 0.3}]
    GroupLasso(model, 0.5, over="coupled", units=units).update(torch.optim.SGD(rates, lr=1.0))
    assert (model[0].weight[0] == 0).all()
    assert (model[3].weight[:, 0] == 0).all()
    row = before[0].weight[1]
    assert torch.allclose(model[0].weight[1], row * (1 - 0.05 / row.norm()), rtol=1e-12)


def test_overlapping_groups_are_mapped_in_order_up_to_the_square_of_the_step():
    """The distance from the map of the sum, found by descent, falls a hundredfold where the step falls tenfold."""
    distances = []
    for rate in (1e-2, 1e-3):
        model, units = in_float64(Branches)
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        reg = GroupLasso(model, 1.0, over="coupled", units=units)
        reg.update(torch.optim.SGD(model.parameters(), lr=rate))
        after = {name: p.detach().clone() for name, p in model.named_parameters()}
        loss = GroupLasso(model, 1.0, apply="loss", over="coupled", units=units)
        for _ in range(200):  # u = v − η ∂R/∂u, a contraction where no group is near 0
            model.zero_grad()
            loss.penalty(torch.zeros(1, 3)).backward()
            with torch.no_grad():
                for name, p in model.named_parameters():
                    p.copy_(before[name] - rate * (0 if p.grad is None else p.grad))
        distances.append(max((p - after[name]).abs().max().item() for name, p in model.named_parameters()))
    assert 0 < distances[1] < 0.02 * distances[0]


def test_a_unit_that_went_as_a_coupled_group_is_removed_exactly():
    torch.manual_seed(0)
    x = torch.randn(256, 1, 8, 8)
    y = (x.mean((1, 2, 3)) > 0).long()
    model = LeNet5(2, (1, 8, 8), (8, 8, 8), kernel=3, padding=1, bn=True)
    units = prl.find_units(model, x[:1])
    reg = GroupLasso(model, 0.3, over="coupled", units=units)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    data = TensorPair(x, y)
    prl.fit(model, data, data, epochs=20, optimizer=optimizer, regularizer=reg, batch_size=32, progress=False)
    gone = {name: value == 0 for name, value in reg.importance().items()}
    assert sum(int(mask.sum()) for mask in gone.values()) >= 6
    for name, group in units.items():
        layers = dict(model.named_modules())
        assert torch.equal(gone[name], (layers[name].weight == 0).flatten(1).all(1))
        assert torch.equal(gone[name], layers[group.norms[0].layer].weight == 0)
    shrunk = prl.shrink(model, x[:1])
    left = [len(layer.weight) for layer in (shrunk.model.conv1, shrunk.model.conv2, shrunk.model.fc1)]
    assert left == [8 - int(mask.sum()) for mask in gone.values()]
    assert torch.allclose(model.eval()(x), shrunk.model.eval()(x), atol=1e-5)


def test_wrong_use_of_groups_is_named():
    model, units = in_float64(Branches)
    for over in ("columns", "coupled"):
        with pytest.raises(ValueError, match=f"GroupLasso over {over} needs units=pruning_lib.find_units"):
            GroupLasso(model, 1.0, over=over)
    with pytest.raises(ValueError, match="over='channels' is unknown"):
        GroupLasso(model, 1.0, over="channels")
    alone = Units([Group("stem", 4, "inner", (Member("stem", torch.arange(4)),), (), ())], {})
    with pytest.raises(ValueError, match="GroupLasso over columns found no layer that reads a unit in Branches"):
        GroupLasso(model, 1.0, over="columns", units=alone)
    prl.bound_batchnorm(model)
    with pytest.raises(ValueError, match="GroupLasso changes weights in place, and that of 'norm' is computed"):
        GroupLasso(model, 1.0, over="coupled", units=units)
    assert GroupLasso(model, 1.0, apply="loss", over="coupled", units=units).penalty(torch.zeros(1, 3)) > 0


@pytest.mark.parametrize(
    ("method", "strength", "options"),
    [(L2, 3e-3, {}), (L1, 3e-3, {}), (GroupLasso, 3e-2, {}), (GroupLasso, 3e-2, {"over": "coupled"})],
)
def test_on_digits_l2_leaves_no_zero_l1_scatters_them_and_group_lasso_takes_whole_rows(method, strength, options):
    split = digits()
    torch.manual_seed(0)
    model = LeNet300(10, (1, 8, 8), (60, 30))
    reg = method(model, strength, units=prl.find_units(model, split.train.inputs[:1]), **options)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    prl.fit(model, split.train, split.val, epochs=25, optimizer=optimizer, regularizer=reg, progress=False)
    zeros = model.fc1.weight == 0
    dead, living = zeros.all(1), zeros[~zeros.all(1)].float().mean()
    expected = {L2: zeros.sum() == 0, L1: dead.sum() == 0 and living > 0.2, GroupLasso: dead.sum() > 5 and living == 0}
    assert expected[method]  # [L1: 0.31; group lasso: 14 to 17 of 60 rows]
    assert prl.evaluate(model, split.val).accuracy > 0.9  # [≥ 0.94]


@pytest.mark.parametrize("over", ["columns", "coupled"])
def test_groups_of_a_residual_stream_are_what_its_members_say(over):
    """Several writers and scales a unit, shortcuts that pad: recomputed channel by channel; one short unit goes."""
    torch.manual_seed(0)
    model = ResNet(8)
    x = torch.randn(2, 3, 32, 32)
    units = prl.find_units(model, x)
    layers, lengths = dict(model.named_modules()), {}
    for name, group in units.items():
        squares = np.zeros(group.size)
        outputs = (*group.writers, *group.norms) if over == "coupled" else ()
        for member, axis in [(m, 0) for m in outputs] + [(m, 1) for m in group.readers]:
            weight = layers[member.layer].weight.detach().double().numpy()
            for channel, unit in enumerate(member.index.tolist()):
                if unit >= 0:
                    squares[unit] += (np.take(weight, channel, axis) ** 2).sum()
        lengths[name] = np.sqrt(squares)
    reg = GroupLasso(model, 1.0, over=over, units=units)
    for name, value in reg.importance().items():
        assert value.numpy() == pytest.approx(lengths[name], rel=1e-5)
    group = units["blocks.1.conv1"]
    with torch.no_grad():
        for weight in (layers[member.layer].weight for member in (*group.writers, *group.norms)):
            weight[5] *= 1e-3
        layers[group.readers[0].layer].weight[:, 5] *= 1e-3
    reg.update(torch.optim.SGD(model.parameters(), lr=0.05))
    gone = {name: (value == 0).nonzero().flatten().tolist() for name, value in reg.importance().items()}
    assert gone == {name: [5] if name == group.name else [] for name in units}
    shrunk = prl.shrink(model, x)
    assert prl.find_units(shrunk.model, x)[group.name].size == group.size - 1
    assert shrunk.max_error < 1e-5
