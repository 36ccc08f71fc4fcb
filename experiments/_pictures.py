"""The pictures on the pages of tables, drawn from the records: `python -m experiments pages` writes them, too."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt

from experiments import tidy
from experiments.suites import SUITES, Suite
from pruning_lib._model import atomic_draft
from pruning_lib.companion.pictures import Columns
from pruning_lib.companion.records import read

COMPARED = (
    "mnist-lenet300",
    "mnist-lenet5",
    "fashion-lenet5",
    "cifar10-vgg16-quarter",
    "cifar10-resnet20",
    "nuclei-unet",
    "covid-cnn",
)
"""Suites that compare methods at sizes."""
DIES = ("dense", "l2", "group-lasso", "stochastic-l2", "stochastic-l1", "guided-group-lasso")


@dataclass(frozen=True)
class Picture:
    """A picture on a page.

    Parameters
    ----------
    kind : str
        One of `tidy.KINDS`.
    suites, methods : tuple of str
        What it shows; of the suites those that have records.
    alt, caption : str
        What it says without being seen, and what stands below it.
    """

    kind: str
    suites: tuple[str, ...]
    methods: tuple[str, ...]
    alt: str
    caption: str

    def there(self, records: Path) -> list[Suite]:
        """Return the suites that have records."""
        return [SUITES[name] for name in self.suites if read(name, records)]

    def data(self, records: Path) -> Columns:
        """Return what is drawn; empty without records."""
        return tidy.KINDS[self.kind][0](self.there(records), records, self.methods)

    def write(self, records: Path, path: Path) -> None:
        """Draw it to a file that says what it was drawn from."""
        data = self.data(records)
        figure = tidy.KINDS[self.kind][1](data)
        with atomic_draft(path) as draft:
            said = {"Description": digest(data)}
            figure.savefig(draft, format="png", dpi=150, bbox_inches="tight", metadata=said)
        plt.close(figure)


def digest(data: Columns) -> str:
    """Return what tells whether a picture is of these data."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def shown(name: str, records: Path) -> str:
    """Return the Markdown that shows a picture, or nothing where there are no records."""
    it = PICTURES[name]
    if not it.there(records):
        return ""
    return f"```{{figure}} {name}.png\n:alt: {it.alt}\n:name: fig-{name}\n\n{it.caption}\n```"


PICTURES = {
    "ledger-forest": Picture(
        "forest",
        tuple(name for name, suite in SUITES.items() if suite.claims),
        tidy.MAIN,
        "A row for each claim that has runs, in three panels: points of test error above the own network before the "
        "cut, above dense, and above the control that decides. The table below has the numbers.",
        "Each dot is a seed, each bar the 95 % interval of the mean; grey: the margin, points that count as no loss.",
    ),
    "mnist-deaths": Picture(
        "deaths",
        ("mnist-mlp",),
        DIES,
        "Curves of dead units by epoch, one a method. They rise in the first twenty epochs and then level off; without "
        "a penalty, and with L2 alone, none die.",
        "Units with a side that is all zero, by epoch. A band is the 95 % interval of the mean over seeds.",
    ),
    "mnist-epochs": Picture(
        "epochs",
        ("mnist-mlp",),
        DIES,
        "Curves of validation error by epoch, one a method. All fall, and from epoch forty their order hardly changes.",
        "Validation error by epoch, before anything is cut: would a longer training turn the order?",
    ),
    "methods": Picture(
        "heatmap",
        COMPARED,
        tidy.MAIN,
        "A table of numbers as colours: a row for each network and size, a column for each method. The tables of the "
        "suites have the same numbers, with intervals.",
        "Points of test error above the dense network, mean over seeds, after a cut by the method's own ranking and "
        "fine-tuning (uniform width: trained from its first step): blue is better than dense, red is worse. Where a "
        "cell is empty, nothing was run.",
    ),
    **{
        f"{name}-fronts": Picture(
            "fronts",
            (name,),
            tidy.MAIN,
            "Curves of test error, one a method, against the multiply-adds that are left and, where it was measured, "
            "against the time that is left in ONNX Runtime. The table below has the numbers.",
            "Test error against what is left of the dense network: its multiply-adds (MACs) and, below them, where it "
            "was measured, its time in ONNX Runtime (32 examples, one thread). Bars are 95 % intervals over seeds.",
        )
        for name in COMPARED
    },
}
"""By the names of their files."""
PLACES = {
    "ledger": ("ledger-forest",),
    "methods": ("methods",),
    "mnist-mlp": ("mnist-deaths", "mnist-epochs"),
    **{name: (f"{name}-fronts",) for name in COMPARED},
}
"""The pictures of the ledger, of its end, and of the parts of pages that are about a suite."""
