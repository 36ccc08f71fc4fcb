"""Task metrics against brute force: sets of pixels, flood filling, pairs of scores."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from torch import Tensor

from pruning_lib.companion.metrics import auroc, balanced_accuracy, components, dice, instance_f1


def drawn(seed: int, share: float = 0.55, shape: tuple[int, int, int] = (4, 17, 13)) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < share


def flooded(image: np.ndarray) -> list[frozenset[tuple[int, int]]]:
    """Return the components of one image as sets of pixels, in reading order, by flood filling."""
    left = dict.fromkeys((int(y), int(x)) for y, x in np.argwhere(image))
    sets = []
    while left:
        queue = [next(iter(left))]
        seen = set(queue)
        while queue:
            y, x = queue.pop()
            near = {(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)} & left.keys() - seen
            seen |= near
            queue += near
        left = {pixel: None for pixel in left if pixel not in seen}
        sets.append(frozenset(seen))
    return sets


def objects(image: np.ndarray) -> list[frozenset[tuple[int, int]]]:
    return [frozenset(map(tuple, np.argwhere(image == i).tolist())) for i in np.unique(image) if i]


def greedy_f1(pairs: list[tuple[list[frozenset[tuple[int, int]]], list[frozenset[tuple[int, int]]]]]) -> float:
    hits = total = 0
    for predicted, true in pairs:
        hits += sum(len(p & t) / len(p | t) > 0.5 for p in predicted for t in true)
        total += len(predicted) + len(true)
    return 2 * hits / total


def test_dice_by_hand() -> None:
    predicted, targets = torch.tensor([[[1, 1], [0, 0]]]), torch.tensor([[[1, 0], [1, 1]]])
    assert dice(predicted, targets) == 2 * 1 / (2 + 3)
    assert dice(targets, targets) == 1
    assert dice(torch.zeros(1, 2, 2), torch.zeros(1, 2, 2)) == 1
    assert dice(torch.zeros(1, 2, 2), targets) == 0


@pytest.mark.parametrize("share", [0.3, 0.6, 0.8])
@pytest.mark.parametrize("seed", range(5))
def test_setsare_those_of_flood_filling(seed: int, share: float) -> None:
    maps = drawn(seed, share)
    labels = components(maps)
    assert labels.dtype == torch.int64
    for image, label in zip(maps.numpy(), labels.numpy(), strict=True):
        sets = flooded(image)
        assert objects(label) == sets  # numbered 1, 2, … in reading order
        assert label.max() == len(sets)


def test_setsfollow_a_spiral_and_do_not_join_corners_or_images() -> None:
    n = 31
    spiral = np.zeros((n, n), bool)
    y, x, dy, dx = 0, 0, 0, 1
    spiral[0, 0] = True
    for _ in range(n * n):
        ahead = (y + dy, x + dx)
        after = (y + 2 * dy, x + 2 * dx)
        blocked = not (0 <= ahead[0] < n and 0 <= ahead[1] < n)
        touches = 0 <= after[0] < n and 0 <= after[1] < n and spiral[after]
        if blocked or touches:
            dy, dx = dx, -dy
            continue
        y, x = ahead
        spiral[y, x] = True
    assert spiral.sum() > 300
    corner = np.zeros_like(spiral)
    corner[0, 0] = corner[1, 1] = corner[n - 1, n - 1] = True
    labels = components(torch.from_numpy(np.stack([spiral, corner])))
    assert [int(image.max()) for image in labels] == [1, 3]


@pytest.mark.parametrize("seed", range(5))
def test_instance_f1_is_that_of_sets_of_pixels(seed: int) -> None:
    true = components(drawn(seed, 0.45))
    moved = drawn(seed, 0.45) ^ drawn(seed + 100, 0.04)
    expected = greedy_f1([(flooded(p), objects(t)) for p, t in zip(moved.numpy(), true.numpy(), strict=True)])
    assert 0.2 < expected < 0.98
    assert instance_f1(moved, true) == pytest.approx(expected)
    assert instance_f1(moved.long(), true) == pytest.approx(expected)
    for factor in (3, 1e30):  # any numbers name objects, however large
        assert instance_f1(components(moved) * factor, true) == pytest.approx(expected)


def test_instance_f1_counts_touching_objects_once_and_half_an_object_not() -> None:
    true = torch.tensor([[[1, 1, 2, 2, 0, 3, 3, 3, 3]]])
    assert instance_f1(true != 0, true) == pytest.approx(2 * 1 / (2 + 3))  # 1 and 2 merged: IoU exactly ½ with each
    assert instance_f1(true, true) == 1
    assert instance_f1(torch.zeros_like(true), torch.zeros_like(true)) == 1
    assert instance_f1(torch.zeros_like(true), true) == 0
    assert instance_f1(torch.ones_like(true), true) == 0  # no background at all: IoU 4 / 9


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_auroc_is_the_share_of_pairs_in_order(classes: int) -> None:
    generator = torch.Generator().manual_seed(classes)
    targets = torch.arange(60) % classes
    scores = torch.randn(60, classes, generator=generator).mul(2).round() + 2 * torch.eye(classes)[targets]
    ranked = scores if classes > 2 else scores - scores.flip(1)
    areas = []
    for c in range(classes):
        inside, outside = ranked[targets == c, c], ranked[targets != c, c]
        wins = [(a > b) + 0.5 * (a == b) for a, b in itertools.product(inside.tolist(), outside.tolist())]
        areas.append(sum(wins) / len(wins))
    assert auroc(scores, targets) == pytest.approx(np.mean(areas))


def test_auroc_of_probabilities_is_scikit_learns() -> None:
    targets = torch.arange(60) % 3
    scores = (torch.randn(60, 3, generator=torch.Generator().manual_seed(0)) + torch.eye(3)[targets]).softmax(1)
    expected = roc_auc_score(targets.numpy(), scores.double().numpy(), multi_class="ovr")
    assert auroc(scores, targets) == pytest.approx(expected)


def test_balanced_accuracy_is_scikit_learns_and_that_of_one_answer() -> None:
    generator = torch.Generator().manual_seed(0)
    targets = torch.tensor([0] * 40 + [1] * 15 + [3] * 5)
    predicted = torch.where(torch.rand(60, generator=generator) < 0.7, targets, (targets + 1) % 5)
    expected = np.mean([np.mean(predicted[targets == c].numpy() == c) for c in (0, 1, 3)])
    assert balanced_accuracy(predicted, targets) == pytest.approx(expected)
    in_three = torch.where(predicted == targets, targets, torch.where(targets == 0, 1, 0))
    assert balanced_accuracy(in_three, targets) == pytest.approx(balanced_accuracy_score(targets, in_three))
    assert balanced_accuracy(torch.zeros_like(targets), targets) == pytest.approx(1 / 3)


def test_misuse_is_answered() -> None:
    maps = torch.zeros(1, 2, 2, dtype=torch.long)
    with pytest.raises(ValueError, match=r"dice got shapes \(1, 2, 2\) and \(2, 2\)"):
        dice(maps, maps[0])
    with pytest.raises(ValueError, match=r"components expects maps of shape \(n, height, width\), got \(2, 2\)"):
        instance_f1(maps[0], maps[0])
    with pytest.raises(ValueError, match=r"each of 3 classes, got \[2, 1, 0\]"):
        auroc(torch.zeros(3, 3), torch.tensor([0, 1, 0]))
    with pytest.raises(ValueError, match="got no example"):
        balanced_accuracy(maps.flatten()[:0], maps.flatten()[:0])
