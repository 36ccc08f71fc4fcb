"""What the runner does with what it finds: locks, checkpoints of other settings, damaged ones, unreadable ones."""

from __future__ import annotations

import errno
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments._files import held, lock, make_folder, move_aside
from experiments.recipes import NotYetError, execute
from experiments.runner import Runner
from experiments.suites import SUITES
from pruning_lib.companion.records import Record, read_one

ROOT = Path(__file__).parents[2]
TINY = SUITES["digits-tiny"]
NAME = "prune-dense-s0"


def without_timing(record: Record) -> Record:
    return {key: value for key, value in record.items() if key != "provenance"}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Record:
    """Do one run that nothing disturbs."""
    folder = tmp_path_factory.mktemp("whole")
    runner = Runner(TINY, folder, folder / "work")
    assert runner.run([NAME], io.StringIO()) == []
    return read_one(runner.path(NAME))


def interrupted(folder: Path) -> Runner:
    """Return a runner with the checkpoints of a run that was cut off before its fine-tuning ended."""
    runner = Runner(TINY, folder / "records", folder / "work")
    place = runner._folder(NAME, io.StringIO())
    execute(runner.configs[NAME], place, folder)
    assert sorted(path.name for path in place.glob("*.pt")) == CHECKPOINTS
    return runner


CHECKPOINTS = ["own-fraction-0.5.pt", "random-fraction-0.5.pt", "trained.pt"]


@pytest.mark.parametrize(
    "error",
    [OSError(errno.EIO, "Input/output error"), OSError(errno.EMFILE, "Too many open files"), MemoryError("no room"),
     PermissionError(errno.EACCES, "Permission denied")],
    ids=["EIO", "EMFILE", "memory", "permission"],
)  # fmt: skip
def test_a_checkpoint_that_cannot_be_read_now_fails_the_run_and_is_left_as_it_is(
    tmp_path: Path, expected: Record, error: Exception
) -> None:
    runner = interrupted(tmp_path)
    before = {path: path.read_bytes() for path in sorted((tmp_path / "work").rglob("*")) if path.is_file()}

    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "load", fail)
        assert runner.run([NAME], said) == [NAME]
    place = runner.work / NAME / "trained.pt"
    # Without memory there is nothing to say of the file.
    why = (
        f"{error}" if isinstance(error, MemoryError) else f"{place} cannot be read now ({error}); it is left as it is."
    )
    assert f"{NAME} failed: {why}\n" in said.getvalue()
    assert {path: path.read_bytes() for path in before} == before
    assert not list(tmp_path.rglob("*aside*"))
    assert runner.run([NAME], io.StringIO()) == []
    assert without_timing(read_one(runner.path(NAME))) == without_timing(expected)


@pytest.mark.parametrize("damaged", CHECKPOINTS)
def test_a_damaged_checkpoint_is_moved_aside_and_the_others_are_kept(
    tmp_path: Path, expected: Record, damaged: str
) -> None:
    runner = interrupted(tmp_path)
    folder = runner.work / NAME
    (folder / damaged).write_bytes(b"half a checkpoint")
    trained: list[str] = []
    aside: list[bytes] = []

    class Log(io.StringIO):
        def write(self, text: str) -> int:
            aside.extend(path.read_bytes() for path in folder.glob("*aside*"))
            trained.append(text)
            return len(text)

    assert runner.run([NAME], Log()) == []
    assert aside[0] == b"half a checkpoint"
    assert sum("begins again where the other checkpoints allow" in text for text in trained) == 1
    assert without_timing(read_one(runner.path(NAME))) == without_timing(expected)


def test_a_disk_that_is_full_fails_the_run_in_a_sentence(tmp_path: Path) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    said = io.StringIO()
    runner = Runner(TINY, tmp_path, tmp_path / "work")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("experiments.runner.write", full)
        assert runner.run([NAME], said) == [NAME]
    assert "No space left on device" in said.getvalue()
    assert (runner.work / NAME / "trained.pt").exists()


def test_a_folder_that_was_there_keeps_its_gitignore_and_gets_none(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_text("mine\n")
    with lock(tmp_path / "suite" / "run.lock") as mine:
        assert mine
    assert (tmp_path / ".gitignore").read_text() == "mine\n"
    assert (tmp_path / "suite" / ".gitignore").read_text() == "*\n"
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "suite").mkdir()
    make_folder(bare / "suite")
    assert not list(bare.rglob(".gitignore"))
    make_folder(tmp_path / "new" / "suite")
    assert [path.parent.name for path in (tmp_path / "new").rglob(".gitignore")] == ["new"]


def test_what_is_moved_aside_never_lands_on_something(tmp_path: Path) -> None:
    for text in ("first", "second"):
        (tmp_path / "it").write_text(text)
        move_aside(tmp_path / "it")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"it.aside1": "first", "it.aside2": "second"}


def test_what_was_left_under_other_settings_is_moved_aside(tmp_path: Path) -> None:
    runner = Runner(TINY, tmp_path, tmp_path / "work")
    folder = runner._folder(NAME)
    (folder / "trained.pt").write_bytes(b"of this run")
    assert (runner._folder(NAME) / "trained.pt").exists()
    (folder / "config.json").write_text(json.dumps(runner.configs[NAME] | {"scale": 2.0}, sort_keys=True))
    said = io.StringIO()
    assert not (runner._folder(NAME, said) / "trained.pt").exists()
    assert (runner.work / f"{NAME}.aside1" / "trained.pt").read_bytes() == b"of this run"
    assert "checkpoints of other settings" in said.getvalue()


def test_two_processes_never_take_the_same_run_and_locks_die_with_their_process(tmp_path: Path) -> None:
    path = tmp_path / "tiny" / "run.lock"
    code = (
        "import sys, time; from pathlib import Path; from experiments._files import lock\n"
        "with lock(Path(sys.argv[1])) as mine:\n    print(mine, flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", code, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "True\n"
    with lock(path) as mine:
        assert not mine
    assert held(path)
    other.kill()
    other.wait()
    with lock(path) as mine:
        assert mine
    assert not held(path)


def test_a_control_waits_for_its_source(tmp_path: Path) -> None:
    config = next(config for config in TINY.configs() if "source" in config)
    with pytest.raises(NotYetError, match="waits for prune-group-lasso"):
        execute(config, tmp_path, tmp_path)
    runner = Runner(TINY, tmp_path, tmp_path / "work")
    names = [name for name, c in runner.configs.items() if "source" in c]
    said = io.StringIO()
    assert runner.run(names, said) == []
    assert runner.left(names) == names
    assert (
        said.getvalue().count("waits for prune-group-lasso")
        == said.getvalue().count("; run that first.\n")
        == len(names)
    )
    assert not list(tmp_path.rglob("config.json"))


def test_it_says_what_begins_and_how_much_of_what_was_asked_is_left(tmp_path: Path) -> None:
    said = io.StringIO()
    runner = Runner(TINY, tmp_path, tmp_path / "work")
    runner.run(["prune-dense-s0"], said)
    first, last = said.getvalue().splitlines()
    assert first == "0/1 done, 1 running, time left not known yet  prune-dense-s0 begins"
    assert last.startswith("1/1 done  prune-dense-s0: ")
    assert runner.left([]) == []
