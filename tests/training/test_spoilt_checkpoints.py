"""Checkpoints that are damaged, changed by hand or out of reach: a resumed run, or one sentence and nothing changed."""

from __future__ import annotations

import copy
import errno
import io
import random
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import Adam

from pruning_lib.regularizers import SeReNe
from pruning_lib.training import Callback, CheckpointError, Run, ThresholdOnPlateau, fit
from tests.mutations import spoil, spoil_bytes
from tests.training.runs import TRAIN, VAL, network


class Stops(Callback):
    """Ends a run after its first epoch, before the next is done, and stays out of the configuration's way."""

    dies = True

    def before_epoch(self, run: Run) -> None:
        if run.epoch == 1 and self.dies:
            raise InterruptedError


class Trial:
    """A run of two epochs with everything that a checkpoint holds, and whether anything of it has changed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.model = network()
        self.optimizer = Adam(self.model.parameters(), 1e-2)
        self.regularizer = SeReNe(self.model, 1e-2)
        self.callbacks = [ThresholdOnPlateau(1, 0.1), Stops()]

    def go(self) -> None:
        fit(
            self.model, TRAIN, VAL, epochs=2, optimizer=self.optimizer, regularizer=self.regularizer, batch_size=45,
            callbacks=self.callbacks, checkpoint=self.path, progress=False,
        )  # fmt: skip

    def state(self) -> list[Any]:
        owners: list[Any] = [self.model, self.optimizer, self.regularizer, *self.callbacks]
        return [*(copy.deepcopy(owner.state_dict()) for owner in owners), torch.get_rng_state()]


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(value, b[key]) for key, value in a.items())
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return bool(a == b)


@pytest.fixture(scope="module")
def broken_off(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, list[Any]]:
    """Return the checkpoint of a run that ended after its first epoch, and the state in which it ends if resumed."""
    path = tmp_path_factory.mktemp("run") / "run.pt"
    with pytest.raises(InterruptedError):
        Trial(path).go()
    raw = path.read_bytes()
    return raw, resumed(path)


def resumed(path: Path) -> list[Any]:
    Stops.dies = False
    try:
        trial = Trial(path)
        trial.go()
        return trial.state()
    finally:
        Stops.dies = True


def outcome(path: Path, wanted: list[Any] | None) -> str:
    """Return what resuming comes to, in a word; anything but what is promised raises."""
    Stops.dies = False
    trial = Trial(path)
    before = trial.state()
    try:
        trial.go()
    except CheckpointError as error:
        said = str(error)
        if not equal(before, trial.state()):
            raise AssertionError(f"changed by what was refused: {said}") from error
        if not said.startswith(("The checkpoint ", str(path))) or "\n" in said:
            raise AssertionError(said) from error
        return "refused"
    except FloatingPointError:
        return "diverged"  # from numbers that somebody wrote into it
    finally:
        Stops.dies = True
    if wanted is not None:
        assert equal(trial.state(), wanted)
    return "resumed"


def damage(rng: random.Random, raw: bytes, path: Path, kind: str) -> None:
    """Write a spoilt copy of a checkpoint."""
    if kind == "bytes":
        path.write_bytes(spoil_bytes(rng, raw))
    elif kind == "bits":
        flipped = bytearray(raw)
        flipped[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
    else:
        torch.save(spoil(rng, torch.load(io.BytesIO(raw), weights_only=True)), path)


@pytest.mark.parametrize(("kind", "number"), [("bits", 30), ("bytes", 30), ("structure", 60)])
def test_spoilt_checkpoints_resume_or_are_refused_in_a_sentence(
    broken_off: tuple[bytes, list[Any]], tmp_path: Path, kind: str, number: int
) -> None:
    rng, path = random.Random(f"{kind} 0"), tmp_path / "spoilt.pt"
    counts: Counter[str] = Counter()
    for _ in range(number):
        damage(rng, broken_off[0], path, kind)
        counts[outcome(path, None if kind == "structure" else broken_off[1])] += 1
    assert counts["refused"] > 5, counts


def refuse(code: int) -> Any:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(code, errno.errorcode[code])

    return fail


@pytest.mark.parametrize("code", [errno.EIO, errno.EMFILE, errno.EACCES])
def test_a_read_error_that_passes_is_no_damage(
    broken_off: tuple[bytes, list[Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    path = tmp_path / "run.pt"
    path.write_bytes(broken_off[0])
    trial = Trial(path)
    before = trial.state()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", refuse(code))
        with pytest.raises(OSError, match=r"cannot be read at the moment .* keep it: '.*run.pt'") as caught:
            trial.go()
    assert not isinstance(caught.value, CheckpointError)
    assert caught.value.errno == code
    assert equal(before, trial.state())
    assert equal(resumed(path), broken_off[1])


def test_too_little_memory_is_no_damage(
    broken_off: tuple[bytes, list[Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.pt"
    path.write_bytes(broken_off[0])

    def fail(*_: Any, **__: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(MemoryError):
        Trial(path).go()


@pytest.mark.parametrize("place", ["file/run.pt", "folder"])
def test_a_place_that_cannot_be_written_is_named_before_the_first_step(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    trial = Trial(tmp_path / place)
    before = trial.state()
    with pytest.raises(OSError, match=rf"'{tmp_path / place}'"):
        trial.go()
    assert equal(before, trial.state())
    assert sorted(each.name for each in tmp_path.rglob("*")) == ["file", "folder"]


def test_a_full_disk_is_noticed_before_the_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = Trial(tmp_path / "run.pt")
    before = trial.state()
    monkeypatch.setattr(Path, "write_bytes", refuse(errno.ENOSPC))
    with pytest.raises(OSError, match=r"This file was not written .*: '.*run.pt'") as caught:
        trial.go()
    assert caught.value.errno == errno.ENOSPC
    assert equal(before, trial.state())
    assert list(tmp_path.iterdir()) == []


def test_a_finished_run_is_loaded_from_where_nothing_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.pt"
    wanted = resumed(path)
    monkeypatch.setattr(Path, "write_bytes", refuse(errno.EROFS))
    assert equal(resumed(path), wanted)


def test_a_compressed_archive_is_not_unpacked(broken_off: tuple[bytes, list[Any]], tmp_path: Path) -> None:
    path, packed = tmp_path / "plain.pt", tmp_path / "run.pt"
    path.write_bytes(broken_off[0])
    with zipfile.ZipFile(path) as whole, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for part in whole.infolist():
            archive.writestr(part.filename, whole.read(part))
    with pytest.raises(CheckpointError, match="is damaged: its compression has changed"):
        Trial(packed).go()
