"""Where data lies, and how the files that were made from originals are read and written."""

from __future__ import annotations

import io
import math
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pruning_lib._model import atomic_draft, first_line

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


@dataclass(frozen=True)
class Column:
    """What an array of a file has to be: whole numbers in 0 … high, of this shape for each example."""

    shape: tuple[int, ...] = ()
    high: int = 255
    dtype: str = ""  # where it matters; any integers will do for small things


def read_arrays(
    name: str, file: str, root: str | Path | None, wanted: Mapping[str, Column], most: int
) -> dict[str, np.ndarray]:
    """Return the wanted arrays of a file that ``build`` has written, of one length.

    What the file's header says is compared before anything is unpacked: a few megabytes of zeros in a row may
    stand for many gigabytes.

    Parameters
    ----------
    wanted : mapping of str to Column
        What each array has to be.
    most : int
        Examples that a file of this name may hold.

    Raises
    ------
    FileNotFoundError
        If the file is nowhere; the message says which command builds it.
    ValueError
        If the file is damaged, lacks an array, or an array is not what is wanted.
    OSError
        If it cannot be read at the moment.
    """
    path = find(root, file)
    if path is None:
        raise FileNotFoundError(
            f"{roots(root)[-1] / file} is not here; `python -m pruning_lib.companion.data build {name} --from FOLDER"
            f"{option(root)}` makes it from the originals, which the page `datasets` names."
        )
    raw = path.read_bytes()  # what fails here says nothing about what is in the file
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            arrays = {key: _read_array(archive, key, column, most) for key, column in wanted.items()}
        if len(lengths := {len(array) for array in arrays.values()}) > 1:
            raise ValueError(f"its arrays have {', '.join(map(str, sorted(lengths)))} entries")
    except MemoryError:
        raise
    except Exception as error:  # a damaged archive raises whatever its readers stumble over
        raise ValueError(f"{path} is damaged or another file ({first_line(error)}); build it again.") from error
    return arrays


def _read_array(archive: zipfile.ZipFile, key: str, column: Column, most: int) -> np.ndarray:
    """Return an array from an archive, or raise whatever says that it is not what is wanted."""
    entry = archive.getinfo(f"{key}.npy")
    with archive.open(entry) as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
        length = entry.file_size - file.tell()
    if dtype.kind not in "iu" or column.dtype not in ("", dtype.name) or shape[1:] != column.shape or not shape:
        raise ValueError(
            f"{key} is {dtype} of shape {shape}; {column.dtype or 'integers'} of {('n', *column.shape)} is wanted"
        )
    if not 0 < shape[0] <= most or length != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{key} has {shape[0]} entries, in {length} bytes; 1 … {most}, and as many bytes, are wanted")
    with archive.open(entry) as file:
        array = np.lib.format.read_array(file, allow_pickle=False)
        file.read()  # to the end, where the checksum is compared
    if array.min() < 0 or array.max() > column.high:
        raise ValueError(f"{key} holds {array.min()} … {array.max()}; 0 … {column.high} is wanted")
    return np.asarray(array)


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> Path:
    """Write arrays into a compressed file, whole or not at all, and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # An open file, because NumPy appends .npz to any other name.
    with atomic_draft(path) as draft, draft.open("wb") as file:
        np.savez_compressed(file, **arrays)
    return path
