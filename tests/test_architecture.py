"""The page on the architecture names files that exist, and its drawings are those that the tool draws."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tools.drawings import BOOK, WALKS, draw

ROOT = Path(__file__).resolve().parents[1]
PAGE = (BOOK / "architecture.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", WALKS)
def test_stations_exist_and_the_drawing_is_current(name: str) -> None:
    places = [station.place for station in WALKS[name] if "/" in station.place]
    assert [place for place in places if not (ROOT / place).exists()] == []
    assert (BOOK / f"{name}.svg").read_text(encoding="utf-8") == draw(WALKS[name]), "run python -m tools.drawings"
    assert f"{{figure}} {name}.svg" in PAGE


def test_every_room_has_its_line() -> None:
    rooms = {path.name for path in (ROOT / "pruning_lib").iterdir() if path.is_dir() and path.name[0] not in "_."}
    assert rooms == set(re.findall(r"^\| `pruning_lib/(\w+)/`", PAGE, re.MULTILINE))


def test_the_recipes_name_files_and_tests_that_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    recipes = text[text.index("## Four recipes") : text.index("## A dependency")]
    paths = set(re.findall(r"`((?:pruning_lib|experiments|tests|book)/[\w/.]+)`", recipes))
    assert len([path for path in paths if "test_recipe" in path]) == 4
    assert [path for path in sorted(paths) if not (ROOT / path).exists()] == []
