"""Tables from rows of records, in people's words: strengths chosen on validation data, intervals over seeds."""

from __future__ import annotations

import math
import statistics
from typing import Any

from experiments import targets
from pruning_lib.companion.records import Row, architecture, choose, interval, measured, paired

Case = tuple[str, str, str | None, str | None, float]  # recipe, method, criterion, target, strength
Head = dict[str, Any]
"""What `records.about` says of a suite."""

BAR = r"\|"
RECIPES = {
    "prune": "pruned",
    "natural": "died",
    "control": "control",
    "loop": "plateau and threshold",
}
"""What people call them."""
STAGES = {
    "trained_": "error, trained",
    "zeroed_": "zeroed",
    "dropped_": "shift dropped",
    "recalibrated_": "recalibrated",
    "": "last",
}


def cases(rows: list[Row]) -> dict[Case, list[Row]]:
    """Return the rows of each case, one row a seed: at budgets, of the strength that validation data chose.

    Where units die by themselves each strength ends at a size of its own, and is a case.
    """
    found: dict[Case, list[Row]] = {}
    died = [row for row in rows if row["recipe"] == "natural" and row["target"]]
    for row in [*died, *choose(row for row in rows if row["recipe"] != "natural" or not row["target"])]:
        case = (row["recipe"], row["method"], row["criterion"], row["target"], row["strength"])
        found.setdefault(case, []).append(row)
    return found


def called(head: Head, name: str | None) -> str:
    """Return what people call a method, control, criterion or target."""
    labels: dict[str, str] = head["labels"]
    return "" if name is None else labels.get(name, name)


def judged_by(head: Head) -> str:
    """Return in words what the errors of a suite are."""
    return f"what the {head['scores'].get(head['judged_by'], head['judged_by'])} lacks to 100 %"


ENGINES = {"torch": "", "onnxruntime": "onnxruntime-"}
"""What computed where time was measured, and how that shows in the name of the record."""


def times(suite: str, engine: str = "torch") -> dict[str, float]:
    """Return the share of the time that each architecture of a suite needs; empty if nobody measured."""
    try:
        return {name: left[0] for name, left in measured(f"latency-{ENGINES[engine]}{suite}")["time_left"].items()}
    except FileNotFoundError:
        return {}


def table(rows: list[Row], head: Head, times: dict[str, float] | None = None) -> str:
    """Return a Markdown table a target: errors in percent on test data, mean ± half width of the 95 % interval.

    `times` gives the share of the whole network's time by architecture, where that was measured.

    The columns of differences pair the seeds: with the dense network before the cut, with that network pruned by
    its own ranking to the same target, and with uniform width trained from its first step.
    """
    found = cases(rows)
    aims = dict.fromkeys(case[3] for case in found)
    about = f"Errors in percent of test data, {judged_by(head)}; ± is the 95 % interval over seeds.\n\n"
    return about + "\n\n".join(
        _section(aim, {case: its for case, its in found.items() if case[3] == aim}, head, times or {}) for aim in aims
    )


def _section(aim: str | None, here: dict[Case, list[Row]], head: Head, times: dict[str, float]) -> str:
    scores = {name: words for name, words in head["scores"].items() if name != head["judged_by"]}
    columns = ["kind", "method", "ranked by", "λ", "seeds", "units", "MACs", "without unused inputs", "parameters ≠ 0"]
    columns += ["time", *STAGES.values(), *(f"last {words}" for words in scores.values())]
    columns += ["last − dense", "last − pruned without penalty", "last − uniform"]
    title = called(head, aim) if aim else targets.label(None)
    lines = []
    by_method = {case[:3]: its for case, its in here.items() if aim}
    dense = by_method.get(("prune", "dense", "own"))
    whole = [row | {"test_error": row["trained_test_error"]} for row in dense or []]
    uniform = by_method.get(("control", "uniform", None)) or by_method.get(("control", "scratch", None))
    others = [whole, dense, uniform]
    for case, its in here.items():
        names = [RECIPES[case[0]], called(head, case[1]), called(head, case[2])]
        lines.append(names + _cells(case[4], its, list(scores), others, times))
    return f"### {title[0].upper()}{title[1:]}\n\n{markdown(columns, lines)}"


def _cells(
    strength: float, its: list[Row], scores: list[str], others: list[list[Row] | None], times: dict[str, float]
) -> list[str]:
    layers = zip(*(row["units"] for row in its), strict=True)
    units = " · ".join(f"{statistics.fmean(layer):.0f}" for layer in layers)
    sizes = [f"{statistics.fmean(row[key] for row in its):,.0f}" for key in ("macs", "macs_used_inputs", "nonzero")]
    left = [times.get(architecture(row)) for row in its]
    sizes.append("" if None in left else f"{100 * statistics.fmean(filter(None, left)):.0f} %")
    errors = [_mean(its, f"{stage}test_error") for stage in STAGES]
    errors += [plus_minus("{:.3f}", *interval(row[f"test_{score}"] for row in its), 3) for score in scores]
    differences = [_difference(its, other) for other in others]
    return [f"{strength:g}", str(len(its)), units, *sizes, *errors, *differences]


def _mean(rows: list[Row], column: str) -> str:
    if any(row[column] is None for row in rows):
        return ""
    return plus_minus("{:.2f}", *interval(row[column] for row in rows))


def _difference(rows: list[Row], other: list[Row] | None) -> str:
    if not other or other is rows or not {r["seed"] for r in rows} & {r["seed"] for r in other}:
        return ""
    return plus_minus("{:+.2f}", *paired(rows, other, "test_error")[:2])


def plus_minus(form: str, mean: float, half: float, digits: int = 2) -> str:
    """Return a mean and its half width, the latter only where there is one."""
    return form.format(mean) + (f" ± {half:.{digits}f}" if math.isfinite(half) else "")


def markdown(columns: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table, without the columns in which no row has anything."""
    filled = [i for i in range(len(columns)) if any(row[i] for row in rows)]
    texts = [[cells[i] for i in filled] for cells in (columns, ["---"] * len(columns), *rows)]
    return "\n".join(map(line, texts))


def line(cells: list[str]) -> str:
    """Return a line of a Markdown table; a bar in a cell is a letter there."""
    return f"| {' | '.join(cell.replace('|', BAR) for cell in cells)} |"
