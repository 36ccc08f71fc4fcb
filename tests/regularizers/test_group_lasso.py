"""Group lasso: rows, columns and coupled groups against the graph written out here, proximal maps against a search."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

import pruning_lib as prl
from pruning_lib.companion.data import TensorPair
from pruning_lib.companion.models import LeNet5, ResNet
from pruning_lib.regularizers import GroupLasso
from pruning_lib.units import Group, Member, Units
from tests.regularizers.protocol import Method, modes

STRENGTH = 0.03

PROTOCOL = [
    *(
        Method(f"GroupLasso {mode}", partial(GroupLasso, apply=mode), partner=mode == "loss")
        for mode in modes(GroupLasso)
    ),
    *(
        Method(
            f"GroupLasso {over} {mode}",
            partial(GroupLasso, over=over, apply=mode),
            needs_units=True,
            reach=(*reach, "fc1."),
            plain_scales=over == "coupled" and mode in ("prox", "decay"),
        )
        for over, reach in (("columns", ()), ("coupled", ("conv2.", "bn2.")))
        for mode in modes(GroupLasso)
    ),
]


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


def test_rows_of_a_transposed_convolution_are_its_output_channels():
    layer = nn.ConvTranspose2d(2, 3, 2)
    expected = layer.weight.detach().transpose(0, 1).reshape(3, -1).norm(dim=1)
    assert torch.allclose(GroupLasso(layer, 1.0).importance()[""], expected)


def test_group_lasso_has_slope_zero_at_a_zero_row():
    layer = nn.Linear(3, 2)
    with torch.no_grad():
        layer.weight[0] = 0.0
    GroupLasso(layer, 2.0, apply="loss").penalty(torch.zeros(1, 2)).backward()
    assert (layer.weight.grad[0] == 0).all()
    assert torch.allclose(layer.weight.grad[1], 2 * layer.weight[1] / layer.weight[1].norm())


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
