"""Make the notebooks that readers open: `python -m tools.notebooks build [--all] [SLUG …]`, `… students`."""

from __future__ import annotations

import argparse
import base64
import io
import os
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path

os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"  # this environment's kernel, not one in the home folder
os.environ.setdefault("OMP_NUM_THREADS", "1")

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode
from PIL import Image

from tools import status
from tools.chapters import NOTEBOOKS, STUDENTS, chapter, slugs, without_solutions
from tools.inputs import digest
from tools.rules import broken, first_cell

SECONDS = 120  # the longest that a chapter may run
COLOURS = 128  # of a stored PNG


def stored(slug: str) -> NotebookNode | None:
    """Return the committed notebook of a chapter, or None before its first execution."""
    path = NOTEBOOKS / f"{slug}.ipynb"
    return nbformat.read(path, as_version=4) if path.exists() else None


def code(notebook: NotebookNode) -> list[NotebookNode]:
    """Return the code cells."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def inputs(notebook: NotebookNode) -> str:
    """Return the hash of everything that a notebook's outputs depend on."""
    installing = first_cell()  # it names the release and changes no output: a release executes nothing anew
    return digest([cell.source for cell in code(notebook) if cell.source != installing])


def build(slug: str, *, again: bool = False) -> str:
    """Make `notebooks/<slug>.ipynb` from its source and return what was done.

    A chapter is executed if its code, the library's parts that it uses or its records changed; where only the text
    changed, the stored outputs are kept.
    """
    fresh, old = chapter(slug), stored(slug)
    fresh.metadata["pruning_lib"] = {"inputs": inputs(fresh)}
    before_it = old.metadata.get("pruning_lib", {}) if old is not None else {}
    if old is not None and not again and before_it.get("inputs") == inputs(fresh):
        fresh.metadata |= {key: old.metadata[key] for key in ("pruning_lib", "language_info") if key in old.metadata}
        for cell, before in zip(code(fresh), code(old), strict=True):
            cell.outputs, cell.execution_count = before.outputs, before.execution_count
        done = "is current" if content(fresh) == content(old) else "has new text around its stored outputs"
    else:
        seconds = execute(fresh)
        if seconds > SECONDS:
            raise SystemExit(f"{slug} ran for {seconds:.0f} s; a chapter may run for {SECONDS} s. Nothing was stored.")
        fresh.metadata["pruning_lib"] |= {"seconds": round(seconds), "versions": versions()}
        done = f"was executed in {seconds:.0f} s"
    nbformat.validate(fresh)
    write(fresh, NOTEBOOKS / f"{slug}.ipynb")
    return f"{slug} {done}"


def versions() -> dict[str, str]:
    """Return the versions that a chapter's outputs were made with."""
    return {"python": platform.python_version()} | {name: version(name) for name in ("torch", "numpy", "scikit-learn")}


def execute(notebook: NotebookNode) -> float:
    """Run all cells in place, in the folder of the notebooks, and return the seconds that it took."""
    client = NotebookClient(
        notebook,
        timeout=10 * SECONDS,
        kernel_name="python3",
        record_timing=False,
        extra_arguments=["--IPKernelApp.log_level=40"],  # else a line about sockets
        resources={"metadata": {"path": str(NOTEBOOKS)}},
    )
    start = time.perf_counter()
    client.execute()
    seconds = time.perf_counter() - start
    for number, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", ()):
            if output.get("name") == "stderr":
                raise SystemExit(f"Cell {number} wrote to stderr; chapters are quiet: {output.text.strip()[:300]}")
            if "image/png" in output.get("data", {}):
                output.data["image/png"] = reduced(output.data["image/png"])
    return seconds


def reduced(png: str) -> str:
    """Return a base64 PNG with a palette and without metadata: a third of the size, and the same bytes each time."""
    image = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB").quantize(COLOURS)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def content(notebook: NotebookNode) -> str:
    """Return the notebook as it stands in its file."""
    return str(nbformat.writes(notebook)).strip() + "\n"


def write(notebook: NotebookNode, path: Path) -> None:
    """Write a notebook whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_suffix(".part")
    half.write_text(content(notebook), encoding="utf-8")
    half.replace(path)


def students() -> None:
    """Write the copies without solutions, and no others."""
    for path in STUDENTS.glob("*.ipynb"):
        path.unlink()
    for slug in slugs():
        notebook = stored(slug)
        if notebook is None:
            raise SystemExit(f"{slug} was never executed. Run `make notebooks`.")
        write(without_solutions(notebook), STUDENTS / f"{slug}.ipynb")


def main() -> int:
    """Run one command; an unknown chapter or a failing cell ends with what happened and where."""
    parser = argparse.ArgumentParser(prog="python -m tools.notebooks", description=__doc__)
    parser.add_argument("command", choices=["build", "students"])
    parser.add_argument("slug", nargs="*", help="chapters to build; all unless named")
    parser.add_argument("--all", action="store_true", help="execute even what is current")
    options = parser.parse_args()
    if options.command == "students":
        students()
        return 0
    faults: list[str] = []
    for slug in options.slug or slugs():
        if slug not in slugs():
            raise SystemExit(f"There is no notebooks/text/{slug}.md. The chapters are {', '.join(slugs()) or 'none'}.")
        try:
            print(build(slug, again=options.all), flush=True)
        except CellExecutionError as error:
            raise SystemExit(f"{slug}: a cell failed, nothing was stored.\n{error}") from None
        shown = stored(slug)
        faults += [f"{slug}: {fault}" for fault in broken(shown)] if shown else []
    status.PAGE.write_text(status.page(), encoding="utf-8")
    print("\n".join(faults), end="\n" if faults else "", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
