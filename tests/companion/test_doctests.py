"""The examples in the docstrings of records and verdicts are run, and give what they say."""

from __future__ import annotations

import doctest

import pytest

from pruning_lib.companion.records import _files, _rows, _schema, _statistics
from pruning_lib.companion.verdicts import _claims, _reason, _welch


@pytest.mark.parametrize(
    "module", [_files, _rows, _schema, _statistics, _claims, _reason, _welch], ids=lambda it: it.__name__
)
def test_examples_are_exact(module: object) -> None:
    result = doctest.testmod(module)  # type: ignore[arg-type]
    assert result.failed == 0
    assert result.attempted > 0
