"""The book's pages of tables: current, the same to the byte, whole, and in people's words."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from PIL import Image

from experiments import ledger, pages
from experiments._pictures import PICTURES, digest
from experiments.methods import CONTROLS, METHODS
from experiments.suites import PAGES, SUITES
from experiments.suites.rankings import SUITES as RANKED
from pruning_lib.companion.records import CHECKOUT, load

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def written() -> dict[str, str]:
    return pages.pages(CHECKOUT)


def test_the_pages_are_what_the_records_say(written: dict[str, str]) -> None:
    stored = {path.stem: path.read_text(encoding="utf-8") for path in pages.FOLDER.glob("*.md")}
    assert stored.keys() == written.keys()
    old = [name for name in written if stored[name] != written[name]]
    assert not old, "python -m experiments pages"


def test_the_pictures_are_of_what_the_records_hold(written: dict[str, str]) -> None:
    assert {path.stem for path in pages.FOLDER.glob("*.png")} == PICTURES.keys()
    for name, it in PICTURES.items():
        assert f"{{figure}} {name}.png" in "".join(written.values())
        with Image.open(pages.FOLDER / f"{name}.png") as image:
            assert image.info["Description"] == digest(it.data(CHECKOUT)), "python -m experiments pages"


def test_every_suite_has_a_page_and_every_page_a_place_in_the_contents() -> None:
    shown = [name for _, suites in PAGES.values() for name in suites] + [suite.name for suite in RANKED]
    assert sorted(shown) == sorted(name for name in SUITES if not name.startswith("digits-"))
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    listed = [chapter["file"] for part in contents["parts"] for chapter in part["chapters"]]
    files = [file for file in listed if file.startswith("book/tables/")]
    assert sorted(files) == sorted(
        f"book/tables/{name}" for name in ("ledger", "rankings", "strengths", "deployment", *PAGES)
    )


def test_pages_speak_in_peoples_words_and_keep_to_their_size(written: dict[str, str]) -> None:
    names = {name for name in (*METHODS, *CONTROLS) if "-" in name} | {"fraction-", "macs-", "epsilon-"}
    for page, text in written.items():
        cells = " ".join(line for line in text.splitlines() if not line.startswith("%"))
        assert not [name for name in names if re.search(rf"(?<![\w-]){re.escape(name)}", cells)], page
        assert len(text.encode()) <= 200_000, page


def test_tables_are_whole(written: dict[str, str]) -> None:
    for page, text in written.items():
        for block in re.findall(r"(?:^\|.*\n?)+", text, re.MULTILINE):
            widths = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
            assert len(widths) == 1, (page, block[:80])
            assert len(block.splitlines()) > 2


def test_a_row_says_where_its_runs_depart_from_the_paper() -> None:
    suite = SUITES["cifar10-resnet20"]
    text = ledger.verdicts(load("cifar10-resnet20"), suite)
    listed = dict(line.split(". ", 1) for line in text.splitlines() if re.match(r"\d+\. ", line))
    of = {}
    for line in text.splitlines():
        if "50 % of the units removed" in line:
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            if cells[0] not in of:  # the first table, whose last column is the notes
                of[cells[0]] = " ".join(listed[number] for number in cells[-1].split(", ") if number)
    assert "retrains as long at the same rate; its network is ResNet-56, with b = 0" in of["receding importances"]
    assert "Probability, temperature and decay are our reading" in of["stochastic pruning with L2"]
    assert "In the paper units die by themselves" in of["stochastic pruning with L2"]
    assert "our reading" not in of["group lasso"]
    mlp = SUITES["mnist-mlp"]
    assert ledger.departure(mlp, "stochastic-l2", "natural") == METHODS["stochastic-l2"].departs
    assert "300 epochs, and a plateau after 10" in ledger.departure(mlp, "serene-sampled", "loop")
    assert "160 epochs" in ledger.departure(SUITES["mnist-lenet5-bn"], "slimming", "macs-0.25")


def test_pages_of_a_folder_without_records_say_so(tmp_path: Path, written: dict[str, str]) -> None:
    (tmp_path / "records").mkdir()
    empty = pages.write(tmp_path / "records", tmp_path / "pages")
    assert {path.stem for path in empty} == written.keys()  # no picture of nothing
    text = (tmp_path / "pages" / "mnist.md").read_text(encoding="utf-8")
    assert f"0 of {len(SUITES['mnist-mlp'].configs())} runs are there: they wait" in text
    assert "not tested at this size" in (tmp_path / "pages" / "ledger.md").read_text(encoding="utf-8")
