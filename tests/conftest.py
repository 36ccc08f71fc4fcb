"""What tests share: real data, or a clear skip."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

import pytest


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
