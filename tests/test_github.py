"""What GitHub reads: actionlint passes the workflows, and each of them is given little, ends, and runs what exists."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import unavailable

ROOT = Path(__file__).resolve().parents[1]
GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
FORMS = sorted(path for path in (GITHUB / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml")

each_workflow = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)


def read(path: Path) -> dict[Any, Any]:
    loaded: dict[Any, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return loaded


def test_actionlint_passes_the_workflows() -> None:
    beside = Path(sys.executable).parent  # a test runs by the environment's path, which need not be activated
    program = shutil.which("actionlint", path=str(beside)) or shutil.which("actionlint")
    if program is None:
        unavailable("actionlint is not installed.")
    done = subprocess.run([program, "-no-color", *map(str, WORKFLOWS)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@each_workflow
def test_a_workflow_is_given_little_and_ends(path: Path) -> None:
    workflow = read(path)
    assert workflow["permissions"] == {"contents": "read"}
    assert workflow["concurrency"]["group"]
    for name, job in workflow["jobs"].items():
        assert job["timeout-minutes"] <= 60, name
        for step in job["steps"]:
            assert re.fullmatch(r"actions/[\w-]+@v\d+", step.get("uses", "actions/none@v1")), step


@each_workflow
def test_commands_of_a_workflow_exist(path: Path) -> None:
    commands = "\n".join(step.get("run", "") for job in read(path)["jobs"].values() for step in job["steps"])
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z-]+)", commands)) <= targets
    for module in re.findall(r"python -m ((?:pruning_lib|tools|experiments)\S*)", commands):
        assert importlib.util.find_spec(module) is not None, module
    for file in re.findall(r"\btests/\w+\.py|\.ci/\w+", commands):
        assert (ROOT / file).is_file(), file


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_a_form_has_what_github_asks_of_it(path: Path) -> None:
    form = read(path)
    assert {"name", "description", "body"} <= form.keys()
    assert any(field["type"] != "markdown" for field in form["body"])
    named = [field["id"] for field in form["body"] if field["type"] != "markdown"]
    assert len(named) == len(set(named))
    for field in form["body"]:
        assert field["type"] in ("markdown", "textarea", "input", "dropdown", "checkboxes")
        assert field["attributes"]["value" if field["type"] == "markdown" else "label"]


def test_hooks_run_in_the_environment_that_make_keeps() -> None:
    (local,) = read(ROOT / ".pre-commit-config.yaml")["repos"]
    assert local["repo"] == "local"
    programs = [hook["entry"] for hook in local["hooks"] if hook["language"] != "pygrep"]  # pre-commit's own search
    assert programs
    assert all(program.startswith(".venv/bin/") for program in programs)
