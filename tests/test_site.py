"""The built site, as a reader's browser has it: two widths, two themes, no network."""

from __future__ import annotations

import functools
import os
import re
import shutil
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright

from _ext.offline_site import finished
from tests.conftest import unavailable
from tools.home import COLAB

pytestmark = pytest.mark.slow

SITE = Path(__file__).resolve().parents[1] / "_build" / "html"
PAGES = sorted(path.relative_to(SITE).as_posix() for path in SITE.rglob("*.html") if "_static" not in path.parts)
PAGES = [page for page in PAGES if page != "index.html"]  # which only leads to the landing page
VIEWS = [(width, theme) for width in (1280, 390) for theme in ("light", "dark")]
FLAGS = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
FLAGS += " --disable-component-update --disable-sync"

MATH = '<span class="math notranslate nohighlight">\\(a = 1 \\%\\)</span>'

each_page = pytest.mark.parametrize("page", PAGES or [""])

AXE_VIEWS = [(1280, "light"), (390, "dark")]
ALIKE = {page for page in PAGES if page.startswith("book/tables/")} - {"book/tables/ledger.html"}  # tables of one make

AUDIT = """() => {
    const all = selector => [...document.querySelectorAll(selector)];
    const words = e => [...e.childNodes].filter(n => n.nodeType === 3).map(n => n.textContent).join(' ');
    const prose = all('.bd-article *').filter(e => !e.closest('pre, code, script, mjx-container'));
    const images = [...document.images];
    return {
        theme: document.documentElement.dataset.theme,
        wide: document.scrollingElement.scrollWidth - window.innerWidth,
        unrendered: all('.math').filter(e => !e.querySelector('mjx-container')).map(e => e.textContent),
        failed: all('mjx-merror, [data-mml-node=merror]').map(e => e.textContent),
        raw: prose.map(words).filter(t => /\\$\\$|\\\\\\(|\\\\frac|:::|\\{[a-z:]+\\}`/.test(t)),
        alt: images.filter(e => !e.alt.trim() || /_images|[.]png$/.test(e.alt)).map(e => e.src.slice(0, 80)),
        broken: images.filter(e => e.complete && !e.naturalWidth).map(e => e.src.slice(0, 80)),
    };
}"""


class Links(HTMLParser):
    """Collect what a page links to and the names that others may link to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.names: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for key, value in attrs:
            if key in ("href", "src") and value:
                self.links.append(value)
            if key in ("id", "name") and value:
                self.names.add(value)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Serve the site; skip, or fail in CI, where it was not built."""
    if not PAGES:
        unavailable("The book is not built; run `make book`.")
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(SITE)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Start the Chromium of this machine, or the one that CHROMIUM names."""
    names = (os.environ.get("CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    found = next(filter(None, map(shutil.which, filter(None, names))), None)
    if found is None:
        unavailable("No Chromium was found (set CHROMIUM to its path).")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=found, args=FLAGS.split())
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser: Any, address: str) -> Iterator[Any]:
    """Return a function that opens a page and returns it with the faults that it showed; nothing outside is reached."""
    context = browser.new_context()
    faults: list[str] = []

    def inside(route: Any) -> None:
        if route.request.url.startswith(address):
            route.continue_()
        else:
            faults.append(f"outside request: {route.request.url}")
            route.abort()

    def go(name: str) -> tuple[Any, list[str]]:
        page = context.new_page()
        page.on("console", lambda m: faults.append(f"console: {m.text}") if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: faults.append(f"script: {error}"))
        page.goto(f"{address}/{name}", wait_until="load")
        page.wait_for_function("!window.MathJax || !MathJax.startup || MathJax.startup.promise")
        page.evaluate("window.MathJax && MathJax.startup ? MathJax.startup.promise.then(() => 1) : 1")
        page.evaluate("document.querySelectorAll('details').forEach(e => e.open = true)")
        # The film of the landing page runs until its switch is set.
        page.evaluate("document.querySelectorAll('#film-pause').forEach(e => e.checked = true)")
        return page, faults

    context.route("**/*", inside)
    yield go
    context.close()


def show(page: Any, width: int, theme: str) -> None:
    """Give an open page another width and theme, and wait for what fades in: it is pale until it has."""
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=theme)
    page.wait_for_timeout(150)
    page.wait_for_function("document.getAnimations().every(a => a.playState !== 'running')")


@pytest.mark.parametrize(
    ("html", "shown"),
    [
        ("<p>50 % of 3 × 3, λ = 0.3</p>", "<p>50\u00a0% of 3\u00a0×\u00a03, λ\u00a0=\u00a00.3</p>"),
        ("<p>by 6e-15, ResNet-56, -5</p>", '<p>by <span class="whole">6e-15</span>, ResNet-56, -5</p>'),
        (
            "<table><td>-0.3 ± 0.1, 2012-03, --1, (-2)</td></table> -5",
            "<table><td>\u22120.3\u00a0±\u00a00.1, 2012-03, --1, (\u22122)</td></table> -5",
        ),
        ("<table><td><em>ResNet</em>-56</td></table>", "<table><td><em>ResNet</em>-56</td></table>"),
        ("<table><td><code>-1 %</code></td></table>", "<table><td><code>-1 %</code></td></table>"),
        (f"<p>({MATH}), b</p>", f'<p><span class="whole">({MATH}),</span> b</p>'),
        (f"<p>{MATH} b</p>", f"<p>{MATH} b</p>"),
        ("<dt>pruning_lib._inputs.inputs</dt>", "<dt>pruning_lib.inputs</dt>"),
    ],
)
def test_what_belongs_together_stays_on_one_line(html: str, shown: str) -> None:
    assert finished(html) == shown


def test_links_to_equations_keep_their_words() -> None:
    links = 0
    for source in (SITE.parents[1] / "notebooks" / "text").glob("*.md"):
        html = (SITE / "notebooks" / f"{source.stem}.html").read_text(encoding="utf-8")
        for words, name in re.findall(r"(?<!!)\[([^](]+)\]\(#(eq-[\w-]+)\)", source.read_text(encoding="utf-8")):
            shown = r"\s+".join(map(re.escape, words.split()))
            assert re.search(rf'href="#equation-{name}"><span[^>]*>{shown}</span>', html), (words, name)
            links += 1
    assert links > 5


@each_page
def test_page_is_whole(visit: Any, page: str) -> None:
    opened, faults = visit(page)
    for width, theme in VIEWS:
        show(opened, width, theme)
        found = opened.evaluate(AUDIT)
        assert found.pop("theme") == theme
        assert found.pop("wide") <= 0, f"{page} is wider than {width} pixels"
        assert found == {"unrendered": [], "failed": [], "raw": [], "alt": [], "broken": []}
        if (width, theme) in AXE_VIEWS and page not in ALIKE:  # minutes a page, and one stands for all
            violations = Axe().run(opened).response["violations"]
            serious = [v for v in violations if v["impact"] in ("serious", "critical")]
            assert [(v["id"], v["nodes"][0]["html"][:200]) for v in serious] == []
    assert faults == []


def test_search_finds_a_page_without_a_network(visit: Any) -> None:
    opened, faults = visit("search.html?q=sensitivity")
    opened.wait_for_selector("#search-results li a", timeout=10_000)
    assert faults == []


def test_a_number_stays_with_its_unit_outside_of_code() -> None:
    if not PAGES:
        unavailable("The book is not built; run `make book`.")
    parted = []
    for page in PAGES:
        html = (SITE / page).read_text(encoding="utf-8")
        text = re.sub(r"<(pre|script|style|code)\b.*?</\1>|<[^>]*>", "\n", html, flags=re.DOTALL)
        parted += [f"{page}: {found}" for found in re.findall(r".{0,20}\d (?:%|±).{0,20}|± \d.{0,20}", text)]
    assert parted == []
    text = (SITE / "notebooks" / "how-to-compare.html").read_text(encoding="utf-8")
    assert re.search(r"\d\u00a0±\u00a0\d", text)
    assert re.search(r"\d\u00a0%", text)


def test_every_internal_link_arrives() -> None:
    if not PAGES:
        unavailable("The book is not built; run `make book`.")
    read = functools.cache(lambda path: Links(path.read_text(encoding="utf-8")))
    dead = []
    for page in PAGES:
        for link in read(SITE / page).links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (SITE / page).parent / unquote(parts.path) if parts.path else SITE / page
            target = target / "index.html" if target.is_dir() else target
            fragment = unquote(parts.fragment)
            named = target.suffix != ".html" or not fragment or (target.exists() and fragment in read(target).names)
            if not target.exists() or not named:
                dead.append(f"{page}: {link}")
    assert dead == []


def test_chapters_offer_colab_and_show_no_error() -> None:
    chapters = [page for page in PAGES if page.startswith("notebooks/")]
    for page in chapters:
        html = (SITE / page).read_text(encoding="utf-8")
        assert f"{COLAB}/notebooks/{Path(page).stem}.ipynb" in html
        assert "Traceback (most recent call last)" not in html


def test_the_library_page_documents_every_member_that_it_names() -> None:
    if not PAGES:
        unavailable("The book is not built; run `make book`.")
    source = (SITE.parents[1] / "book" / "api.rst").read_text(encoding="utf-8")
    named = re.findall(r"autoapimodule:: (\S+)\n   :members: (.*)", source)
    wanted = {f"{module}.{name}" for module, names in named for name in names.split(", ")}
    shown = Links((SITE / "book" / "api.html").read_text(encoding="utf-8")).names
    assert wanted
    assert wanted - shown == set()


def test_the_entry_page_leads_into_the_book() -> None:
    if not PAGES:
        unavailable("The book is not built; run `make book`.")
    assert "book/welcome.html" in (SITE / "index.html").read_text(encoding="utf-8")
