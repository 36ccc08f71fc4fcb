"""A chapter's source, the notebook that it stands for, and the copy without solutions."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jupytext
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_notebook

from tools.veil import captioned, folded, numbered, veiled

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
TEXT = NOTEBOOKS / "text"
STUDENTS = ROOT / "_build" / "students"

HIDDEN = {"hide-input", "hide-cell", "remove-input", "remove-cell"}
SAYS_LITTLE = (
    "#",
    "class ",
    "def ",
    "import ",
    "sol_model = ",
    "sol_net = ",
)  # of a solution
FOLDED_LINE = 100  # characters of a collapsed cell's first line that JupyterLab's box has room for

KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
LANGUAGE = {"file_extension": ".py", "mimetype": "text/x-python", "name": "python", "pygments_lexer": "ipython3"}
GATE = re.compile(r"^:::+\{(?P<kind>exercise|solution)-(?P<edge>start|end)\}", re.MULTILINE)


def slugs() -> list[str]:
    """Return the names of all chapters that have a source."""
    return sorted(path.stem for path in TEXT.glob("*.md"))


def chapter(slug: str) -> NotebookNode:
    """Return the unexecuted notebook of a source: stable ids, code collapsed and marks of the book veiled."""
    source = (TEXT / f"{slug}.md").read_text(encoding="utf-8")
    cells = jupytext.reads(source, fmt="md:myst").cells
    seen: Counter[str] = Counter()
    solution = solutions(cells)
    for number, cell in enumerate(cells):
        if cell.cell_type == "code":
            cell.source = opened(captioned(cell.source, cell.metadata), cell.metadata, in_solution=number in solution)
        cell.metadata = collapsed(cell, in_solution=number in solution)
        if cell.cell_type == "markdown":
            text = numbered(cell.source, source)
            cell.source = veiled(folded(text) if number in solution else text)
        seen[cell.source] += 1
        key = f"{cell.cell_type} {seen[cell.source]} {cell.source}"
        cell.id = hashlib.sha256(key.encode()).hexdigest()[:8]
    return notebook_of(cells, {"kernelspec": KERNEL, "language_info": LANGUAGE})


def notebook_of(cells: list[NotebookNode], metadata: dict[str, Any]) -> NotebookNode:
    """Return a notebook; nbformat itself is untyped."""
    notebook: NotebookNode = new_notebook(cells=cells, metadata=metadata)
    return notebook


def collapsed(cell: NotebookNode, *, in_solution: bool) -> dict[str, Any]:
    """Return the cell's metadata with what JupyterLab and Colab need to collapse the code that the book hides."""
    metadata = dict(cell.metadata)
    if cell.cell_type != "code":
        return metadata
    if in_solution or HIDDEN & set(metadata.get("tags", ())):
        metadata["jupyter"] = {"source_hidden": True} | ({"outputs_hidden": True} if in_solution else {})
        metadata["cellView"] = "form"
    return metadata


def opened(source: str, metadata: dict[str, Any], *, in_solution: bool) -> str:
    """Return code whose first line may be seen, as that of a collapsed cell is: no solution, and nothing too long."""
    if in_solution and not source.startswith(SAYS_LITTLE):
        return f"# Solution\n{source}"
    wide = len(source.partition("\n")[0]) > FOLDED_LINE
    return f"# Folded\n{source}" if wide and HIDDEN & set(metadata.get("tags", ())) else source


def gates(cells: list[NotebookNode]) -> Iterator[tuple[int, str, str]]:
    """Yield (cell number, "exercise" or "solution", "start" or "end") in the order of reading."""
    for number, cell in enumerate(cells):
        if cell.cell_type == "markdown":
            for match in GATE.finditer(cell.source):
                yield number, match["kind"], match["edge"]


def solutions(cells: list[NotebookNode]) -> set[int]:
    """Return the numbers of the cells from a solution's opening gate to its closing one.

    Raises
    ------
    ValueError
        If a gate opens inside another, or one does not close.
    """
    inside: set[int] = set()
    start: int | None = None
    for number, kind, edge in gates(cells):
        if kind != "solution":
            continue
        if (edge == "start") != (start is None):
            raise ValueError(f"Cell {number}: a solution {edge}s where none may. Solutions open, close and never nest.")
        if start is not None:
            inside |= set(range(start, number + 1))
        start = number if edge == "start" else None
    if start is not None:
        raise ValueError(
            f"Cell {start}: this solution does not end. Close it with a cell `:::{{solution-end}}`, `:::`."
        )
    return inside


def without_solutions(notebook: NotebookNode) -> NotebookNode:
    """Return a copy in which an empty cell stands in the place of each solution; other outputs stay."""
    removed = solutions(notebook.cells)
    cells: list[NotebookNode] = []
    for number, cell in enumerate(notebook.cells):
        if number not in removed:
            cells.append(cell)
        elif number - 1 not in removed or ("solution", "start") in {gate[1:] for gate in gates([cell])}:
            empty = new_code_cell("# Your answer")
            empty.id = f"answer-{number}"
            cells.append(empty)
    return notebook_of(cells, notebook.metadata)
