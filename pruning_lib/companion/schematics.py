"""Pictures of the idea, in one visual language for all chapters: drawn by code, on axes that the caller makes.

a weight       a square: blue, the smaller the nearer to zero, white where it is zero
a unit         a circle: blue, pale and dashed where it recedes or is gone
at issue       orange and hatched: a unit's row in the matrix that writes it, its column in the one that reads it
a cost         a bar, as a share of the first one
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise, product

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Circle, FancyArrowPatch, Rectangle
from numpy.typing import ArrayLike

from pruning_lib.companion.plotting import COLORS

WEIGHT, MARKED = COLORS[:2]
PALE, EDGE = "#e8eef4", "#8c9aa8"
SPREAD = 2.0  # between the columns of a network, whose units are 1 apart


def bare(ax: Axes, *corners: tuple[float, float]) -> None:
    """Leave nothing of the axes but what is drawn, as high as it is wide, with room for text out to these corners."""
    ax.set_axis_off()
    ax.set_aspect("equal")
    if corners:
        ax.update_datalim(corners)
    ax.margins(0.01)
    ax.autoscale_view()


def draw_matrix(
    ax: Axes,
    weights: ArrayLike,
    *,
    corner: tuple[float, float] = (0.0, 0.0),
    row: int | None = None,
    column: int | None = None,
    title: str = "",
) -> None:
    """Draw a weight matrix: a row for each unit it writes, a column for each unit it reads.

    Parameters
    ----------
    ax : Axes
    weights : array_like
        (rows, columns), sizes up to 1: a square's area. 0 is drawn white.
    corner : tuple of float
        Where its upper left corner lies; a weight is 1 wide, and y points up.
    row, column : int, optional
        Drawn in orange: the weights of the unit at issue.
    title : str
        Above the matrix.
    """
    values = np.asarray(weights)
    for (i, j), value in np.ndenumerate(values):
        marked = i == row or j == column
        side = 0.88 * min(1.0, abs(float(value))) ** 0.5 if value else 0.88
        place = (corner[0] + j + 0.5 - side / 2, corner[1] - i - 0.5 - side / 2)
        face, edge = (MARKED if marked else WEIGHT, "white") if value else ("white", EDGE)
        hatch = "//" if marked else None
        ax.add_patch(Rectangle(place, side, side, facecolor=face, edgecolor=edge, linewidth=0.8, hatch=hatch))
    middle = corner[0] + values.shape[1] / 2
    ax.text(middle, corner[1] + 0.3, title, ha="center", va="bottom")
    bare(ax, (corner[0], corner[1] + (0.3 + 1.2 * len(title.splitlines()))))


def draw_unit(ax: Axes, *, unit: int = 2, inputs: int = 4, units: int = 6, outputs: int = 5) -> None:
    """Draw one unit between two weight matrices: the row that writes it, the column that reads it.

    Parameters
    ----------
    ax : Axes
    unit : int
        Which one.
    inputs, units, outputs : int
        The first matrix has `units` rows and `inputs` columns, the second `outputs` rows and `units` columns.
    """
    start, radius = inputs + 4.0, 0.55
    center = (inputs + 1.6, -unit - 0.5)
    draw_matrix(ax, np.ones((units, inputs)), row=unit, title="layer that\nwrites it")
    draw_matrix(ax, np.ones((outputs, units)), corner=(start, 0), column=unit, title="layer that\nreads it")
    foot = (start + unit + 0.5, -outputs)
    ax.add_patch(Circle(center, radius, facecolor=MARKED, edgecolor=MARKED))
    arrow(ax, (inputs, center[1]), (center[0] - radius, center[1]))
    arrow(ax, (center[0] + radius, center[1]), (start, center[1]))
    ax.text(center[0], center[1] + radius + 0.25, "unit", ha="center", va="bottom", color=MARKED)
    ax.text(inputs / 2, -units - 0.35, "its row", ha="center", va="top", color=MARKED)
    ax.text(foot[0], foot[1] - 0.35, "its column", ha="center", va="top", color=MARKED)
    bare(ax, (inputs / 2, -units - 1.4), (foot[0], foot[1] - 1.4))


def arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float], *, bend: float = 0.0) -> None:
    """Draw an arrow in the colour of what is at issue."""
    style = f"arc3,rad={bend}"
    ax.add_patch(
        FancyArrowPatch(start, end, arrowstyle="-|>", connectionstyle=style, color=MARKED, mutation_scale=12, lw=1.4)
    )


def draw_network(
    ax: Axes,
    widths: Sequence[int],
    receding: Sequence[Sequence[int]] | None = None,
    *,
    names: Sequence[str] = (),
    title: str = "",
) -> None:
    """Draw a network as columns of units, each connected to those of the next column.

    Parameters
    ----------
    ax : Axes
    widths : sequence of int
        Units of each column.
    receding : sequence of sequences of int, optional
        For each column the units that recede: pale, dashed and without connections.
    names : sequence of str
        Under the columns.
    title : str
        Above the network.
    """
    gone = [set(column) for column in receding or [()] * len(widths)]
    places = [[(SPREAD * x, (width - 1) / 2 - i) for i in range(width)] for x, width in enumerate(widths)]
    living = [[place for i, place in enumerate(places[x]) if i not in gone[x]] for x in range(len(widths))]
    for left, right in pairwise(living):
        for a, b in product(left, right):
            ax.plot((a[0], b[0]), (a[1], b[1]), color=EDGE, linewidth=0.4, linestyle="-", zorder=1)
    for x, i in ((x, i) for x, width in enumerate(widths) for i in range(width)):
        face, edge, line = (PALE, EDGE, "--") if i in gone[x] else (WEIGHT, WEIGHT, "-")
        ax.add_patch(Circle(places[x][i], 0.3, facecolor=face, edgecolor=edge, linestyle=line, zorder=2))
    top = max(widths) / 2
    for x, name in enumerate(names):
        ax.text(SPREAD * x, -top - 0.3, name, ha="center", va="top", fontsize="small")
    ax.set_title(title)
    bare(ax, (0, -top - 1.4 * bool(names)))


def draw_macs(ax: Axes, counts: Mapping[str, float]) -> None:
    """Draw multiply-adds as bars under each other, each labelled with its share of the first one.

    Parameters
    ----------
    ax : Axes
    counts : mapping of str to float
        {label: multiply-adds}; the first one is the whole.
    """
    whole = next(iter(counts.values()))
    for y, (label, count) in enumerate(counts.items()):
        ax.barh(-y, count / whole, height=0.6, color=WEIGHT)
        ax.text(count / whole + 0.02, -y, f"{count / whole:.0%}".replace("%", " %"), va="center")
        ax.text(-0.02, -y, label, ha="right", va="center")
    ax.set(xlim=(0, 1.15), ylim=(0.5 - len(counts), 0.5))
    ax.set_axis_off()
