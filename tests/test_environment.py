"""The files that say what is needed agree with each other, and the commands that set things up say what is wrong."""

from __future__ import annotations

import ast
import inspect
import os
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import pruning_lib
from tools import locks
from tools.rules import first_cell

ROOT = Path(__file__).resolve().parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
EVERYTHING = [*PROJECT["dependencies"], *(line for lines in EXTRAS.values() for line in lines)]
WITH_OTHERS = {"numpy", "pillow", "torchvision"}  # come with torch and matplotlib; no chapter fetches archives
CONDA = {"torch": "pytorch", "matplotlib": "matplotlib-base"}  # where conda-forge has another name


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def pins(lock: str) -> dict[str, list[Requirement]]:
    """Return the lines of a lock by package: several where versions differ by Python or platform."""
    found: dict[str, list[Requirement]] = {}
    for line in read(lock).splitlines():
        if line.strip() and not line.startswith("#"):
            requirement = Requirement(line)
            found.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return found


@pytest.mark.parametrize("lock", locks.locks(), ids=lambda lock: lock.name)
def test_lock_is_exact_and_satisfies_pyproject(lock: locks.Lock) -> None:
    locked = pins(lock.name)
    for requirement in (r for same in locked.values() for r in same):
        assert [s.operator for s in requirement.specifier] == ["=="], f"{lock.name}: {requirement} is not exact"
    for line in lock.requirements:
        wanted = Requirement(line)
        found = locked.get(canonicalize_name(wanted.name), [])
        assert found, f"{lock.name} lacks {wanted.name}; run `make locks`"
        for requirement in found:
            (pin,) = requirement.specifier
            assert wanted.specifier.contains(pin.version), f"{lock.name}: {requirement} is not {wanted}"


def test_book_needs_no_torch_and_locks_name_no_registry() -> None:
    assert not {"torch", "torchvision", "numpy", "matplotlib"} & pins("requirements-book.lock").keys()
    for lock in locks.locks():
        assert not re.search(r"https?://|--index|--find-links|file:|@ ", read(lock.name))


def test_the_floor_is_the_oldest_torch_that_the_ranges_allow() -> None:
    ranges = {Requirement(line).name: Requirement(line).specifier for line in EVERYTHING}
    for name in ("torch", "torchvision"):
        (pin,) = pins("requirements-floor.lock")[name]
        (oldest,) = [clause.version for clause in ranges[name] if clause.operator == ">="]
        assert str(pin.specifier).startswith(f"=={oldest}."), f"{pin}; run `make locks`"


def test_every_dependency_line_says_what_needs_it() -> None:
    lines = read("pyproject.toml").split("[project.urls]")[0].splitlines()
    bare = [line for line in lines if re.match(r'\s+"[\w-]+[<>=]', line) and "#" not in line]
    assert bare == []


def test_conda_environment_agrees_with_pyproject() -> None:
    environment = yaml.safe_load(read("environment.yml"))
    listed = [entry for entry in environment["dependencies"] if isinstance(entry, str) and entry != "pip"]
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    wanted = [Requirement(line) for line in (*PROJECT["dependencies"], *EXTRAS["companion"])]
    expected = {f"python{PROJECT['requires-python']}"}
    expected |= {f"{CONDA.get(need.name, need.name)}{need.specifier}" for need in wanted}
    assert set(listed) == expected
    (editable,) = pip
    assert set(re.findall(r"\w+", editable.split("[")[1])) == set(EXTRAS), "the extras that pip adds"


def test_first_cell_installs_every_dependency_of_a_chapter() -> None:
    needs = re.findall(r"^needs (?:\|)?= (\{.*\})$", first_cell(), re.MULTILINE)
    packages = {package for line in needs for package in ast.literal_eval(line).values()}
    wanted = {Requirement(line).name for line in (*PROJECT["dependencies"], *EXTRAS["companion"])}
    assert packages == wanted - WITH_OTHERS


def test_data_and_type_marker_are_in_the_package() -> None:
    shipped = tomllib.loads(read("pyproject.toml"))["tool"]["setuptools"]["package-data"]["pruning_lib"]
    assert set(shipped) == {"py.typed", "companion/_records/*.json"}
    assert (ROOT / "pruning_lib" / "py.typed").exists()


def make(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run tools/venv.sh as make does."""
    return subprocess.run(
        ["sh", str(ROOT / "tools" / "venv.sh"), *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def interpreter(folder: Path, name: str, *, version: str, venv: str = "exit 0") -> Path:
    """Write a script that answers as an interpreter of this version does."""
    path = folder / name
    newer = tuple(map(int, version.split("."))) >= (3, 11)
    path.write_text(
        f'#!/bin/sh\ncase "$*" in *print*) echo {version};; *exit*) exit {0 if newer else 1};; *venv*) {venv};; esac\n'
    )
    path.chmod(0o755)
    return path


def test_an_old_python_is_named_in_a_sentence(tmp_path: Path) -> None:
    old = interpreter(tmp_path, "old", version="3.9.2")
    (tmp_path / "lock").write_text("")
    done = make(str(tmp_path / "env"), str(tmp_path / "lock"), PYTHON=str(old))
    assert done.returncode == 1
    assert "needs Python 3.11 or newer" in done.stderr
    assert "old is 3.9.2" in done.stderr
    assert not (tmp_path / "env").exists()


def test_a_missing_venv_module_is_named_in_a_sentence(tmp_path: Path) -> None:
    bare = interpreter(tmp_path, "bare", version="3.12.1", venv="echo No module named ensurepip; exit 1")
    (tmp_path / "lock").write_text("")
    done = make(str(tmp_path / "env"), str(tmp_path / "lock"), PYTHON=str(bare))
    assert done.returncode == 1
    assert "apt-get install python3-venv" in done.stderr
    assert not (tmp_path / "env").exists()


def test_an_environment_that_stands_is_made_anew_only_for_another_lock_or_python(tmp_path: Path) -> None:
    # This interpreter makes a folder with a bin/python that answers pip with success.
    made = f'mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; echo made >> {tmp_path}/log; exit 0'
    one, two = (str(interpreter(tmp_path, name, version="3.12.1", venv=made)) for name in ("one", "two"))
    environment, lock = str(tmp_path / "env"), tmp_path / "lock"
    expected = 0
    for content, python, anew in (("a", one, 1), ("a", one, 0), ("a", "", 0), ("a", two, 1), ("b", two, 1)):
        lock.write_text(content)
        assert make(environment, str(lock), PYTHON=python).returncode == 0
        expected += anew
        assert (tmp_path / "log").read_text().count("made") == expected, (content, python)


def test_the_library_page_lists_every_public_name() -> None:
    names = {name for name, value in vars(pruning_lib).items() if not (name.startswith("_") or inspect.ismodule(value))}
    page = set(re.findall(r"\w+", read("book/api.rst")))
    assert names - page == set()


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_of_the_front_pages_lead_somewhere(page: str) -> None:
    prose = re.sub(r"^(````|```).*?^\1|`[^`\n]*`", "", read(page), flags=re.MULTILINE | re.DOTALL)
    links = [link for link in re.findall(r"\]\(([^)#\s]+)\)", prose) if "://" not in link]
    assert [link for link in links if not (ROOT / link).exists()] == []
    assert all(len(alt) > 80 for alt, address in re.findall(r"!\[(.*?)\]\((.*?)\)", prose) if "badge" not in address)
