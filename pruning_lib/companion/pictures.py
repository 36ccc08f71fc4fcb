"""Pictures of many runs at once, by seaborn: curves a facet a network, a forest of differences, a heatmap.

They take tidy columns, {name: values}, one entry a run or a point; `python -m experiments figure` fills them from
records. Intervals are Student's t over seeds, as in the tables; a mean of one run has none.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from pruning_lib.companion.plotting import COLORS, LINES, MARKERS
from pruning_lib.companion.records import interval

Columns = Mapping[str, Sequence[Any]]
"""{name: values}, all of the same length."""
MOST = len(COLORS)
NARROW = 2
"""Facets that stand in one column."""
WIDE = 44
"""Letters of a line above a facet."""
FEW = 5
"""Points of a curve, on the mean, that have markers and bars; more have a band."""


def plot_lines(data: Columns, *, x: str, y: str, by: str, facet: str, log: bool = False) -> Figure:
    """Draw one curve for each value of a column, through means over seeds, in a facet for each value of another.

    Up to two facets stand one under the other, above the legend: so they can be read on a phone.

    Parameters
    ----------
    data : mapping of str to sequence
        The columns; the names of `x` and `y` are what the axes say.
    x, y : str
        Columns of numbers. Entries with the same x in the same curve are seeds.
    by, facet : str
        Columns of labels: of curves, at most seven, and of facets.
    log : bool
        Whether the vertical axis is logarithmic, where all values are positive.

    Raises
    ------
    ValueError
        If there are no entries, or more curves than colours.

    Examples
    --------
    >>> curves = {"epoch": [1, 2, 1, 2], "error": [9.0, 5.0, 8.0, 4.0], "method": ["L2"] * 4, "network": ["LeNet"] * 4}
    >>> figure = plot_lines(curves, x="epoch", y="error", by="method", facet="network")
    >>> figure.axes[0].lines[0].get_ydata().tolist()
    [8.5, 4.5]
    >>> plt.close(figure)
    """
    names = list(dict.fromkeys(data[by]))
    if not names or len(names) > MOST:
        raise ValueError(f"plot_lines got {len(names)} curves; it draws at least one and at most {MOST}.")
    curves = set(zip(data[facet], data[by], strict=True))
    few = len(set(zip(data[facet], data[by], data[x], strict=True))) <= FEW * len(curves)
    narrow = len(set(data[facet])) <= NARROW
    grid = sns.relplot(
        data={name: list(values) for name, values in data.items()},
        kind="line",
        x=x,
        y=y,
        hue=by,
        hue_order=names,
        style=by,
        style_order=names,
        palette=list(COLORS[: len(names)]),
        dashes=[_dashes(line) for line in LINES[: len(names)]],
        markers=list(MARKERS[: len(names)]) if few else False,
        col=facet,
        col_wrap=1 if narrow else 2,
        errorbar=_ends,
        err_style="bars" if few else "band",
        facet_kws={"sharex": False, "sharey": False},
        height=3.2,
        aspect=1.35,
    )
    grid.set_titles("{col_name}")
    for name, axes in grid.axes_dict.items():
        axes.set_title(textwrap.fill(name, WIDE))
        _frame(axes, [value for value, its in zip(data[y], data[facet], strict=True) if its == name], log)
    if narrow:
        sns.move_legend(grid, "upper center", bbox_to_anchor=(0.5, 0), ncols=2, title=None)
        grid.tight_layout()
    figure: Figure = grid.figure
    return figure


def plot_forest(data: Columns, *, title: str = "") -> Figure:
    """Draw differences of error, a line a comparison: a dot a seed, the mean and its interval, the margin around 0.

    A panel for what they are compared with, one under the other: so it can be read on a phone.

    Parameters
    ----------
    data : mapping of str to sequence
        Columns ``claim``, ``against``: labels; ``points``: the differences, a list of floats, one a seed; ``half``:
        half the width of the interval of their mean; ``margin``: points that count as no loss, or None.
    title : str
        What the figure says above.

    Raises
    ------
    ValueError
        If there is nothing to draw.

    Examples
    --------
    >>> lines = {"claim": ["half go"], "against": ["dense"], "points": [[0.1, 0.3]], "half": [0.4], "margin": [0.5]}
    >>> figure = plot_forest(lines)
    >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
    ['half go']
    >>> plt.close(figure)
    """
    claims, sides = list(dict.fromkeys(data["claim"])), list(dict.fromkeys(data["against"]))
    if not claims:
        raise ValueError("plot_forest got no comparison; it draws one at least.")
    figure, axes = plt.subplots(
        len(sides),
        1,
        figsize=(5.6, len(sides) * (0.6 * len(claims) + 0.4) + 0.6),
        sharex=True,
        sharey=True,
        squeeze=False,
    )
    lines = zip(data["claim"], data["against"], data["points"], data["half"], data["margin"], strict=True)
    for claim, against, points, half, margin in lines:
        panel, row = axes[sides.index(against), 0], claims.index(claim)
        mean = sum(points) / len(points)
        if margin is not None:
            panel.fill_betweenx([row - 0.4, row + 0.4], -margin, margin, color="#dddddd", linewidth=0)
        panel.plot(points, [row + 0.2] * len(points), "o", color=COLORS[5], markersize=4, zorder=2)
        reach = half if math.isfinite(half) else 0
        panel.errorbar([mean], [row], xerr=[reach], fmt="D", color=COLORS[0], markersize=5, capsize=3, zorder=3)
    for panel, against in zip(axes[:, 0], sides, strict=True):
        panel.axvline(0, color="#000000", linewidth=0.8, linestyle="-")
        panel.set(title=f"above {against}")
    axes[-1, 0].set_xlabel("points of test error")
    axes[0, 0].set(yticks=range(len(claims)), ylim=(len(claims) - 0.4, -0.6))
    axes[0, 0].set_yticklabels(claims)
    if title:
        figure.suptitle(title, fontsize="medium")
    return figure


def plot_heatmap(data: Columns, *, value: str, rows: str, columns: str, center: float | None = 0.0) -> Figure:
    """Draw a table of numbers as colours, annotated: such as methods by networks.

    Parameters
    ----------
    data : mapping of str to sequence
        The columns; `value` names numbers, `rows` and `columns` labels. Several entries of a cell are averaged.
    value, rows, columns : str
        Names of columns.
    center : float or None
        The number that is drawn without colour; None: colours from the least to the largest.

    Examples
    --------
    >>> cells = {"gap": [0.5, 1.5, -1.0], "method": ["L2", "L2", "L1"], "network": ["LeNet"] * 3}
    >>> figure = plot_heatmap(cells, value="gap", rows="method", columns="network")
    >>> [text.get_text() for text in figure.axes[0].texts]
    ['1.00', '-1.00']
    >>> plt.close(figure)
    """
    across, down = list(dict.fromkeys(data[columns])), list(dict.fromkeys(data[rows]))
    found: dict[tuple[str, str], list[float]] = {}
    for row, column, number in zip(data[rows], data[columns], data[value], strict=True):
        found.setdefault((row, column), []).append(number)
    cells = [[_mean(found.get((row, column), ())) for column in across] for row in down]
    figure, axes = plt.subplots(figsize=(1.3 * len(across) + 2.6, 0.42 * len(down) + 1.6))
    sns.heatmap(
        cells,
        annot=True,
        fmt=".2f",
        center=center,
        robust=True,  # one collapse would wash out all others
        cmap="vlag" if center is not None else "viridis",
        xticklabels=across,
        yticklabels=down,
        cbar_kws={"label": value},
        ax=axes,
    )
    axes.set_xticklabels(across, rotation=40, ha="right", rotation_mode="anchor")
    return figure


def _frame(axes: Axes, values: list[float], log: bool) -> None:
    """Fit the vertical axis to the values: an interval of a method that collapsed once would squeeze all others."""
    low, high = min(values), max(values)
    if not log:
        margin = 0.05 * (high - low) or 1
        axes.set_ylim(low - margin, high + margin)
    elif low > 0:
        axes.set(yscale="log", ylim=(low / 1.1, high * 1.1))
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 5, 7)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())


def _ends(values: Iterable[float]) -> tuple[float, float]:
    """Return the ends of the interval of a mean; of one value, itself."""
    mean, half = interval(values)
    return (mean - half, mean + half) if math.isfinite(half) else (mean, mean)


def _dashes(line: Any) -> Any:
    """Return a line style in the words of seaborn, which takes lengths of dashes alone."""
    words = {"-": "", "--": (4, 1.5), "-.": (3, 1.25, 1.5, 1.25), ":": (1, 1)}
    return words[line] if isinstance(line, str) else line[1]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
