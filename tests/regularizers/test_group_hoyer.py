"""Group-HS: values by NumPy, slopes by finite differences, what it leaves alone, and what it does on digits."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

import pruning_lib as prl
from pruning_lib.companion.data import digits
from pruning_lib.companion.models import LeNet300
from pruning_lib.regularizers import L2, GroupHoyer, GroupLasso
from tests.regularizers.protocol import Method, modes

STRENGTH = 0.03
OUTPUTS = torch.zeros(1, 3)

PROTOCOL = [
    *(Method(f"GroupHoyer {mode}", partial(GroupHoyer, apply=mode)) for mode in modes(GroupHoyer)),
    *(
        Method(
            f"GroupHoyer both {mode}",
            partial(GroupHoyer, over="both", apply=mode),
            needs_units=True,
            reach=("conv2.", "fc1."),
        )
        for mode in modes(GroupHoyer)
    ),
]


def network() -> tuple[nn.Module, prl.find_units]:
    """conv(4, from 1) → conv(6, in 2 groups) → transposed conv(3) → flatten → linear(3), in float64."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3), nn.Conv2d(4, 6, 3, groups=2), nn.ConvTranspose2d(6, 3, 2)]
    model = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2], nn.ReLU(), nn.Flatten())
    model.append(nn.Linear(3 * 9, 3)).double()
    return model, prl.find_units(model, torch.zeros(1, 1, 6, 6, dtype=torch.float64))


def hoyer(lengths: list[float]) -> float:
    a = np.array(lengths)
    return a.sum() ** 2 / (a**2).sum()


def row_lengths(model: nn.Module) -> dict[str, list[float]]:
    w = {name: p.detach().numpy() for name, p in model.named_parameters() if name.endswith("weight")}
    rows = {"0": w["0.weight"], "2": w["2.weight"], "4": w["4.weight"].swapaxes(0, 1), "7": w["7.weight"]}
    return {name: [np.linalg.norm(row) for row in value] for name, value in rows.items()}


def column_lengths(model: nn.Module) -> dict[str, list[float]]:
    w = {name: p.detach().numpy() for name, p in model.named_parameters() if name.endswith("weight")}
    grouped = [np.linalg.norm(w["2.weight"][3 * (i // 2) : 3 * (i // 2) + 3, i % 2]) for i in range(4)]
    flattened = [np.linalg.norm(w["7.weight"][:, 9 * i : 9 * i + 9]) for i in range(3)]
    return {"2": grouped, "4": [np.linalg.norm(w["4.weight"][i]) for i in range(6)], "7": flattened}


def test_value_is_the_square_of_the_sum_over_the_sum_of_squares_layer_by_layer():
    model, units = network()
    rows, columns = row_lengths(model), column_lengths(model)
    value = GroupHoyer(model, STRENGTH).penalty(OUTPUTS).item()
    assert value == pytest.approx(STRENGTH * sum(map(hoyer, rows.values())), rel=1e-12)
    inner = [rows[name] for name in units]
    value = GroupHoyer(model, STRENGTH, units=units).penalty(OUTPUTS).item()
    assert value == pytest.approx(STRENGTH * sum(map(hoyer, inner)), rel=1e-12)
    value = GroupHoyer(model, STRENGTH, over="columns", units=units).penalty(OUTPUTS).item()
    assert value == pytest.approx(STRENGTH * sum(map(hoyer, columns.values())), rel=1e-12)
    value = GroupHoyer(model, STRENGTH, over="both", units=units).penalty(OUTPUTS).item()
    assert value == pytest.approx(STRENGTH * sum(map(hoyer, [*inner, *columns.values()])), rel=1e-12)


@pytest.mark.parametrize("over", ["rows", "columns", "both"])
@pytest.mark.parametrize("apply", ["loss", "gradient"])
def test_slope_is_right_in_float64(over, apply):
    model, units = network()
    with torch.no_grad():
        model[0].weight[1] = 0  # a group that is gone, in a layer that is not
    reg = GroupHoyer(model, STRENGTH, apply=apply, over=over, units=units)
    loss = GroupHoyer(model, STRENGTH, over=over, units=units)
    term = 3 * reg.penalty(OUTPUTS)
    assert (term.item() == 0) is (apply == "gradient")
    term.backward()
    generator = torch.Generator().manual_seed(0)
    for weight in (module.weight for module in model if hasattr(module, "weight")):
        if weight.grad is None:
            continue
        for _ in range(5):
            way = torch.randn(weight.shape, generator=generator, dtype=torch.float64) * (weight != 0)
            ends = []
            for h in (1e-5, -1e-5):
                with torch.no_grad():
                    weight.add_(way, alpha=h)
                    ends.append(3 * loss.penalty(OUTPUTS).item())
                    weight.sub_(way, alpha=h)
            assert (weight.grad * way).sum().item() == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-6, abs=1e-9)
    assert model[0].bias.grad is None
    if over == "rows":
        assert (model[0].weight.grad[1] == 0).all()


def test_a_layer_times_a_number_costs_the_same_and_equal_rows_cost_one_each():
    model, units = network()
    reg = GroupHoyer(model, 1.0, over="both", units=units)
    before = reg.penalty(OUTPUTS).item()
    model[4].weight.detach().mul_(7)
    assert reg.penalty(OUTPUTS).item() == pytest.approx(before, rel=1e-12)
    reg.penalty(OUTPUTS).backward()
    for i in (2, 4, 7):  # so the slope is at right angles to the weights
        assert (model[i].weight * model[i].weight.grad).sum().item() == pytest.approx(0, abs=1e-9)
    layer = nn.Linear(2, 5, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[3.0, 4.0], [4.0, -3.0], [5.0, 0.0], [0.0, 0.0], [0.0, 0.0]]))
    assert GroupHoyer(layer, 1.0).penalty(OUTPUTS).item() == pytest.approx(3)


def test_short_rows_are_pulled_and_long_ones_lifted():
    """Lengths 1, 2, 3: a = 6, q = 14, so that what is shorter than 14/6 sinks."""
    layer = nn.Linear(1, 3, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0], [2.0], [-3.0]]))
    GroupHoyer(layer, 1.0).penalty(OUTPUTS).backward()
    expected = [2 * 6 / 14 * (1 / w - 6 / 14) * w for w in (1, 2)] + [-2 * 6 / 14 * (1 / 3 - 6 / 14) * 3]
    assert layer.weight.grad.flatten().tolist() == pytest.approx(expected)
    assert layer.weight.grad[0] > layer.weight.grad[1] > 0
    assert layer.weight.grad[2] > 0, "of a negative weight: the step makes it longer"


def test_decay_is_the_step_along_the_slope_and_a_layer_of_zeros_stays():
    model, units = network()
    with torch.no_grad():
        model[7].weight.zero_()
    twin = copy.deepcopy(model)
    reg = GroupHoyer(model, STRENGTH, apply="decay", over="both", units=units)
    assert reg.penalty(OUTPUTS) == 0
    reg.update(torch.optim.SGD(model.parameters(), lr=0.5))
    GroupHoyer(twin, STRENGTH, over="both", units=units).penalty(OUTPUTS).backward()
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        wanted = theirs if theirs.grad is None else theirs - 0.5 * theirs.grad
        assert torch.allclose(ours, wanted, rtol=1e-12)
    assert (model[7].weight == 0).all()


def test_importance_is_the_incoming_length_and_wrong_use_is_named():
    model, units = network()
    found = GroupHoyer(model, 1.0, over="both", units=units).importance()
    assert {name: value.tolist() for name, value in found.items()} == {
        name: pytest.approx(row_lengths(model)[name]) for name in units
    }
    with pytest.raises(ValueError, match="GroupHoyer over both needs units="):
        GroupHoyer(model, 1.0, over="both")
    with pytest.raises(ValueError, match="apply='prox' is unknown; choose one of 'loss', 'gradient', 'decay'"):
        GroupHoyer(model, 1.0, apply="prox")
    with pytest.raises(ValueError, match="over='channels' is unknown"):
        GroupHoyer(model, 1.0, over="channels")


def lengths_on_digits(method: type, strength: float, seed: int = 0) -> torch.Tensor:
    """Return the lengths of all hidden units' rows after training, the shortest first."""
    split = digits()
    torch.manual_seed(seed)
    model = LeNet300(10, tuple(split.train.inputs.shape[1:]), (60, 30))
    reg = method(model, strength, units=prl.find_units(model, split.train.inputs[:1]), apply="loss")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    prl.fit(model, split.train, split.val, epochs=25, optimizer=optimizer, regularizer=reg, progress=False)
    return torch.cat(list(reg.importance().values())).sort().values


def test_on_digits_short_rows_go_and_the_longest_stay_long():
    """What the paper says in kind: group lasso shortens all rows, Group-HS those that go."""
    free, hoyer, lasso = (lengths_on_digits(*case) for case in ((L2, 0.0), (GroupHoyer, 3e-3), (GroupLasso, 3e-3)))
    fifth, ninth = len(free) // 5, 9 * len(free) // 10
    assert hoyer[:fifth].max() < 0.6 * free[:fifth].min()
    assert lasso[:fifth].max() < 0.6 * free[:fifth].min()
    assert hoyer[ninth:].mean() > 1.05 * free[ninth:].mean()
    assert lasso[ninth:].mean() < 0.95 * free[ninth:].mean()
