"""The wheel: the library with its data, and nothing of the book, the experiments or the tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from tools.home import PROJECT, VERSION

ROOT = Path(__file__).resolve().parents[1]
BUILT_FROM = ("pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the wheel that PRUNING_LIB_WHEEL names, or one built from a copy, so that the checkout stays clean."""
    if named := os.environ.get("PRUNING_LIB_WHEEL"):
        return Path(named)
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in BUILT_FROM:
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "pruning_lib", source / "pruning_lib", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--wheel-dir", str(target), str(source)], check=True)
    (built,) = target.glob("*.whl")
    return built


def test_the_wheel_holds_the_library_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    files = (path for path in (ROOT / "pruning_lib").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    expected = {path.relative_to(ROOT).as_posix() for path in files}
    assert {name for name in names if ".dist-info/" not in name} == expected
    assert {"pruning_lib/__init__.py", "pruning_lib/py.typed"} <= expected
    assert any(name.endswith(".json") for name in expected), "the summaries of records"
    assert f"pruning_lib-{VERSION}.dist-info/licenses/LICENSE" in names


def test_the_wheel_says_what_pyproject_says(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        said = Parser().parsestr(archive.read(f"pruning_lib-{VERSION}.dist-info/METADATA").decode())
    assert (said["Version"], said["License-Expression"]) == (VERSION, PROJECT["license"])
    assert said["Requires-Python"] == PROJECT["requires-python"]
    assert set(said.get_all("Provides-Extra", [])) == set(PROJECT["optional-dependencies"])
    assert said.get_all("Classifier") == PROJECT["classifiers"]
    core = [line for line in said.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert sorted(core) == sorted(PROJECT["dependencies"])
