"""Put what only the book understands into HTML comments, so that JupyterLab and Colab do not show it raw, and back.

The gates of exercises and solutions, and the labels of equations and sections, are veiled in the stored notebook. The
prose of a solution is folded: no metadata of a cell would do that, and in the book the solution's box does it.
`_ext/offline_site.py` unveils and unfolds them when the book is built.
"""

from __future__ import annotations

import re

GATE = re.compile(r"^:::+\{(exercise|solution)-(start|end)\}.*?^:::+$", re.MULTILINE | re.DOTALL)
EQUATION = re.compile(r"(?<=\$\$) (\([\w-]+\))$", re.MULTILINE)
TARGET = re.compile(r"^(\([\w-]+\)=)$", re.MULTILINE)
FOLD = "<details>\n<summary>Show the solution</summary>\n\n{}\n\n</details>"
FOLDED = re.compile(rf"^{FOLD.format('(.*)')}$", re.DOTALL)
VEIL = re.compile(r"<!--(\s)(:::.*?|\([\w-]+\)=?)\1-->(?:\n\n\*\*Solution\*\*)?", re.DOTALL)


def veiled(source: str) -> str:
    """Return a Markdown cell as it is stored; a solution says so in words."""
    source = GATE.sub(lambda gate: f"<!--\n{gate[0]}\n-->{_said(gate)}", source)
    return TARGET.sub(r"<!-- \1 -->", EQUATION.sub(r" <!-- \1 -->", source))


def folded(source: str) -> str:
    """Return the prose of a solution, closed until a reader opens it; gates stay as they are."""
    return source if GATE.search(source) or not source.strip() else FOLD.format(source)


def _said(gate: re.Match[str]) -> str:
    return "\n\n**Solution**" if gate[1] == "solution" and gate[2] == "start" else ""


def unveiled(source: str) -> str:
    """Return a Markdown cell as its author wrote it."""
    return VEIL.sub(r"\2", FOLDED.sub(r"\1", source))
