"""Some dozen damaged files of every kind: read exactly, or refused in a sentence."""

from __future__ import annotations

from pathlib import Path

from tests.fuzz import files


def test_a_damaged_file_is_read_exactly_or_refused_in_a_sentence(tmp_path: Path) -> None:
    tries = list(files.fuzz(8 * len(files.CASES), 0, tmp_path))
    assert [each for each in tries if each.outcome == "faulty"] == []
    assert {each.case for each in tries} == {case.name for case in files.CASES}
