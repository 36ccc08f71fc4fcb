"""Schematics: what is drawn says what the arguments say."""

from __future__ import annotations

from collections.abc import Iterator

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.patches import Circle, Rectangle

from pruning_lib.companion import schematics


@pytest.fixture
def ax() -> Iterator[Axes]:
    with mpl.rc_context({"backend": "agg"}):
        figure, axes = plt.subplots()
        yield axes
        plt.close(figure)


def faces(ax: Axes, kind: type[Rectangle] | type[Circle]) -> list[str]:
    return [to_hex(patch.get_facecolor()).upper() for patch in ax.patches if isinstance(patch, kind)]


def test_a_zero_is_white_and_a_unit_is_its_row(ax: Axes) -> None:
    weights = np.ones((3, 4))
    weights[0, :2] = 0
    schematics.draw_matrix(ax, weights, row=2)
    assert faces(ax, Rectangle).count("#FFFFFF") == 2
    assert faces(ax, Rectangle)[-4:] == [schematics.MARKED] * 4
    assert faces(ax, Rectangle).count(schematics.MARKED) == 4


def test_the_area_of_a_square_is_its_weight(ax: Axes) -> None:
    schematics.draw_matrix(ax, [[1.0, -0.25, 0.0]])
    whole, quarter, zero = (p for p in ax.patches if isinstance(p, Rectangle))
    assert quarter.get_width() ** 2 == pytest.approx(0.25 * whole.get_width() ** 2)
    assert quarter.get_center() == pytest.approx((1.5, -0.5))
    assert zero.get_width() == whole.get_width()


def test_a_unit_marks_a_row_here_and_a_column_there(ax: Axes) -> None:
    schematics.draw_unit(ax, unit=1, inputs=4, units=6, outputs=5)
    marked = faces(ax, Rectangle)
    assert (len(marked), marked.count(schematics.MARKED)) == (6 * 4 + 5 * 6, 4 + 5)
    assert {text.get_text() for text in ax.texts} >= {"unit", "its row", "its column"}


def test_receding_units_are_pale_and_lose_their_connections(ax: Axes) -> None:
    schematics.draw_network(ax, [2, 3, 2], [[], [0, 2], []])
    circles = faces(ax, Circle)
    assert [circle == schematics.PALE.upper() for circle in circles] == [False, False, True, False, True, False, False]
    assert len(ax.lines) == 2 * 1 + 1 * 2


def test_bars_are_shares_of_the_first(ax: Axes) -> None:
    schematics.draw_macs(ax, {"before": 200, "after": 50})
    assert [bar.get_width() for bar in ax.patches if isinstance(bar, Rectangle)] == [1, 0.25]
    assert "25 %" in {text.get_text() for text in ax.texts}
