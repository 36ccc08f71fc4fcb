"""Chapters: what is stored is what the source says and what the code gave, and the rules of CONTRIBUTING.md hold."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jupytext
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tools import chapters, compare, inputs, notebooks, rules, status, stored, veil

SLUGS = chapters.slugs()
each_chapter = pytest.mark.parametrize("slug", SLUGS or [pytest.param("", marks=pytest.mark.skip("no chapter yet"))])


# ---- every chapter


@each_chapter
def test_stored_notebook_agrees_with_its_source_cell_by_cell(slug: str) -> None:
    source, shown = chapters.chapter(slug), notebooks.stored(slug)
    assert shown is not None, f"{slug} was never executed; run `make notebooks`"
    assert len(shown.cells) == len(source.cells), "run `make notebooks`"
    for number, (written, cell) in enumerate(zip(source.cells, shown.cells, strict=True)):
        for key in ("id", "cell_type", "source", "metadata"):
            assert cell[key] == written[key], f"cell {number} differs in its {key}; run `make notebooks`"


@each_chapter
def test_stored_outputs_are_those_of_the_code_the_library_and_the_records_of_today(slug: str) -> None:
    shown = notebooks.stored(slug)
    assert shown is not None
    assert shown.metadata["pruning_lib"]["inputs"] == notebooks.inputs(shown), "outputs are stale; run `make notebooks`"


def test_the_status_page_is_that_of_the_stored_notebooks_and_records() -> None:
    assert status.PAGE.read_text(encoding="utf-8") == status.page(), "run `make notebooks`"


@each_chapter
def test_every_cell_was_executed_in_order_without_an_error(slug: str) -> None:
    assert list(stored.faults(chapters.NOTEBOOKS / f"{slug}.ipynb")) == []


@each_chapter
def test_chapter_keeps_the_rules(slug: str) -> None:
    shown = notebooks.stored(slug)
    assert shown is not None
    assert rules.broken(shown) == []
    assert (chapters.NOTEBOOKS / f"{slug}.ipynb").stat().st_size <= rules.BYTES


@each_chapter
def test_a_student_without_solutions_lacks_no_name(slug: str, tmp_path: Path) -> None:
    copy = chapters.without_solutions(chapters.chapter(slug))
    script = tmp_path / "chapter.py"
    script.write_text("\n".join(cell.source for cell in notebooks.code(copy)), encoding="utf-8")
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F821"]
    command += ["--config", "builtins = ['display']", str(script)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout


def test_every_source_is_in_the_book_and_every_notebook_has_a_source() -> None:
    toc = (chapters.ROOT / "_toc.yml").read_text(encoding="utf-8")
    assert [slug for slug in SLUGS if f"notebooks/{slug}" not in toc] == []
    assert [path.stem for path in chapters.NOTEBOOKS.glob("*.ipynb") if path.stem not in SLUGS] == []


# ---- the machinery itself

EXERCISE = """
:::{exercise-start} Four
:label: ex-four
:::
"""
SOLUTION = """
:::{solution-start} ex-four
:label: sol-four
:class: dropdown
:::
"""


def notebook(*cells: str | NotebookNode) -> NotebookNode:
    """Return a notebook of Markdown cells, given as text, and ready cells."""
    made: NotebookNode = new_notebook(
        cells=[new_markdown_cell(c.strip()) if isinstance(c, str) else c for c in cells],
    )
    return made


def code(source: str, *outputs: NotebookNode, **metadata: Any) -> NotebookNode:
    cell: NotebookNode = new_code_cell(source, outputs=list(outputs), metadata=metadata, execution_count=1)
    return cell


def display(**kinds: str) -> NotebookNode:
    shown: NotebookNode = new_output("display_data", data={key.replace("_", "/"): text for key, text in kinds.items()})
    return shown


def with_exercise(*solution: NotebookNode, after: str = "") -> NotebookNode:
    parts = [EXERCISE, "**Exercise.** Why?", ":::{exercise-end}\n:::", SOLUTION, *solution, ":::{solution-end}\n:::"]
    return notebook("# Title", code("a = 1"), *parts, code(after))


@pytest.mark.parametrize("source", ["Sixteen.\n\n$$\nx\n$$ (eq-a)", "One paragraph.\n\n- a list", SOLUTION])
def test_the_prose_of_a_solution_is_folded_in_the_notebook_and_plain_in_the_book(source: str) -> None:
    stored_source = veil.veiled(veil.folded(source))
    assert veil.unveiled(stored_source) == source
    assert stored_source.startswith("<details>\n") is (source is not SOLUTION)


@each_chapter
def test_no_solution_is_open_in_the_stored_notebook(slug: str) -> None:
    cells = chapters.chapter(slug).cells
    prose = [cells[number] for number in chapters.solutions(cells) if cells[number].cell_type == "markdown"]
    assert [cell.source for cell in prose if not cell.source.startswith(("<!--", "<details>"))] == []


def test_students_get_one_empty_cell_for_each_solution() -> None:
    copy = chapters.without_solutions(with_exercise(code("sol_a = 2"), code("sol_a + 1")))
    assert [c.source for c in copy.cells if c.cell_type == "code"] == ["a = 1", "# Your answer", ""]
    assert not any("solution" in c.source for c in copy.cells)
    assert any("exercise-start" in c.source for c in copy.cells)


@pytest.mark.parametrize(
    "source", [EXERCISE, SOLUTION + "\nCount.", "(sec-a)=\n## A\n\n$$\nx\n$$ (eq-a)\n\nas (a) says"]
)
def test_marks_of_the_book_are_comments_in_the_notebook_and_come_back(source: str) -> None:
    stored_source = veil.veiled(source)
    assert veil.unveiled(stored_source) == source
    seen = re.sub(r"<!--.*?-->", "", stored_source, flags=re.DOTALL)
    assert not re.search(r":::|:label:|\(eq-a\)|\)=", seen)


@each_chapter
def test_a_chapter_comes_back_as_it_was_written(slug: str) -> None:
    cells = jupytext.reads((chapters.TEXT / f"{slug}.md").read_text(encoding="utf-8"), fmt="md:myst").cells
    written = [cell.source for cell in cells if cell.cell_type == "markdown"]
    kept = [cell.source for cell in chapters.chapter(slug).cells if cell.cell_type == "markdown"]
    assert [veil.unveiled(source) for source in kept] == written


@each_chapter
def test_a_figure_bears_its_caption_in_the_notebook_and_the_book_takes_it_out(slug: str) -> None:
    stored_cells = [cell for cell in notebooks.stored(slug).cells if cell.cell_type == "code"]  # type: ignore[union-attr]
    with_caption = [cell for cell in stored_cells if cell.metadata.get("mystnb", {}).get("figure", {}).get("caption")]
    assert with_caption
    for cell in with_caption:
        assert "plotting.caption(" in cell.source
        picture = "text/html" if "plotting.slider(" in cell.source else "image/png"
        kinds = [kind for output in cell.outputs for kind in output.data if kind in ("image/png", "text/html")]
        assert kinds == [picture, "text/html"], "the picture, then what is written under it"
        veil.uncaptioned(cell)
        assert "plotting.caption(" not in cell.source
        assert [kind for output in cell.outputs for kind in output.data if kind != "text/plain"] == [picture]


def test_the_first_line_of_folded_code_gives_no_solution_away_and_is_short() -> None:
    assert chapters.opened("x = 16", {}, in_solution=True).startswith("# Solution\n")
    assert chapters.opened("x = 16", {"tags": ["hide-input"]}, in_solution=False) == "x = 16"
    assert chapters.opened("x" * 101, {"tags": ["remove-cell"]}, in_solution=False).startswith("# Folded\n")
    assert chapters.opened("x" * 101, {}, in_solution=False) == "x" * 101


def test_an_equation_that_is_cited_by_its_number_bears_it_in_the_notebook_alone() -> None:
    text = "as in [(2)](#eq-b)\n\n$$\nx\n$$ (eq-a)\n\n$$\ny\n$$ (eq-b)"
    kept = veil.veiled(veil.numbered(text, text))
    assert kept.count("\\tag") == 1
    assert "y\n\\tag{2}\n$$ <!-- (eq-b) -->" in kept
    assert veil.unveiled(kept) == text


@each_chapter
def test_the_number_by_which_an_equation_is_cited_is_the_one_that_the_book_gives_it(slug: str) -> None:
    source = (chapters.TEXT / f"{slug}.md").read_text(encoding="utf-8")
    labels = re.findall(r"^\$\$ \((eq-[\w-]+)\)$", source, re.MULTILINE)
    for number, label in veil.CITED.findall(source):
        assert labels[int(number) - 1] == label


def test_two_solutions_in_a_row_leave_two_empty_cells() -> None:
    both = notebook(
        SOLUTION, code("x = 1"), ":::{solution-end}\n:::", SOLUTION, code("y = 1"), ":::{solution-end}\n:::"
    )
    assert [c.source for c in chapters.without_solutions(both).cells] == ["# Your answer"] * 2


@pytest.mark.parametrize("cells", [[SOLUTION], [":::{solution-end}\n:::"], [SOLUTION, SOLUTION]])
def test_an_open_gate_is_named(cells: list[str]) -> None:
    with pytest.raises(ValueError, match="solution"):
        chapters.solutions(notebook(*cells).cells)


def test_code_that_the_book_hides_is_collapsed_elsewhere_too() -> None:
    shown = chapters.collapsed(code("a", tags=["hide-input"]), in_solution=False)
    assert shown["jupyter"] == {"source_hidden": True}
    assert chapters.collapsed(code("a"), in_solution=True)["jupyter"]["outputs_hidden"]
    assert chapters.collapsed(code("a"), in_solution=False) == {}


def test_the_gate_names_notebook_cell_and_fault(tmp_path: Path) -> None:
    error = new_output("error", ename="ValueError", evalue="no", traceback=[])
    cells = [code("first = 1"), code("late = 1", error)]
    cells[1].execution_count = 3
    cells.append(code("never = 1"))
    cells[2].execution_count = None
    path = tmp_path / "broken.ipynb"
    path.write_text(json.dumps(notebook(*cells)), encoding="utf-8")
    order, failed, unrun = stored.faults(path)
    assert "broken.ipynb, cell 1 (late = 1): executed as number 3, should be 2" in order
    assert "ValueError: no" in failed
    assert "cell 2 (never = 1): not executed" in unrun


def test_a_notebook_cut_in_half_is_named(tmp_path: Path) -> None:
    path = tmp_path / "half.ipynb"
    path.write_text('{"cells": [', encoding="utf-8")
    assert "half.ipynb is no notebook" in next(stored.faults(path))


@pytest.mark.parametrize(
    ("bad", "rule"),
    [
        (code("plot", display(image_png="")), "alt text"),
        (code("html", display(text_html='<img src="data:…" alt="">')), "alt text"),
        (code("two", display(image_png=""), display(image_png=""), mystnb={"image": {"alt": "a" * 30}}), "2 pictures"),
        (code("say", display(text_markdown="at **8** bits")), "numbers"),
        (code("say", display(text_markdown="at **8** bits"), numbers={"relative": 1}), "numbers is"),
        (code("warn", new_output("stream", name="stderr", text="careful")), "stderr"),
        (code("who", new_output("stream", name="stdout", text="/home/me/data")), "path"),
        (code("what", new_output("stream", name="stdout", text="<object at 0x7f1234567890>")), "address"),
        ("It reaches 93.6 % on digits.", "types the result"),
        ("It is 1.2× as slow, ± 3.", "types the result"),
        (code("hide", new_output("stream", name="stdout", text="seen"), tags=["remove-cell"]), "remove-cell"),
        ("See {eq}`one`.", "role"),
        (EXERCISE + "\n:::{exercise-end}\n:::", "lacks its solution"),
    ],
)
def test_each_rule_finds_its_breach(bad: str | NotebookNode, rule: str) -> None:
    found = rules.broken(notebook(code(rules.first_cell()), bad))
    assert found
    assert any(rule in fault for fault in found)


def test_what_keeps_the_rules_passes() -> None:
    picture = code("plot", display(image_png=""), mystnb={"image": {"alt": "Line chart. All norms fall to zero."}})
    sentence = code("say", display(text_markdown="at **8** bits"), numbers={"rel": 0.1})
    prose = "Prune 50 % with `lr=0.1` and $\\lambda = 0.5 \\%$.\n\n| published | 93.63 % |"
    check = code("assert 1 + 1 == 2", tags=["remove-cell"])
    assert rules.broken(notebook(code(rules.first_cell()), picture, sentence, check, prose)) == []


def test_a_later_cell_must_not_read_what_a_solution_made() -> None:
    rule = rules.solves_its_exercises
    assert list(rule(with_exercise(code("sol_a = 2"), after="print(a)"))) == []
    assert "reads sol_a" in next(rule(with_exercise(code("sol_a = 2"), after="print(sol_a)")))
    assert list(rule(with_exercise(code("x = 2"), after="x = 3\nprint(x)"))) == []
    assert list(rule(with_exercise(code("f = [x for x in 'ab']"), after="print(a, x)"))) == []


@pytest.mark.parametrize(
    ("before", "after", "tolerance", "same"),
    [
        ("left 100 of 300", "left 104 of 300", {"abs": 4}, True),
        ("left 100 of 300", "left 105 of 300", {"abs": 4}, False),
        ("loss 1e-3", "loss 1.05e-3", {"rel": 0.051}, True),
        ("loss -2.0", "loss −2.2", {"rel": 0.05}, False),
        ("loss −2.0", "loss -2.0", {}, True),
        ("conv3 goes", "conv4 goes", {"abs": 5}, False),
        ("L1 wins by 3", "L2 wins by 3", {"abs": 5}, False),
        ("it is nan", "it is 0.3", {"abs": 5}, False),
    ],
)
def test_numbers_are_compared_and_words_are_equal(
    before: str, after: str, tolerance: dict[str, float], same: bool
) -> None:
    old, new = [display(text_markdown=before)], [display(text_markdown=after)]
    assert (not list(compare.differences(old, new, tolerance))) is same


@pytest.mark.slow
@pytest.mark.parametrize(("stored_number", "passes"), [("14", True), ("18", False)])
def test_re_execution_compares_under_the_named_tolerance(tmp_path: Path, stored_number: str, passes: bool) -> None:
    sentence = display(text_markdown=f"It is **{stored_number}**.", text_plain="<IPython.core.display.Markdown object>")
    source = "from IPython.display import Markdown, display\ndisplay(Markdown(f'It is **{4 * 3}**.'))"
    path = tmp_path / "one.ipynb"
    path.write_text(json.dumps(notebook(code(source, sentence, numbers={"abs": 2.0}))), encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-p", "conftest", "-p", "no:cacheprovider", "--nbval-lax"]
    done = subprocess.run(
        [*command, "--nbval-current-env", str(path)], cwd=chapters.ROOT, capture_output=True, text=True
    )
    assert (done.returncode == 0) is passes, done.stdout
    assert passes or "18 is stored, 12 came now; 2 is allowed." in done.stdout


# ---- what re-executes a chapter


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """Return a folder with a small pruning_lib: two methods on one base, a plotting module, records."""
    files = {
        "__init__.py": "from pruning_lib.methods import First, Second\nfrom pruning_lib.thing import thing\n",
        "methods/__init__.py": "from pruning_lib.methods.first import First\nfrom .second import Second\n",
        "methods/base.py": "class Base:\n    pass\n",
        "methods/first.py": "from pruning_lib.methods.base import Base\n\n\nclass First(Base):\n    pass\n",
        "methods/second.py": "from pruning_lib.methods.base import Base\n\n\nclass Second(Base):\n    pass\n",
        "thing.py": '"""Doc."""\n\n\ndef thing():\n    """Doc."""\n    return "#1"  # why\n',
        "records.py": "def load(suite):\n    return []\n",
        "plotting.py": "def draw():\n    return 0\n",
        "companion/_records/suite-a.json": "[]",
    }
    for name, text in files.items():
        path = tmp_path / "pruning_lib" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import pruning_lib as prl\nprl.First()", {"methods.first", "methods.base"}),
        ("from pruning_lib import Second", {"methods.second", "methods.base"}),
        ("import pruning_lib as prl\nprl.plotting.draw(prl.thing())", {"plotting", "thing"}),
        ("from pruning_lib.methods.second import Second as S", {"methods.second", "methods.base"}),
        ("import torch", set()),
    ],
)
def test_names_lead_to_the_modules_that_define_them(library: Path, source: str, expected: set[str]) -> None:
    assert inputs.modules(source, library) == {f"pruning_lib.{name}" for name in expected}


def test_a_hash_moves_with_what_the_chapter_uses_and_with_nothing_else(library: Path) -> None:
    cells = ["import pruning_lib as prl", "prl.thing()", "prl.records.load('suite-a')"]
    package = library / "pruning_lib"

    def changed(name: str, text: str) -> bool:
        before = inputs.digest(cells, library)
        (package / name).write_text(text, encoding="utf-8")
        inputs.parsed.cache_clear()
        return inputs.digest(cells, library) != before

    assert not changed("thing.py", 'def thing():\n    """Other doc,\n    longer."""\n\n    return "#1"\n')
    assert changed("thing.py", 'def thing():\n    return "#2"\n')
    assert not changed("methods/first.py", "First = 1\n")
    assert changed("companion/_records/suite-a.json", "[1]")
    assert inputs.digest([*cells, "1"], library) != inputs.digest(cells, library)


def test_records_in_the_checkout_come_before_the_summary(library: Path) -> None:
    run = library / "experiments" / "records" / "suite-a" / "one.json"
    run.parent.mkdir(parents=True)
    run.write_text("{}", encoding="utf-8")
    assert inputs.records("prl.records.load('suite-a')", library) == [run]


def test_what_a_benchmark_measured_is_a_record_too(library: Path) -> None:
    path = library / "pruning_lib" / "companion" / "_records" / "measured-zoo.json"
    path.write_text("{}", encoding="utf-8")
    assert inputs.records("prl.records.measured('zoo')", library) == [path]


def test_a_suite_without_a_literal_name_is_refused(library: Path) -> None:
    with pytest.raises(ValueError, match="as a string"):
        inputs.digest(["prl.records.load(suite)"], library)
