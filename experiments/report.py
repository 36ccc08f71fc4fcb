"""Tables and figures from rows of records: strengths chosen on validation data, intervals over seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

from pruning_lib.companion.plotting import COLORS, MARKERS
from pruning_lib.companion.records import JUDGED_BY, SCORES, Row, architecture, choose, interval, paired
from pruning_lib.companion.verdicts import SEEDS, judge

Case = tuple[str, str, str | None, str | None, float]  # recipe, method, criterion, target, strength

# Okabe & Ito's colours, with markers so that colour is not needed; a panel a family.
FAMILIES = {
    "penalties on weights": {
        "l2": ("#999999", "s"),
        "l1": ("#E69F00", "^"),
        "group-lasso": ("#56B4E9", "D"),
        "group-lasso-loss": ("#0072B2", "d"),
        "group-hoyer": ("#009E73", "p"),
    },
    "SeReNe": {
        "serene-exact": ("#009E73", "v"),
        "serene-sampled": ("#E69F00", "P"),
        "serene-lower-bound": ("#0072B2", "X"),
        "serene-local": ("#D55E00", "<"),
        "serene-released": ("#CC79A7", ">"),
    },
    "stochastic pruning": {
        "stochastic": ("#999999", "h"),
        "stochastic-l2": ("#0072B2", "s"),
        "stochastic-l1": ("#D55E00", "^"),
    },
    "guided": {
        "guided-l2": ("#0072B2", "s"),
        "guided-l1": ("#D55E00", "^"),
        "guided-group-lasso": ("#009E73", "D"),
    },
    "scales of BatchNorm": {
        "slimming": ("#E69F00", "^"),
        "polarization": ("#0072B2", "v"),
        "rni": ("#009E73", "D"),
    },
}
SAID = {
    "accuracy": "accuracy",
    "dice": "Dice coefficient",
    "balanced_accuracy": "balanced accuracy",
    "instance_f1": "instance F1",
    "auroc": "AUROC",
    "auroc_covid": "AUROC, COVID-19 against the rest",
    "auroc_within": "AUROC within one collection",
}
"""Scores, in words."""
STANDARD = {"dense": ("#000000", "o"), "uniform": ("#000000", "+")}
"""In every panel, to compare with."""


def cases(rows: list[Row]) -> dict[Case, list[Row]]:
    """Return the chosen rows of each case, one row a seed."""
    found: dict[Case, list[Row]] = {}
    for row in choose(rows):
        case = (row["recipe"], row["method"], row["criterion"], row["target"], row["strength"])
        found.setdefault(case, []).append(row)
    return found


def table(rows: list[Row], times: dict[str, float] | None = None) -> str:
    """Return a Markdown table a target: errors in percent on test data, mean ± half width of the 95 % interval.

    `times` gives the share of the whole network's time by architecture, where that was measured.

    The columns of differences pair the seeds: with the whole network without a penalty, with that network pruned by
    its own ranking to the same target, and with uniform width trained from its first step.
    """
    found = cases(rows)
    targets = dict.fromkeys(case[3] for case in found)
    about = f"Errors in percent of test data, {judged_by(rows)}; ± is the 95 % interval over seeds.\n\n"
    return about + "\n\n".join(
        _section(target, {case: r for case, r in found.items() if case[3] == target}, times or {}) for target in targets
    )


def ruling(rows: list[Row], margin: float) -> str:
    """Return what the rule of `pruning_lib.companion.verdicts` says of every method of a suite, as a Markdown table."""
    head = ["method", "target", "verdict", "− whole network", "control", "− control", "the control's work"]
    lines = [
        f"Points of test error; ± is the 95 % interval over paired seeds, and dense-level is at most {margin:g} above.",
        "The control is the one that the method is furthest from beating, of those with about its work or less.",
        "",
        _line(head),
        _line(["---"] * len(head)),
    ]
    for method, target in dict.fromkeys((case[1], case[3]) for case in cases(rows) if case[0] == "prune" and case[3]):
        found = judge(rows, method, str(target), margin)
        word = found.word if found.seeds >= SEEDS else f"{found.word}: {found.seeds} of {SEEDS} seeds"
        above = _plus_minus("{:+.2f}", *found.above_dense) if found.above else ""
        against = ["", "", ""]
        if control := found.hardest:
            against = [control, _plus_minus("{:+.2f}", *found.against[control]), f"{found.work[control]:.2f} times"]
        lines.append(_line([method, str(target), word, above, *against]))
    return "\n".join(lines)


def judged_by(rows: list[Row]) -> str:
    """Return in words what the errors of a suite are."""
    return f"what the {SAID[_judge(rows[0])]} lacks to 100 %"


def _judge(row: Row) -> str:
    return next(score for score in JUDGED_BY if score == "accuracy" or f"test_{score}" in row)


def _section(target: str | None, here: dict[Case, list[Row]], times: dict[str, float]) -> str:
    first = next(iter(here.values()))[0]
    scores = [score for score in SCORES if f"test_{score}" in first and score != _judge(first)]
    head = ["recipe", "method", "by", "λ", "seeds", "units", "MACs", "without unused inputs", "parameters ≠ 0", "time"]
    head += ["error, trained", "zeroed", "shift dropped", "recalibrated", "last", *(f"last {SAID[s]}" for s in scores)]
    head += ["last − whole", "last − pruned without penalty", "last − uniform"]
    lines = [f"### {target or 'regularize, plateau, threshold'}", "", _line(head), _line(["---"] * len(head))]
    by_method = {case[:3]: chosen for case, chosen in here.items() if target}
    dense = by_method.get(("prune", "dense", "own"))
    whole = [row | {"test_error": row["trained_test_error"]} for row in dense or []]
    uniform = by_method.get(("control", "uniform", None)) or by_method.get(("control", "scratch", None))
    others = [whole, dense, uniform]
    lines += [_line(_cells(case, chosen, scores, others, times)) for case, chosen in here.items()]
    return "\n".join(lines)


def _cells(
    case: Case, chosen: list[Row], scores: list[str], others: list[list[Row] | None], times: dict[str, float]
) -> list[str]:
    recipe, method, criterion, _, strength = case
    layers = zip(*(row["units"] for row in chosen), strict=True)
    units = " · ".join(f"{statistics.fmean(layer):.0f}" for layer in layers)
    sizes = [f"{statistics.fmean(row[key] for row in chosen):,.0f}" for key in ("macs", "macs_used_inputs", "nonzero")]
    left = [times.get(architecture(row)) for row in chosen]
    sizes.append("" if None in left else f"{100 * statistics.fmean(filter(None, left)):.0f} %")
    errors = [_mean(chosen, f"{stage}test_error") for stage in ("trained_", "zeroed_", "dropped_", "recalibrated_", "")]
    errors += [_plus_minus("{:.3f}", *interval(row[f"test_{score}"] for row in chosen), 3) for score in scores]
    differences = [_difference(chosen, other) for other in others]
    return [
        recipe, method, criterion or "", f"{strength:.0e}", str(len(chosen)), units, *sizes, *errors, *differences
    ]  # fmt: skip


def _mean(rows: list[Row], column: str) -> str:
    if any(row[column] is None for row in rows):
        return ""
    return _plus_minus("{:.2f}", *interval(row[column] for row in rows))


def _difference(rows: list[Row], other: list[Row] | None) -> str:
    if not other or other is rows or not {r["seed"] for r in rows} & {r["seed"] for r in other}:
        return ""
    return _plus_minus("{:+.2f}", *paired(rows, other, "test_error")[:2])


def _plus_minus(form: str, mean: float, half: float, digits: int = 2) -> str:
    return form.format(mean) + (f" ± {half:.{digits}f}" if math.isfinite(half) else "")


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


AXES = {
    "macs": "multiply-adds for one example",
    "units": "units that stay",
    "time": "time of a forward pass, share of the whole network's",
}


def figure(rows: list[Row], against: str = "macs", times: dict[str, float] | None = None) -> Figure:
    """Return test error against the size of a network, a panel a family: one curve a method, logarithmic axes.

    Parameters
    ----------
    rows : list of Row
        All rows of a suite.
    against : str
        ``"macs"``, ``"units"`` or ``"time"``.
    times : dict of str to float
        For ``"time"``: the share of the whole network's time by architecture.

    Raises
    ------
    ValueError
        If the time of a network was not measured.
    """
    size = _size(against, times or {})
    curves: dict[str, list[tuple[float, float, float]]] = {}
    for (recipe, method, criterion, _, _), chosen in cases(rows).items():
        label = f"{method}, {criterion}" if criterion not in (None, "own") else method
        label = f"{method}, loop" if recipe == "loop" else label
        point = (statistics.fmean(map(size, chosen)), *interval(row["test_error"] for row in chosen))
        curves.setdefault(label, []).append(point)
    panels = {
        family: {label: look for label in curves if (look := _look(label, STANDARD | looks))}
        for family, looks in (FAMILIES | _others(curves)).items()
        if any(_basis(label) in looks for label in curves)
    }
    across = min(2, len(panels))
    down = -(-len(panels) // across)
    picture = Figure(figsize=(5.5 * across, 4.2 * down), layout="constrained")
    grid = list(picture.subplots(down, across, sharex=True, sharey=True, squeeze=False).flat)
    for axes, (family, looks) in zip(grid, panels.items(), strict=False):
        _panel(axes, family, {label: curves[label] for label in looks}, looks)
        axes.set_xlabel(AXES[against])
        axes.tick_params(labelbottom=True)
    if against == "macs":
        grid[0].xaxis.set_major_formatter(EngFormatter(sep=""))  # shared: 20M, not 2e+07
    # An interval of a method that collapsed once would squeeze all others.
    means = [mean for points in curves.values() for _, mean, _ in points]
    grid[0].set_ylim(min(means) / 1.3, max(means) * 1.3)
    for axes in grid[len(panels) :]:
        axes.remove()
    picture.suptitle(f"error: {judged_by(rows)}", fontsize="small")
    return picture


def _size(against: str, times: dict[str, float]) -> Callable[[Row], float]:
    def time(row: Row) -> float:
        name = architecture(row)
        if name not in times:
            raise ValueError(f"The time of {name} was not measured; run `python -m experiments latency` of its suite.")
        return times[name]

    sizes: dict[str, Callable[[Row], float]] = {
        "macs": lambda row: float(row["macs"]),
        "units": lambda row: float(sum(row["units"])),
        "time": time,
    }
    return sizes[against]


def _panel(axes: Any, family: str, curves: dict[str, list[tuple[float, float, float]]], looks: dict[str, Any]) -> None:
    for label, points in curves.items():
        macs, mean, half = zip(*sorted(points), strict=True)
        axes.errorbar(macs, mean, yerr=[h if math.isfinite(h) else 0 for h in half], label=label, **looks[label])
    axes.set(xscale="log", yscale="log", ylabel="test error in percent")
    axes.set_title(family, loc="left")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 5, 7)))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:,g}")
        axis.set_minor_formatter(NullFormatter())
    axes.legend(fontsize="x-small")
    axes.grid(alpha=0.3)


def _others(labels: Iterable[str]) -> dict[str, dict[str, tuple[str, str]]]:
    """Return a family of the methods that belong to none."""
    known = set(STANDARD).union(*FAMILIES.values())
    names = sorted({_basis(label) for label in labels} - known)
    looks = {name: (COLORS[i % 7], MARKERS[(i + i // 7) % 7]) for i, name in enumerate(names)}
    return {"other methods": looks} if looks else {}


def _basis(label: str) -> str:
    """Return the method that a curve is of, or whose architecture it takes."""
    return label.partition(", ")[0].removeprefix("scratch-e-").removeprefix("scratch-b-")


def _look(label: str, looks: dict[str, tuple[str, str]]) -> dict[str, Any] | None:
    """Return a curve's style, or None if it belongs to another panel."""
    if _basis(label) not in looks:
        return None
    method, _, variant = label.partition(", ")
    control = method.startswith("scratch") or method == "uniform"
    colour, marker = looks[_basis(label)]
    style = {"": ":" if control else "-", "loop": "none"}.get(variant, "--")
    face = {"markerfacecolor": "none"} if variant or control else {}
    return {"color": colour, "marker": marker, "linestyle": style, "markersize": 5, "linewidth": 1, "capsize": 2} | face
