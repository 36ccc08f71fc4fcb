"""What is registered, and the command line that fetches and builds it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pruning_lib.companion import data
from pruning_lib.companion.data import DATA_SETS, DataSet, register
from pruning_lib.companion.data.__main__ import main


def test_every_set_says_what_it_is_judged_by_and_gives_those_scores() -> None:
    assert list(DATA_SETS) == [
        "cifar10", "digits", "mnist", "fashion-mnist", "nuclei", "chest-xrays", "chest-xrays-within"
    ]  # fmt: skip
    assert [data_set.judged_by for data_set in DATA_SETS.values()] == [
        *["accuracy"] * 4, "dice", "balanced_accuracy", "balanced_accuracy"
    ]  # fmt: skip
    maps = torch.eye(2)[torch.randint(2, (3, 8, 8))].movedim(-1, 1)
    rows, classes = torch.randn(12, 3), torch.arange(12) % 3
    examples = {
        "nuclei": (maps, maps.argmax(1), {"instances": maps.argmax(1)}),
        "chest-xrays": (rows, classes, {"source": classes.clip(max=1)}),
        "chest-xrays-within": (rows, classes, {}),
    }
    examples["chest-xrays"][2]["source"][:6] = 0
    for name, data_set in DATA_SETS.items():
        if data_set.scores is None:
            assert data_set.score_names == ()
        else:
            assert tuple(data_set.scores(*examples[name])) == data_set.score_names


def test_a_name_that_is_taken_and_a_judge_that_is_no_score_are_named() -> None:
    with pytest.raises(ValueError, match="There is a data set 'digits' already"):
        register(replace(DATA_SETS["digits"], title="Others"))
    with pytest.raises(ValueError, match="'toy' is judged by 'dice', which is not one of its scores: f1, accuracy"):
        DataSet(name="toy", title="Toy", load=data.digits, score_names=("f1",), judged_by="dice")


def test_an_unknown_name_is_answered_with_those_there_are() -> None:
    with pytest.raises(ValueError, match="no data set 'cifar' to fetch; there are cifar10, mnist, fashion-mnist"):
        data.fetch("cifar")


def test_what_is_missing_to_download_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(SystemExit):
        main(["fetch", "mnist", "--root", "nowhere"])
    assert "fetch needs torchvision, which is not installed: pip install torchvision" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_line_warns_of_nothing_and_takes_the_name_of_the_function(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error::RuntimeWarning", "-m", "pruning_lib.companion.data"]
    for name in ("chest_xrays", "chest-xrays"):
        answer = subprocess.run(
            [*command, "build", name, "--from", str(tmp_path), "--root", str(tmp_path / "root")],
            capture_output=True,
            text=True,
        )
        assert answer.returncode == 1
        assert answer.stderr.endswith(
            "metadata.csv is missing; put a checkout of ieee8023/covid-chestxray-dataset there.\n"
        )
        assert answer.stderr.count("\n") == 1
    assert not (tmp_path / "root").exists()


def test_a_folder_of_originals_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="There is no folder .*none; name the one that holds"):
        data.build("nuclei", tmp_path / "none", tmp_path)


def test_a_folder_without_the_originals_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["build", "nuclei", "--from", str(tmp_path), "--root", str(tmp_path / "root")])
    assert "holds no ID/images/ID.png" in capsys.readouterr().err
    assert not (tmp_path / "root").exists()
