"""For pytest: one thread a process, the library's tests by themselves, and notebooks' numbers under their tolerance."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before anything imports torch, and for the kernels of notebooks

import re
from pathlib import Path
from typing import Any

import pytest

from tools.compare import differences

AROUND = re.compile(r"^\s*(?:from|import) (?:benchmarks|experiments|tools|_ext|playwright|yaml)\b", re.MULTILINE)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--library`, for machines that lack what the book and the experiments need, such as Windows (`fcntl`)."""
    parser.addoption(
        "--library",
        action="store_true",
        help="only the files that test the library alone: they import nothing of benchmarks/, experiments/ or tools/",
    )


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out, before it is imported, a file that needs more than the library; None lets pytest decide."""
    if not config.getoption("--library") or collection_path.suffix != ".py":
        return None
    return bool(AROUND.search(collection_path.read_text(encoding="utf-8"))) or None


def pytest_itemcollected(item: pytest.Item) -> None:
    """Compare a notebook cell's numbers under the tolerance in its metadata; nbval alone, lax, compares nothing."""
    cell = getattr(item, "cell", None)
    named = cell.metadata.get("numbers") if cell is not None else None
    if not isinstance(named, dict):
        return

    def compare_outputs(new: Any, stored: Any, skip_compare: Any = None) -> bool:
        item.comparison_traceback = list(differences(stored, new, named))  # type: ignore[attr-defined]
        return not item.comparison_traceback  # type: ignore[attr-defined]

    item.options["check"] = True  # type: ignore[attr-defined]
    item.compare_outputs = compare_outputs  # type: ignore[attr-defined]
