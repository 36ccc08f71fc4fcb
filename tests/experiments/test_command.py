"""The command line of experiments, on a suite of a few seconds: resuming after kill -9, locks, checks, tables."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from experiments import figures, latency, tables, tidy
from experiments.__main__ import main
from experiments._checks import changed
from experiments.methods import CONTROLS, METHODS
from experiments.runner import Runner
from experiments.suites import SUITES, Claim
from experiments.suites._papers import ABSENT
from pruning_lib.companion.records import SHIPPED, about, architecture, choose, load, measured, read, summarize
from pruning_lib.companion.verdicts import pick, reason

ROOT = Path(__file__).parents[2]
TINY = SUITES["digits-tiny"]
HEAD = TINY.head()


def without_timing(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key != "provenance"}


def start(folder: Path, suite: str, *more: str) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-m",
        "experiments",
        "--records",
        str(folder / "records"),
        "--work",
        str(folder / "work"),
    ]
    return subprocess.Popen(
        [*command, "run", suite, *more], cwd=ROOT, text=True, stderr=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the whole tiny suite once, in this process."""
    folder = tmp_path_factory.mktemp("tiny")
    assert main(["--records", str(folder), "--work", str(folder / "work"), "run", "digits-tiny"]) == 0
    return folder


@pytest.mark.slow
def test_every_run_has_its_record_and_all_pass_the_check(done: Path) -> None:
    assert {path.stem for path in (done / "digits-tiny").glob("*.json")} == set(TINY.by_name())
    assert Runner(TINY, done, done / "work").faults() == []
    assert [p.name for p in (done / "work" / "digits-tiny").iterdir() if p.is_dir()] == []


def test_removal_keeps_every_accuracy_and_saves_what_the_widths_say(done: Path) -> None:
    for record in read("digits-tiny", done):
        for pruning in record["prunings"]:
            zeroed, shrunk = pruning["stages"]["zeroed"], pruning["stages"]["shrunk"]
            assert shrunk["test_accuracy"] == zeroed["test_accuracy"]
            a, b = shrunk["units"].values()
            assert shrunk["macs"] == 64 * a + a * b + 10 * b
            assert shrunk["parameters"] == shrunk["macs"] + a + b + 10
            assert a + b <= 24  # half of 32 + 16


def test_controls_have_the_widths_they_were_told(done: Path) -> None:
    records = {path.stem: json.loads(path.read_text()) for path in (done / "digits-tiny").glob("*.json")}
    for record in records.values():
        config = record["config"]
        if config["method"] == "uniform":
            assert record["stages"]["trained"]["units"] == {"fc1": 16, "fc2": 8}
        if "source" in config:
            found = records[config["source"]]["prunings"][0]["stages"]["shrunk"]["units"]
            assert record["stages"]["trained"]["units"] == found
            epochs = len(record["history"])
            saved = (64 * 32 + 32 * 16 + 160) / record["stages"]["trained"]["macs"]
            expected = 7 if config["method"].startswith("scratch-e") else round(7 * min(saved, 2))
            assert epochs == expected


@pytest.fixture(scope="module")
def died(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the whole suite of units that die once, in this process."""
    folder = tmp_path_factory.mktemp("died")
    assert main(["--records", str(folder), "--work", str(folder / "work"), "run", "digits-tiny-deaths"]) == 0
    return folder


KILLED = {
    ("digits-tiny", "prune-serene-sampled-1e-03-s0"): ("trained", "own-fraction-0.5"),
    ("digits-tiny", "loop-serene-sampled-1e-03-s0"): ("trained",),
    ("digits-tiny-deaths", "natural-stochastic-l2-3e-02-s0"): ("trained", "natural"),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("suite", "name", "moment"), [(*run, moment) for run, moments in KILLED.items() for moment in moments]
)
def test_killed_at_any_moment_a_run_ends_in_the_same_record(
    done: Path, died: Path, tmp_path: Path, suite: str, name: str, moment: str
) -> None:
    config = SUITES[suite].by_name()[name]
    arguments = (suite, "--method", config["method"], "--recipe", config["recipe"], "--seeds", "0")
    checkpoint = tmp_path / "work" / suite / name / f"{moment}.pt"
    process = start(tmp_path, *arguments)
    while not checkpoint.exists() and process.poll() is None:
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "the run ended before it could be killed"
    assert checkpoint.exists()
    again = start(tmp_path, *arguments)
    _, said = again.communicate()
    assert again.returncode == 0, said
    (record,) = read(suite, tmp_path / "records")
    (expected,) = (r for r in read(suite, done if suite == "digits-tiny" else died) if r["config"] == record["config"])
    assert without_timing(record) == without_timing(expected)


@pytest.mark.slow
def test_controls_take_the_widths_of_what_died_and_train_as_long(died: Path) -> None:
    records = {path.stem: json.loads(path.read_text()) for path in (died / "digits-tiny-deaths").glob("*.json")}
    assert set(records) == set(SUITES["digits-tiny-deaths"].by_name())
    for record in records.values():
        config = record["config"]
        if "source" not in config or config["method"].startswith("uniform"):
            continue
        its = records[config["source"]]
        cuts = {p["target"]: p["stages"]["shrunk"] for p in its["prunings"]}
        found = cuts[config["target"]] if cuts else its["stages"]["shrunk"]
        random = config["method"].startswith("random")
        stage = record["prunings"][0]["stages"]["finetuned"] if random else record["stages"]["trained"]
        assert stage["units"] == found["units"]
        whole = 6 if config["target"] == "loop" else 7
        epochs = len(record["history"]) + (config["finetune_epochs"] if random else 0)
        assert epochs == whole or config["method"].startswith("scratch-b")
        if random:
            assert record["prunings"][0]["stages"]["zeroed"]["test_accuracy"] == pytest.approx(
                record["prunings"][0]["stages"]["shrunk"]["test_accuracy"]
            )
    dense = records["natural-dense-loop-s0"]
    assert len(dense["history"]) == len(records["loop-serene-sampled-1e-03-s0"]["history"]) == 6
    assert all("dead" in r["log"] for r in records.values() if r["config"]["recipe"] in ("natural", "loop"))


def test_a_run_that_has_its_record_is_skipped(done: Path) -> None:
    paths = sorted((done / "digits-tiny").glob("*.json"))
    before = [path.stat().st_mtime_ns for path in paths]
    assert main(["--records", str(done), "--work", str(done / "work"), "run", "digits-tiny"]) == 0
    assert [path.stat().st_mtime_ns for path in paths] == before


def test_check_names_what_is_damaged_foreign_or_of_another_configuration(
    done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "digits-tiny"
    folder.mkdir()
    paths = sorted((done / "digits-tiny").glob("prune-*.json"))
    for path in paths:
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / paths[0].name).write_text(paths[0].read_text()[:300])
    changed = json.loads(paths[1].read_text())
    changed["config"]["lr"] = 0.7
    changed["prunings"][0]["stages"]["shrunk"]["test_accuracy"] -= 0.001
    (folder / paths[1].name).write_text(json.dumps(changed))
    (folder / "prune-l1-s9.json").write_bytes(paths[2].read_bytes())
    assert main(["--records", str(tmp_path), "check", "digits-tiny"]) == 1
    said = capsys.readouterr().out
    assert f"{paths[0].name} is cut short" in said
    assert f"{paths[1].name} was made with another lr" in said
    assert "removal changed the test_accuracy" in said
    assert "prune-l1-s9.json belongs to no run" in said


def test_check_misses_no_part_of_a_record(done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = json.loads((done / "digits-tiny" / "prune-group-lasso-1e-02-s0.json").read_text())
    path = tmp_path / "digits-tiny" / "prune-group-lasso-1e-02-s0.json"
    path.parent.mkdir()
    without_finetuning = json.loads(json.dumps(whole))
    del without_finetuning["prunings"][0]["stages"]["finetuned"]
    for broken, fault in (
        (whole | {"prunings": whole["prunings"][:-1]}, "should have the prunings"),
        (whole | {"prunings": whole["prunings"] * 2}, "should have the prunings"),
        (whole | {"history": whole["history"][1:]}, "epochs of history, and has"),
        (whole | {"suite": "other"}, "says that it is of other"),
        (without_finetuning, "own fraction-0.5 lacks finetuned"),
    ):
        path.write_text(json.dumps(broken))
        assert main(["--records", str(tmp_path), "check"]) == 1
        assert fault in capsys.readouterr().out
    path.write_text(json.dumps(whole))
    assert main(["--records", str(tmp_path), "check"]) == 0
    assert capsys.readouterr().out == "1 records agree with their suites.\n"
    (tmp_path / "no-suite").mkdir()
    path.rename(tmp_path / "no-suite" / path.name)
    assert main(["--records", str(tmp_path), "check"]) == 1
    assert "no-suite belongs to no suite" in capsys.readouterr().out
    assert main(["--records", str(tmp_path / "nowhere"), "check"]) == 1
    assert "There is no folder" in capsys.readouterr().err


def test_a_tie_in_float32_is_no_change_and_two_answers_are(done: Path) -> None:
    record = json.loads((done / "digits-tiny" / "prune-group-lasso-1e-02-s0.json").read_text())
    shrunk = record["prunings"][0]["stages"]["shrunk"]
    for change, loss, faults in ((2e-4, 1 + 1e-6, 0), (2e-4, 1 + 1e-4, 1), (4e-4, 1.0, 1)):
        other = json.loads(json.dumps(record))
        it = other["prunings"][0]["stages"]["shrunk"]
        it["val_accuracy"] = shrunk["val_accuracy"] - change
        it["val_loss"] *= loss
        assert len(changed(other)) == faults


def test_the_records_of_the_checkout_pass_the_check() -> None:
    assert main(["check"]) == 0


def test_status_counts(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (done / "digits-tiny" / "prune-dense-s1.json").rename(done / "aside")
    try:
        assert main(["--records", str(done), "--work", str(done / "work"), "status", "digits-tiny"]) == 0
    finally:
        (done / "aside").rename(done / "digits-tiny" / "prune-dense-s1.json")
    n = len(TINY.by_name())
    fresh = Runner(TINY, done / "nothing", done / "work")
    assert fresh.progress() == f"0/{n} done, 0 running, time left not known yet"
    assert f"digits-tiny: {n - 1}/{n} done, 0 running, about 0 min left" in capsys.readouterr().out


def test_summary_equals_the_records(done: Path, tmp_path: Path) -> None:
    assert main(["--records", str(done), "summary", "digits-tiny", "--out", str(tmp_path)]) == 0
    assert load("digits-tiny", folder=tmp_path / "none", shipped=tmp_path) == summarize(read("digits-tiny", done))


def test_the_table_is_the_same_to_the_byte_and_holds_the_paired_difference(
    done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = []
    for _ in range(2):
        assert main(["--records", str(done), "table", "digits-tiny"]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]
    rows = load("digits-tiny", folder=done)
    errors = {
        (row["method"], row["seed"]): row["test_error"]
        for row in rows
        if row["recipe"] in ("prune", "control") and row["criterion"] in ("own", None)
    }
    mean = sum(errors["group-lasso", s] - errors["uniform", s] for s in (0, 1)) / 2
    line = next(line for line in texts[0].splitlines() if line.startswith("| pruned | group lasso |"))
    assert line.split("|")[-2].strip().startswith(f"{mean:+.2f} ±")


def test_a_table_says_what_its_errors_are_and_has_the_other_scores(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["table", "nuclei-unet"]) == 0
    says, _, _, _, head, *_ = capsys.readouterr().out.splitlines()
    assert "what the Dice coefficient lacks to 100 %" in says
    assert "| last instance F1 | last − dense | last − pruned without penalty | last − uniform |" in head
    assert "the accuracy lacks" in tables.table(load("mnist-lenet5"), about("mnist-lenet5"))


def test_verdicts_answer_both_questions_in_peoples_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verdicts", "nuclei-unet"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "Dense was trained for as long as the network was before the cut" in lines[0]
    rows = load("nuclei-unet")
    found = reason(rows, "group-lasso", "fraction-0.6")
    control = found.controls[found.deciding]
    cells = {}
    for head in ("claim met?", "decided by"):  # a table each
        (begin,) = (i for i, text in enumerate(lines) if f"| {head} |" in text)
        table = [*itertools.takewhile(bool, lines[begin:])]
        cells |= dict(zip(*map(split_cells, (table[0], one_line(table, "group lasso", "60 %"))), strict=True))
    assert cells["method"] == "group lasso"
    assert cells["the method the reason?"] == found.word
    assert cells["decided by"] == about("nuclei-unet")["labels"].get(found.deciding, found.deciding)
    assert cells["− that"] == f"{control.difference:+.2f} ± {control.half:.2f}"
    assert cells["could have shown"] == f"{control.detectable:.2f}"
    assert (cells["claim met?"], cells["units gone"], cells["seeds"]) == ("no claim", "60 %", "3")
    ours = pick(rows, "group-lasso", "fraction-0.6")
    lost = sum(row["test_error"] - row["trained_test_error"] for row in ours) / 3
    assert cells["− before the cut"].startswith(f"{lost:+.2f} ±")
    command_names = [name for name in (*METHODS, *CONTROLS) if "-" in name] + ["fraction-", "macs-"]
    assert not [name for name in command_names for text in lines if f" {name}" in text]


def split_cells(text: str) -> list[str]:
    """Return the cells of a line of a Markdown table."""
    return [cell.strip() for cell in text.strip("|").split("|")]


def notes(lines: list[str], cells: dict[str, str]) -> list[str]:
    """Return the notes that a line of a table names by their numbers."""
    listed = dict(text.split(". ", 1) for text in lines if re.match(r"\d+\. ", text))
    return [listed[number] for number in cells["notes"].split(", ")]


def one_line(lines: list[str], *begins: str) -> str:
    """Return the line of a table whose first cells begin so."""
    (found,) = (
        text for text in lines
        if text.startswith("|") and all(cell.startswith(b) for cell, b in zip(split_cells(text), begins, strict=False))
    )  # fmt: skip
    return found


def test_the_ledger_has_every_claim_and_what_is_missing(
    done: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["--records", str(done), "ledger"]) == 0
    lines = capsys.readouterr().out.splitlines()
    claims = [claim for it in SUITES.values() for claim in it.claims]
    says = [claim.says for claim in claims] + [it.says for it in ABSENT]
    assert [split_cells(text)[1] for text in lines[4 : 4 + len(says)]] == says
    assert lines[4 + len(says) :].index("Notes:") == 3
    assert notes(lines, dict(zip(*map(split_cells, (lines[2], lines[3 + len(says)])), strict=True))) == [
        ABSENT[-1].lacks
    ]
    assert "not tested at this size" in one_line(lines, "2012.03827", "60 % of the channels of a U-Net")
    claim = replace(claims[0], method="group-lasso", target="fraction-0.5", stage="finetuned", removed=0.5)
    monkeypatch.setitem(SUITES, "digits-tiny", replace(TINY, claims=(claim,)))
    assert main(["--records", str(done), "ledger"]) == 0
    lines = capsys.readouterr().out.splitlines()
    cells = dict(zip(*map(split_cells, (lines[2], one_line(lines, claim.paper, claim.says, TINY.title))), strict=True))
    assert (cells["claim met?"], cells["seeds"], cells["units gone"]) == ("reported, not judged", "2", "50 %")
    assert "There are 2 of 3 seeds." in notes(lines, cells)
    assert "missing" not in " ".join(notes(lines, cells))
    (done / "digits-tiny" / "prune-group-lasso-1e-02-s1.json").rename(done / "aside")
    try:
        assert main(["--records", str(done), "ledger"]) == 0
    finally:
        (done / "aside").rename(done / "digits-tiny" / "prune-group-lasso-1e-02-s1.json")
    lines = capsys.readouterr().out.splitlines()
    cells = dict(zip(*map(split_cells, (lines[2], one_line(lines, claim.paper, claim.says, TINY.title))), strict=True))
    assert "1 of 2 of its runs are missing: less than an hour on one core." in notes(lines, cells)


def test_the_figure_is_drawn(done: Path, tmp_path: Path) -> None:
    assert main(["--records", str(done), "figure", "digits-tiny", "--out", str(tmp_path / "f.png")]) == 0
    assert (tmp_path / "f.png").stat().st_size > 5000
    assert len(figures.figure(load("digits-tiny", folder=done), HEAD).axes[0].get_legend_handles_labels()[1]) >= 5


@pytest.mark.parametrize("kind", ["fronts", "epochs", "heatmap"])
def test_pictures_of_several_networks_are_drawn(done: Path, tmp_path: Path, kind: str) -> None:
    out = str(tmp_path / "f.png")
    assert main(["--records", str(done), "figure", "digits-tiny", "--kind", kind, "--out", out]) == 0
    assert (tmp_path / "f.png").stat().st_size > 5000


def test_a_picture_of_what_is_not_there_is_refused(
    done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "f.png")]
    assert main(["--records", str(done), "figure", "digits-tiny", "--kind", "forest", *out]) == 1
    assert "hold nothing that a picture of forest shows of dense, uniform" in capsys.readouterr().err
    assert main(["--records", str(done), "figure", "digits-tiny", "--kind", "deaths", "--methods", "rni", *out]) == 1
    assert "hold nothing that a picture of deaths shows of rni" in capsys.readouterr().err
    assert main(["--records", str(done), "figure", "digits-tiny", "digits-tiny", *out]) == 1
    assert "takes one suite, not 2" in capsys.readouterr().err


def test_pictures_show_the_rows_and_the_histories_of_records(done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seed by seed; two seeds of the group lasso lie at one size, their mean, in percent of the dense network's."""
    records, rows = read("digits-tiny", done), choose(load("digits-tiny", folder=done))
    found = tidy.fronts([TINY], done, ("group-lasso",))
    ours = pick(rows, "group-lasso", "fraction-0.5")
    whole = max(record["stages"]["trained"]["macs"] for record in records)
    assert found[tidy.ERROR] == [row["test_error"] for row in ours]
    assert set(found[tidy.LEFT]) == {round(100 * sum(row["macs"] for row in ours) / 2 / whole, 2)}
    assert set(found["method"]) == {"group lasso"}
    assert set(found["network"]) == {f"{TINY.title}: MACs"}  # no time in ONNX Runtime was measured
    times = {architecture(row): 0.25 for row in ours}
    monkeypatch.setattr(tidy.tables, "times", lambda suite, engine: times if engine == "onnxruntime" else {})
    both = tidy.fronts([TINY], done, ("group-lasso",))
    assert both[tidy.LEFT] == [*found[tidy.LEFT], 25.0, 25.0]
    assert both["network"][2:] == [f"{TINY.title}: time in ONNX Runtime"] * 2
    assert both[tidy.ERROR] == found[tidy.ERROR] * 2
    curves = tidy.epochs([TINY], done, ("dense",))
    (run,) = (r for r in records if (r["config"]["method"], r["config"]["seed"]) == ("dense", 0))
    assert curves[tidy.VALIDATION][:6] == [100 * (1 - entry[2]) for entry in run["history"]]
    assert list(curves[tidy.EPOCH]) == [1, 2, 3, 4, 5, 6] * 2
    claim = Claim(
        paper="0000.00000", says="half go", method="group-lasso", target="fraction-0.5", stage="finetuned",
        removed=0.5, loss=None, slight=1.0, departs="",
    )  # fmt: skip
    lines = tidy.claims([replace(TINY, claims=(claim,))], done, ())
    assert lines["against"] == ["itself before the cut", "dense"]
    assert lines["points"][0] == [row["test_error"] - row["trained_test_error"] for row in ours]
    dense = [row["trained_test_error"] for row in pick(rows, "dense", "fraction-0.5")]
    assert lines["points"][1] == [row["test_error"] - sum(dense) / 2 for row in ours]
    assert lines["margin"] == [None, None]  # two seeds are reported, not judged


@pytest.mark.slow
def test_time_is_measured_for_every_network_that_the_tables_end_in(
    done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.tables.measured", partial(measured, shipped=tmp_path))
    command = ["--records", str(done), "figure", "digits-tiny", "--out", str(tmp_path / "f.png"), "--against", "time"]
    assert main(command) == 1
    assert "was not measured" in capsys.readouterr().err
    timing = ["--records", str(done), "latency", "digits-tiny", "--rounds", "3", "--out", str(tmp_path)]
    assert main(timing) == main([*timing, "--engine", "onnxruntime"]) == 0
    rows = choose(load("digits-tiny", folder=done))
    for prefix in tables.ENGINES.values():
        found = measured(f"latency-{prefix}digits-tiny", shipped=tmp_path)["time_left"]
        assert set(found) == {architecture(row) for row in rows}
        assert all(0 < lower <= median <= upper for median, lower, upper in found.values())
    found = measured("latency-digits-tiny", shipped=tmp_path)["time_left"]
    assert main(command) == 0
    assert main(["--records", str(done), "table", "digits-tiny"]) == 0
    head, _, line = capsys.readouterr().out.splitlines()[4:7]
    first = next(row for row in tables.cases(rows).values())
    share = 100 * sum(found[architecture(row)][0] for row in first) / len(first)
    assert line.split("|")[head.split("|").index(" time ")].strip() == f"{share:.0f} %"


def test_a_timed_network_is_as_wide_as_its_record_says(done: Path) -> None:
    records = read("digits-tiny", done)
    for name, model in latency.networks(records).items():
        found = [layer.out_features for layer in model.modules() if isinstance(layer, nn.Linear)]
        assert "-".join(map(str, found[:-1])) == ("32-16" if name == latency.WHOLE else name)


TIMED = [path.stem.removeprefix("measured-latency-") for path in SHIPPED.glob("measured-latency-*.json")]


@pytest.mark.parametrize("suite", TIMED)
def test_no_network_was_found_after_its_suite_was_timed(suite: str) -> None:
    wanted = {architecture(row) for row in choose(load(suite.removeprefix(tables.ENGINES["onnxruntime"])))}
    assert not wanted - set(measured(f"latency-{suite}")["time_left"]), "python -m experiments latency"


@pytest.mark.parametrize("suite", ["ablation-readings", "marks-lenet300"])
def test_methods_of_no_family_are_drawn_too(suite: str) -> None:
    rows = load(suite)
    wanted, labels = {row["method"] for row in rows}, about(suite)["labels"]
    drawn = {name for axes in figures.figure(rows, about(suite)).axes for name in axes.get_legend_handles_labels()[1]}
    assert {labels[method] for method in wanted} <= drawn
    assert len(figures.others(wanted)["other methods"]) == len(wanted - {"dense", "uniform"})


@pytest.mark.parametrize("against", ["units", "macs"])
def test_the_horizontal_axis_is_what_was_asked_for(done: Path, against: str) -> None:
    rows = load("digits-tiny", folder=done)
    axes = figures.figure(rows, HEAD, against).axes[0]
    line = next(curve for curve in axes.containers if curve.get_label() == "uniform width")[0]
    uniform = [row for row in rows if row["method"] == "uniform"]
    expected = [sum(row["units"]) if against == "units" else row["macs"] for row in uniform]
    assert line.get_xdata() == [sum(expected) / len(expected)]
    assert axes.get_xlabel() == figures.AXES[against]


def test_a_figure_has_a_panel_a_family_and_wide_intervals_leave_the_means_their_room() -> None:
    rows = load("nuclei-unet")  # five families; one run of random units found nothing
    picture = figures.figure(rows, about("nuclei-unet"))
    assert len(picture.axes) == 5
    low, high = picture.axes[0].get_ylim()
    errors = [row["test_error"] for row in rows]
    assert min(errors) / 2 < low < min(errors)
    assert high < max(errors)
    assert all(axes.xaxis.get_major_formatter()(2e7) == "20M" for axes in picture.axes)


def test_misuse_is_answered_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--records", str(tmp_path), "run", "digits-tiny", "--method", "l7"]) == 1
    assert "digits-tiny has no such run; its methods are dense," in capsys.readouterr().err
    assert main(["--records", str(tmp_path), "table", "digits-tiny"]) == 1
    assert "no records of 'digits-tiny'" in capsys.readouterr().err
    assert main(["--records", str(tmp_path), "summary", "digits-tiny"]) == 1
    assert "has no records" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--records", str(tmp_path), "run", "digits-tiny", "--device", "abacus"])
    assert "torch cannot use 'abacus' here" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--records", str(tmp_path), "run", "digits-tiny", "--seeds", "all"])
    assert "'all' names no seeds; give a range such as 0-4" in capsys.readouterr().err


@pytest.mark.slow
def test_a_reader_that_has_had_enough_is_no_error(done: Path) -> None:
    command = [sys.executable, "-m", "experiments", "--records", str(done), "table", "digits-tiny"]
    process = subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout
    assert process.stderr
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(60) == -signal.SIGPIPE


@pytest.mark.slow
def test_interrupted_it_says_how_to_go_on(tmp_path: Path) -> None:
    # What runs in the background of a shell ignores the signal, and so would its children; compiled modules of
    # scikit-learn drop one that comes in the milliseconds in which they are loaded.
    code = (
        "import signal, sys, sklearn.datasets; signal.signal(signal.SIGINT, signal.default_int_handler);"
        f"from experiments.__main__ import main; sys.exit(main(['--records', {str(tmp_path)!r},"
        f"'--work', {str(tmp_path / 'work')!r}, 'run', 'digits-tiny']))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, text=True, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 600  # imports take minutes on a busy machine
    while not list(tmp_path.glob("work/*/*.lock")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=600)[1]
    assert process.returncode == 130
    assert said.endswith("Stopped; of a run, the same command goes on.\n")
    assert "Traceback" not in said


def test_controls_are_run_with_every_weight_decay_and_for_no_target_without_a_source() -> None:
    configs = SUITES["mnist-lenet300"].configs()
    controls = [config for config in configs if config["recipe"] == "control"]
    assert len(SUITES["mnist-lenet300"].by_name()) == len(configs)  # no two share a record
    decays = [sum(config.get("weight_decay", 0.0) == decay for config in controls) for decay in (0.0, 3e-4, 1e-3, 3e-3)]
    assert decays == [100] * 4  # 5 seeds, 4 targets, uniform width and both controls of 2 sources
    assert all(config["strength"] == config.get("weight_decay", 0.0) for config in controls)
    vgg = SUITES["cifar10-vgg16-quarter"].configs()
    targets = {config["target"] for config in vgg if config["method"] in ("scratch-e-dense", "scratch-b-dense")}
    assert targets == {"fraction-0.6"}
    assert not [config for config in SUITES["ablation-finetuning"].configs() if config["recipe"] == "control"]
