"""Make the site whole without a network: MathJax from the environment, one search box, style sheets without imports.

And finish its pages: numbers that stay with their unit.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the repository's root, for tools
from tools.veil import unveiled

KEEP = ("tex-chtml-full.js", "output/chtml/fonts/")  # 1.8 MB of MathJax's 24


def one_search_box(app: Any, config: Any) -> None:
    """Leave the search to the sidebar; the theme would add a second box on top."""
    config.html_theme_options.setdefault("navbar_persistent", [])


def unveil(app: Any, name: str, text: list[str]) -> None:
    """Bring back the gates and labels that a stored notebook keeps in comments."""
    if app.env.doc2path(name).endswith(".ipynb"):
        notebook = json.loads(text[0])
        for cell in notebook["cells"]:
            if cell["cell_type"] == "markdown":
                cell["source"] = unveiled("".join(cell["source"]))
        text[0] = json.dumps(notebook)


def house_style(app: Any, kind: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Let docstrings be written for the eye: `|w|` is an absolute value, an indented block a formula as it stands."""
    written: list[str] = []
    literal = False
    last = ""  # line with something on it
    for line in lines:
        indented = line.startswith("    ")
        if indented and not literal and not written[-1:][0].strip() and not last.startswith((" ", "..", ":", "-", "*")):
            written += ["::", ""]
            literal = True
        elif line.strip() and not indented:
            literal = False
        parts = [line] if literal else re.split(r"(`+[^`]*`+)", line)
        written.append("".join(part if literal or part[:1] == "`" else part.replace("|", r"\|") for part in parts))
        last = line if line.strip() else last
    lines[:] = written


def without_bare_attributes(app: Any, kind: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Leave out attributes without docstring: the class's parameters describe them."""
    return True if getattr(obj, "type", "") in ("attribute", "property") and not getattr(obj, "docstring", "") else None


def modules_first(app: Any) -> None:
    """Let `pruning_lib.select` be the module for autoapi, not the function of that name in the package."""
    modules = {name: found for name, found in app.env.autoapi_objects.items() if found.type in ("module", "package")}
    app.env.autoapi_all_objects.update(modules)
    for package in modules.values():
        package.children[:] = [child for child in package.children if child.id not in modules]


def finished(html: str) -> str:
    """Return a page in whose text, code aside, `1.2 ± 0.3` and `50 %` stay on one line; no list is without items."""
    parts = re.split(r"(<(?:pre|script)\b.*?</(?:pre|script)>|<[^>]*>)", html, flags=re.DOTALL)
    parts[::2] = [re.sub(r"(?<=\d) (?=%)|(?<=\d) (?=±)|(?<=±) (?=\d)", "\u00a0", part) for part in parts[::2]]
    return "".join(parts).replace('role="list" class="citation-list"', 'class="citation-list"')  # docutils has it so


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
    for page in Path(app.outdir).rglob("*.html"):
        html = page.read_text(encoding="utf-8")
        page.write_text(finished(html), encoding="utf-8")
    css = static / "styles" / "theme.css"
    css.write_text(css.read_text().replace('@import "../basic.css";', (static / "basic.css").read_text()))


def setup(app: Any) -> dict[str, bool]:
    """Connect to Sphinx."""
    app.connect("config-inited", one_search_box)
    app.connect("source-read", unveil)
    app.connect("builder-inited", modules_first, priority=900)  # after autoapi has read the library
    app.connect("autodoc-process-docstring", house_style, priority=400)  # before numpydoc, at 500
    app.connect("autoapi-skip-member", without_bare_attributes)
    app.connect("autodoc-skip-member", without_bare_attributes)
    app.connect("build-finished", finish)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
