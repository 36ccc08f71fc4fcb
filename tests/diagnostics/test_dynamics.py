"""The instruments of the dynamics of death: norms and deaths against numbers worked out by hand."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import pruning_lib as prl
from pruning_lib.companion.data import digits
from pruning_lib.companion.models import LeNet300
from pruning_lib.diagnostics import Dynamics
from pruning_lib.regularizers import StochasticPruning
from pruning_lib.units import Group, Member, Units

NAN = math.nan


def mlp(hidden: int = 3) -> tuple[nn.Sequential, Units]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, hidden), nn.ReLU(), nn.Linear(hidden, 2))
    return model, prl.find_units(model, torch.zeros(1, 4))


def same(got: torch.Tensor, wanted: list[float]) -> bool:
    return np.array_equal(got.numpy(), np.array(wanted), equal_nan=True)


def test_norms_of_rows_and_columns_of_a_perceptron():
    model, units = mlp()
    dynamics = Dynamics(model, units)
    dynamics.record(0)
    assert np.allclose(dynamics["0"].incoming[0], np.linalg.norm(model[0].weight.detach().numpy(), axis=1))
    assert np.allclose(dynamics["0"].outgoing[0], np.linalg.norm(model[2].weight.detach().numpy(), axis=0))


def test_batchnorm_scales_the_incoming_norm_and_a_flatten_reader_has_a_column_for_each_pixel():
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 4, 5))
    nn.init.normal_(model[1].weight)
    dynamics = Dynamics(model, prl.find_units(model, torch.zeros(1, 2, 4, 4)))
    dynamics.record(0)
    rows = np.sqrt((model[0].weight.detach().numpy() ** 2).sum((1, 2, 3)))
    columns = model[4].weight.detach().numpy().reshape(5, 3, 4)  # the flatten puts a channel's 4 pixels side by side
    assert np.allclose(dynamics["0"].incoming[0], rows * np.abs(model[1].weight.detach().numpy()))
    assert np.allclose(dynamics["0"].outgoing[0], np.sqrt((columns**2).sum((0, 2))))


def test_transposed_and_grouped_convolutions():
    torch.manual_seed(2)
    model = nn.Sequential(nn.ConvTranspose2d(2, 4, 3, groups=2), nn.ReLU(), nn.Conv2d(4, 6, 3, groups=2), nn.ReLU())
    index = torch.arange(4)
    units = Units([Group("0", 4, "inner", (Member("0", index),), (), (Member("2", index),))])
    dynamics = Dynamics(model, units)
    dynamics.record(0)
    up, down = (model[i].weight.detach().numpy() for i in (0, 2))
    # Input 0 writes channels 0 and 1, input 1 writes 2 and 3; filters 0 to 2 read channels 0 and 1, 3 to 5 the others.
    written = [np.sqrt((up[half, c] ** 2).sum()) for half in (0, 1) for c in (0, 1)]
    read = [np.sqrt((down[3 * half : 3 * half + 3, c] ** 2).sum()) for half in (0, 1) for c in (0, 1)]
    assert np.allclose(dynamics["0"].incoming[0], written)
    assert np.allclose(dynamics["0"].outgoing[0], read)


def test_all_writers_and_readers_of_a_stream_count():
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.branch, self.head = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x)
            return self.head(x + self.branch(x).relu())

    torch.manual_seed(3)
    model = Residual()
    dynamics = Dynamics(model, prl.find_units(model, torch.zeros(1, 3)))
    dynamics.record(0)
    stem, branch, head = (m.weight.detach().numpy() for m in (model.stem, model.branch, model.head))
    assert np.allclose(dynamics["stem"].incoming[0], np.sqrt((stem**2).sum(1) + (branch**2).sum(1)))
    assert np.allclose(dynamics["stem"].outgoing[0], np.sqrt((branch**2).sum(0) + (head**2).sum(0)))


def scripted() -> Dynamics:
    """Unit 0 loses inputs at 10, readers at 30; unit 1 readers at 20; unit 2 loses inputs at 10 and regrows."""
    model, units = mlp()
    dynamics = Dynamics(model, units)
    with torch.no_grad():
        dynamics.record(0)
        model[0].weight[[0, 2]] = 0
        dynamics.record(10)
        model[2].weight[:, 1] = 0
        model[0].weight[2, 1] = 0.5
        dynamics.record(20)
        model[2].weight[:, 0] = 0
        dynamics.record(30)
    return dynamics


def test_deaths_states_and_lags_of_a_scripted_run():
    path = scripted()["0"]
    assert path.times.tolist() == [0, 10, 20, 30]
    assert path.state.tolist() == [[0, 0, 0], [1, 0, 1], [1, 2, 0], [3, 2, 0]]
    assert same(path.incoming_death, [10, NAN, NAN])
    assert same(path.outgoing_death, [30, 20, NAN])
    assert same(path.death, [10, 20, NAN])
    assert same(path.lag, [20, NAN, NAN])


def test_a_weight_that_grew_again_died_when_it_went_for_good():
    deaths = scripted().weight_deaths()
    assert same(deaths["0"][0], [10, 10, 10, 10])
    assert same(deaths["0"][2], [10, NAN, 10, 10])
    assert same(deaths["2"][0], [30, 20, NAN])


def test_the_smallest_weights_are_alive_and_a_threshold_is_a_norm():
    model, units = mlp()
    with torch.no_grad():
        model[0].weight[0] = 1e-30  # its square is 0 in float32
        model[0].weight[1] = 0.004  # norm 0.008
    for threshold, wanted in ((0.0, [0, 0, 0]), (1e-20, [1, 0, 0]), (0.0081, [1, 1, 0])):
        dynamics = Dynamics(model, units, threshold=threshold)
        dynamics.record(0)
        assert dynamics["0"].state[0].tolist() == wanted, threshold


def test_nothing_recorded_yet_is_an_empty_trajectory_of_living_units():
    model, units = mlp()
    path = Dynamics(model, units)["0"]
    assert path.state.shape == (0, 3)
    assert same(path.death, [NAN] * 3)


def test_the_readers_follow_after_the_lag_that_decay_and_threshold_give():
    # Without inputs and bias the unit is 0, so that only ½λ‖w‖² acts on its reader: w₀ (1 − ηλ)^t < τ.
    model = nn.Sequential(nn.Linear(2, 1), nn.ReLU(), nn.Linear(1, 1))
    for parameter, value in zip(model.parameters(), (0.0, 0.0, 0.7, 0.0), strict=True):
        nn.init.constant_(parameter, value)
    rate, strength, tau = 0.1, 0.2, 0.05
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    reg = StochasticPruning(model, strength, probability="deterministic", temperature={"0": tau, "2": tau})
    x, dynamics = torch.ones(4, 2), Dynamics(model, prl.find_units(model, torch.zeros(1, 2)))
    dynamics.record(0)
    for step in range(1, 201):
        outputs = model(x)
        loss = (outputs - 1).square().mean() + reg.penalty(outputs)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        reg.update(optimizer)
        dynamics.record(step)
    wanted = math.ceil(math.log(0.7 / tau) / -math.log1p(-rate * strength))
    assert dynamics["0"].lag.item() == wanted


def fitted(epochs: int, dynamics: Dynamics, model: nn.Module, reg: prl.Regularizer, path=None, die=None):
    data = digits()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    return prl.fit(
        model, data.train, data.val, epochs=epochs, optimizer=optimizer, regularizer=reg,
        callbacks=[dynamics, *([die] if die else [])], checkpoint=path, progress=False,
    )  # fmt: skip


class Die(prl.Callback):
    def __init__(self, epoch: int) -> None:
        self._epoch = epoch

    def after_epoch(self, run) -> None:
        if run.epoch == self._epoch:
            raise KeyboardInterrupt


def test_as_a_callback_it_records_the_start_and_every_epoch_and_a_resumed_run_equals_an_uninterrupted_one(tmp_path):
    def make():
        torch.manual_seed(0)
        model = LeNet300(inputs=(1, 8, 8), widths=(20, 10))
        reg = StochasticPruning(model, 0.02, base=prl.L1, mode="mask", temperature=0.2)
        return Dynamics(model, prl.find_units(model, torch.zeros(1, 1, 8, 8))), model, reg

    whole = make()
    fitted(4, *whole)
    with pytest.raises(KeyboardInterrupt):
        fitted(4, *make(), tmp_path / "run.pt", Die(3))
    resumed = make()
    fitted(4, *resumed, tmp_path / "run.pt", Die(-1))
    assert whole[0].times.tolist() == [0, 1, 2, 3, 4]
    assert not whole[0].weight_deaths()["fc1"].isnan().all()
    for group in ("fc1", "fc2"):
        for side in ("incoming", "outgoing"):
            assert torch.equal(getattr(whole[0][group], side), getattr(resumed[0][group], side))
    for layer, deaths in whole[0].weight_deaths().items():
        assert same(deaths, resumed[0].weight_deaths()[layer].tolist())
    for ours, theirs in zip(whole[1].parameters(), resumed[1].parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_wrong_use_is_named():
    model, units = mlp()
    dynamics = Dynamics(model, units)
    dynamics.record(5)
    with pytest.raises(ValueError, match="got time 5 after 5.0; it must rise"):
        dynamics.record(5)
    with pytest.raises(ValueError, match="'fc1' names no prunable group"):
        dynamics["fc1"]
    with pytest.raises(ValueError, match="threshold=-1; it needs a norm"):
        Dynamics(model, units, threshold=-1)
    with pytest.raises(ValueError, match="units of another model: its '0' has 2 channels, theirs has 3"):
        Dynamics(nn.Sequential(nn.Linear(2, 2)), units)
    with pytest.raises(ValueError, match="Dynamics got the state of another network, or none"):
        dynamics.load_state_dict(Dynamics(*mlp(7)).state_dict())
    model[0].weight = nn.Parameter(torch.zeros(1, 4))
    with pytest.raises(ValueError, match="'0' has changed its shape, as shrink does; go on with a new Dynamics"):
        dynamics.record(6)
    assert dynamics.times.tolist() == [5]
