"""Records: their schema, whole writes, rows from a checkout and from the shipped summary, intervals."""

from __future__ import annotations

import copy
import json
import math
import statistics
from pathlib import Path
from typing import Any

import pytest

from pruning_lib.companion import records


def stage(error: float, macs: int = 100) -> dict[str, Any]:
    accuracy = 1 - error / 100
    values = {"val_loss": 0.1, "val_accuracy": accuracy, "test_loss": 0.2, "test_accuracy": accuracy - 0.01}
    sizes = {"parameters": macs + 3, "nonzero": macs, "macs": macs, "macs_used_inputs": macs - 1}
    return {**values, **sizes, "units": {"fc1": 4, "fc2": 2}}


def record(seed: int = 0, strength: float = 1e-3, error: float = 2.0) -> dict[str, Any]:
    stages = {"zeroed": stage(error), "shrunk": stage(error, 40), "finetuned": stage(error / 2, 40)}
    return {
        "suite": "tiny",
        "config": {"recipe": "prune", "method": "l1", "strength": strength, "seed": seed},
        "stages": {"trained": stage(1.0)},
        "prunings": [{"criterion": "own", "target": "fraction-0.5", "stages": stages}],
        "history": [[1.0, 0.5, 0.9, 0.1]],
        "provenance": {"date": "2026-01-31", "commit": "abc1234", "python": "3.11.7", "torch": "2.8.0"}
        | {"processor": "x86_64 AVX2", "threads": 1, "seconds": 1.0},
    }


HEAD = {"title": "Tiny", "question": "Why?", "margin": 0.5, "judged_by": "accuracy"} | {
    "scores": {}, "labels": {"l1": "L1"}, "claims": []
}  # fmt: skip


def test_a_measurement_is_read_by_name_or_named(tmp_path):
    (tmp_path / "measured-zoo.json").write_text('{"nets": {}}', encoding="utf-8")
    assert records.measured("zoo", shipped=tmp_path) == {"nets": {}}
    with pytest.raises(FileNotFoundError, match="there are zoo"):
        records.measured("peers", shipped=tmp_path)
    with pytest.raises(FileNotFoundError, match="none at all"):
        records.load("zoo", folder=tmp_path, shipped=tmp_path)


def test_what_is_written_is_read_and_named_after_its_configuration(tmp_path: Path) -> None:
    path = records.write(record(), tmp_path)
    assert path == tmp_path / "tiny" / "prune-l1-1e-03-s0.json"
    assert records.read_one(path) == record()
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        (("suite",), None, "'suite' should be str, is None"),
        (("config", "seed"), "0", "config: 'seed' should be int, is '0'"),
        (("config", "strength"), True, "config: 'strength' should be float"),
        (("stages",), {}, "no stage 'trained'"),
        (("stages", "trained", "macs"), 1.5, "trained: 'macs' should be int"),
        (("stages", "trained", "test_accuracy"), math.nan, "trained: 'test_accuracy' is nan"),
        (("prunings", 0, "target"), 0.5, "pruning 0: 'target' should be str"),
        (("prunings", 0, "stages", "frozen"), {}, "no stage called 'frozen'"),
        (("prunings", 0, "stages", "zeroed", "macs"), -3, "zeroed: 'macs' is -3"),
        (("stages", "trained", "val_accuracy"), 7.5, "trained: 'val_accuracy' is 7.5"),
        (("stages", "trained", "test_dice"), 1.1, "trained: 'test_dice' is 1.1"),
        (("stages", "trained", "units", "fc1"), "many", "units: 'fc1' should be int, is 'many'"),
        (("stages", "trained", "units", "fc1"), -1, "'fc1' cannot have -1 units"),
        (("history", 0), [0.1, None], "epoch 0 of the history should be four numbers"),
        (("history", 0), [0.1, 0.2, math.nan, 0.1], "history: 0: 2 is nan; only finite numbers"),
        (("history", 0), [0.1, 0.2, True, 0.1], "epoch 0 of the history should be four numbers"),
        (("log",), {"scales": [[0.1, math.inf]]}, "log: scales: 0: 1 is inf"),
        (("config", "lr"), math.nan, "config: lr is nan"),
        (("provenance", "seconds"), None, "provenance: 'seconds' should be float"),
    ],
)
def test_a_record_out_of_shape_is_refused_and_nothing_is_written(
    tmp_path: Path, where: tuple[Any, ...], value: Any, message: str
) -> None:
    broken: Any = record()
    place = broken
    for key in where[:-1]:
        place = place[key]
    place[where[-1]] = value
    with pytest.raises((ValueError, TypeError), match=message):
        records.validate(broken)
    if where[0] != "suite" and where[-1] not in ("seed", "strength"):
        with pytest.raises(ValueError, match=message):
            records.write(broken, tmp_path)
        assert not list(tmp_path.rglob("*.json"))


def test_a_record_cut_in_half_is_named(tmp_path: Path) -> None:
    path = records.write(record(), tmp_path)
    path.write_text(path.read_text()[:200])
    with pytest.raises(ValueError, match=r"prune-l1-1e-03-s0.json is cut short"):
        records.read("tiny", tmp_path)


def test_rows_hold_the_last_stage_and_every_error_in_percent(tmp_path: Path) -> None:
    records.write(record(), tmp_path)
    (row,) = records.load("tiny", folder=tmp_path)
    assert (row["method"], row["seed"], row["criterion"], row["target"]) == ("l1", 0, "own", "fraction-0.5")
    assert (row["units"], row["macs"], row["parameters"]) == ([4, 2], 40, 43)
    assert (row["trained_val_error"], row["zeroed_val_error"], row["finetuned_val_error"]) == (1.0, 2.0, 1.0)
    assert (row["test_error"], row["shrunk_test_error"], row["dropped_test_error"]) == (2.0, 3.0, None)


def test_the_shipped_summary_gives_the_same_rows(tmp_path: Path) -> None:
    for seed in range(3):
        records.write(record(seed), tmp_path)
    whole = records.load("tiny", folder=tmp_path)
    shipped = tmp_path / "shipped"
    records.write_text(shipped / "tiny.json", records.summary_text(whole, HEAD))
    assert records.load("tiny", folder=tmp_path / "nothing", shipped=shipped) == whole


def test_a_suite_that_does_not_exist_is_answered_with_those_there_are(tmp_path: Path) -> None:
    records.write(record(), tmp_path)
    with pytest.raises(FileNotFoundError, match="no records of 'large'; there are tiny"):
        records.load("large", folder=tmp_path, shipped=tmp_path / "shipped")


def test_choose_takes_the_strength_with_the_least_mean_validation_error() -> None:
    whole = [record(seed, 1e-3, 4.0) for seed in range(3)] + [record(seed, 1e-2, 2.0 + seed) for seed in range(3)]
    unfinished = [record(0, 1e-1, 0.1)]
    rows = records.choose(records.summarize(copy.deepcopy(whole + unfinished)))
    assert {row["strength"] for row in rows} == {1e-2}  # 2 + 3 + 4 < 4 + 4 + 4, and one seed is not three
    assert len(rows) == 3


def test_strengths_are_chosen_by_the_error_that_is_named() -> None:
    case = {"recipe": "prune", "method": "l1", "criterion": "own", "target": "fraction-0.5", "seed": 0}
    weak = case | {"strength": 1e-3, "val_error": 2.0, "zeroed_val_error": 7.0}
    strong = case | {"strength": 1e-2, "val_error": 3.0, "zeroed_val_error": 6.0}
    assert records.choose([weak, strong]) == [weak]
    assert records.choose([weak, strong], by="zeroed_val_error") == [strong]
    assert records.choose([weak | {"zeroed_val_error": None}], by="zeroed_val_error") == []


def test_choose_keeps_every_strength_where_sizes_differ() -> None:
    whole = [record(0, strength) | {"prunings": []} for strength in (1e-3, 1e-2)]
    assert len(records.choose(records.summarize(whole))) == 2


def test_interval_is_students() -> None:
    # Quantiles from a printed table, by the number of values: two, five, eleven, thirty-one.
    for n, quantile in ((2, 12.706), (5, 2.776), (11, 2.228), (31, 2.042)):
        values = [float(i) for i in range(n)]
        mean, half = records.interval(values)
        assert mean == (n - 1) / 2
        assert half == pytest.approx(quantile * statistics.stdev(values) / math.sqrt(n), rel=3e-4)
    assert records.interval([1.0]) == (1.0, math.inf)


def test_paired_differences_cancel_what_seeds_share() -> None:
    ours = [{"seed": s, "e": 10.0 * s + 1} for s in (0, 1, 2)]
    theirs = [{"seed": s, "e": 10.0 * s} for s in (2, 0, 1, 7)]
    assert records.paired(ours, theirs, "e") == (1.0, 0.0, 3)


def test_pairs_without_a_common_seed_or_with_one_twice_are_named() -> None:
    one = [{"seed": 0, "e": 1.0}]
    with pytest.raises(ValueError, match="without a common seed"):
        records.paired(one, [{"seed": 1, "e": 1.0}], "e")
    with pytest.raises(ValueError, match="seed 0 twice"):
        records.paired(one * 2, one, "e")


@pytest.mark.parametrize("place", ["../..", "a/b", "", ".", "/etc"])
@pytest.mark.parametrize("key", ["suite", "method"])
def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path: Path, key: str, place: str) -> None:
    folder = tmp_path / "in" / "records"
    broken: Any = record()
    if key == "suite":
        broken["suite"] = place
    else:
        broken["config"]["method"] = f"x/{place}"
    with pytest.raises(ValueError, match="cannot be filed under"):
        records.write(broken, folder)
    assert not list(tmp_path.rglob("*.json"))


def test_json_nested_without_end_is_a_sentence_and_what_cannot_be_read_is_not_called_damaged(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text("[" * 100_000)
    with pytest.raises(ValueError, match="cut short or not JSON"):
        records.read_one(path)
    with pytest.raises(IsADirectoryError):
        records.read_one(tmp_path)


def test_about_says_what_the_summary_says_and_of_records_alone_what_they_do(tmp_path: Path) -> None:
    folder, shipped = tmp_path / "records", tmp_path / "shipped"
    records.write(record(), folder)
    alone = records.about("tiny", folder=folder, shipped=shipped)
    assert alone == {
        "title": "tiny", "question": "", "margin": None, "judged_by": "accuracy", "scores": {}, "labels": {},
        "claims": [],
    }  # fmt: skip
    records.write_text(shipped / "tiny.json", records.summary_text(records.load("tiny", folder=folder), HEAD))
    for place in (folder, tmp_path / "nothing"):
        assert records.about("tiny", folder=place, shipped=shipped) == HEAD
    with pytest.raises(FileNotFoundError, match="no records of 'large'; there are tiny"):
        records.about("large", folder=folder, shipped=shipped)


def test_an_error_is_of_the_score_that_the_data_set_is_judged_by() -> None:
    it = record()
    it["config"]["data"] = "nuclei"
    for stages in (it["stages"], it["prunings"][0]["stages"]):
        for values in stages.values():
            values |= {"val_dice": 0.9, "test_dice": 0.8, "val_instance_f1": 0.7, "test_instance_f1": 0.6}
    records.validate(it)
    (row,) = records.summarize([it])
    assert (row["val_error"], row["test_error"], row["zeroed_test_error"]) == (10.0, 20.0, 20.0)
    assert [key for key in row if "dice" in key or "f1" in key] == [
        f"{stage}{part}_{score}"
        for score in ("dice", "instance_f1")
        for part in ("val", "test")
        for stage in ("trained_", "")
    ]
    assert row["trained_test_instance_f1"] == 0.6


@pytest.mark.parametrize("folder", sorted(p for p in records.CHECKOUT.glob("*") if p.is_dir()), ids=lambda p: p.name)
def test_records_are_small(folder: Path) -> None:
    for path in folder.glob("*.json"):
        record = json.loads(path.read_text())
        # Twenty cuts of one network, each measured at up to five stages; or else epochs, of 40 bytes each.
        ranked = 4_000 + 3_000 * len(record["prunings"])
        most = ranked if folder.name.startswith("rankings-") else max(20_000, 42 * len(record["history"]))
        assert path.stat().st_size <= most
        assert record["suite"] == folder.name
