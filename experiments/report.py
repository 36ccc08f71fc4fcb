"""Tables and figures from rows of records: strengths chosen on validation data, intervals over seeds."""

from __future__ import annotations

import statistics
from typing import Any

from matplotlib.figure import Figure

from pruning_lib.records import Row, choose, interval, paired

Case = tuple[str, str, str | None, str | None]  # recipe, method, criterion, target

# Okabe & Ito's colours, with markers so that colour is not needed.
LOOKS = {
    "dense": ("#000000", "o"),
    "l2": ("#999999", "s"),
    "l1": ("#E69F00", "^"),
    "group-lasso": ("#56B4E9", "D"),
    "group-lasso-loss": ("#56B4E9", "d"),
    "serene-exact": ("#009E73", "v"),
    "serene-sampled": ("#009E73", "P"),
    "serene-lower-bound": ("#0072B2", "X"),
    "serene-local": ("#D55E00", "<"),
    "serene-released": ("#CC79A7", ">"),
    "uniform": ("#000000", "+"),
}


def cases(rows: list[Row]) -> dict[Case, list[Row]]:
    """Return the chosen rows of each case, one row a seed."""
    found: dict[Case, list[Row]] = {}
    for row in choose(rows):
        found.setdefault((row["recipe"], row["method"], row["criterion"], row["target"]), []).append(row)
    return found


def table(rows: list[Row]) -> str:
    """Return a Markdown table a target: errors in percent on test data, mean ± half width of the 95 % interval.

    The two columns of differences pair the seeds: with the unpenalized network pruned by magnitude to the same target,
    and with uniform width trained from its first step.
    """
    found = cases(rows)
    parts = []
    for target in dict.fromkeys(case[3] for case in found):
        here = {case: chosen for case, chosen in found.items() if case[3] == target}
        if target is None:
            here = {case: chosen for case, chosen in here.items() if case[0] == "loop"}
        if here:
            parts.append(_section(target, here))
    return "\n\n".join(parts)


def _section(target: str | None, here: dict[Case, list[Row]]) -> str:
    head = ["recipe", "method", "by", "λ", "seeds", "units", "MACs", "parameters"]
    head += ["error, zeroed", "error, shift dropped", "error, last", "− dense", "− uniform"]
    lines = [f"### {target or 'regularize, plateau, threshold'}", "", _line(head), _line(["---"] * len(head))]
    dense = here.get(("prune", "dense", "own", target))
    uniform = here.get(("control", "uniform", None, target))
    lines += [_line(_cells(case, chosen, dense, uniform)) for case, chosen in here.items()]
    return "\n".join(lines)


def _cells(case: Case, chosen: list[Row], dense: list[Row] | None, uniform: list[Row] | None) -> list[str]:
    units = " · ".join(
        f"{statistics.fmean(layer):.0f}" for layer in zip(*(row["units"] for row in chosen), strict=True)
    )
    sizes = [f"{statistics.fmean(row[key] for row in chosen):,.0f}" for key in ("macs", "parameters")]
    errors = [_mean(chosen, f"{stage}test_error") for stage in ("zeroed_", "dropped_", "")]
    differences = [_difference(chosen, other) for other in (dense, uniform)]
    recipe, method, criterion, _ = case
    strength = f"{chosen[0]['strength']:.0e}"
    return [recipe, method, criterion or "", strength, str(len(chosen)), units, *sizes, *errors, *differences]


def _mean(rows: list[Row], column: str) -> str:
    if any(row[column] is None for row in rows):
        return ""
    return "{:.2f} ± {:.2f}".format(*interval(row[column] for row in rows))


def _difference(rows: list[Row], other: list[Row] | None) -> str:
    if other is None or other is rows or not {r["seed"] for r in rows} & {r["seed"] for r in other}:
        return ""
    mean, half, _ = paired(rows, other, "test_error")
    return f"{mean:+.2f} ± {half:.2f}"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def figure(rows: list[Row]) -> Figure:
    """Return test error against multiply-adds: one curve a method, its intervals, both axes logarithmic."""
    curves: dict[str, list[tuple[float, float, float]]] = {}
    for (recipe, method, criterion, _), chosen in cases(rows).items():
        label = {"random": f"{method}, random", "own": method, None: method}[criterion]
        label = f"{label}, loop" if recipe == "loop" else label
        point = (statistics.fmean(row["macs"] for row in chosen), *interval(row["test_error"] for row in chosen))
        curves.setdefault(label, []).append(point)
    picture = Figure(figsize=(8, 5), layout="constrained")
    axes = picture.subplots()
    for label, points in curves.items():
        macs, mean, half = zip(*sorted(points), strict=True)
        axes.errorbar(macs, mean, yerr=[h if h < 100 else 0 for h in half], label=label, **_look(label))
    axes.set(xscale="log", yscale="log", xlabel="multiply-adds for one example", ylabel="test error in percent")
    axes.legend(fontsize="x-small", ncols=2)
    axes.grid(alpha=0.3)
    return picture


def _look(label: str) -> dict[str, Any]:
    method = label.removeprefix("scratch-e-").removeprefix("scratch-b-").partition(",")[0]
    colour, marker = LOOKS[method]
    style = ":" if label.startswith("scratch") else "none" if label.endswith("loop") else "-"
    style = "--" if label.endswith("random") else style
    return {"color": colour, "marker": marker, "linestyle": style, "markersize": 5, "linewidth": 1, "capsize": 2}
