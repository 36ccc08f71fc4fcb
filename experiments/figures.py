"""Pictures of every front of a suite: test error against size or time, a panel a family of methods."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

from experiments.methods import CONTROLS
from experiments.tables import RECIPES, Head, called, cases, judged_by
from pruning_lib.companion.plotting import COLORS, MARKERS
from pruning_lib.companion.records import Row, architecture, interval

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
STANDARD = {"dense": ("#000000", "o"), "uniform": ("#000000", "+")}
"""In every panel, to compare with."""
AXES = {
    "macs": "multiply-adds for one example",
    "units": "units that stay",
    "time": "time of a forward pass, share of the whole network's",
}
Looks = dict[str, tuple[str, str]]
Point = tuple[float, float, float]  # size, mean error, half width


class Curve(NamedTuple):
    """What a curve is of, over the sizes that it was brought to."""

    recipe: str
    method: str
    criterion: str | None

    @property
    def basis(self) -> str:
        """The method whose curve it is, or whose architecture a control takes."""
        for control in CONTROLS:
            if self.method.startswith(f"{control}-") and self.recipe == "control":
                return self.method.removeprefix(f"{control}-")
        return self.method

    def called(self, head: Head) -> str:
        """Return what the legend says."""
        parts = [called(head, self.method)]
        parts += [called(head, self.criterion)] if self.criterion not in (None, "own") else []
        parts += [RECIPES["loop"]] if self.recipe == "loop" else []
        return ", ".join(parts)

    def style(self, looks: Looks) -> dict[str, Any]:
        """Return how it is drawn."""
        colour, marker = looks[self.basis]
        control, loop = self.recipe == "control", self.recipe == "loop"
        ranked = self.criterion not in (None, "own")
        line = "none" if loop else "--" if ranked else ":" if control else "-"
        face = {"markerfacecolor": "none"} if loop or ranked or control else {}
        return {
            "color": colour,
            "marker": marker,
            "linestyle": line,
            "markersize": 5,
            "linewidth": 1,
            "capsize": 2,
        } | face


def figure(rows: list[Row], head: Head, against: str = "macs", times: dict[str, float] | None = None) -> Figure:
    """Return test error against the size of a network, a panel a family: one curve a method, logarithmic axes.

    Parameters
    ----------
    rows : list of Row
        All rows of a suite.
    head : dict
        What `records.about` says of it.
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
    curves: dict[Curve, list[Point]] = {}
    for (recipe, method, criterion, _, _), its in cases(rows).items():
        point = (statistics.fmean(map(size, its)), *interval(row["test_error"] for row in its))
        curves.setdefault(Curve(recipe, method, criterion), []).append(point)
    bases = {curve.basis for curve in curves}
    panels = {family: looks for family, looks in (FAMILIES | others(bases)).items() if bases & looks.keys()}
    across = max(1, min(2, len(panels)))
    down = max(1, -(-len(panels) // across))
    picture = Figure(figsize=(5.5 * across, 4.2 * down), layout="constrained")
    grid = list(picture.subplots(down, across, sharex=True, sharey=True, squeeze=False).flat)
    for axes, (family, looks) in zip(grid, panels.items(), strict=False):
        shown = {curve: points for curve, points in curves.items() if curve.basis in STANDARD | looks}
        _panel(axes, family, shown, STANDARD | looks, head)
        axes.set_xlabel(AXES[against])
    if against == "macs":
        grid[0].xaxis.set_major_formatter(EngFormatter(sep=""))  # shared: 20M, not 2e+07
    # An interval of a method that collapsed once would squeeze all others.
    means = [mean for points in curves.values() for _, mean, _ in points]
    grid[0].set_ylim(min(means) / 1.3, max(means) * 1.3)
    for axes in grid[len(panels) :]:
        axes.remove()
    picture.suptitle(f"{head['title']}; error: {judged_by(head)}", fontsize="small")
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


def _panel(axes: Axes, family: str, curves: dict[Curve, list[Point]], looks: Looks, head: Head) -> None:
    for curve, points in curves.items():
        sizes, means, halves = zip(*sorted(points), strict=True)
        bars = [half if math.isfinite(half) else 0 for half in halves]
        axes.errorbar(sizes, means, yerr=bars, label=curve.called(head), **curve.style(looks))
    axes.set(xscale="log", yscale="log", ylabel="test error in percent")
    axes.set_title(family, loc="left")
    axes.tick_params(labelbottom=True)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 5, 7)))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:,g}")
        axis.set_minor_formatter(NullFormatter())
    axes.legend(fontsize="x-small")
    axes.grid(alpha=0.3)


def others(bases: Iterable[str]) -> dict[str, Looks]:
    """Return a family of the methods that belong to none."""
    known = set(STANDARD).union(*FAMILIES.values())
    looks = {name: (COLORS[i % 7], MARKERS[(i + i // 7) % 7]) for i, name in enumerate(sorted(set(bases) - known))}
    return {"other methods": looks} if looks else {}
