"""What tasks are judged by: scores by hand on a few images, and their way into records and rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from experiments import tasks
from experiments._provenance import provenance
from experiments.bench import Bench
from experiments.methods import METHODS
from experiments.recipes import RECIPES
from experiments.suites import SUITES
from pruning_lib.companion.data import DATA_SETS, DetailedSplit, Split, TensorPair
from pruning_lib.companion.records import summarize, validate


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    tasks.split.cache_clear()
    yield
    tasks.split.cache_clear()


def all_parts(pair: TensorPair, details: dict[str, Tensor], classes: int) -> Split:
    return DetailedSplit(pair, pair, pair, classes, details=dict.fromkeys(("train", "val", "test"), details))


def put(monkeypatch: pytest.MonkeyPatch, name: str, split: Split) -> None:
    """Let a data set be this one."""
    monkeypatch.setitem(DATA_SETS, name, replace(DATA_SETS[name], load=lambda: split))


class Parrot(nn.Module):
    """Answers with its inputs."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def test_maps_are_judged_by_pixels_and_by_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    truth = torch.tensor([[[1, 1, 0, 2, 2]]])
    found = torch.tensor([[[1, 1, 0, 0, 1]]])  # the first nucleus whole, of the second half: no more than IoU ½
    logits = torch.nn.functional.one_hot(found, 2).movedim(-1, 1).float()
    split = all_parts(TensorPair(logits, (truth > 0).long()), {"instances": truth}, 2)
    put(monkeypatch, "nuclei", split)
    scores = tasks.judge(Parrot(), "nuclei", "val")
    assert scores["accuracy"] == pytest.approx(4 / 5)
    assert scores["dice"] == pytest.approx(2 * 3 / (3 + 4))
    assert scores["instance_f1"] == pytest.approx(2 * 1 / (2 + 2))


def test_who_tells_the_source_alone_is_found_out_within_it(monkeypatch: pytest.MonkeyPatch) -> None:
    targets = torch.tensor([0, 0, 0, 1, 2, 1, 2, 2])
    source = torch.tensor([0, 0, 0, 0, 0, 1, 1, 1])
    logits = torch.zeros(8, 3)
    logits[:, 0] = (source == 0).float()  # sure of COVID-19 wherever the image is of the first collection
    logits[:, 1] = (source == 1).float()
    split = all_parts(TensorPair(logits, targets), {"source": source}, 3)
    put(monkeypatch, "chest-xrays", split)
    scores = tasks.judge(Parrot(), "chest-xrays", "test")
    assert scores["auroc_within"] == 0.5
    assert scores["auroc_covid"] == pytest.approx((3 * 3 + 3 * 2 / 2) / (3 * 5))
    assert scores["balanced_accuracy"] == pytest.approx((1 + 1 / 2 + 0) / 3)


def test_the_mode_of_a_model_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    split = all_parts(
        TensorPair(torch.rand(3, 2, 4, 4), torch.ones(3, 4, 4).long()), {"instances": torch.ones(3, 4, 4).long()}, 2
    )
    put(monkeypatch, "nuclei", split)
    model = nn.Sequential(nn.BatchNorm2d(2), nn.Dropout())
    model[1].eval()
    before = [m.training for m in model.modules()]
    tasks.judge(model, "nuclei", "val")
    assert [m.training for m in model.modules()] == before


@pytest.mark.parametrize("method", ["dense", "rni", "serene-sampled"])
def test_a_map_goes_from_its_first_step_to_a_row(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, method: str) -> None:
    torch.manual_seed(0)
    inputs = torch.randn(6, 3, 16, 16)
    instances = (inputs.mean(1) > 0).long()
    split = all_parts(TensorPair(inputs, instances), {"instances": instances}, 2)
    put(monkeypatch, "nuclei", split)
    protocol = replace(
        SUITES["nuclei-unet"].protocol, epochs=1, finetune_epochs=1, batch_size=3, targets=("fraction-0.6",)
    )
    config = protocol._base(0) | protocol._prune(method, 0.0 if method == "dense" else 1e-2) | METHODS[method].settings
    record = RECIPES["prune"](Bench(config | {"channels": 4}, tmp_path)) | {
        "provenance": provenance() | {"seconds": 0.0}
    }
    validate(record)
    stages = record["prunings"][0]["stages"]
    before, after = record["stages"]["trained"]["units"], stages["shrunk"]["units"]
    normalized = [name for name in before if "conv" in name]
    assert sum(after[name] for name in normalized) == sum(before[name] for name in normalized) - int(0.6 * 176)
    assert all(after[name] == before[name] for name in before.keys() - set(normalized))
    row = next(row for row in summarize([record]) if row["criterion"] == "own")
    last = stages["finetuned"]
    assert row["test_error"] == pytest.approx(100 * (1 - last["test_dice"]), abs=1e-3)
    assert row["test_instance_f1"] == last["test_instance_f1"]
    assert row["trained_test_dice"] == record["stages"]["trained"]["test_dice"]


def test_a_whole_data_set_is_moved_with_its_details(monkeypatch: pytest.MonkeyPatch) -> None:
    split = all_parts(TensorPair(torch.zeros(2, 1), torch.zeros(2).long()), {"source": torch.zeros(2).long()}, 3)
    put(monkeypatch, "chest-xrays", split)
    moved = tasks.split("chest-xrays", "meta")
    assert isinstance(moved, DetailedSplit)
    assert moved.classes == 3
    for part in (moved.train, moved.val, moved.test):
        assert part.inputs.is_meta
        assert part.targets.is_meta
    assert all(moved.details[part]["source"].is_meta for part in ("train", "val", "test"))
    assert not tasks.split("chest-xrays").train.inputs.is_meta
