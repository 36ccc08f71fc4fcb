"""The pages of the book that hold every table of the records: `python -m experiments pages` writes `book/tables/`.

A page a family of suites that names one (`PAGE`, its title), one for the ledger, one for the rankings, one for the
strengths, one for the examples of deployment. The same records give the same bytes; a test says when a page is older
than its records.
"""

from __future__ import annotations

from pathlib import Path

from experiments import ledger, rankings, strengths, tables
from experiments._pictures import PICTURES, PLACES, shown
from experiments.methods import Config
from experiments.suites import PAGES, SUITES, Suite
from pruning_lib.companion.records import Row, load, measured, read, write_text

FOLDER = Path(__file__).parents[1] / "book" / "tables"
AGAIN = "% Written by `python -m experiments pages` from the records; do not edit it.\n\n"


def write(records: Path, folder: Path = FOLDER) -> list[Path]:
    """Write every page and its pictures; return their paths."""
    paths = []
    for name, text in pages(records).items():
        paths.append(folder / f"{name}.md")
        write_text(paths[-1], text)
    for name, it in PICTURES.items():
        if it.there(records):
            paths.append(folder / f"{name}.png")
            it.write(records, paths[-1])
    return paths


def pages(records: Path) -> dict[str, str]:
    """Return {name: text} of every page."""
    first, last = ([shown(name, records) for name in PLACES[place]] for place in ("ledger", "methods"))
    found = {"ledger": _page("The claims of the papers", _about_ledger(), *first, ledger.ledger(records), *last)}
    found["rankings"] = _page("Which ranking is safe?", rankings.RULE, rankings.table(records))
    found["strengths"] = _page("Strengths that were tried", *strengths.parts(records))
    found["deployment"] = _page("From weights to INT8: two networks", *_deployment())
    for name, (title, suites) in PAGES.items():
        found[name] = _page(title, *(_suite(SUITES[suite], records) for suite in suites))
    return found


def _page(title: str, *parts: str) -> str:
    return AGAIN + "\n\n".join([f"# {title}", *filter(None, parts)]) + "\n"


def _about_ledger() -> str:
    links = ", ".join(f"[{title}]({name}.md)" for name, (title, _) in PAGES.items())
    return (
        "Two questions are asked of each headline claim. *Is it met?* The small network is compared with its own "
        "dense network before the cut, and with a dense network trained as long; where not, a note says so. *Is the "
        "method the reason?* It is compared with what anybody could have had instead: uniform width, the same small "
        "network trained from its first step, random units. Claims, and the rule for the margins, were written down "
        "before the runs. Where units go without a cut, nothing can be lost by one: the column is 0. "
        f"The tables of all runs: {links}, [rankings](rankings.md)."
    )


DEPLOYED = {
    "torchvision": "A ResNet-18 of torchvision, without a penalty, to a quarter of its multiply-adds",
    "timm": "A MobileNetV3 of timm, penalized for a few epochs, to half of its multiply-adds",
}


def _deployment() -> list[str]:
    """Return the parts of the page on deployment: what it shows, and a table a network."""
    about = (
        "What the two scripts under [To deployment](#recipe-deployment) print: one run each, on "
        "scikit-learn's digits in 32 × 32 pixels, on one thread. Widths are multiples of 8; the chapter [Your own "
        "network](../../notebooks/your-own-network.ipynb) measures why. Accuracies are of 360 images that nothing was "
        "trained on. Do not compare those of the fine-tuned networks with the dense network's: they have trained for "
        "more epochs. As a teacher this dense network is no better than its pupil, and the labels do better here. INT8 "
        "makes the files smaller; on this processor it is slower than float. A time is the median of 30 calls, and a "
        "kB has 1,000 bytes. `python -m benchmarks.deployment` runs both again."
    )
    parts = [about]
    for name, (head, *rows) in measured("deployment")["tables"].items():
        lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
        parts += [f"## {DEPLOYED[name]}", "\n".join(f"| {' | '.join(line)} |" for line in lines)]
    return parts


def _suite(suite: Suite, records: Path) -> str:
    """Return the part of a page on one suite: what it asks, how it runs, both answers, and every row."""
    total, done = len(suite.configs()), len(read(suite.name, records))
    there = f"{done} of {total} runs are there" + ("." if done else ": they wait for computing time.")
    parts = [f"## {suite.title}", f"{suite.question} {_protocol(suite.configs())} {there}"]
    if done:
        parts += [shown(name, records) for name in PLACES.get(suite.name, ())]
        rows = load(suite.name, folder=records)
        parts += ["### Both questions", ledger.verdicts(rows, suite)] if _is_judged(rows) else []
        parts.append(tables.table(rows, suite.head(), tables.times(suite.name)))
    return "\n\n".join(parts)


def _is_judged(rows: list[Row]) -> bool:
    """Whether there is something to compare a method with: ablations have no controls."""
    return any(row["recipe"] == "control" or row["criterion"] == "random" for row in rows)


def _protocol(configs: list[Config]) -> str:
    """Return in a sentence how long the runs train."""
    longest = max(configs, key=lambda config: config.get("finetune_epochs", 0))
    tuned = longest.get("finetune_epochs", 0)
    again = f", then {tuned} of fine-tuning" if tuned else ""
    return f"{longest['epochs']} epochs of training{again}."
