"""Figures that read in print, on a phone, in the dark and without colour; used by every chapter.

Okabe & Ito's colours, and a line style or marker of its own for every series.
"""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import seaborn as sns
from cycler import cycler
from matplotlib.figure import Figure
from PIL import Image

from pruning_lib.companion._arguments import a_, checked
from pruning_lib.diagnostics import Field

if TYPE_CHECKING:
    from IPython.display import HTML

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
# What differs from seaborn's theme: a size for print and phones, a light grid, text relative to its size, and the
# colour map and bar edges of Matplotlib, which the chapters' captions were written for.
LOOK = {
    "figure.figsize": (6.0, 3.4),
    "figure.dpi": 120,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "figure.constrained_layout.use": True,
    "axes.prop_cycle": cycler(color=COLORS) + cycler(linestyle=LINES),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.labelsize": "medium",
    "axes.titlesize": "large",
    "font.size": 11,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "image.cmap": "viridis",
    "legend.fontsize": "medium",
    "legend.frameon": False,
    "legend.title_fontsize": "medium",
    "lines.linewidth": 1.8,
    "lines.markersize": 6,
    "patch.edgecolor": "black",
    "patch.force_edgecolor": False,
    "xtick.labelsize": "medium",
    "ytick.labelsize": "medium",
}


def style() -> None:
    """Set the look of this book: seaborn's ticks on opaque white, 6 × 3.4 inches, colours paired with line styles.

    Examples
    --------
    >>> style()
    >>> plt.rcParams["figure.figsize"]
    [6.0, 3.4]
    >>> sns.color_palette().as_hex()[:2]
    ['#0072b2', '#d55e00']
    """
    # One font everywhere: seaborn would prefer Arial, which Matplotlib does not bring.
    sns.set_theme(context="paper", style="ticks", palette=COLORS, font="DejaVu Sans", rc=LOOK)


def plot_shrinkage_field(fields: Mapping[str, Field], *, relative: bool = True) -> Figure:
    """Draw shrinkage fields side by side: one dot a unit, one colour and marker a method.

    Parameters
    ----------
    fields : mapping of str to Field
        {legend: what `pruning_lib.shrinkage_field` returned}, at most seven.
    relative : bool
        Divide importances and rates by each method's largest, so that shapes compare. Otherwise draw them as they are;
        then all should be per the same unit.

    Examples
    --------
    >>> import torch
    >>> lengths = torch.tensor([1.0, 2.0])
    >>> fields = {"L2": Field(lengths, 3 * lengths, "lr × strength", ["fc1", "fc1"])}
    >>> figure = plot_shrinkage_field(fields, relative=False)
    >>> [text.get_text() for text in figure.legends[0].get_texts()]
    ['L2']
    >>> plt.close(figure)
    """
    checked("plot_shrinkage_field", fields=fields, relative=relative)
    for name, field in fields.items():
        if not isinstance(field, Field):
            raise TypeError(
                f"plot_shrinkage_field got {a_(field)} for {name!r:.100}; it needs what `shrinkage_field` returned."
            )
    figure, axes = plt.subplots(layout="constrained")
    for (name, field), color, marker in zip(fields.items(), COLORS, MARKERS, strict=False):
        x, y = field.importance, field.rate
        if relative:
            x, y = x / x.abs().max(), y / y.abs().max()
        axes.plot(x.numpy(), y.numpy(), linestyle="none", marker=marker, markersize=4, color=color, label=name)
    per = "per " + " or ".join(dict.fromkeys(field.per for field in fields.values()))
    axes.set(
        xlabel="importance of a unit" + (" (largest = 1)" if relative else ""),
        ylabel="what a step takes from it" + (" (largest = 1)" if relative else f",\n{per}"),
    )
    axes.axhline(0, color="#000000", linewidth=0.8, linestyle="-")
    # Above the axes, clear of the dots.
    figure.legend(loc="outside upper center", ncols=min(4, len(fields)), fontsize="small")
    return figure


def slider(
    figures: Sequence[Figure], labels: Sequence[str], alts: Sequence[str], *, name: str, title: str, start: int = 0
) -> HTML:
    """Return figures as one that moves: a range input over images, without server, script file or network.

    Its value is shown where it is the last expression of a cell. Every frame must have the same size, and should have
    the same axis limits.

    Parameters
    ----------
    figures : sequence of Figure
        The frames, in order; they are closed.
    labels, alts : sequences of str
        What the slider says at each frame, and what is to be seen there.
    name : str
        Unique on the page; letters, digits and hyphens.
    title : str
        What the slider moves, as in ``"Epoch"``.
    start : int
        The frame that it opens on: one that shows something.

    Raises
    ------
    ValueError
        If there are no frames, not one label and one text for each, or no frame of the number `start`.

    Examples
    --------
    >>> frames = [plt.figure(figsize=(2, 1)) for _ in range(2)]
    >>> shown = slider(frames, ["0", "1"], ["Nothing yet.", "Still nothing."], name="empty", title="Epoch")
    >>> shown.data.count("<img")
    2
    """
    if not figures or not len(figures) == len(labels) == len(alts):
        raise ValueError(
            f"slider got {len(figures)} figures, {len(labels)} labels, {len(alts)} alts; it needs one of each a frame."
        )
    if not 0 <= start < len(figures):
        raise ValueError(f"slider got start={start}; it has frames 0 to {len(figures) - 1}.")
    from IPython.display import HTML  # notebooks have it; the library does without

    frames = []
    for i, (figure, alt) in enumerate(zip(figures, alts, strict=True)):
        source = f"data:image/png;base64,{base64.b64encode(_small_png(figure)).decode()}"
        shown = "block" if i == start else "none"
        frames.append(
            f'<img class="dark-light" src="{source}" alt="{html.escape(alt)}" '
            f'style="max-width:100%;height:auto;display:{shown}">'
        )
    first, last = html.escape(labels[start]), len(figures) - 1
    # Inline, because a notebook's output may bring no script of its own; JupyterLab strips `hidden`, not `display`.
    # JupyterLab's shortcuts would take the arrow keys from the range input: `onkeydown` keeps them.
    move = (
        "const b=this.closest('.frames'),t=JSON.parse(this.dataset.labels)[this.value];"
        "[...b.querySelectorAll('.frames-view > img')]"
        ".forEach((e,i)=>{e.style.display=i==this.value?'block':'none'});"
        "b.querySelector('output').textContent=t;this.setAttribute('aria-valuetext',t);"
    )
    return HTML(  # type: ignore[no-untyped-call]
        f'<div class="frames" id="{name}" role="group" aria-label="{html.escape(title)}" style="background:#fff;'
        f'color:#1a1a1a;color-scheme:light;border-radius:.25rem;padding:.5rem;max-width:44rem">'
        f'<div class="frames-view">{"".join(frames)}</div>'
        f'<p><label for="{name}-range">{html.escape(title)}: <output for="{name}-range">{first}</output></label><br>'
        f'<input id="{name}-range" type="range" min="0" max="{last}" value="{start}" step="1" '
        f'style="width:100%;max-width:36rem" data-labels="{html.escape(json.dumps(list(labels)))}" '
        f'aria-valuetext="{first}" onkeydown="event.stopPropagation()" oninput="{html.escape(move)}"></p></div>'
    )


def _small_png(figure: Figure) -> bytes:
    """Return a figure as a PNG of 32 colours, and close it."""
    raw, small = io.BytesIO(), io.BytesIO()
    figure.savefig(raw, format="png", dpi=100)
    plt.close(figure)
    Image.open(raw).convert("RGB").quantize(32).save(small, "PNG", optimize=True)
    return small.getvalue()
