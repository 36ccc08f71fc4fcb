"""Units that die by themselves: what is counted, cut and recorded; sampling of scales; VGG-16 without BatchNorm."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from experiments._provenance import provenance
from experiments.bench import Bench
from experiments.methods import METHODS, optimizer_of
from experiments.recipes._natural import largest_weights, run_natural
from experiments.recipes._watch import Watch
from experiments.suites import SUITES
from pruning_lib.channels import find_units
from pruning_lib.companion.models import VGG16, LeNet300
from pruning_lib.companion.records import validate
from pruning_lib.regularizers import StochasticPruning

TINY = SUITES["digits-tiny-deaths"].protocol


def config(method: str, strength: float, **more: Any) -> dict[str, Any]:
    return TINY._base(0) | TINY._natural(method, strength) | METHODS[method].settings | more


def test_watch_counts_units_with_an_empty_side_and_zero_weights() -> None:
    model = LeNet300(3, (1, 2, 2), (4, 3))
    units = find_units(model, torch.randn(1, 1, 2, 2))
    with torch.no_grad():
        model.fc1.weight[1] = 0  # a row
        model.fc2.weight[:, [1, 3]] = 0  # columns of unit 1, again, and of unit 3
    watch = Watch(units)
    run: Any = type("Run", (), {"model": model, "epoch": 1})
    watch.after_epoch(run)
    # 4 + 6 of 16 + 12 + 9 weights, in six digits.
    assert watch.log == {"zero_weights": [0.27027], "dead": [[2, 0]]}


def test_what_died_is_removed_and_counted(tmp_path: Path) -> None:
    record = run_natural(Bench(config("stochastic-l2", 3e-2), tmp_path))
    validate(record | {"provenance": provenance() | {"seconds": 1.0}})
    (pruning,) = record["prunings"]
    dead = record["log"]["dead"][-1]
    left = pruning["stages"]["shrunk"]["units"]
    assert [32 - left["fc1"], 16 - left["fc2"]] == dead
    assert sum(dead) > 0
    assert pruning["stages"]["shrunk"]["test_accuracy"] == record["stages"]["trained"]["test_accuracy"]
    assert len(record["log"]["zero_weights"]) == 6


def test_an_epsilon_takes_the_units_whose_weights_all_lie_below_it() -> None:
    model = LeNet300(3, (1, 2, 2), (4, 3))
    with torch.no_grad():
        model.fc1.weight.copy_(torch.tensor([0.5, 0.009, 0.02, 0.001]).view(4, 1).expand(4, 4))
        model.fc1.weight[3, 0] = -0.3
    found = largest_weights(model, find_units(model, torch.randn(1, 1, 2, 2)))
    assert torch.allclose(found["fc1"], torch.tensor([0.5, 0.009, 0.02, 0.3]))
    assert set(found) == {"fc1", "fc2"}


def test_the_decay_of_a_reading_is_the_optimizers_and_ends_with_the_training(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    base = {"momentum": 0.9, "strength": 3e-3}
    for name, method in METHODS.items():
        found = optimizer_of(model, base | {"method": name}, 0.1).param_groups[0]["weight_decay"]
        assert found == (3e-3 if method.decayed else 0)
    decayed = {name for name, method in METHODS.items() if method.decayed}
    whole = {"dense-long", "dense-twice", "dense-loop", "decay"}
    assert decayed == whole | {name for name in METHODS if name.startswith("stochastic-decay-")}


def test_sampled_scales_die_and_rows_in_front_of_them_stay() -> None:
    model = LeNet300(3, (1, 2, 2), (64, 32), bn=True)
    with torch.no_grad():
        model.bn1.weight.normal_()
    reg = StochasticPruning(model, temperature=1.0, scales=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    assert reg.temperatures["bn1"] == pytest.approx(model.bn1.weight.detach().square().mean().sqrt().item())
    expected = (-0.5 * (model.bn1.weight.detach() / reg.temperatures["bn1"]).square()).exp()
    assert torch.allclose(reg.probabilities()["bn1"], expected)
    reg.update(optimizer)
    assert 0 < int((model.bn1.weight == 0).sum()) < 64
    assert set(reg.importance()) == {"fc1", "fc2", "fc3"}
    other = StochasticPruning(model, scales=True)
    other.load_state_dict(reg.state_dict())
    assert other.temperatures == reg.temperatures


def test_one_temperature_for_the_whole_network_reaches_layers_and_scales(tmp_path: Path) -> None:
    model = LeNet300(3, (1, 2, 2), (8, 4), bn=True)
    more = {"temperature": 0.1, "tau": "network", "scales": True, "seed": 0}
    reg: Any = METHODS["stochastic-decay-network"].build(model, more, find_units(model, torch.randn(2, 1, 2, 2)))
    weights = torch.cat([layer.weight.flatten() for layer in (model.fc1, model.fc2, model.fc3)])
    assert set(reg.temperatures) == {"fc1", "fc2", "fc3", "bn1", "bn2"}
    (tau,) = set(reg.temperatures.values())
    assert tau == pytest.approx(0.1 * weights.square().mean().sqrt().item())


def test_vgg16_without_batchnorm_keeps_the_variance_of_its_maps() -> None:
    torch.manual_seed(0)
    model = VGG16(width=0.25, bn=False)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model)
    outputs = nn.Sequential(*list(model)[:-3])(torch.randn(8, 3, 32, 32))
    assert 0.01 < outputs.square().mean().item() < 100
    assert model(torch.randn(1, 3, 32, 32)).shape == (1, 10)


def test_dense_is_trained_as_long_as_all_that_is_done_to_others() -> None:
    configs = replace(TINY, natural={"dense-long": (0.0,)})._of_seed(0)
    assert configs[0]["epochs"] == TINY.epochs + TINY.finetune_epochs
    assert configs[0]["cuts"] == []


def test_watch_state_is_restored() -> None:
    watch = Watch(find_units(LeNet300(3, (1, 2, 2), (4, 3)), torch.randn(1, 1, 2, 2)))
    watch.load_state_dict({"log": {"dead": [[1, 0]]}})
    assert watch.state_dict() == {"log": {"dead": [[1, 0]]}}
