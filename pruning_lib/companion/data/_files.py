"""Where data lies, and how the files that were made from originals are read and written."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pruning_lib._model import atomic_draft

CACHE = Path("~/.cache/pruning_lib")


def roots(root: str | Path | None) -> list[Path]:
    """Return the folders in which data is looked for, in this order; the last is where a missing file belongs."""
    named = os.environ.get("PRUNING_LIB_DATA")
    folders = [Path(root)] if root else [*([Path(named)] if named else []), CACHE]
    return [folder.expanduser() for folder in folders]


def target(root: str | Path | None) -> Path:
    """Return the folder below which data is put: the root, else the cache."""
    return Path(root or CACHE).expanduser()


def find(root: str | Path | None, *files: str) -> Path | None:
    """Return the first of these files, given by their paths below a root, that is there."""
    places = (folder / file for folder in roots(root) for file in files)
    return next((place for place in places if place.is_file()), None)


def option(root: str | Path | None) -> str:
    """Return what a command needs beside its name to reach the same root."""
    return f" --root {root}" if root else ""


def read_arrays(name: str, file: str, root: str | Path | None, wanted: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Return the wanted arrays of a file that ``build`` has written.

    Raises
    ------
    FileNotFoundError
        If the file is nowhere; the message says which command builds it.
    ValueError
        If the file is damaged, lacks an array, or needs a pickle.
    """
    path = find(root, file)
    if path is None:
        raise FileNotFoundError(
            f"{roots(root)[-1] / file} is not here; `python -m pruning_lib.companion.data build {name} --from FOLDER"
            f"{option(root)}` makes it from the originals, which the page `datasets` names."
        )
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {key: stored[key] for key in wanted}
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} is damaged or another file ({error}); build it again.") from error


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> Path:
    """Write arrays into a compressed file, whole or not at all, and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # An open file, because NumPy appends .npz to any other name.
    with atomic_draft(path) as draft, draft.open("wb") as file:
        np.savez_compressed(file, **arrays)
    return path
