"""Figures that read in print, on a phone, in the dark and without colour; used by every chapter.

Okabe & Ito's colours, and a line style or marker of its own for every series.
"""

from __future__ import annotations

import base64
import html
import io
import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import seaborn as sns
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch
from PIL import Image

from pruning_lib.channels import Shrunk
from pruning_lib.companion._arguments import a_, checked, shown
from pruning_lib.diagnostics import Field
from pruning_lib.units import Units

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
    "legend.edgecolor": "none",
    "legend.facecolor": "white",
    "legend.fancybox": False,
    "legend.fontsize": "medium",
    "legend.frameon": True,  # a plate that no grid line strikes through
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
                f"plot_shrinkage_field got {a_(field)} for {shown(name)}; it needs what `shrinkage_field` returned."
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
    figure.legend(loc="outside upper center", ncols=min(4, len(fields)), columnspacing=1.2)
    return figure


def plot_widths(shrunk: Shrunk) -> Figure:
    """Draw the units of each group before and after as bars, in the order of computation.

    Parameters
    ----------
    shrunk : Shrunk
        What `pruning_lib.prune` or `pruning_lib.shrink` returned.

    Examples
    --------
    >>> import torch
    >>> import pruning_lib as prl
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))
    >>> figure = plot_widths(prl.prune(model, torch.zeros(1, 8), macs_left=0.5))
    >>> [float(bar.get_width()) for bar in figure.axes[0].patches]
    [16.0, 8.0]
    >>> plt.close(figure)
    """
    names = list(shrunk.widths)
    figure, axes, size = _page(len(names))
    for side, color, label in ((0, "#d3dae2", "before"), (1, COLORS[0], "after")):
        values = [widths[side] for widths in shrunk.widths.values()]
        # Bars of one place, a narrower one in front: lengths compare, and no hue has to be told from another.
        width = 0.8 - 0.3 * side
        sns.barplot(x=values, y=names, ax=axes, color=color, saturation=1, width=width, label=label)
    axes.set(xlabel="units", ylabel="")
    axes.tick_params(axis="y", labelsize=size, length=0)
    axes.grid(visible=False, axis="y")
    if (legend := axes.get_legend()) is not None:
        legend.remove()
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=2, fontsize="small")
    return figure


def plot_units(units: Units) -> Figure:
    """Draw who reads whose units: a line a group, in the order of computation, and an arc to each group it feeds.

    Parameters
    ----------
    units : Units
        What `pruning_lib.find_units` returned. Layers whose units cannot go are drawn last, hollow.

    Examples
    --------
    >>> import torch
    >>> import pruning_lib as prl
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))
    >>> figure = plot_units(prl.find_units(model, torch.zeros(1, 8)))
    >>> [text.get_text() for text in figure.axes[0].texts]
    ['0  16 units', '2  stays']
    >>> plt.close(figure)
    """
    homes = {member.layer: name for name, group in units.items() for member in group.writers}
    homes |= {name: name for name in units.fixed}
    places = {name: -place for place, name in enumerate([*units, *(f for f in units.fixed if f not in units)])}
    figure, axes, size = _page(len(places))
    for name, group in units.items():
        for reader in dict.fromkeys(homes.get(member.layer, name) for member in group.readers):
            if reader != name:
                _arc(axes, places[name], places[reader], COLORS[1] if group.kind == "stream" else COLORS[0])
    for name, y in places.items():
        stream = name in units and units[name].kind == "stream"
        color = COLORS[1] if stream else COLORS[0]
        face = color if name in units else "white"
        axes.plot(0, y, MARKERS[1] if stream else MARKERS[0], color=color, markerfacecolor=face, markersize=size / 1.6)
        count = f"{units[name].size:,} units{', stream' * stream}" if name in units else "stays"
        axes.text(0.6, y, f"{name}  {count}", va="center", fontsize=size)
    reach = max([abs(places[a] - places[b]) for a in places for b in places], default=1)
    axes.set(xlim=(-1 - reach / 2, 4 + reach / 2), ylim=(-len(places) + 0.5, 0.5))
    axes.set_axis_off()
    return figure


def _page(lines: int) -> tuple[Figure, Axes, float]:
    """Return a figure for so many lines, never higher than a page, and the size of its text in points."""
    height = min(1.2 + 0.26 * lines, 9.5)
    figure, axes = plt.subplots(figsize=(6.0, height), layout="constrained")
    return figure, axes, min(9.0, 0.72 * 72 * (height - 1.2) / max(lines, 1))


def _arc(axes: Axes, start: float, end: float, color: str) -> None:
    """Draw an arc to the left, from one line to another."""
    bend = "arc3,rad=0.5" if start > end else "arc3,rad=-0.5"
    axes.add_patch(
        FancyArrowPatch((-0.3, start), (-0.3, end), arrowstyle="-|>", connectionstyle=bend, color=color, lw=1.0,
                        mutation_scale=7)
    )  # fmt: skip


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


def caption(text: str) -> None:
    """Show the figures of this cell and what is written under them; a notebook's metadata is not shown by JupyterLab.

    Parameters
    ----------
    text : str
        Of one paragraph, in Markdown: `code`, *emphasis*, **bold** and $formulas$.

    Examples
    --------
    >>> caption("*Dots*: three seeds of `LeNet5`.")
    <IPython.core.display.HTML object>
    """
    from IPython.display import HTML, display  # notebooks have it; the library does without

    plt.show()
    pieces = re.split(r"(\$[^$]*\$|`[^`]*`)", html.escape(text, quote=False))
    for i in range(0, len(pieces), 2):  # what is neither formula nor code
        pieces[i] = re.sub(r"\*(.+?)\*", r"<em>\1</em>", re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", pieces[i]))
    written = "".join(f"<code>{piece[1:-1]}</code>" if piece[:1] == "`" else piece for piece in pieces)
    display(HTML(f'<p class="figure-caption" style="max-width:44rem">{written}</p>'))  # type: ignore[no-untyped-call]


def _small_png(figure: Figure) -> bytes:
    """Return a figure as a PNG of 32 colours, and close it."""
    raw, small = io.BytesIO(), io.BytesIO()
    figure.savefig(raw, format="png", dpi=100)
    plt.close(figure)
    Image.open(raw).convert("RGB").quantize(32).save(small, "PNG", optimize=True)
    return small.getvalue()
