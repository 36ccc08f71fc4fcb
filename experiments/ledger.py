"""The two questions, asked of every claim and of every method: is the claim met, and is the method the reason."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from experiments.methods import METHODS, Config
from experiments.runner import Runner
from experiments.suites import SUITES, Claim, Suite
from experiments.suites._papers import ABSENT
from experiments.tables import Head, called, markdown, plus_minus
from experiments.targets import LOOP, label
from pruning_lib.companion.records import Row, load
from pruning_lib.companion.verdicts import LEVEL, Answer, Reason, claim_met, dense_errors, dense_of, is_budget, reason

FIRST = ["claim met?", "seeds", "units gone", "− before the cut", "− dense", "margin"]
SECOND = ["the method the reason?", "decided by", "− that", "could have shown", "its work", "not at the same work"]
NO_CLAIM, NOT_HERE = "no claim", "not tested here"
WORK = (
    "*Decided by*: the control that the method compares worst with. *Its work*: its multiply-adds, the method's = 1. "
    "*Not at the same work*: standard controls that are not there on three seeds, or not within a tenth of the "
    "method's multiply-adds; in brackets theirs, the method's = 1."
)
RULE = (
    "Points of test error; ± is the 95 % interval. The margin, twice the standard deviation of dense networks over "
    "seeds, is our rule, and so are the points that count as slight: no paper gives either. Controls are "
    f"compared by Welch's tests, corrected by Holm ({100 * LEVEL:g} %); *could have shown* is the "
    "smallest difference that these seeds find with a power of 80 %. Fewer than three seeds are reported, never judged."
)


@dataclass(frozen=True)
class Line:
    """What a method and a size, or a claim, says to both questions.

    Parameters
    ----------
    names : list of str
        What it is about.
    first, second : list of str
        Cells of the columns `FIRST` and `SECOND`.
    notes, doubts : list of str
        On the first question: where our runs depart from the paper's, and what is missing. On the second: what is not
        as it should be with the controls.
    """

    names: list[str]
    first: list[str]
    second: list[str]
    notes: list[str]
    doubts: list[str]


def verdicts(rows: list[Row], suite: Suite) -> str:
    """Return both answers on every method of a suite at every size, in Markdown: a table a question, then the notes."""
    head = suite.head()
    _, departs = dense_errors(rows)
    lines = []
    for method, target in _asked(rows):
        claims = [claim for claim in suite.claims if (claim.method, claim.target) == (method, target)]
        names = [called(head, method), label(None) if target == LOOP else called(head, target)]
        lines += [_answers(names, rows, suite, method, target, claim) for claim in claims or (None,)]
    number, notes = _numbered([*(it.notes for it in lines), *(it.doubts for it in lines)])
    both = ["method", "size"]
    parts = [
        " ".join([RULE, *departs]),
        markdown([*both, *FIRST, "notes"], [[*it.names, *it.first, number(it.notes)] for it in lines]),
        WORK,
        markdown([*both, *SECOND, "notes"], [[*it.names, *it.second, number(it.doubts)] for it in lines]),
    ]
    return "\n\n".join([*parts, *notes])


def ledger(records: Path) -> str:
    """Return both answers on every claim of the papers, and what is missing, in Markdown."""
    lines = []
    for suite in SUITES.values():
        rows = _rows(suite.name, records)
        for claim in suite.claims:
            names = [claim.paper, claim.says, suite.title]
            line = _answers(names, rows, suite, claim.method, claim.target, claim)
            line.notes.extend(missing(suite, claim, records))
            lines.append(line)
    lines += [
        Line([it.paper, it.says, ""], _blank(NOT_HERE, FIRST), _blank("", SECOND), [it.lacks], []) for it in ABSENT
    ]
    number, notes = _numbered([it.notes + it.doubts for it in lines])
    columns = ["arXiv", "claim", "tested on", *_answers_first(FIRST, SECOND), "notes"]
    cells = [[*it.names, *_answers_first(it.first, it.second), number(it.notes + it.doubts)] for it in lines]
    return "\n\n".join([RULE, markdown(columns, cells), WORK, *notes])


def _blank(word: str, columns: list[str]) -> list[str]:
    return [word, *[""] * (len(columns) - 1)]


def _answers_first(first: list[str], second: list[str]) -> list[str]:
    return [first[0], second[0], *first[1:], *second[1:]]


def _numbered(notes: list[list[str]]) -> tuple[Callable[[list[str]], str], list[str]]:
    """Return what gives the numbers of notes, and the notes as a list, each once."""
    known = {text: n for n, text in enumerate(dict.fromkeys(text for each in notes for text in each), 1)}
    listed = "\n".join(f"{n}. {text}" for text, n in known.items())
    return lambda each: ", ".join(str(known[text]) for text in each), [f"Notes:\n\n{listed}"] if listed else []


def missing(suite: Suite, claim: Claim, records: Path) -> list[str]:
    """Return in a sentence which of the runs that a claim hangs on have no record, if any."""
    configs = suite.by_name()
    ours = {
        name for name, config in configs.items() if config["method"] == claim.method and _cuts(config, claim.target)
    }
    if not ours:
        return ["The suite has no such runs yet."]
    others = {
        name
        for name, config in configs.items()
        if config["method"] == dense_of(asdict(claim))
        or (config["recipe"] == "prune" and config["method"] == "dense")
        or (config["recipe"] == "control" and config["target"] == claim.target)
    }
    parts, seconds, least = [], 0.0, 0.0
    for names, what in ((ours, "its runs"), (others - ours, "the runs that it is compared with")):
        left = [name for name in names if not (records / suite.name / f"{name}.json").exists()]
        if left:
            parts.append(f"{len(left)} of {len(names)} of {what} are missing")
            seconds += Runner(suite, records).seconds(left)
            least += sum(configs[name]["epochs"] for name in left) * (suite.epoch_seconds or math.nan)
    return [f"{', '.join(parts)}: {_price(seconds, least)}."] if parts else []


def _price(seconds: float, least: float) -> str:
    """Return what runs cost, in words: estimated from others of their suite, or at least the epochs of training."""
    if math.isnan(seconds) and math.isnan(least):
        return "nobody measured how long they take"
    about, known = ("at least", least) if math.isnan(seconds) else ("about", seconds)
    return f"{about} {hours} h on one core" if (hours := round(known / 3600)) else "less than an hour on one core"


def _cuts(config: Config, target: str) -> bool:
    """Whether a run brings a network to a target."""
    if target == LOOP:
        return bool(config["recipe"] == "loop")
    return target in [*config.get("targets", ()), *config.get("cuts", ())]


def _rows(suite: str, records: Path) -> list[Row]:
    try:
        return load(suite, folder=records)
    except FileNotFoundError:
        return []


def _asked(rows: Iterable[Row]) -> list[tuple[str, str]]:
    """Return the (method, size) of everything that was made small by a method, in the order of the rows."""
    small = (row for row in rows if row["recipe"] != "control" and row["criterion"] in ("own", None))
    ways = ((row["method"], LOOP if row["recipe"] == "loop" else row["target"]) for row in small)
    return list(dict.fromkeys((method, size) for method, size in ways if size))


def _answers(names: list[str], rows: list[Row], suite: Suite, method: str, target: str, claim: Claim | None) -> Line:
    """Answer both questions."""
    asked: dict[str, Any] = {
        "method": method,
        "target": target,
        "stage": "",
        "removed": None,
        "loss": None,
        "slight": 0.0,
        "criterion": "own",
    }
    if claim:
        asked = asdict(claim)
    first = claim_met(rows, asked)
    about = {name: asked[name] for name in ("removed", "stage", "criterion")}
    second = reason(rows, method, target, **about)
    said = [claim.departs if claim else departure(suite, method, target)]
    said += [first.why] if claim and first.seeds else []
    said += first.departs if (claim or target == LOOP) and first.seeds else ()
    notes, doubts = (
        [f"{text[0].upper()}{text[1:].rstrip('.')}." for text in texts if text] for texts in (said, second.departs)
    )
    return Line(names, _first(first, claim is not None), _second(second, suite.head()), notes, doubts)


def departure(suite: Suite, method: str, target: str) -> str:
    """Return how a method's runs depart from its paper, where no claim says it better."""
    if told := suite.departs.get(method):
        return told
    of = METHODS[method]
    if target == LOOP:
        loop = next(it for it in suite.configs() if it["recipe"] == LOOP and it["method"] == method)
        stops = f"{loop['epochs']} epochs, and a plateau after {loop['patience']}"
        return f"{of.departs} {stops}; the paper trains until thresholds take nothing more.".strip()
    return " ".join(filter(None, [of.departs, of.uncut if is_budget(target) else ""]))


def _first(answer: Answer, claimed: bool) -> list[str]:
    word = answer.word if claimed else NO_CLAIM
    share = "" if answer.removed is None else f"{100 * answer.removed:.0f} %"
    points = [plus_minus("{:+.2f}", *it) if it else "" for it in (answer.own, answer.dense)]
    margin = "" if answer.margin is None else f"{answer.margin:.2f}"
    return [word, str(answer.seeds), share, *points, margin]


def _second(found: Reason, head: Head) -> list[str]:
    lacking = ", ".join(found.missing).replace(" times its work", "")
    if not found.controls:
        return [found.word, "", "", "", "", lacking]
    control = found.controls[found.deciding]
    difference = plus_minus("{:+.2f}", control.difference, control.half)
    name = called(head, found.deciding)
    return [found.word, name, difference, f"{control.detectable:.2f}", f"{control.work:.2f} times", lacking]
