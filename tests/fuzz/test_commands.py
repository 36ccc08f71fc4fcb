"""Some dozen command lines that cannot be done as they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.suites import SUITES
from tests.fuzz import commands


def test_no_command_line_ends_in_a_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert commands.SUITE in SUITES
    assert [each for each in commands.fuzz(90, 0, tmp_path) if each.outcome == "faulty"] == []
