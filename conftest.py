"""For notebooks under pytest: one thread a process, and numbers compared under the tolerance that a cell names."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before anything imports torch, and for the kernels of notebooks

from typing import Any

import pytest

from tools.compare import differences


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
