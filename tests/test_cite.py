"""What the book asks to be cited is what CITATION.cff says, and the papers are those of the bibliography."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "book" / "cite.md").read_text(encoding="utf-8")


def fields(entry: str) -> dict[str, str]:
    """Return the fields of one BibTeX entry, without the braces around a whole value."""
    found = re.findall(r"^\s*(\w+)\s*=\s*\{(.*)\},?$", entry, re.MULTILINE)
    return {key: value.removeprefix("{").removesuffix("}") for key, value in found}


def test_the_entry_says_what_the_citation_file_says() -> None:
    entry = re.search(r"```bibtex\n(@software\{.*?)```", PAGE, re.DOTALL)
    assert entry is not None
    citation: dict[str, Any] = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert fields(entry[1]) == {
        "author": " and ".join(author["name"] for author in citation["authors"]),
        "title": citation["title"],
        "version": citation["version"],
        "license": citation["license"],
        "url": citation["repository-code"],
    }


def test_the_entries_shown_are_those_of_the_four_papers() -> None:
    stop = re.search(r':end-before: "(.*)"', PAGE)
    assert stop is not None
    shown = (ROOT / "book" / "references.bib").read_text(encoding="utf-8").partition(stop[1])
    assert shown[1], "the bibliography has no such line"
    assert re.findall(r"^@\w+\{(\w+),", shown[0], re.MULTILINE) == ["serene", "rni", "stochastic", "guided"]
    papers = re.findall(r"^\| `\w+` \| \{cite:t\}`(\w+)`", PAGE, re.MULTILINE)
    assert sorted(papers) == ["guided", "rni", "serene", "stochastic"]
