"""The rules that CONTRIBUTING.md gives for a chapter, one function each; `make notebooks` and the tests apply them."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from nbformat import NotebookNode

from tools.chapters import ROOT, gates, solutions

BYTES = 500_000  # of a stored notebook
MEASURED = re.compile(r"±\s*\d|\d+\.\d+\s*(?:\\?%|percent|×|times\b|ms\b|µs\b|s\b|seconds\b|points\b)")
UNREAD = re.compile(r"^```.*?^```|`[^`\n]*`|\$\$.*?\$\$|\$[^$\n]*\$|^\|.*$|\]\([^)]*\)", re.MULTILINE | re.DOTALL)
OWN_PATH = re.compile(r"(?<![\w.:/])/(?:home|tmp|root|Users|work|mnt|content)/[\w.]|[A-Z]:\\\\?Users")
ADDRESS = re.compile(r" at 0x[0-9a-f]{6,}")
ROLE = re.compile(r"(?<!`)\{[a-z:]+\}`[^`]")
LABEL = re.compile(r"^:label:\s*(\S+)", re.MULTILINE)

Rule = Callable[[NotebookNode], Iterator[str]]


def broken(notebook: NotebookNode) -> list[str]:
    """Return one sentence for each breach of a rule, with the number of the cell."""
    return [fault for rule in RULES for fault in rule(notebook)]


def cells(notebook: NotebookNode, kind: str) -> Iterator[tuple[int, NotebookNode]]:
    """Yield (number, cell) for the cells of one type."""
    yield from ((number, cell) for number, cell in enumerate(notebook.cells) if cell.cell_type == kind)


def data(cell: NotebookNode) -> Iterator[dict[str, Any]]:
    """Yield the MIME bundle of each output."""
    yield from (output.data for output in cell.outputs if "data" in output)


def starts_by_installing_what_is_missing(notebook: NotebookNode) -> Iterator[str]:
    """Expect the first code cell that CONTRIBUTING.md gives."""
    first = next((cell.source for _, cell in cells(notebook, "code")), "")
    if first != first_cell():
        yield "The first code cell is not the one that CONTRIBUTING.md gives."


def first_cell() -> str:
    """Return the code of the first cell, as CONTRIBUTING.md has it."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    found = re.search(r"^:tags: \[remove-cell\]\n\n(.*?)\n```", text, re.MULTILINE | re.DOTALL)
    return found[1] if found else ""


def describes_its_figures(notebook: NotebookNode) -> Iterator[str]:
    """Expect alt text for each picture, in the cell's metadata or, inside HTML, on the image; one picture a cell."""
    for number, cell in cells(notebook, "code"):
        pictures = sum("image/png" in bundle for bundle in data(cell))
        about = cell.metadata.get("mystnb", {})
        alt = about.get("image", {}).get("alt", "")
        if pictures > 1:
            yield f"Cell {number} draws {pictures} pictures; one a cell, so that each has its own alt text."
        if pictures and len(alt) < 20:
            yield f"Cell {number} draws a picture without alt text (metadata mystnb.image.alt)."
        if "figure" in about and not str(about["figure"].get("name", "")).startswith("fig-"):
            yield f"Cell {number}: a figure needs a name that begins with fig-."
        for bundle in data(cell):
            for image in re.findall(r"<img\b[^>]*>", bundle.get("text/html", "")):
                if not re.search(r"\balt=\"[^\"]{20,}\"", image):
                    yield f"Cell {number} shows HTML with an image without alt text."


def compares_its_numbers(notebook: NotebookNode) -> Iterator[str]:
    """Expect of a sentence made by code the tolerance under which its numbers are compared."""
    for number, cell in cells(notebook, "code"):
        named = cell.metadata.get("numbers")
        if named is None:
            exact = "nbval-check-output" in cell.metadata.get("tags", ())
            sentence = any(re.search(r"\d", bundle.get("text/markdown", "")) for bundle in data(cell))
            if sentence and not exact:
                yield f"Cell {number} shows a sentence with digits; it needs `numbers` or the tag nbval-check-output."
        elif named != "shown" and not is_tolerance(named):
            yield f"Cell {number}: numbers is {named!r}; should be 'shown', or {{rel: …}}, {{abs: …}} or both."


def is_tolerance(named: object) -> bool:
    """Return whether this is a mapping with non-negative rel or abs."""
    if not isinstance(named, dict) or not named or not named.keys() <= {"rel", "abs"}:
        return False
    return all(isinstance(value, int | float) and value >= 0 for value in named.values())


def types_no_results(notebook: NotebookNode) -> Iterator[str]:
    """Expect results, decimals with a unit, to come from code; tables may hold published ones."""
    for number, cell in enumerate(notebook.cells):
        about = cell.metadata.get("mystnb", {})
        prose = cell.source if cell.cell_type == "markdown" else str(about.get("figure", {}).get("caption", ""))
        for match in MEASURED.finditer(UNREAD.sub(" ", prose)):
            yield f"Cell {number} types the result '{match[0]}'; let code write it, or cite it in a table."


def shows_what_it_removes_nowhere(notebook: NotebookNode) -> Iterator[str]:
    """Expect no output of a cell that the book leaves out: it may check and prepare, and a reader must not miss it."""
    for number, cell in cells(notebook, "code"):
        if "remove-cell" in cell.metadata.get("tags", ()) and cell.outputs:
            yield f"Cell {number} is left out of the book (remove-cell) and shows something; use remove-input instead."


def uses_no_roles(notebook: NotebookNode) -> Iterator[str]:
    """Expect links instead of MyST roles, which JupyterLab and Colab show raw."""
    for number, cell in cells(notebook, "markdown"):
        for match in ROLE.finditer(cell.source):
            yield f"Cell {number} uses the role {match[0][:-1]}…; write a link, [text](#label), instead."


def is_quiet(notebook: NotebookNode) -> Iterator[str]:
    """Expect nothing on stderr, no path of one machine, no memory address."""
    for number, cell in enumerate(notebook.cells):
        outputs = cell.get("outputs", [])
        if any(output.get("name") == "stderr" for output in outputs):
            yield f"Cell {number} wrote to stderr."
        shown = [{key: value for key, value in bundle.items() if key != "image/png"} for bundle in _bundles(outputs)]
        everything = cell.source + json.dumps(shown, ensure_ascii=False)
        for pattern, what in ((OWN_PATH, "a path of one machine"), (ADDRESS, "a memory address")):
            match = pattern.search(everything)
            if match:
                yield f"Cell {number} holds {what}: {match[0]}."


def _bundles(outputs: Iterable[Any]) -> Iterator[dict[str, Any]]:
    for output in outputs:
        yield output.get("data", {"text": output.get("text", "")})


def solves_its_exercises(notebook: NotebookNode) -> Iterator[str]:
    """Expect gates in pairs, a solution for each exercise, and no later cell that reads a solution's names."""
    labels: dict[str, set[str]] = {"exercise": set(), "solution": set()}
    depth = 0
    for number, kind, edge in gates(notebook.cells):
        depth += 1 if edge == "start" else -1
        if depth not in (0, 1):
            yield f"Cell {number}: a gate of an {kind} {edge}s where none may."
            return
        if edge == "start":
            source = notebook.cells[number].source
            names = LABEL.findall(source) if kind == "exercise" else re.findall(r"\{solution-start\}\s*(\S+)", source)
            labels[kind] |= set(names)
    for name in sorted(labels["exercise"] ^ labels["solution"]):
        yield f"The exercise {name} lacks its solution, or the other way round."
    inside = solutions(notebook.cells)
    made = set[str]()
    for number, cell in cells(notebook, "code"):
        if number in inside:
            made |= bound(cell.source)
        else:
            for name in sorted((made & read(cell.source)) - bound(cell.source)):
                yield f"Cell {number} reads {name}, which a solution made; students have no solution."
            made -= bound(cell.source)


def bound(code: str) -> set[str]:
    """Return the names that the code binds outside functions and classes."""
    names: set[str] = set()
    waiting: list[ast.AST] = [ast.parse(code)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
            continue
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        if isinstance(node, ast.alias):
            names.add((node.asname or node.name).split(".")[0])
        if not isinstance(node, ast.Lambda | ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp):
            waiting += ast.iter_child_nodes(node)
    return names


def read(code: str) -> set[str]:
    """Return the names that the code reads."""
    nodes = ast.walk(ast.parse(code))
    return {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}


RULES: tuple[Rule, ...] = (
    starts_by_installing_what_is_missing,
    describes_its_figures,
    compares_its_numbers,
    types_no_results,
    shows_what_it_removes_nowhere,
    uses_no_roles,
    is_quiet,
    solves_its_exercises,
)
