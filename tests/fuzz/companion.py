"""What readers call of the companion: data sets, networks, metrics, figures, records, comparisons."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import matplotlib.pyplot as plt
import torch

from pruning_lib.companion import data, metrics, models, plotting, records, verdicts
from pruning_lib.diagnostics import Field
from tests.companion.test_records import record
from tests.fuzz.cases import Case

MAPS = torch.tensor([[[1, 1, 0, 2, 2]]])
ROWS = [{"recipe": "prune", "method": "l2", "criterion": "own", "target": "a", "strength": 1e-3, "seed": 0, "e": 1.0}]


def cases() -> Iterator[Case]:
    """Yield every case."""
    yield Case("digits", data.digits, lambda _: {"seed": 0})
    for load in (data.mnist, data.fashion_mnist, data.cifar10):
        yield Case(load.__name__, load, lambda folder: {"root": folder, "seed": 0, "validation": 5000})
    yield Case("nuclei", data.nuclei, lambda folder: {"root": folder, "seed": 0})
    yield Case(
        "chest_xrays", data.chest_xrays, lambda folder: {"root": folder, "seed": 0, "source": 0, "noncommercial": True}
    )
    yield Case("build", data.build, lambda folder: {"name": "nuclei", "originals": folder / "none", "root": folder})
    yield Case(
        "crop_and_flip",
        data.crop_and_flip,
        lambda _: {"inputs": torch.ones(2, 3, 4, 4), "generator": torch.Generator(), "padding": 1},
    )
    yield Case("LeNet300", models.LeNet300, lambda _: {"classes": 3, "inputs": (1, 4, 4), "widths": (5, 6), "bn": True})
    yield Case(
        "LeNet5",
        models.LeNet5,
        lambda _: {"classes": 3, "inputs": (1, 8, 8), "widths": (4, 5, 6), "kernel": 3, "padding": 1, "bn": False},
    )
    yield Case("ConvNet", models.ConvNet, lambda _: {"classes": 3, "inputs": 1, "widths": (4, 5)})
    yield Case("ResNet", models.ResNet, lambda _: {"depth": 8, "classes": 3, "width": 4, "inputs": 1})
    yield Case("UNet", models.UNet, lambda _: {"classes": 2, "inputs": 1, "channels": 4, "depth": 1})
    yield Case("VGG16", models.VGG16, lambda _: {"classes": 2, "width": 0.05, "inputs": 1, "bn": True})
    for metric in (metrics.dice, metrics.balanced_accuracy):
        yield Case(
            metric.__name__,
            metric,
            lambda _: {"predicted": torch.tensor([0, 1, 1]), "targets": torch.tensor([0, 1, 0])},
        )
    yield Case("instance_f1", metrics.instance_f1, lambda _: {"predicted": MAPS, "instances": MAPS})
    yield Case("components", metrics.components, lambda _: {"maps": MAPS})
    yield Case(
        "auroc", metrics.auroc, lambda _: {"scores": torch.eye(2)[[0, 1, 0]], "targets": torch.tensor([0, 1, 0])}
    )
    yield from _figures()
    yield from _records()


def _figures() -> Iterator[Case]:
    lengths = torch.tensor([1.0, 2.0])

    def drawn(fields: Any, relative: Any) -> None:
        try:
            plotting.plot_shrinkage_field(fields, relative=relative)
        finally:
            plt.close("all")

    field = Field(lengths, 3 * lengths, "lr × strength", ["fc1", "fc1"])
    yield Case(
        "plot_shrinkage_field",
        drawn,
        lambda _: {"fields": {"L2": field}, "relative": True},
        annotated=plotting.plot_shrinkage_field,
    )


def _records() -> Iterator[Case]:
    yield Case("records.load", records.load, lambda _: {"suite": "nuclei-unet"})
    yield Case("records.about", records.about, lambda _: {"suite": "nuclei-unet"})
    yield Case("records.measured", records.measured, lambda _: {"name": "zoo"})
    yield Case("records.choose", records.choose, lambda _: {"rows": ROWS, "by": "e"}, open=("rows",))
    yield Case("records.interval", records.interval, lambda _: {"values": [1.0, 2.0]})
    yield Case("records.paired", records.paired, lambda _: {"ours": ROWS, "theirs": ROWS, "column": "e"})
    yield Case("records.validate", records.validate, lambda _: {"record": record()})
    yield Case("records.write", records.write, lambda folder: {"record": record(), "folder": folder})
    yield Case("records.identifier", records.identifier, lambda _: {"config": record()["config"]})
    yield Case(
        "verdicts.compare",
        verdicts.compare,
        lambda _: {"ours": [1.0, 2.0], "theirs": [2.0, 4.0]},
        open=("ours", "theirs"),
    )
    yield Case("verdicts.holm", verdicts.holm, lambda _: {"p": {"a": 0.01, "b": 0.04}})
