"""Put what only the book understands into HTML comments, so that JupyterLab and Colab do not show it raw, and back.

The gates of exercises and solutions, and the labels of equations and sections, are veiled in the stored notebook.
There, an equation that the text cites by its number bears it, and the cell of a figure shows its caption; in the book
Sphinx does both. The prose of a solution is folded: no metadata of a cell would do that, and in the book the solution's
box does it.
`_ext/offline_site.py` unveils and unfolds them when the book is built.
"""

from __future__ import annotations

import re
from typing import Any

GATE = re.compile(r"^:::+\{(exercise|solution)-(start|end)\}.*?^:::+$", re.MULTILINE | re.DOTALL)
EQUATION = re.compile(r"(?<=\$\$) (\([\w-]+\))$", re.MULTILINE)
CITED = re.compile(r"\[\((\d+)\)\]\(#(eq-[\w-]+)\)")
TAG = re.compile(r"\\tag\{\d+\}\n(?=\$\$ (?:<!-- )?\([\w-]+\))")
TARGET = re.compile(r"^(\([\w-]+\)=)$", re.MULTILINE)
CAPTION = re.compile(r"\nplotting\.caption\(.*\)$")
FOLD = "<details>\n<summary>Show the solution</summary>\n\n{}\n\n</details>"
FOLDED = re.compile(rf"^{FOLD.format('(.*)')}$", re.DOTALL)
VEIL = re.compile(r"<!--(\s)(:::.*?|\([\w-]+\)=?)\1-->(?:\n\n\*\*Solution\*\*)?", re.DOTALL)


def veiled(source: str) -> str:
    """Return a Markdown cell as it is stored; a solution says so in words."""
    source = GATE.sub(lambda gate: f"<!--\n{gate[0]}\n-->{_said(gate)}", source)
    return TARGET.sub(r"<!-- \1 -->", EQUATION.sub(r" <!-- \1 -->", source))


def numbered(source: str, chapter: str) -> str:
    """Return a Markdown cell in which each equation that the chapter cites as `[(n)](#label)` bears this number."""
    for number, label in dict.fromkeys(CITED.findall(chapter)):
        source = source.replace(f"\n$$ ({label})", f"\n\\tag{{{number}}}\n$$ ({label})")
    return source


def captioned(source: str, metadata: dict[str, Any]) -> str:
    """Return the code of a cell, which shows the caption of its figure, if it has one."""
    caption = metadata.get("mystnb", {}).get("figure", {}).get("caption")
    return f"{source}\nplotting.caption({caption.strip()!r})" if caption else source


def uncaptioned(cell: dict[str, Any]) -> None:
    """Take the caption out of the code and the outputs of a stored cell."""
    source = "".join(cell["source"])
    cell["source"] = CAPTION.sub("", source)
    if cell["source"] != source:
        cell["outputs"] = [
            it for it in cell["outputs"] if "figure-caption" not in str(it.get("data", {}).get("text/html"))
        ]


def folded(source: str) -> str:
    """Return the prose of a solution, closed until a reader opens it; gates stay as they are."""
    return source if GATE.search(source) or not source.strip() else FOLD.format(source)


def _said(gate: re.Match[str]) -> str:
    return "\n\n**Solution**" if gate[1] == "solution" and gate[2] == "start" else ""


def unveiled(source: str) -> str:
    """Return a Markdown cell as its author wrote it."""
    return TAG.sub("", VEIL.sub(r"\2", FOLDED.sub(r"\1", source)))
