"""Files that are built: missing, damaged, and written by two builds at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from threading import Barrier, Thread

import numpy as np
import pytest

from pruning_lib.companion import data
from pruning_lib.companion.data import _nuclei, _xrays
from pruning_lib.companion.data._files import write_arrays


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
