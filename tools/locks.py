"""Resolve pyproject.toml into the two lock files, each for every platform and Python version at once: `make locks`."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HEADER = "# {what}. Made by `make locks` from pyproject.toml; do not edit.\n"


def resolve(requirements: list[str], python: str) -> str:
    """Return exact versions of the requirements and of everything that they need, one a line, with markers."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "requirements.in"
        source.write_text("\n".join(requirements), encoding="utf-8")
        command = [sys.executable, "-m", "uv", "pip", "compile", "--universal", "--python-version", python]
        command += ["--quiet", "--no-header", "--no-annotate", "--no-emit-index-url", str(source)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def main() -> None:
    """Write both locks: the book without torch, and everything."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    python = project["requires-python"].removeprefix(">=")
    extras: dict[str, list[str]] = project["optional-dependencies"]
    everything = [*project["dependencies"], *(line for extra in extras.values() for line in extra)]
    for name, what, lines in (
        ("requirements-book.lock", "The website, without torch", extras["book"]),
        ("requirements.lock", "Everything", everything),
    ):
        (ROOT / name).write_text(HEADER.format(what=what) + resolve(lines, python), encoding="utf-8")


if __name__ == "__main__":
    main()
