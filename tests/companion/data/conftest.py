"""What tests of data sets share: a machine on which no data lies."""

from __future__ import annotations

from pathlib import Path

import pytest

from pruning_lib.companion.data import _files


@pytest.fixture
def no_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the cache be empty and the environment name no folder."""
    monkeypatch.setattr(_files, "CACHE", tmp_path / "nothing")
    monkeypatch.delenv("PRUNING_LIB_DATA", raising=False)
