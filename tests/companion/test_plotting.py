"""The slider stands alone and speaks; colours can be told apart without seeing colour."""

import itertools
import re

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import seaborn as sns
import torch
from torch import nn

import pruning_lib as prl
from pruning_lib.companion import plotting
from pruning_lib.diagnostics import Field


def frames(count: int) -> list[plt.Figure]:
    figures = []
    for i in range(count):
        figure, ax = plt.subplots(figsize=(2, 1))
        ax.plot([0, 1], [0, i])
        figures.append(figure)
    return figures


def test_slider_needs_nothing_from_outside_and_names_every_frame():
    others = plt.get_fignums()
    page = plotting.slider(frames(3), ["1", "2", "3"], ["a < b", "second", "third"], name="s", title="Epoch").data
    images = re.findall(r"<img[^>]*>", page)
    assert len(images) == 3
    assert [re.search(r'alt="([^"]*)"', image)[1] for image in images] == ["a &lt; b", "second", "third"]
    assert [("display:block" in image) for image in images] == [True, False, False]
    assert not re.search(r"https?:|<script|\bhidden\b", page)
    assert 'max="2"' in page
    assert re.search(r'<input[^>]* onkeydown="event.stopPropagation\(\)"', page), "else JupyterLab takes the arrow keys"
    assert 'aria-valuetext="1"' in page
    assert plt.get_fignums() == others, "its figures are closed"


def test_slider_opens_on_the_frame_that_is_named():
    page = plotting.slider(frames(3), ["1", "2", "3"], ["first", "second", "third"], name="s", title="t", start=1).data
    assert [("display:block" in image) for image in re.findall(r"<img[^>]*>", page)] == [False, True, False]
    assert 'value="1"' in page
    assert 'aria-valuetext="2"' in page
    with pytest.raises(ValueError, match="start=3; it has frames 0 to 2"):
        plotting.slider(frames(3), ["1", "2", "3"], ["a", "b", "c"], name="s", title="t", start=3)
    plt.close("all")


def test_slider_refuses_unequal_lists():
    with pytest.raises(ValueError, match="2 figures, 1 labels, 2 alts; it needs one of each a frame"):
        plotting.slider(frames(2), ["1"], ["a", "b"], name="s", title="t")
    plt.close("all")


def test_the_look_is_seaborns_in_the_colours_and_sizes_of_the_book() -> None:
    with mpl.rc_context():
        plotting.style()
        assert [color.upper() for color in sns.color_palette().as_hex()] == list(plotting.COLORS)
        assert mpl.rcParams["axes.prop_cycle"].by_key()["linestyle"] == list(plotting.LINES)
        assert mpl.rcParams["figure.facecolor"] == mpl.rcParams["axes.facecolor"] == "white"
        assert (mpl.rcParams["figure.figsize"], mpl.rcParams["font.size"]) == ([6.0, 3.4], 11)
        assert mpl.rcParams["image.cmap"] == "viridis"
        assert mpl.rcParams["xtick.bottom"], "seaborn's ticks"


class Block(nn.Module):
    """A stream that a branch is added to."""

    def __init__(self):
        super().__init__()
        self.stem, self.inner, self.back, self.head = (nn.Linear(*sizes) for sizes in ((3, 6), (6, 9), (9, 6), (6, 2)))

    def forward(self, x):
        x = self.stem(x).relu()
        return self.head(x + self.back(self.inner(x).relu()))


def test_widths_are_drawn_as_they_are() -> None:
    pruned = prl.prune(Block(), torch.zeros(1, 3), macs_left=0.6)
    figure = plotting.plot_widths(pruned)
    bars = sorted((round(bar.get_y() + bar.get_height() / 2), bar.get_width()) for bar in figure.axes[0].patches)
    drawn = [tuple(width for place, width in bars if place == row) for row in range(len(pruned.widths))]
    assert [(after, before) for before, after in pruned.widths.values()] == drawn
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == list(pruned.widths)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["before", "after"]
    plt.close(figure)


def test_the_picture_of_units_draws_every_reader_and_fits_a_page() -> None:
    units = prl.find_units(Block(), torch.zeros(1, 3))
    figure = plotting.plot_units(units)
    arrows = {(arrow._posA_posB[0][1], arrow._posA_posB[1][1]) for arrow in figure.axes[0].patches}
    stream, inner, head = 0, -1, -2  # stem with back; inner; head
    assert arrows == {(stream, inner), (inner, stream), (stream, head)}
    shown = [text.get_text() for text in figure.axes[0].texts]
    assert shown == ["stem  6 units, stream", "inner  9 units", "head  stays"]
    plt.close(figure)
    deep = nn.Sequential(*(layer for _ in range(90) for layer in (nn.Linear(4, 4), nn.ReLU())))
    figure = plotting.plot_units(prl.find_units(deep, torch.zeros(1, 4)))
    assert figure.get_figheight() <= 9.5
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert all(below.y1 <= above.y0 + 1 for above, below in itertools.pairwise(boxes)), "no line covers another"
    plt.close(figure)


def luminance(color: str) -> float:
    channels = np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_series_differ_by_line_and_marker_as_well_as_colour():
    assert len(set(plotting.COLORS)) == len(set(plotting.MARKERS)) == len(set(map(str, plotting.LINES))) == 7
    assert all(1.05 / (luminance(color) + 0.05) >= 2 for color in plotting.COLORS[:4]), "visible on white"


@pytest.mark.parametrize("relative", [True, False])
def test_fields_are_drawn_dot_by_dot_in_shapes_that_differ(relative: bool) -> None:
    x = torch.linspace(0.1, 2, 5, dtype=torch.float64)
    fields = {
        "L2": Field(x, 3 * x, "lr × strength", ["fc1"] * 5),
        "group lasso": Field(x, torch.ones_like(x), "lr × strength", ["fc1"] * 5),
    }
    figure = plotting.plot_shrinkage_field(fields, relative=relative)
    first, second = (line for line in figure.axes[0].lines if line.get_marker() != "None")
    assert first.get_marker() != second.get_marker()
    assert list(first.get_xdata()) == pytest.approx((x / 2 if relative else x).tolist())
    assert list(first.get_ydata()) == pytest.approx((x / 2 if relative else 3 * x).tolist())
    xlabel, ylabel = figure.axes[0].get_xlabel(), figure.axes[0].get_ylabel()
    assert xlabel == ("importance of a unit (largest = 1)" if relative else "importance of a unit")
    assert ylabel.endswith("(largest = 1)" if relative else "per lr × strength")
    plt.close(figure)


def test_the_legend_of_seven_fields_covers_no_dot() -> None:
    x = torch.linspace(0.1, 2, 40, dtype=torch.float64)
    names = ("L2", "L1", "group lasso", "guided group lasso", "SeReNe", "stochastic pruning", "receding neurons")
    fields = {name: Field(x, k * x, "lr × strength", ["fc1"] * 40) for k, name in enumerate(names, 1)}
    figure = plotting.plot_shrinkage_field(fields, relative=False)
    figure.draw_without_rendering()
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == list(names)
    box = legend.get_window_extent()
    assert box.y0 >= figure.axes[0].get_window_extent().y1
    assert figure.bbox.x0 <= box.x0
    assert box.x1 <= figure.bbox.x1
    plt.close(figure)


def test_a_caption_is_written_as_the_book_writes_it(monkeypatch):
    said = []
    monkeypatch.setattr("IPython.display.display", lambda shown: said.append(shown.data))
    plotting.caption("*Dots*: `a*b` < $x*y*z$, **all** & more.")
    (page,) = said
    assert page.startswith("<p")
    assert "<em>Dots</em>: <code>a*b</code> &lt; $x*y*z$, <strong>all</strong> &amp; more.</p>" in page
