"""Files that are built: missing, damaged, and written by two builds at once."""

from __future__ import annotations

import io
import random
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from threading import Barrier, Thread

import numpy as np
import pytest

from pruning_lib.companion import data
from pruning_lib.companion.data import _nuclei, _xrays
from pruning_lib.companion.data._files import Column, read_arrays, write_arrays
from tests.mutations import spoil_bytes


@pytest.mark.parametrize(
    ("name", "load", "file"),
    [("nuclei", data.nuclei, _nuclei.FILE), ("chest-xrays", data.chest_xrays, _xrays.FILE)],
)
def test_missing_and_damaged_files_are_named(
    tmp_path: Path, no_data: None, name: str, load: Callable[[Path], object], file: str
) -> None:
    path = write_arrays(tmp_path / file, {"images": np.arange(1000)})
    whole = path.read_bytes()
    for wrong in (whole, whole[: len(whole) // 2], b"", b"text"):  # the first lacks the other arrays
        path.write_bytes(wrong)
        with pytest.raises(ValueError, match=rf"{path.name} is damaged or another file .* build it again"):
            load(tmp_path)
    np.savez(path, images=np.array([{}], dtype=object))  # an array that only a pickle can hold
    with pytest.raises(ValueError, match="is damaged or another file"):
        load(tmp_path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=rf"{path.name} is not here; .*build {name} --from FOLDER --root"):
        load(tmp_path)


def test_two_builds_at_once_share_no_draft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each writes while the other does; whoever ends last is read whole, and no draft stays."""
    save, both = np.savez_compressed, Barrier(2, timeout=10)

    def slow(file: object, **arrays: np.ndarray) -> None:
        both.wait()
        save(file, **arrays)
        both.wait()

    monkeypatch.setattr(np, "savez_compressed", slow)
    path = tmp_path / "deep" / "set.npz"
    writers = [Thread(target=write_arrays, args=(path, {"x": np.full(100_000, i)})) for i in (1, 2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    with np.load(path) as stored:
        assert stored["x"].tolist() in ([1] * 100_000, [2] * 100_000)
    assert list(path.parent.iterdir()) == [path]


SETS = [
    ("nuclei", data.nuclei, _nuclei.FILE, _nuclei.COLUMNS),
    ("chest-xrays", data.chest_xrays, _xrays.FILE, _xrays.ARRAYS),
]


def whole(columns: dict[str, Column], n: int = 40) -> dict[str, np.ndarray]:
    """Return arrays as a file may hold them."""
    rng = np.random.default_rng(0)
    return {
        key: rng.integers(0, column.high + 1, (n, *column.shape)).astype(column.dtype or np.int32)
        for key, column in columns.items()
    }


@pytest.mark.parametrize(("name", "load", "file", "columns"), SETS)
def test_contents_are_looked_at_before_they_are_used(
    tmp_path: Path, no_data: None, name: str, load: Callable[[Path], object], file: str, columns: dict[str, Column]
) -> None:
    arrays = whole(columns)
    write_arrays(tmp_path / file, arrays)
    load(tmp_path)
    label = "instances" if name == "nuclei" else "label"
    images = arrays["images"]
    for key, wrong, sentence in (
        ("images", np.full(images.shape, np.nan, np.float32), "images is float32 of shape"),
        ("images", images[:, :64], r"images is uint8 of shape \(40, 64"),
        ("images", images.astype(np.int16), "images is int16"),
        ("images", images[:39], "its arrays have 39, 40 entries"),
        ("images", images[:0], "images has 0 entries"),
        (label, arrays[label].astype(np.int64) - 1, f"{label} holds -1 …"),
        (label, np.full_like(arrays[label], 10**7 if name == "nuclei" else 3), f"{label} holds"),
        (label, arrays[label].astype(str), f"{label} is <U"),
        (label, np.array(3), rf"{label} is int64 of shape \(\)"),
    ):
        write_arrays(tmp_path / file, arrays | {key: wrong})
        with pytest.raises(ValueError, match=rf"is damaged or another file \({sentence}.*; build it again"):
            load(tmp_path)


@pytest.mark.parametrize(("name", "load", "file", "columns"), SETS)
def test_a_few_bytes_that_stand_for_gigabytes_are_not_unpacked(
    tmp_path: Path, no_data: None, name: str, load: Callable[[Path], object], file: str, columns: dict[str, Column]
) -> None:
    path = write_arrays(tmp_path / file, whole(columns))
    shape = (10**6, *columns["images"].shape)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("images.npy", "w") as entry:
        entry.write(header.getvalue())
        for _ in range(500):
            entry.write(bytes(10**6))
    assert path.stat().st_size < 10**6
    tracemalloc.start()
    with pytest.raises(ValueError, match="images has 1000000 entries, in 500000000 bytes"):
        load(tmp_path)
    assert tracemalloc.get_traced_memory()[1] < 5 * 10**6
    tracemalloc.stop()


@pytest.mark.parametrize(("name", "load", "file", "columns"), SETS)
def test_spoilt_archives_are_read_equal_or_refused(
    tmp_path: Path, no_data: None, name: str, load: Callable[[Path], object], file: str, columns: dict[str, Column]
) -> None:
    path = write_arrays(tmp_path / file, whole(columns, n=3))
    raw, rng = path.read_bytes(), random.Random(name)
    wanted = read_arrays(name, file, tmp_path, columns, most=10)
    refused = 0
    for _ in range(150):
        path.write_bytes(spoil_bytes(rng, raw))
        try:
            arrays = read_arrays(name, file, tmp_path, columns, most=10)
        except ValueError as error:
            refused += str(error).startswith(f"{path} is damaged or another file (")
        else:
            refused += all(np.array_equal(arrays[key], wanted[key]) for key in columns)
    assert refused == 150


def test_a_file_that_cannot_be_read_at_the_moment_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_arrays(tmp_path / _nuclei.FILE, whole(_nuclei.COLUMNS, n=3))

    def fail(*_: object, **__: object) -> None:
        raise OSError(24, "Too many open files", "the file")

    monkeypatch.setattr(Path, "open", fail)
    with pytest.raises(OSError, match="Too many open files"):
        data.nuclei(tmp_path)
