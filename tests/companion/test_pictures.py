"""Pictures of many runs: what is drawn is the means, the intervals, the dots and the cells of the columns given."""

from __future__ import annotations

import math

import matplotlib.pyplot as plt
import pytest

from pruning_lib.companion.pictures import plot_forest, plot_heatmap, plot_lines
from pruning_lib.companion.records import interval


def test_curves_go_through_the_means_and_show_the_tables_intervals() -> None:
    data = {
        "epoch": [1, 2, 1, 2, 1, 2, 1, 2],
        "error": [9.0, 5.0, 8.0, 3.0, 7.0, 4.0, 2.0, 1.0],
        "method": ["L2"] * 6 + ["L1"] * 2,
        "network": ["LeNet"] * 8,
    }
    figure = plot_lines(data, x="epoch", y="error", by="method", facet="network")
    (axes,) = figure.axes
    drawn = {tuple(line.get_xydata()[:, 1].tolist()) for line in axes.lines}
    assert {(8.0, 4.0), (2.0, 1.0)} <= drawn
    mean, half = interval([9.0, 8.0, 7.0])
    ends = [part.tolist() for bars in axes.collections for part in bars.get_segments()]
    assert [[1, pytest.approx(mean - half)], [1, pytest.approx(mean + half)]] in ends
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title()) == ("epoch", "error", "LeNet")
    plt.close(figure)


def test_facets_have_their_own_axes_and_too_many_curves_are_refused() -> None:
    data = {"x": [1, 2, 30, 40], "y": [1.0, 2.0, 3.0, 4.0], "m": ["a"] * 4, "f": ["p", "p", "q", "q"]}
    figure = plot_lines(data, x="x", y="y", by="m", facet="f", log=True)
    assert [axes.get_title() for axes in figure.axes] == ["p", "q"]
    assert figure.axes[0].get_xlim()[1] < 5 < figure.axes[1].get_xlim()[0]
    assert {axes.get_yscale() for axes in figure.axes} == {"log"}
    assert figure.axes[1].get_ylim() == pytest.approx((3 / 1.1, 4 * 1.1))  # of the values, not of the intervals
    plt.close(figure)
    many = {"x": list(range(8)), "y": [1.0] * 8, "m": list("abcdefgh"), "f": ["p"] * 8}
    with pytest.raises(ValueError, match="plot_lines got 8 curves; it draws at least one and at most 7"):
        plot_lines(many, x="x", y="y", by="m", facet="f")


def test_a_forest_has_a_dot_a_seed_the_mean_its_interval_and_the_margin() -> None:
    data = {
        "claim": ["half go", "half go", "all stay"],
        "against": ["itself before", "dense", "dense"],
        "points": [[0.1, 0.4], [0.2, 0.6], [1.0]],
        "half": [0.5, 0.7, math.inf],
        "margin": [0.3, None, None],
    }
    figure = plot_forest(data, title="Claims")
    left, right = figure.axes
    assert (left.get_title(), right.get_title()) == ("above itself before", "above dense")
    drawn = {
        panel: {
            mark: [line.get_xdata().tolist() for line in panel.lines if line.get_marker() == mark] for mark in "oD|"
        }
        for panel in figure.axes
    }
    assert drawn[left] == {"o": [[0.1, 0.4]], "D": [[0.25]], "|": [[-0.25], [0.75]]}
    assert drawn[right]["o"] == [[0.2, 0.6], [1.0]]
    assert drawn[right]["D"] == [[0.4], [1.0]]
    bands = [[path.get_extents().width for path in patch.get_paths()] for patch in left.collections]
    assert [pytest.approx(0.6)] in bands
    assert [label.get_text() for label in left.get_yticklabels()] == ["half go", "all stay"]
    plt.close(figure)
    with pytest.raises(ValueError, match="plot_forest got no comparison"):
        plot_forest({name: [] for name in data})


def test_a_heatmap_averages_cells_and_leaves_gaps_empty() -> None:
    data = {"gap": [0.5, 1.5, -1.0, 2.0], "method": ["L2", "L2", "L1", "L1"], "network": ["a", "a", "a", "b"]}
    figure = plot_heatmap(data, value="gap", rows="method", columns="network")
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.texts] == ["1.00", "-1.00", "2.00"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["L2", "L1"]
    plt.close(figure)
