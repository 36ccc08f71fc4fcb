"""The preface's minutes are those that the chapters state, and its promise is their sum."""

import re
from pathlib import Path

import pytest

BOOK = Path(__file__).parents[1]
PREFACE = (BOOK / "book" / "preface.md").read_text()
ROWS = dict(re.findall(r"\]\(\.\./notebooks/([\w-]+)\.ipynb\) \|[^|]*\| (\d+) \|", PREFACE))
TENS = {"twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90}
HOURS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
HOURS += ["thirteen", "fourteen", "fifteen", "sixteen"]


def minutes(said: str) -> int:
    """Return 45 for "45" and for "forty-five"."""
    ten, _, five = said.lower().partition("-")
    return int(said) if said.isdigit() else TENS[ten] + 5 * (five == "five")


@pytest.mark.parametrize("slug", ROWS)
def test_a_chapter_takes_as_long_as_the_preface_says(slug: str) -> None:
    text = (BOOK / "notebooks" / "text" / f"{slug}.md").read_text()
    stated = re.search(r"\*\*Time\.\*\*\s+(?:About\s+)?([\w-]+)\s+minutes", text)
    assert stated, f"{slug} states no minutes after **Time.**"
    assert minutes(stated[1]) == int(ROWS[slug])


def test_the_promised_hours_are_the_sum_of_the_minutes() -> None:
    hours = HOURS[round(sum(map(int, ROWS.values())) / 60)]
    for page in ("book/preface.md", "README.md"):
        promise = (BOOK / page).read_text().split("**")[1]
        assert re.search(rf"\b{hours} hours\b", promise), f"{page} does not promise {hours} hours"


def test_the_preface_names_every_chapter_and_no_other() -> None:
    contents = re.findall(r"file: notebooks/([\w-]+)", (BOOK / "_toc.yml").read_text())
    assert list(ROWS) == contents
