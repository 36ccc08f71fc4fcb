"""What a run does: networks of given widths, uniform budgets, and every method from its first step to its record."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from experiments._checks import changed
from experiments._provenance import provenance
from experiments.bench import Bench, LoggedTest
from experiments.methods import METHODS, optimizer_of, prepare
from experiments.recipes._prune import drop_inputs, run_prune
from experiments.recipes._scratch import found_widths, run_scratch
from experiments.suites import SUITES
from experiments.suites.ablations import ALL_CRITERIA
from experiments.targets import Target, fewer
from pruning_lib._measure import measure
from pruning_lib.channels import find_units, shrink
from pruning_lib.companion.models import LeNet300
from pruning_lib.companion.records import summarize, validate
from pruning_lib.selection import cost, zero
from pruning_lib.training import Run
from pruning_lib.units import BatchNorm, bounded_scale

pytestmark = pytest.mark.slow
SMALL = replace(
    SUITES["digits-tiny"].protocol, network={"model": "lenet300-bn", "widths": [32, 16]}, epochs=1, finetune_epochs=1
)


def config(protocol: Any = SMALL, method: str = "dense", strength: float = 1e-3, **more: Any) -> dict[str, Any]:
    return protocol._base(0) | protocol._prune(method, strength) | METHODS[method].settings | more


def test_a_narrow_network_is_the_one_its_constructor_would_draw(tmp_path: Path) -> None:
    bench = Bench(config(model="lenet300"), tmp_path)
    torch.manual_seed(0)
    expected = LeNet300(10, (1, 8, 8), (5, 3))
    narrow = bench.narrow({"fc1": 5, "fc2": 3})
    assert all(torch.equal(a, b) for a, b in zip(narrow.parameters(), expected.parameters(), strict=True))


def test_flaps_ranking_removes_units_that_emit_their_mean(tmp_path: Path) -> None:
    """What is removed is what emits its mean; BatchNorm statistics are computed anew of that, too."""
    names = ["fluctuation-standardized", "folded-isomorphic", "folded-normalized"]
    record = run_prune(Bench(config(criteria=names, targets=["macs-0.5"], shifts="drop", finetune_epochs=0), tmp_path))
    first, *others = [pruning["stages"] for pruning in record["prunings"]]
    assert first["shrunk"]["val_loss"] == pytest.approx(first["averaged"]["val_loss"], rel=1e-4)
    assert first["averaged"]["val_loss"] != pytest.approx(first["dropped"]["val_loss"], rel=1e-3)
    assert first["recalibrated"]["val_loss"] != first["averaged"]["val_loss"]
    for stages in others:
        assert "averaged" not in stages
        assert stages["shrunk"]["val_loss"] == pytest.approx(stages["dropped"]["val_loss"], rel=1e-4)
    assert changed(record) == []
    first["shrunk"]["val_accuracy"] = first["dropped"]["val_accuracy"] = 0.5
    (fault,) = changed(record)
    assert fault.startswith("removal changed the val_accuracy (macs-0.5)")


def test_a_narrow_residual_network_keeps_its_stream(tmp_path: Path) -> None:
    bench = Bench(config(model="resnet20"), tmp_path)
    units = find_units(bench.dense(), bench.example)
    widths = Target.of("macs-0.25").uniform(units, {name for name, group in units.items() if group.kind == "inner"})
    assert set(widths) == {f"blocks.{i}.conv1" for i in range(9)}
    small: Any = bench.narrow(widths)
    assert [block.conv1.out_channels for block in small.blocks] == list(widths.values())
    assert [block.conv2.out_channels for block in small.blocks] == [16] * 3 + [32] * 3 + [64] * 3
    for norm in (module for module in small.modules() if isinstance(module, nn.BatchNorm2d)):
        assert (norm.weight == 1).all()
        assert not norm.bias.any()


@pytest.mark.parametrize("target", ["macs-0.25", "macs-0.05", "fraction-0.5"])
def test_uniform_widths_are_the_largest_within_the_budget(tmp_path: Path, target: str) -> None:
    bench = Bench(config(), tmp_path)
    units = find_units(bench.dense(), bench.example)
    widths = Target.of(target).uniform(units, {name for name, group in units.items() if group.kind == "inner"})
    if target == "fraction-0.5":
        assert widths == {"fc1": 16, "fc2": 8}
        return
    macs = Target.of(target).budget(units)["max_macs"]
    small = bench.narrow(widths)
    assert measure(small, bench.example).macs == cost(fewer(units, widths), units) <= macs
    n = widths["fc1"] + 1
    assert 64 * n + n * max(1, round(16 * n / 32)) + max(1, round(16 * n / 32)) * 10 > macs


def test_widths_that_are_told_keep_the_best_units_of_each_layer(tmp_path: Path) -> None:
    run = config(targets=["widths-5-3"], criteria=["own"], finetune_epochs=0, model="lenet300", shifts="drop")
    record = run_prune(Bench(run, tmp_path))
    (pruning,) = record["prunings"]
    assert pruning["stages"]["shrunk"]["units"] == {"fc1": 5, "fc2": 3}
    bench = Bench(run, tmp_path)
    model = bench.dense()
    units = find_units(model, bench.example)
    ranks = {name: model.get_submodule(name).weight.norm(dim=1) for name in ("fc1", "fc2")}  # type: ignore[union-attr, operator]
    chosen = Target.of("widths-5-3").choose(ranks, units, set(ranks))
    for name, width in (("fc1", 5), ("fc2", 3)):
        assert set((~chosen[name]).nonzero().flatten().tolist()) == set(ranks[name].topk(width).indices.tolist())
    scratch = run | {"recipe": "control", "method": "uniform", "target": "widths-5-3", "epochs": 1}
    assert run_scratch(Bench(scratch, tmp_path / "s"), None)["stages"]["trained"]["units"] == {"fc1": 5, "fc2": 3}


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_runs_from_its_first_step_to_a_whole_record(tmp_path: Path, method: str) -> None:
    run = config(method=method, criteria=["own"], finetune_epochs=0, strength=0.0 if method == "dense" else 1e-2)
    record = run_prune(Bench(run, tmp_path))
    validate(record | {"provenance": provenance() | {"seconds": 0.0}})
    assert record["config"] == run
    (pruning,) = record["prunings"]
    assert pruning["stages"]["shrunk"]["test_accuracy"] == pruning["stages"]["zeroed"]["test_accuracy"]
    assert {"zeroed", "dropped", "recalibrated", "shrunk"} == pruning["stages"].keys()


def test_units_are_ranked_by_every_criterion_and_scratch_takes_the_widths_found(tmp_path: Path) -> None:
    run = config(criteria=["own", *ALL_CRITERIA], averaged=True, shifts="drop", scale=0.5)
    record = run_prune(Bench(run, tmp_path)) | {"provenance": provenance() | {"seconds": 0.0}}
    validate(record)
    chosen = {p["criterion"]: p["stages"] for p in record["prunings"]}
    assert chosen.keys() == {"own", *ALL_CRITERIA}
    for stages in chosen.values():
        assert sum(stages["shrunk"]["units"].values()) == 24
        assert stages["shrunk"]["val_accuracy"] == stages["dropped"]["val_accuracy"]
        assert {"averaged", "recalibrated", "finetuned"} <= stages.keys()
    assert chosen["own"]["zeroed"] == chosen["magnitude"]["zeroed"]  # without a penalty they are one
    assert len({str(stages["zeroed"]) for stages in chosen.values()}) > 2
    scratch = run | {"recipe": "control", "method": "scratch-e-dense", "target": "fraction-0.5", "epochs": 1}
    trained = run_scratch(Bench(scratch, tmp_path / "scratch"), record)["stages"]["trained"]
    assert trained["units"] == found_widths(record, "fraction-0.5") == chosen["own"]["shrunk"]["units"]


def test_scales_start_and_learn_as_the_method_wants(tmp_path: Path) -> None:
    model = Bench(config(), tmp_path).dense()
    prepare(model, config(method="slimming"))
    assert all((m.weight == 0.5).all() for m in model.modules() if isinstance(m, BatchNorm))
    (group,) = optimizer_of(model, config(weight_decay=0.1), 0.2).param_groups
    assert (group["lr"], group["weight_decay"]) == (0.2, 0.1)
    bounded = Bench(config(), tmp_path).dense()
    prepare(bounded, config(method="rni"))
    assert all(bounded_scale(m) is not None for m in bounded.modules() if isinstance(m, BatchNorm))
    others, scales = optimizer_of(bounded, config(weight_decay=0.1), 0.2).param_groups
    assert (others["lr"], others["weight_decay"], scales["lr"], scales["weight_decay"]) == (0.2, 0.1, 2.0, 0.0)


def test_low_precision_and_channels_last_reach_a_record(tmp_path: Path) -> None:
    # With shifts kept a representative stays in each layer, and the budget is passed by what it costs.
    run = config(model="resnet20", precision="bfloat16", kinds=["inner"], floor=3, weight_decay=5e-4, shifts="drop")
    record = run_prune(Bench(run | {"criteria": ["own"], "targets": ["macs-0.50"], "finetune_epochs": 0}, tmp_path))
    (pruning,) = record["prunings"]
    shrunk = pruning["stages"]["shrunk"]
    assert shrunk["macs"] <= 0.5 * record["stages"]["trained"]["macs"]
    assert min(units for name, units in shrunk["units"].items() if "conv1" in name) >= 3
    assert all(units in (16, 32, 64) for name, units in shrunk["units"].items() if "conv2" in name)


def test_a_papers_protocol_logs_the_test_set_by_epoch_and_the_best_of_it(tmp_path: Path) -> None:
    paper = SUITES["cifar10-vgg16-paper-protocol"].protocol.more
    more = {key: paper[key] for key in ("nesterov", "schedule", "log_test", "scale", "shifts")}
    run = config(criteria=["own", "scales-local"], **more | {"epochs": 8, "finetune_epochs": 4, "finetune_lr": 0.1})
    record = run_prune(Bench(run, tmp_path)) | {"provenance": provenance() | {"seconds": 0.0}}
    validate(record)
    # The rate that an epoch ends with.
    assert [entry[3] for entry in record["history"]] == pytest.approx([0.1] * 4 + [0.01] * 2 + [0.001] * 2)
    tuned = [pruning["stages"]["finetuned"] for pruning in record["prunings"]]
    for stage, epochs in ((record["stages"]["trained"], 8), *((stage, 4) for stage in tuned)):
        assert len(stage["test_log"]) == epochs
        assert stage["test_log"][-1] == stage["test_accuracy"]
    assert not any("test_log" in pruning["stages"]["shrunk"] for pruning in record["prunings"])
    assert tuned[1]["units"] == {"fc1": 16, "fc2": 8}, "equal shares"
    for row, stage in zip(summarize([record]), tuned, strict=True):
        assert row["best_test_error"] == pytest.approx(100 * (1 - max(stage["test_log"])), abs=1e-3)
        assert row["trained_best_test_error"] <= row["trained_test_error"]


def test_the_log_goes_on_after_an_interruption(tmp_path: Path) -> None:
    run = config(log_test=True, epochs=3)
    whole = run_prune(Bench(run, tmp_path / "whole"))
    log = LoggedTest.after_epoch

    def cut(self: LoggedTest, running: Run) -> None:
        if running.epoch == 2:
            raise KeyboardInterrupt
        log(self, running)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LoggedTest, "after_epoch", cut)
        with pytest.raises(KeyboardInterrupt):
            run_prune(Bench(run, tmp_path / "cut"))
    assert run_prune(Bench(run, tmp_path / "cut")) == whole
    assert len(whole["stages"]["trained"]["test_log"]) == 3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("method", ["group-lasso", "rni", "stochastic-l2", "serene-sampled"])
def test_a_gpu_makes_the_same_record_but_for_rounding(tmp_path: Path, method: str) -> None:
    run = config(method=method)
    here, there = (run_prune(Bench(run, tmp_path / name, device=name)) for name in ("cpu", "cuda:0"))
    assert there["prunings"][0]["stages"].keys() == here["prunings"][0]["stages"].keys()
    assert there["stages"]["trained"]["val_loss"] == pytest.approx(here["stages"]["trained"]["val_loss"], rel=0.05)


def test_inputs_that_are_given_up_stay_so_through_fine_tuning(tmp_path: Path) -> None:
    more = {"inputs": 20, "scope": "local", "finetune": {"weight_decay": 0.1}, "model": "lenet300"}
    run = config(method="group-lasso-inputs", strength=1e-3, criteria=["own", "magnitude"], **more)
    record = run_prune(Bench(run, tmp_path))
    for pruning in record["prunings"]:
        shrunk, tuned = pruning["stages"]["shrunk"], pruning["stages"]["finetuned"]
        assert shrunk["units"] == tuned["units"] == {"fc1": 16, "fc2": 8}
        assert tuned["macs"] == shrunk["macs"] == 16 * (64 + 8) + 8 * 10
        assert tuned["macs_used_inputs"] == 16 * (20 + 8) + 8 * 10
        assert tuned["val_loss"] != shrunk["val_loss"]


def test_the_inputs_that_stay_have_the_longest_columns() -> None:
    model = LeNet300(10, (1, 2, 2), (3, 2))
    with torch.no_grad():
        model.fc1.weight.copy_(torch.tensor([3.0, 1.0, 4.0, 2.0]).expand(3, 4))
    drop_inputs(model, 2)
    assert torch.equal(model.fc1.weight, torch.tensor([3.0, 0.0, 4.0, 0.0]).expand(3, 4))


def test_a_layer_that_died_as_a_whole_counts_no_unit_and_is_left_out_of_its_control(tmp_path: Path) -> None:
    bench = Bench(config(model="resnet20", kinds=["inner"]), tmp_path)
    model = bench.dense().eval()
    units = find_units(model, bench.example)
    name = next(name for name, group in units.items() if group.kind == "inner")
    zero(model, fewer(units, {name: 0}), units, shift="drop")
    stage = bench.stage(shrink(model, bench.example).model)
    assert stage["units"][name] == 0
    assert stage["units"].keys() == bench.stage(model)["units"].keys()
    again = bench.narrow(stage["units"])
    assert bench.stage(again)["units"] == stage["units"]
    assert bench.stage(again)["macs"] == stage["macs"]
