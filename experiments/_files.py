"""The work folder: locks that die with their process, and nothing that is not ours overwritten or deleted."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path


@contextmanager
def lock(path: Path) -> Iterator[bool]:
    """Hold a file's lock, or yield False where another process holds it; the OS releases locks of dead processes."""
    make_folder(path.parent)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def held(path: Path) -> bool:
    """Return whether some process holds a file's lock."""
    if not path.exists():
        return False
    with path.open("r") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def make_folder(folder: Path) -> None:
    """Make a folder; what is new of its path is kept out of commits, what was there before is left as it is."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    if missing:
        with suppress(FileExistsError):
            (missing[-1] / ".gitignore").open("x").write("*\n")


def move_aside(path: Path) -> Path:
    """Rename a file or folder so that its name is free, and return its new path."""
    aside = next(new for n in count(1) if not (new := path.with_name(f"{path.name}.aside{n}")).exists())
    return path.rename(aside)
