"""Put what only the book understands into HTML comments, so that JupyterLab and Colab do not show it raw, and back.

The gates of exercises and solutions, and the labels of equations and sections, are veiled in the stored notebook;
`_ext/offline_site.py` unveils them when the book is built.
"""

from __future__ import annotations

import re

GATE = re.compile(r"^:::+\{(exercise|solution)-(start|end)\}.*?^:::+$", re.MULTILINE | re.DOTALL)
EQUATION = re.compile(r"(?<=\$\$) (\([\w-]+\))$", re.MULTILINE)
TARGET = re.compile(r"^(\([\w-]+\)=)$", re.MULTILINE)
VEIL = re.compile(r"<!--(\s)(:::.*?|\([\w-]+\)=?)\1-->(?:\n\n\*\*Solution\*\*)?", re.DOTALL)


def veiled(source: str) -> str:
    """Return a Markdown cell as it is stored; a solution says so in words."""
    source = GATE.sub(lambda gate: f"<!--\n{gate[0]}\n-->{_said(gate)}", source)
    return TARGET.sub(r"<!-- \1 -->", EQUATION.sub(r" <!-- \1 -->", source))


def _said(gate: re.Match[str]) -> str:
    return "\n\n**Solution**" if gate[1] == "solution" and gate[2] == "start" else ""


def unveiled(source: str) -> str:
    """Return a Markdown cell as its author wrote it."""
    return VEIL.sub(r"\2", source)
