"""Draw the README's picture, `book/shrinking.png`, from a small network trained here: `make figure`."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from torch import Tensor, nn

from pruning_lib._measure import measure
from pruning_lib.channels import find_units, shrink
from pruning_lib.companion import plotting
from pruning_lib.companion.data import Split, digits
from pruning_lib.companion.models import LeNet300
from pruning_lib.regularizers import GroupLasso
from pruning_lib.selection import select, zero
from pruning_lib.training import Callback, Run, fit
from tools.chapters import ROOT
from tools.notebooks import reduced

WIDTHS = (40, 20)
SHORT = 0.1  # incoming weights of at most this length are set to zero
STAY, GO = plotting.COLORS[0], plotting.COLORS[1]


class Norms(Callback):
    """Note the length of the incoming weights of every hidden neuron, before and after each epoch."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def start(self, run: Run) -> None:
        """Note them before the first step."""
        self.after_epoch(run)

    def after_epoch(self, run: Run) -> None:
        """Note them."""
        layers = [layer for layer in run.model.modules() if isinstance(layer, nn.Linear)]
        self.seen.append(torch.cat([layer.weight.detach().norm(dim=1) for layer in layers[:-1]]))


def train(data: Split) -> tuple[nn.Module, Tensor, Tensor]:
    """Return a network trained with a group lasso, its norms, (epochs + 1, neurons), and the neurons set to zero."""
    torch.manual_seed(0)
    model = LeNet300(inputs=(1, 8, 8), widths=WIDTHS)
    norms = Norms()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    penalty = GroupLasso(model, strength=2e-2, apply="prox")
    options = {"epochs": 100, "optimizer": optimizer, "regularizer": penalty, "callbacks": [norms], "batch_size": 64}
    fit(model, data.train, data.val, progress=False, **options)  # type: ignore[arg-type]
    groups = find_units(model, data.val.inputs[:2])
    chosen = select(penalty.importance(), groups, threshold=SHORT)
    zero(model, chosen, groups)
    return model, torch.stack(norms.seen), torch.cat([chosen[name] for name in groups])


@dataclass(frozen=True)
class Story:
    """The network that both pictures show.

    Parameters
    ----------
    model, small : nn.Module
        Trained and set to zero where it receded; the same without those neurons.
    norms : Tensor
        Lengths of every hidden neuron's weights, (epochs + 1, neurons).
    dead : Tensor
        Which of them receded, bool (neurons,).
    image : Tensor
        A digit, (8, 8).
    macs : tuple of int
        Multiply-adds of both networks.
    difference : float
        Largest difference of their outputs on the test set.
    accuracy : tuple of float
        Shares of the test set that they get right.
    """

    model: nn.Module
    small: nn.Module
    norms: Tensor
    dead: Tensor
    image: Tensor
    macs: tuple[int, int]
    difference: float
    accuracy: tuple[float, float]


def tell() -> Story:
    """Train the network, and remove what receded."""
    data = digits()
    model, norms, dead = train(data)
    example = data.test.inputs
    small = shrink(model, example[:2]).model
    with torch.no_grad():
        outputs, same = model(example), small(example)
    difference = (same - outputs).abs().max().item()
    right = [(each.argmax(1) == data.test.targets).float().mean().item() for each in (outputs, same)]
    macs = (measure(model, example[:1]).macs, measure(small, example[:1]).macs)
    return Story(model, small, norms, dead, example[0].squeeze(), macs, difference, (right[0], right[1]))


def draw_norms(axes: Axes, norms: Tensor, dead: Tensor) -> None:
    """Draw one line a neuron: those that recede dashed, those that stay solid."""
    for gone, colour, style, label in ((True, GO, "--", "recede"), (False, STAY, "-", "stay")):
        lines = axes.plot(
            norms[:, dead == gone], color=colour, linestyle=style, linewidth=1.1 if gone else 0.9, alpha=0.9
        )
        lines[0].set_label(f"{len(lines)} {label}")
    axes.set(
        xlabel="epoch",
        ylabel="length of a neuron's weights",
        ylim=(0, None),
        title="training with a penalty: some neurons recede",
    )
    axes.legend(loc="upper left", framealpha=1, frameon=True)


def draw_network(axes: Axes, model: nn.Module, title: str) -> None:
    """Draw neurons as dots in a column a layer, and the weights between them that are not zero."""
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    alive = [layer.weight.detach().abs().sum(1) > 0 for layer in layers]
    heights = [torch.linspace(1, -1, len(a)) * min(1, len(a) / WIDTHS[0]) for a in alive]
    for left, layer in enumerate(layers[1:]):
        weight = layer.weight.detach()
        for i, j in (weight * alive[left]).abs().gt(0.02).nonzero().tolist():
            ends = [heights[left][j], heights[left + 1][i]]
            axes.plot([left, left + 1], ends, color="#888888", linestyle="-", linewidth=0.3, alpha=0.5, zorder=1)
    for column, (here, y) in enumerate(zip(alive, heights, strict=True)):
        axes.scatter([column] * int(here.sum()), y[here], s=14, color=STAY, zorder=2)
        axes.scatter([column] * int((~here).sum()), y[~here], s=12, facecolors="white", edgecolors=GO, zorder=2)
    axes.set(title=title, xticks=range(3), xlim=(-0.3, 2.3), ylim=(-1.08, 1.08), yticks=[])
    axes.set_xticklabels([f"{len(a)}" for a in alive])
    axes.grid(False)
    axes.spines[:].set_visible(False)


def main() -> None:
    """Train, shrink, draw, and store the picture with a small palette."""
    plotting.style()
    story = tell()
    before, after = story.macs
    figure, axes = plt.subplot_mosaic("aa;bc", figsize=(6.4, 6), height_ratios=(1, 1.1))
    draw_norms(axes["a"], story.norms, story.dead)
    draw_network(axes["b"], story.model, "set to zero: the same cost")
    draw_network(axes["c"], story.small, "removed: the same outputs")
    axes["b"].set_xlabel(f"neurons a layer;\n{before:,} multiply-adds")
    axes["c"].set_xlabel(f"{after:,} multiply-adds;\noutputs differ by at most {story.difference:.0e}")
    raw = io.BytesIO()
    figure.savefig(raw, format="png", dpi=110)
    (ROOT / "book" / "shrinking.png").write_bytes(base64.b64decode(reduced(base64.b64encode(raw.getvalue()).decode())))


if __name__ == "__main__":
    main()
