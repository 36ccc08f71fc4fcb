"""Nuclei of cells, with a class for each pixel: read, dealt to the parts by what looks alike, built from the originals.

What `build` does was tested on small folders in the originals' layout, not on the originals themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pruning_lib._types import TensorPair
from pruning_lib.companion import metrics
from pruning_lib.companion._arguments import checked, optional
from pruning_lib.companion.data._files import Column, read_arrays, write_arrays
from pruning_lib.companion.data._registry import DataSet, register
from pruning_lib.companion.data._resize import SIDE, averaged, to_bytes
from pruning_lib.companion.data._split import DetailedSplit, deal, detailed

FILE = "nuclei/dsb2018_stage1_train_fixes_128.npz"
COLUMNS = {
    "images": Column((SIDE, SIDE, 3), dtype="uint8"),
    "instances": Column((SIDE, SIDE), high=SIDE * SIDE),
    "orig_wh": Column((2,), high=100_000),
    "is_colour": Column(high=1),
    "dark_background": Column(high=1),
}


def nuclei(root: str | Path | None = None, *, seed: int = 0) -> DetailedSplit:
    """Return the 664 micrographs of stage1_train of the 2018 Data Science Bowl (BBBC038), with a class for each pixel.

    Many of them are crops of one slide or plate, and which ones is not published. Images of one original size, kind
    and look (`look_alikes`) therefore stay in one part. What leaks between the parts nevertheless, measured, stands on
    the page `datasets`.

    Parameters
    ----------
    root : path, optional
        Folder that holds ``nuclei/dsb2018_stage1_train_fixes_128.npz``; by default the places that the package's
        docstring names.
    seed : int
        Of the order in which clusters of look-alikes are dealt to the parts.

    Returns
    -------
    DetailedSplit
        Inputs of shape (n, 3, 128, 128), each image less its own mean over its own deviation; targets (n, 128, 128)
        int64, 1 where a nucleus is. Details: ``instances`` (n, 128, 128) int64, 0 for background, 1, 2, … for the
        nuclei of an image (touching ones are one in the targets); ``group`` (the cluster) and ``index`` (n,), the
        latter into the file.

    Raises
    ------
    FileNotFoundError
        If the file is nowhere; the message says which command builds it.
    ValueError
        If the file is damaged.

    Examples
    --------
    >>> split = nuclei()
    >>> split.train.targets.shape[1:]
    torch.Size([128, 128])
    >>> sorted(split.details["test"])
    ['group', 'index', 'instances']
    """
    checked("nuclei", seed=seed)
    optional("nuclei", root=root)
    arrays = read_arrays("nuclei", FILE, root, COLUMNS, most=3000)
    images, instances = arrays["images"], arrays["instances"]
    kinds = np.column_stack([arrays["orig_wh"], arrays["is_colour"], arrays["dark_background"]])
    strata = np.unique(kinds, axis=0, return_inverse=True)[1].ravel()
    clusters = look_alikes(images, strata)

    def pair(places: np.ndarray) -> TensorPair:
        inputs = torch.from_numpy(images[places]).permute(0, 3, 1, 2).float()
        deviation, mean = torch.std_mean(inputs, (1, 2, 3), keepdim=True)
        inputs = inputs.sub_(mean).div_(deviation.clamp_min(1)).contiguous()
        return TensorPair(inputs, torch.from_numpy(instances[places] > 0).long())

    details = {"instances": instances.astype(np.int64), "group": clusters, "index": np.arange(len(images))}
    return detailed(deal(clusters, strata, seed), pair, details, classes=2)


def look_alikes(images: np.ndarray, strata: np.ndarray, distance: float = 2.0) -> np.ndarray:
    """Return a cluster for each image: images of one stratum whose colours and textures are close.

    Average linkage, within each stratum, of `look`'s vectors, until clusters are `distance` apart.

    Parameters
    ----------
    images : ndarray
        (n, height, width, 3) bytes.
    strata : ndarray
        (n,) integers; no cluster reaches over two.
    distance : float
        Below it, two clusters become one. The nearest neighbour of a nucleus image is typically 0.7 away.

    Returns
    -------
    ndarray
        (n,) integers from 0.

    Examples
    --------
    >>> black, white = np.zeros((2, 128, 128, 3), np.uint8), np.full((2, 128, 128, 3), 255, np.uint8)
    >>> look_alikes(np.concatenate([black, white]), np.array([0, 0, 0, 1])).tolist()
    [0, 0, 1, 2]
    """
    from sklearn.cluster import AgglomerativeClustering  # slow to import

    vectors = look(images)
    clusters = np.zeros(len(images), np.int64)
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        if len(members) == 1:
            clusters[members] = clusters.max() + 1
            continue
        linkage = AgglomerativeClustering(n_clusters=None, distance_threshold=distance, linkage="average")
        clusters[members] = clusters.max() + 1 + linkage.fit_predict(vectors[members])
    return clusters - 1


def look(images: np.ndarray) -> np.ndarray:
    """Return what an image looks like wherever on a slide it was cut: nine quantiles a channel, and its spectrum.

    Parameters
    ----------
    images : ndarray
        (n, side, side, 3) bytes.

    Returns
    -------
    ndarray
        (n, 38): 27 quantiles of the pixels, 11 logarithms of the power of the grey image in rings of frequencies;
        each divided by its deviation over the images (by 0.02 and 0.1 at least).

    Examples
    --------
    >>> grey = np.full((1, 128, 128, 3), 51, np.uint8)
    >>> look(grey).shape
    (1, 38)
    >>> look(grey)[0, :3].tolist()  # a fifth of 255, over 0.02
    [10.0, 10.0, 10.0]
    """
    n, side = images.shape[:2]
    ordered = np.sort(images.reshape(n, -1, 3).swapaxes(1, 2), axis=2)
    places = np.linspace(0.02, 0.98, 9) * (side * side - 1)
    quantiles = ordered[:, :, np.rint(places).astype(np.int64)].reshape(n, -1) / 255
    grey = images.mean(3)
    power = np.abs(np.fft.rfft2(grey - grey.mean((1, 2), keepdims=True))) ** 2
    radius = np.rint(side * np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)))
    edges = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
    rings = [power[:, (radius >= low) & (radius < high)].mean(1) for low, high in pairwise(edges)]
    spectrum = np.log1p(np.stack(rings, 1))
    return np.hstack([quantiles / quantiles.std(0).clip(0.02), spectrum / spectrum.std(0).clip(0.1)])


def scores(outputs: Tensor, targets: Tensor, details: Mapping[str, Tensor]) -> dict[str, float]:
    """Return how well pixels and whole nuclei are recognized."""
    predicted = outputs.argmax(1)
    return {
        "dice": metrics.dice(predicted, targets),
        "instance_f1": metrics.instance_f1(predicted, details["instances"]),
    }


def build(originals: Path, root: Path) -> Path:
    """Write the file that `nuclei` reads, from a folder in the Bowl's layout: ``ID/images/ID.png``, ``ID/masks/*.png``.

    Whole images are averaged over areas, their aspect ratio is not kept. A pixel is foreground where nuclei cover at
    least half of it, and then belongs to the one that covers most. ``is_colour`` and ``dark_background`` are simple
    flags: channels that differ; a median below the middle of the scale.
    """
    from PIL import Image  # only needed to build

    places = sorted(place for place in originals.iterdir() if (place / "images" / f"{place.name}.png").is_file())
    if not places:
        raise FileNotFoundError(f"{originals} holds no ID/images/ID.png; name the folder stage1_train.")
    images, instances, sizes, nuclei_before = [], [], [], []
    for place in places:
        pixels = np.asarray(Image.open(place / "images" / f"{place.name}.png").convert("RGB"))
        masks = sorted((place / "masks").glob("*.png"))
        images.append(to_bytes(averaged(pixels)))
        instances.append(number_nuclei(np.asarray(Image.open(path).convert("L")) > 0 for path in masks))
        sizes.append(pixels.shape[1::-1])
        nuclei_before.append(len(masks))
    stack, labels = np.stack(images), np.stack(instances)
    arrays = {
        "images": stack,
        "instances": labels,
        "masks": (labels > 0).astype(np.uint8),
        "ids": np.array([place.name for place in places]),
        "orig_wh": np.array(sizes, np.int32),
        "n_instances_orig": np.array(nuclei_before, np.int32),
        "n_instances_128": labels.max((1, 2)).astype(np.int32),
        "is_colour": is_colour(stack),
        "dark_background": has_dark_background(stack),
    }
    return write_arrays(root / FILE, arrays)


def is_colour(images: np.ndarray) -> np.ndarray:
    """Return 1 where the channels of an image (n, height, width, 3) differ by more than a grey level on average."""
    spread = images.max(3).astype(np.float32) - images.min(3)
    return np.asarray(spread.mean((1, 2)) > 1, np.uint8)


def has_dark_background(images: np.ndarray) -> np.ndarray:
    """Return 1 where the median over pixels of an image's grey value lies below 90 of 255."""
    return np.asarray(np.median(images.mean(3), axis=(1, 2)) < 90, np.uint8)


def number_nuclei(masks: Iterable[np.ndarray]) -> np.ndarray:
    """Return (128, 128) numbers from 1 for the masks that keep a pixel, 0 for background."""
    covered = np.zeros((SIDE, SIDE))
    most, owner = np.zeros((SIDE, SIDE)), np.zeros((SIDE, SIDE), np.int64)
    for number, mask in enumerate(masks, 1):
        share = averaged(mask)
        covered += share
        owner[share > most] = number
        most = np.maximum(most, share)
    # The shares of a pixel that is covered by half add up with rounding.
    owner[covered < 0.5 - 1e-9] = 0
    owners, numbers = np.unique(owner, return_inverse=True)
    return np.asarray(numbers.reshape(owner.shape) + (owners[0] > 0), np.uint16)


register(
    DataSet(
        name="nuclei",
        title="Nuclei",
        load=nuclei,
        scores=scores,
        score_names=("dice", "instance_f1"),
        judged_by="dice",
        build=build,
    )
)
