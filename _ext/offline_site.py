"""Make the site whole without a network: MathJax from the environment, one search box, style sheets without imports."""

from __future__ import annotations

import re
import shutil
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

KEEP = ("tex-chtml-full.js", "output/chtml/fonts/")  # 1.8 MB of MathJax's 24


def one_search_box(app: Any, config: Any) -> None:
    """Leave the search to the sidebar; the theme would add a second box on top."""
    config.html_theme_options.setdefault("navbar_persistent", [])


def plain_bars(app: Any, kind: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Let `|w|` in a docstring be an absolute value; reStructuredText would look for a substitution."""
    for number, line in enumerate(lines):
        parts = re.split(r"(`+[^`]*`+)", line)
        lines[number] = "".join(part if part.startswith("`") else part.replace("|", r"\|") for part in parts)


def finish(app: Any, error: Exception | None) -> None:
    """Copy MathJax into the site and write out the import in the theme's style sheet."""
    if error is not None or app.builder.format != "html":
        return
    static = Path(app.outdir) / "_static"
    for file in distribution("sphinx-mathjax-offline").files or ():
        _, _, name = file.as_posix().partition("static/mathjax/")
        if name.startswith(KEEP):
            target = static / "mathjax" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(str(file.locate()), target)
    css = static / "styles" / "theme.css"
    css.write_text(css.read_text().replace('@import "../basic.css";', (static / "basic.css").read_text()))


def setup(app: Any) -> dict[str, bool]:
    """Connect to Sphinx."""
    app.connect("config-inited", one_search_box)
    app.connect("autodoc-process-docstring", plain_bars)
    app.connect("build-finished", finish)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
