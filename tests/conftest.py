"""What all tests share: one thread a process, real data or a clear skip, and numbers of notebooks under a tolerance."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before anything imports torch, and for the kernels of notebooks

from pathlib import Path
from typing import Any, NoReturn

import pytest

from tools.compare import differences

ROOT = Path(__file__).resolve().parents[1]


def unavailable(what: str) -> NoReturn:
    """Skip the test by name; in CI, where everything has to be there, fail it."""
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(f"{what} In CI this is a failure, elsewhere a skip.", pytrace=False)
    pytest.skip(what)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Return the folder of real data that `PRUNING_LIB_DATA` names; it holds mnist/, fashion-mnist/ and others."""
    named = os.environ.get("PRUNING_LIB_DATA")
    if not named or not Path(named).is_dir():
        unavailable("PRUNING_LIB_DATA names no folder of real data.")
    return Path(named)


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
