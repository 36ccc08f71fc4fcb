"""What do the medical sets give away? `python -m benchmarks.leaks` (nuclei and chest X-rays, one thread, a minute).

Nuclei. Pieces of one slide look alike, so a test image should be no nearer to the training images than another slide
would be. Each image, as a network gets it, is described by the mean responses of 96 random filters at three scales,
which the split knows nothing of. Printed, for a split by chance and for `data.nuclei`: the distance of a test image to
its nearest training image over that between neighbours in training (medians), and the share of test images that are
nearer than such neighbours. By chance the first is about 1, the second about a half.

Touching nuclei are one object in a map of two classes: the instance F1 that the test targets themselves reach is what a
perfect answer by pixel would.

X-rays. A linear probe (logistic regression on 16 × 16 pixels, tested on patients that it has not seen) is asked for
the collection, given only images without COVID-19, and for COVID-19: among all images; from the rim alone, where there
is no lung; and in the first collection alone, where the collection cannot give the answer. AUROC.
"""

from __future__ import annotations

import argparse
import statistics

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from torch import Tensor

from pruning_lib.companion.data import DetailedSplit, chest_xrays, nuclei
from pruning_lib.companion.metrics import instance_f1

RIM = 2  # of 16 pixels, on each side: an eighth of the image


def responses(images: Tensor) -> Tensor:
    """Return (n, 96) logarithms of the mean responses of random filters, each of mean 0 and deviation 1 over images."""
    generator = torch.Generator().manual_seed(0)
    columns = []
    for scale in (1, 2, 4):
        filters = torch.randn(32, images.shape[1], 7, 7, generator=generator)
        filters -= filters.mean((1, 2, 3), keepdim=True)
        small = F.avg_pool2d(images, scale)
        columns.append(torch.cat([F.conv2d(x, filters, stride=2).relu().mean((2, 3)) for x in torch.split(small, 64)]))
    table = torch.cat(columns, 1).add(1e-4).log()
    return (table - table.mean(0)) / table.std(0)


def leak(table: Tensor, train: Tensor, test: Tensor) -> tuple[float, float]:
    """Return how far a test image is from training, over what is usual within training, and the share nearer."""
    apart = torch.cdist(table[train], table[train]).fill_diagonal_(torch.inf).amin(1)
    away = torch.cdist(table[test], table[train]).amin(1)
    usual = apart.median()
    return float(away.median() / usual), float((away < usual).double().mean())


def nuclei_rows(seeds: int) -> tuple[dict[str, list[tuple[float, float]]], list[float]]:
    """Return {how it was split: its `leak` for each seed}, and the instance F1 of the test targets."""
    chance, ours, ceiling = [], [], []
    for seed in range(seeds):
        split = nuclei(seed=seed)
        table = responses(torch.cat([split.train.inputs, split.val.inputs, split.test.inputs]))
        sizes = [len(pair.targets) for pair in (split.train, split.val, split.test)]
        train, _, test = torch.split(torch.arange(len(table)), sizes)
        ours.append(leak(table, train, test))
        ceiling.append(instance_f1(split.test.targets, split.details["test"]["instances"]))
        order = torch.randperm(len(table), generator=torch.Generator().manual_seed(seed))
        train, _, test = torch.split(order, sizes)
        chance.append(leak(table, train, test))
    return {"by chance": chance, "by source group": ours}, ceiling


def probe(train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> float:
    """Return the AUROC of a linear probe of (features, whether)."""
    (x, y), (x_test, y_test) = train, test
    mean, deviation = x.mean(0), x.std(0)
    fitted = LogisticRegression(C=1e-3, class_weight="balanced", max_iter=1000).fit((x - mean) / deviation, y)
    return float(roc_auc_score(y_test, fitted.decision_function((x_test - mean) / deviation)))


def xray_rows(seeds: int) -> dict[str, list[float]]:
    """Return {what was asked: the probe's AUROC for each seed}."""
    found: dict[str, list[float]] = {}
    inner = torch.zeros(16, 16, dtype=torch.bool)
    inner[RIM:-RIM, RIM:-RIM] = True
    for seed in range(seeds):
        split = chest_xrays(seed=seed)
        parts = [_features(split, part) for part in ("train", "test")]
        asked = {
            "which collection? (no COVID-19)": [(x[y > 0], s[y > 0]) for x, y, s in parts],
            "which collection? (no COVID-19; rim)": [(x[y > 0][:, ~inner.flatten()], s[y > 0]) for x, y, s in parts],
            "COVID-19? (all images)": [(x, y == 0) for x, y, _ in parts],
            "COVID-19? (all images; rim)": [(x[:, ~inner.flatten()], y == 0) for x, y, _ in parts],
            "COVID-19? (first collection)": [(x[s == 0], y[s == 0] == 0) for x, y, s in parts],
        }
        for question, (train, test) in asked.items():
            found.setdefault(question, []).append(probe(train, test))
    return found


def _features(split: DetailedSplit, part: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return pixels (n, 256), classes (n,) and collections (n,)."""
    pair = getattr(split, part)
    return F.adaptive_avg_pool2d(pair.inputs, 16).flatten(1), pair.targets, split.details[part]["source"]


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.leaks", description="What the medical sets give away.")
    parser.add_argument("--seeds", type=int, default=5, help="splits to average over (default 5)")
    seeds = parser.parse_args().seeds
    torch.set_num_threads(1)
    print(f"{'nuclei: split':<40} distance  nearer")
    rows, ceiling = nuclei_rows(seeds)
    for name, leaks in rows.items():
        distance, nearer = np.mean(leaks, 0)
        print(f"{name:<40} {distance:7.2f}× {100 * nearer:6.1f} %")
    print(f"{'instance F1 of the test targets':<40} {statistics.mean(ceiling):7.2f}")
    print(f"\n{'chest X-rays: linear probe':<40} AUROC, mean ± deviation over {seeds} splits")
    for question, areas in xray_rows(seeds).items():
        print(f"{question:<40} {statistics.mean(areas):.3f} ± {statistics.stdev(areas) if seeds > 1 else 0:.3f}")


if __name__ == "__main__":
    main()
