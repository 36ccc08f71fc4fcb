"""Quick checks: what a reader is told, and that the source does not tell the answer."""

from __future__ import annotations

import pytest

from pruning_lib.companion import checks


@pytest.mark.parametrize(
    ("answer", "said"),
    [(..., checks.OPEN), ("b", "Right."), (" B ", "Right."), ("a", "Not yet. Look."), (2, "Not yet. Look.")],
)
def test_an_option_is_compared_by_its_hash(answer: object, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    checks.option(answer, checks.hashed("b"), "Look.")
    assert capsys.readouterr().out == said + "\n"


@pytest.mark.parametrize(
    ("answer", "said"),
    [(..., checks.OPEN), ((16, 8), "Right."), ([16, 8], "Right."), ((8, 16), "Not yet. Look."), (16, "Not yet. Look.")],
)
def test_sizes_are_compared_in_their_order(answer: object, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    checks.sizes(answer, (16, 8), "Look.")
    assert capsys.readouterr().out == said + "\n"


@pytest.mark.parametrize(
    ("answer", "said"),
    [(..., checks.OPEN), (11, "Right."), (10.5, "Right."), (9.9, "Not yet. Look."), ("11", "Not yet. Look.")],
)
def test_a_number_may_lie_within_a_share(answer: object, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    checks.number(answer, 11.0, "Look.", rel=0.05)
    assert capsys.readouterr().out == said + "\n"
