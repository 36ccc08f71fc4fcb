"""The repository's address and the release's tag are written once, in pyproject.toml; every copy is that one."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

import pruning_lib
from tools import home
from tools.chapters import NOTEBOOKS
from tools.rules import first_cell

ROOT = home.ROOT
FRONT = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "CODE_OF_CONDUCT.md", "SECURITY.md")]
SOURCES = sorted((NOTEBOOKS / "text").glob("*.md"))
PAGES = [*FRONT, *sorted((ROOT / "book").glob("*.md")), ROOT / "book" / "api.rst", *SOURCES]
HERE = [*FRONT, ROOT / "CITATION.cff", ROOT / "_config.yml", ROOT / "pyproject.toml", ROOT / "book" / "cite.md"]
HERE += sorted(path for path in (ROOT / ".github").rglob("*") if path.is_file())
HOSTS = ("github.com", "github.io", "raw.githubusercontent.com", "colab.research.google.com")
OURS = (home.REPOSITORY, home.SITE, home.IMAGES, home.COLAB)


def text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def settings(name: str) -> Any:
    return yaml.safe_load(text(ROOT / name))


def test_the_version_is_that_of_the_package_and_of_the_citation() -> None:
    assert pruning_lib.__version__ == home.VERSION
    assert settings("CITATION.cff")["version"] == home.VERSION
    assert f"version = {{{home.VERSION}}}" in text(ROOT / "book" / "cite.md")
    newest = re.search(r"^## (\S+?),? ", text(ROOT / "CHANGELOG.md"), re.MULTILINE)
    assert newest is not None
    assert newest[1].rstrip(",") == home.VERSION, "the first heading of CHANGELOG.md"


def test_settings_name_the_repository_and_the_site() -> None:
    assert settings("CITATION.cff")["repository-code"] == home.REPOSITORY
    assert settings("CITATION.cff")["url"] == home.SITE
    repository = settings("_config.yml")["repository"]
    assert (repository["url"], repository["branch"]) == (home.REPOSITORY, home.TAG)
    urls = home.PROJECT["urls"]
    assert urls["Documentation"] == home.SITE
    assert all(address.startswith((home.REPOSITORY, home.SITE)) for address in urls.values())


def test_every_pip_line_names_the_repository_and_the_tag() -> None:
    lines = [(path.name, line) for path in PAGES for line in text(path).splitlines() if "git+" in line]
    assert [(name, line) for name, line in lines if not re.search(re.escape(home.INSTALL) + r"(?![\w.])", line)] == []
    assert {"README.md", "CONTRIBUTING.md", "running.md", "api.rst"} <= {name for name, _ in lines}


def test_every_clone_line_names_the_repository() -> None:
    clone = re.compile(r"^git clone (\S+)", re.MULTILINE)
    cloned = [(path.name, found) for path in PAGES for found in clone.findall(text(path))]
    assert {name for name, _ in cloned} == {"README.md", "running.md"}
    assert {address for _, address in cloned} == {home.REPOSITORY}


@pytest.mark.parametrize("path", HERE, ids=lambda path: path.name)
def test_links_to_the_hosts_of_repositories_are_ours(path: Path) -> None:
    found = re.findall(r"https://[^\s)\"'<>}\]`]+", text(path))
    hosted = [link for link in found if urlsplit(link).path and str(urlsplit(link).hostname).endswith(HOSTS)]
    assert [link for link in hosted if not link.startswith(OURS)] == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_a_chapter_begins_with_the_first_cell(path: Path) -> None:
    assert text(path).count(first_cell()) == 1


def test_the_readme_has_no_relative_link_and_its_links_lead_to_files() -> None:
    links = re.findall(r"\]\(([^)#\s]+)", text(ROOT / "README.md"))
    assert [link for link in links if "://" not in link] == [], "the package index shows them broken"
    for link in links:
        for base in (home.FILES, home.IMAGES):
            if link.startswith(f"{base}/"):
                assert (ROOT / link.removeprefix(f"{base}/")).exists(), link
        if link.startswith(f"{home.SITE}/"):
            page = ROOT / link.removeprefix(f"{home.SITE}/")
            assert any(page.with_suffix(kind).exists() for kind in (".md", ".ipynb", ".rst")), link


def test_badges_say_what_pyproject_and_the_workflows_say() -> None:
    readme = text(ROOT / "README.md")
    for workflow in re.findall(r"actions/workflows/([\w.]+)", readme):
        assert (ROOT / ".github" / "workflows" / workflow).exists()
    pythons = supported()
    assert f"badge/python-{pythons[0]}_to_{pythons[-1]}-" in readme
    assert f"badge/license-{home.PROJECT['license']}-" in readme


def supported() -> list[str]:
    """Return the versions of Python among the classifiers."""
    return re.findall(r"Python :: (3\.\d+)", " ".join(home.PROJECT["classifiers"]))


def test_the_tested_pythons_are_those_that_the_classifiers_name() -> None:
    assert home.PROJECT["requires-python"] == f">={supported()[0]}"
    library = settings(".github/workflows/tests.yml")["jobs"]["library"]
    assert library["strategy"]["matrix"]["python"] == supported()


# ---- the first cell, on a machine that lacks something


def run_first_cell(monkeypatch: pytest.MonkeyPatch, *, found: bool, fails: bool, torch: str) -> list[list[str]]:
    """Run the cell where modules are found or not, pip fails or not, and torch is of this version; return commands."""
    commands: list[list[str]] = []

    class Done:
        returncode = int(fails)

    def run(command: list[str], **_: object) -> Done:
        commands.append(command[3:])
        return Done()

    monkeypatch.setattr("subprocess.run", run)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: object() if found else None)
    monkeypatch.setattr("importlib.metadata.version", lambda _: torch)
    exec(first_cell(), {})
    return commands


def test_the_first_cell_installs_nothing_where_everything_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_first_cell(monkeypatch, found=True, fails=False, torch="2.15.0+cpu") == []


def test_the_first_cell_installs_what_is_missing_and_then_the_library_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    packages, library = run_first_cell(monkeypatch, found=False, fails=False, torch="2.8.0")
    assert packages[:2] == library[:2] == ["install", "--quiet"]
    assert "scikit-learn" in packages
    assert library[2:] == ["--no-deps", home.INSTALL]


def test_the_first_cell_says_in_a_sentence_what_it_could_not_install(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match=r"^Could not install what this chapter needs\. .* -m pip install "):
        run_first_cell(monkeypatch, found=False, fails=True, torch="2.8.0")


def test_the_first_cell_says_in_a_sentence_that_torch_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match=r"needs PyTorch 2\.8 or newer, and 2\.7\.1\+cu128 is installed: update it"):
        run_first_cell(monkeypatch, found=True, fails=False, torch="2.7.1+cu128")
    (need,) = [Requirement(line) for line in home.PROJECT["dependencies"] if line.startswith("torch")]
    (oldest,) = [ast.literal_eval(found) for found in re.findall(r"< (\(\d+, \d+\))", first_cell())]
    assert need.specifier.contains(Version(".".join(map(str, oldest))))
    assert not need.specifier.contains(Version(f"{oldest[0]}.{oldest[1] - 1}"))
