"""FLAP's and Wanda's importances: against NumPy, and against what removing a unit does to a linear layer."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

import pruning_lib as prl
from pruning_lib.selection import importance


class Branches(nn.Module):
    """Units that two convolutions read, one of them grouped; behind them a transposed one and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(2, 4, 3, padding=1)
        self.grouped = nn.Conv2d(4, 6, 3, groups=2)
        self.beside = nn.Conv2d(4, 6, 3)
        self.up = nn.ConvTranspose2d(6, 3, 2)
        self.out = nn.Linear(3 * 25, 3)

    def forward(self, x):
        x = torch.relu(self.a(x))
        x = torch.relu(self.grouped(x) + self.beside(x))
        return self.out(torch.relu(self.up(x)).flatten(1))


def network() -> tuple[nn.Module, prl.Units, torch.Tensor]:
    torch.manual_seed(0)
    model = Branches().double()
    x = torch.randn(23, 2, 6, 6, dtype=torch.float64)
    return model, prl.find_units(model, x[:2]), x


def read_by(model: nn.Module, x: torch.Tensor) -> dict[str, np.ndarray]:
    """Return what each layer reads, shape (channels, examples · positions)."""
    seen = {}
    for name, layer in model.named_children():
        layer.register_forward_pre_hook(lambda _, args, name=name: seen.update({name: args[0].detach()}))
    model(x)
    return {name: np.moveaxis(value.numpy(), 1, 0).reshape(value.shape[1], -1) for name, value in seen.items()}


def test_scores_are_the_formulas_over_all_that_read_a_unit():
    model, units, x = network()
    fluctuation = importance.fluctuation(model, units, x, batch_size=5)
    wanda = importance.wanda(model, units, x, batch_size=5)
    seen = read_by(copy.deepcopy(model), x)
    w = {name: p.detach().numpy() for name, p in model.named_parameters()}
    variance = {name: value.var(1) for name, value in seen.items()}
    size = {name: np.sqrt((value**2).mean(1)) for name, value in seen.items()}
    grouped = [w["grouped.weight"][3 * (k // 2) : 3 * (k // 2) + 3, k % 2] for k in range(4)]
    beside = [w["beside.weight"][:, k] for k in range(4)]
    assert fluctuation["a"].tolist() == pytest.approx(
        [
            variance["grouped"][k] * (grouped[k] ** 2).sum() + variance["beside"][k] * (beside[k] ** 2).sum()
            for k in range(4)
        ]
    )
    assert wanda["a"].tolist() == pytest.approx(
        [
            size["grouped"][k] * np.abs(grouped[k]).sum((1, 2)).mean()
            + size["beside"][k] * np.abs(beside[k]).sum((1, 2)).mean()
            for k in range(4)
        ]
    )
    transposed = [w["up.weight"][k] for k in range(6)]
    assert fluctuation["grouped"].tolist() == pytest.approx(
        [variance["up"][k] * (transposed[k] ** 2).sum() for k in range(6)]
    )
    behind = (variance["out"] * (w["out.weight"] ** 2).sum(0)).reshape(3, 25)
    assert fluctuation["up"].tolist() == pytest.approx(behind.sum(1).tolist())
    assert wanda["up"].tolist() == pytest.approx(
        (size["out"] * np.abs(w["out.weight"]).mean(0)).reshape(3, 25).sum(1).tolist()
    )


def test_the_batches_and_the_kind_of_data_make_no_difference():
    model, units, x = network()
    whole = importance.fluctuation(model, units, x)
    loader = [(part, torch.zeros(len(part))) for part in torch.split(x, 4)]
    for data, size in ((x, 1), (loader, 256), ((x, torch.zeros(23)), 7)):
        found = importance.fluctuation(model, units, data, batch_size=size)
        assert all(torch.allclose(found[name], whole[name], rtol=1e-12) for name in units)


def test_fluctuation_is_what_the_sums_lose_when_a_unit_emits_its_mean():
    """Of a linear reader: the mean squared change, over examples, of all its sums together."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 4)).double()
    x = torch.randn(200, 5, dtype=torch.float64)
    units = prl.find_units(model, x[:2])
    scores = importance.fluctuation(model, units, x)["0"]
    before = model(x)
    for k in range(6):
        cut = copy.deepcopy(model)
        prl.zero(cut, {"0": torch.arange(6) == k}, units, shift="mean", inputs=x)
        lost = (cut(x) - before).square().sum(1).mean().item()
        assert scores[k].item() == pytest.approx(lost, rel=1e-6)


def test_a_unit_that_never_moves_scores_zero_whatever_it_emits_and_modes_stay():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 2)).train()
    with torch.no_grad():
        model[0].weight[1] = 0
        model[1].bias[1] = 1e4
    x = torch.randn(64, 3)
    state = copy.deepcopy(model.state_dict())
    units = prl.find_units(model, x)
    scores = importance.fluctuation(model, units, x, batch_size=7)["0"]
    assert scores[1] == 0
    assert scores[0] > 0
    assert importance.wanda(model, units, x)["0"][1] > 1e3
    assert model.training
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_wrong_use_is_named():
    model, units, x = network()
    with pytest.raises(ValueError, match="fluctuation got units of another model"):
        importance.fluctuation(nn.Linear(2, 2), units, x)
    with pytest.raises(ValueError, match="wanda got batch_size=0; it needs a whole number, 1"):
        importance.wanda(model, units, x, batch_size=0)
    with pytest.raises(TypeError, match="Data must be a tensor of samples"):
        importance.wanda(model, units, 3)
    x[0, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="fluctuation got a score of 'a' that is not finite"):
        importance.fluctuation(model, units, x)
