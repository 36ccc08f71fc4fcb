"""The page of the book that says of every chapter and suite when and how it ran; `make notebooks` writes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from experiments.suites import SUITES
from tools.chapters import NOTEBOOKS, ROOT

PAGE = ROOT / "book" / "status.md"
HEAD = """# Status of the chapters

Every chapter is executed from its first cell to its last before it is stored, and again by the tests. This page is
written from what the notebooks hold. *Seconds*: one run on one thread of a processor, exercises and solutions included.
*Cells*: of code. *Exercises*: all with solutions, which ran too.

| chapter | seconds | cells | figures | exercises | kB | Python | torch | NumPy |
|---|---:|---:|---:|---:|---:|---|---|---|
"""
RECORDS = """
## Records

Runs whose records the chapters read; [how to make them again](running.md). Core-hours leave out what an interrupted run
did before it was started for the last time. *Seeds*: of the method that has fewest, and most.

| suite | runs | seeds | core-hours | torch |
|---|---:|---:|---:|---|
"""

MISSING = """

## Runs without a record

What computing time has not allowed yet. Chapters call it *not tested here*, or do with the seeds there are.

| suite | about | runs missing |
|---|---|---:|
"""
RECORDED = ROOT / "experiments" / "records"


def page() -> str:
    """Return the page as Markdown."""
    chapters = "\n".join(chapter(path) for path in in_order())
    folders = sorted(path for path in RECORDED.glob("*") if path.is_dir())
    suites = {
        folder.name: [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")]
        for folder in folders
    }
    lines = [suite(name, records) for name, records in suites.items()]
    runs, hours = sum(map(len, suites.values())), sum(map(core_hours, suites.values()))
    total = f"\n| all | {runs:,} | | {hours:.1f} | |"
    return HEAD + chapters + "\n" + RECORDS + "\n".join(lines) + total + MISSING + missing()


def in_order() -> list[Path]:
    """Return the stored notebooks in the order of the table of contents, others after them."""
    toc = (ROOT / "_toc.yml").read_text(encoding="utf-8")
    return sorted(
        NOTEBOOKS.glob("*.ipynb"),
        key=lambda path: (found if (found := toc.find(f"/{path.stem}\n")) >= 0 else len(toc), path.stem),
    )


def chapter(path: Path) -> str:
    """Return a notebook's line."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    texts = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "markdown"]
    title = next(text for text in texts if text.startswith("# ")).splitlines()[0][2:]
    about: dict[str, Any] = notebook["metadata"]["pruning_lib"]
    versions = about.get("versions", {})
    cells = [
        f"[{title}](../notebooks/{path.name})",
        about.get("seconds", ""),
        len(code),
        sum("image/png" in output.get("data", {}) for cell in code for output in cell["outputs"]),
        sum("{exercise-start}" in text or "```{exercise}" in text for text in texts),
        round(path.stat().st_size / 1000),
        *(versions.get(name, "") for name in ("python", "torch", "numpy")),
    ]
    return f"| {' | '.join(map(str, cells))} |"


def suite(name: str, records: list[dict[str, Any]]) -> str:
    """Return a suite's line."""
    seeds: dict[tuple[str, ...], set[int]] = {}
    for config in (record["config"] for record in records):
        case = tuple(str(config.get(key)) for key in ("recipe", "method", "strength", "target"))
        seeds.setdefault(case, set()).add(config["seed"])
    few, many = min(map(len, seeds.values())), max(map(len, seeds.values()))
    torch = ", ".join(sorted({record["provenance"]["torch"] for record in records}))
    range_of = f"{few}" if few == many else f"{few} to {many}"
    return f"| `{name}` | {len(records)} | {range_of} | {core_hours(records):.1f} | {torch} |"


def core_hours(records: list[dict[str, Any]]) -> float:
    """Return how long the runs took on one core each."""
    seconds: float = sum(record["provenance"]["seconds"] for record in records)
    return seconds / 3600


def missing() -> str:
    """Return a line for each suite that is not whole; that of the tests stays out."""
    lines = []
    for name, it in SUITES.items():
        runs = it.by_name()
        left = sum(not (RECORDED / name / f"{run}.json").exists() for run in runs)
        if left and not name.startswith("digits-tiny"):
            lines.append(f"| `{name}` | {it.title} | {left} of {len(runs)} |\n")
    return "".join(lines)
