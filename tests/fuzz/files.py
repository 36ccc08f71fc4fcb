"""Every file that the project reads, damaged: it loads exactly, or is refused in one sentence, and nothing is changed.

Cut, flipped and overwritten bytes are what disks and copies do; other keys, types and numbers in a file's data are what
hands and other versions do. Time and memory are looked at, too.
"""

from __future__ import annotations

import functools
import json
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pruning_lib.companion import data, records
from pruning_lib.companion.data import _nuclei, _xrays
from pruning_lib.companion.data._files import write_arrays
from tests.channels import test_spoilt_files as networks
from tests.companion.data.test_files import whole
from tests.companion.test_records import HEAD, record
from tests.fuzz.verdict import Try, tried
from tests.mutations import spoil, spoil_bytes
from tests.training import test_spoilt_checkpoints as checkpoints

MEGABYTES = 40  # a whole file takes a few; the bomb below stands for a hundred


class Case(NamedTuple):
    """What damages a file and what then reads it; `read` raises AssertionError where what it returns is not right."""

    name: str
    damage: Callable[[random.Random, Path], str]
    read: Callable[[Path], object]
    warm: Callable[[Path], object] = lambda folder: None


@functools.cache
def saved(folder: Path) -> tuple[Path, Any]:
    """Return a saved network and what it makes of its inputs."""
    path = folder / "whole.safetensors"
    shrunk = networks.shrunk()
    networks.save(shrunk, path)
    return path, shrunk.model(networks.X).detach()


@functools.cache
def checkpoint(folder: Path) -> tuple[bytes, list[Any]]:
    """Return the checkpoint of a run that ended early, and how the run ends if it goes on."""
    path = folder / "whole.pt"
    with suppress(InterruptedError):
        checkpoints.Trial(path).go()
    raw = path.read_bytes()
    return raw, checkpoints.resumed(path)


def _network(kind: str) -> Case:
    def damage(rng: random.Random, folder: Path) -> str:
        networks.damage(rng, saved(folder)[0], folder / "spoilt.safetensors", kind)
        return kind

    return Case(
        f"network, {kind}", damage, lambda folder: networks.outcome(folder / "spoilt.safetensors", saved(folder)[1])
    )


def _checkpoint(kind: str) -> Case:
    def damage(rng: random.Random, folder: Path) -> str:
        checkpoints.damage(rng, checkpoint(folder)[0], folder / "spoilt.pt", kind)
        return kind

    def read(folder: Path) -> str:
        return checkpoints.outcome(folder / "spoilt.pt", None if kind == "structure" else checkpoint(folder)[1])

    return Case(f"checkpoint, {kind}", damage, read)


def _text(rng: random.Random, path: Path, tree: Any) -> str:
    """Write data as JSON, with other bytes or other contents; return which."""
    if rng.random() < 0.5:
        path.write_bytes(spoil_bytes(rng, json.dumps(tree).encode()))
        return "bytes"
    path.write_text(json.dumps(spoil(rng, tree)), encoding="utf-8")
    return "structure"


def _spoil_record(rng: random.Random, folder: Path) -> str:
    return _text(rng, folder / "record.json", record())


def _read_record(folder: Path) -> None:
    found = records.read_one(folder / "record.json")
    rows = records.summarize([found])
    records.summary_text(rows, HEAD)
    again = folder / "again"
    with suppress(ValueError):  # a name that leads elsewhere
        assert records.read_one(records.write(found, again)) == found


def _spoil_summary(rng: random.Random, folder: Path) -> str:
    text = records.summary_text(records.summarize([record(seed) for seed in range(3)]), HEAD)
    return _text(rng, folder / "tiny.json", json.loads(text))


def _read_summary(folder: Path) -> None:
    rows = records.load("tiny", folder=folder / "none", shipped=folder)
    records.about("tiny", folder=folder / "none", shipped=folder)
    records.choose(rows)


def _set(load: Callable[..., object], file: str, columns: Any) -> Case:
    def damage(rng: random.Random, folder: Path) -> str:
        path = folder / file
        arrays = whole(columns, 6)
        if rng.random() < 0.5:
            raw = write_arrays(path, arrays).read_bytes()
            path.write_bytes(spoil_bytes(rng, raw))
            return "bytes"
        key, (kind, value) = rng.choice([*arrays]), rng.choice([*_arrays(rng, arrays[rng.choice([*arrays])])])
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(path, **{**arrays, key: value})
        return f"{key} {kind}"

    def warm(folder: Path) -> None:
        write_arrays(folder / file, whole(columns, 6))
        load(folder)

    return Case(f"set, {Path(file).stem}", damage, lambda folder: load(folder), warm)


def _arrays(rng: random.Random, array: np.ndarray) -> Iterator[tuple[str, Any]]:
    yield "nan", np.full(array.shape, np.nan)
    yield "cut", array[: rng.randrange(6)]
    yield "negative", -array.astype(np.int64) - 1
    yield "large", np.full(array.shape, 10**9)
    yield "objects", np.array([{}], dtype=object)
    yield "text", np.array(["x"] * 6)
    yield "flat", array.reshape(-1)
    yield "bomb", np.zeros((64_000, 40, 40), np.uint8)
    yield "scalar", np.array(1)
    yield "complex", array.astype(complex)


CASES = (
    *map(_network, networks.KINDS),
    *map(_checkpoint, ("bits", "bytes", "structure")),
    Case("record", _spoil_record, _read_record),
    Case("summary", _spoil_summary, _read_summary),
    _set(data.nuclei, _nuclei.FILE, _nuclei.COLUMNS),
    _set(data.chest_xrays, _xrays.FILE, _xrays.ARRAYS),
)


def fuzz(number: int, seed: int, folder: Path, only: str = "") -> Iterator[Try]:
    """Read `number` damaged files, of every kind in turn."""
    rng = random.Random(seed)
    named = [case for case in CASES if case.name.startswith(only)]
    for case in named:  # whatever is slow once is slow here
        case.warm(folder)
        case.damage(random.Random(0), folder)
        with suppress(ValueError):
            case.read(folder)
    for i in range(number):
        case = named[i % len(named)]
        what = case.damage(rng, folder)
        result = tried(case.name, what, lambda case=case: case.read(folder), {}, most=MEGABYTES)
        if result.outcome == "faulty":
            _keep(folder, seed, i)
        yield result


def _keep(folder: Path, seed: int, number: int) -> None:
    """Keep a file that was not read as it should be, to look at it."""
    kept = Path("_build") / "fuzz" / f"{seed}-{number}"
    kept.mkdir(parents=True, exist_ok=True)
    for path in folder.rglob("*"):
        if path.is_file() and not path.name.startswith("whole"):
            shutil.copy(path, kept)
