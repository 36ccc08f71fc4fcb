"""Resolve pyproject.toml into the lock files, each for every platform and Python version at once: `make locks`.

What a lock has stays as long as pyproject.toml allows it, so that a new dependency brings its own lines and nothing
else; `python -m tools.locks --upgrade` takes the newest of everything.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
HEADER = "# {what}. Made by `make locks` from pyproject.toml; do not edit.\n"
COMPILE = ("uv", "pip", "compile", "--universal", "--quiet", "--no-header", "--no-annotate", "--no-emit-index-url")
FLOOR = {"torch", "torchvision"}  # what `make floor` takes at its lowest; the tests' own tools need not be old


@dataclass(frozen=True)
class Lock:
    """A file of exact versions: what it is for, and the requirements that it resolves."""

    name: str
    what: str
    requirements: list[str]


def lowest(line: str) -> str:
    """Return the requirement pinned to the first release that its range allows: `torch>=2.8` as `torch==2.8.*`."""
    need = Requirement(line)
    (bound,) = (clause.version for clause in need.specifier if clause.operator == ">=")
    return f"{need.name}=={bound}.*"


def locks() -> list[Lock]:
    """Return the website without torch, everything, and the library's tests with the oldest torch."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras: dict[str, list[str]] = project["optional-dependencies"]
    everything = [*project["dependencies"], *(line for extra in extras.values() for line in extra)]
    tested = [*project["dependencies"], *extras["companion"], *extras["test"]]
    floor = [lowest(line) if canonicalize_name(Requirement(line).name) in FLOOR else line for line in tested]
    return [
        Lock("requirements-book.lock", "The website, without torch", extras["book"]),
        Lock("requirements.lock", "Everything", everything),
        Lock("requirements-floor.lock", "The library's tests, with the oldest torch", floor),
    ]


def resolve(lock: Lock, python: str, *, upgrade: bool) -> None:
    """Write exact versions of the requirements and of everything that they need, one a line, with markers."""
    path = ROOT / lock.name
    with tempfile.TemporaryDirectory() as folder:
        source, resolved = Path(folder) / "requirements.in", Path(folder) / lock.name
        source.write_text("\n".join(lock.requirements), encoding="utf-8")
        if path.exists():  # uv prefers the versions that it finds in its output file
            resolved.write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
        command = [sys.executable, "-m", *COMPILE, "--python-version", python, str(source), "-o", str(resolved)]
        subprocess.run([*command, *(["--upgrade"] if upgrade else [])], check=True, stdout=subprocess.DEVNULL)
        path.write_text(HEADER.format(what=lock.what) + resolved.read_text(encoding="utf-8"), encoding="utf-8")


def main() -> None:
    """Write all locks."""
    parser = argparse.ArgumentParser(prog="python -m tools.locks", description="Resolve pyproject.toml into the locks.")
    parser.add_argument("--upgrade", action="store_true", help="take the newest of everything, not what is locked")
    upgrade = parser.parse_args().upgrade
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for lock in locks():
        resolve(lock, project["requires-python"].removeprefix(">="), upgrade=upgrade)


if __name__ == "__main__":
    main()
