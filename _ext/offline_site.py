"""Make the site whole without a network: MathJax from the environment, one search box, style sheets without imports.

And finish its pages: numbers that stay with their unit, formulas with the comma behind them, links to equations that
keep their words.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.transforms.post_transforms import SphinxPostTransform

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the repository's root, for tools
from tools.veil import uncaptioned, unveiled

MINUS = r"(?<=[\s(])-(?=\d)"  # the sign of a number, behind a space or a bracket
KEEP = ("tex-chtml-full.js", "output/chtml/fonts/")  # 1.8 MB of MathJax's 24


def one_search_box(app: Any, config: Any) -> None:
    """Leave the search to the sidebar; the theme would add a second box on top."""
    config.html_theme_options.setdefault("navbar_persistent", [])


def unveil(app: Any, name: str, text: list[str]) -> None:
    """Bring back the gates and labels that a stored notebook keeps in comments, and leave captions to Sphinx."""
    if app.env.doc2path(name).endswith(".ipynb"):
        notebook = json.loads(text[0])
        for cell in notebook["cells"]:
            if cell["cell_type"] == "markdown":
                cell["source"] = unveiled("".join(cell["source"]))
            elif cell["cell_type"] == "code":
                uncaptioned(cell)
        text[0] = json.dumps(notebook)


def house_style(app: Any, kind: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Let docstrings be written for the eye: `|w|` is an absolute value, an indented block a formula as it stands.

    What a module says of itself is for those who read its source; the page introduces it in words of its own.
    """
    if kind in ("module", "package"):
        lines.clear()
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


class WordedEquations(SphinxPostTransform):
    """Keep the words of a link to an equation, where Sphinx would put its number in their place."""

    default_priority = 8  # before MyST resolves its links, at 9

    def run(self, **kwargs: Any) -> None:
        """Resolve them; a link whose words are a number in brackets is left to Sphinx, which knows the chapter's."""
        equations = self.env.get_domain("math").equations  # type: ignore[attr-defined]
        for link in list(self.document.findall(pending_xref)):
            target = link.get("reftarget")
            if target not in equations or link.get("reftype") != "myst" or not link.get("refexplicit"):
                continue
            if not re.fullmatch(r"\([\d.]+\)|\s*", link.astext()):
                page = self.app.builder.get_relative_uri(self.env.docname, equations[target][0])
                address = f"{page}#equation-{target}"
                link.replace_self(nodes.reference("", "", *link.children, internal=True, refuri=address))


def finished(html: str) -> str:
    """Return a page on which, code aside, what belongs together stays on one line; no list is without items.

    So do `1.2 ± 0.3`, `50 %`, `6e-15`, and a formula with the bracket before it and the comma behind it. In tables, the
    sign of a number is a minus.
    """
    parts = re.split(r"(<(pre|script|code)\b.*?</\2>|<[^>]*>)", html, flags=re.DOTALL)
    del parts[2::3]  # the names of these elements
    table = False
    for i, part in enumerate(parts):
        if i % 2:
            table = part.startswith("<table") or (table and part != "</table>")
        elif i == 0 or 'class="math' not in parts[i - 1]:
            part = re.sub(r"(?<=\d) (?=[%±×])|(?<=[±≤≥×]) (?=\d)|(?<=&lt;) (?=\d)", "\u00a0", part)
            part = re.sub(r"(?<=\b\w) (?==)|(?<= =) (?=[\d½])", "\u00a0", part)
            part = re.sub(r"\bpruning_lib\.(?:_\w+\.)+", "pruning_lib.", part)  # where a public name is imported from
            if table:
                first = re.match(r"<(td|th|p|strong)\b", parts[i - 1])  # or at the start of a cell
                part = re.sub(MINUS + r"|^-(?=\d)" if first else MINUS, "\u2212", part)
            parts[i] = re.sub(r"\b\d[\d.]*e-\d+", r'<span class="whole">\g<0></span>', part)
    whole = "".join(parts).replace('role="list" class="citation-list"', 'class="citation-list"')  # docutils has it so
    formula = r'\(?<span class="math notranslate nohighlight">[^<]*</span>[.,;:!?)’]*'
    return re.sub(
        formula,
        lambda it: it[0] if it[0][-1] == ">" and it[0][0] == "<" else f'<span class="whole">{it[0]}</span>',
        whole,
    )


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
        if page.parent.name == "tables":
            html = html.replace('<table class="table"', '<table class="table measured"')
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
    app.add_post_transform(WordedEquations)
    app.connect("build-finished", finish)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
