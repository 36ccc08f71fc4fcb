"""Small image data as tensors in memory: digits, MNIST, Fashion-MNIST, CIFAR-10, nuclei of cells, chest X-rays.

Archives are looked for under ``root`` if it is given, else under the folder that the environment variable
``PRUNING_LIB_DATA`` names, then under ``~/.cache/pruning_lib``. They are read as they are: a folder may be read-only.
``python -m pruning_lib.companion.data fetch mnist`` puts them there; nuclei and X-rays are built from their originals
by ``python -m pruning_lib.companion.data build nuclei --from FOLDER``. The page `datasets` of the book describes all.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import lzma
import os
import sys
import warnings
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pruning_lib._types import TensorPair as TensorPair

CACHE = Path("~/.cache/pruning_lib")


@dataclass(frozen=True, eq=False)
class Split:
    """What is trained on, what chooses, and what is looked at once.

    Parameters
    ----------
    train, val, test : TensorPair
        Disjoint sets of examples.
    classes : int
        Number of classes; targets lie in 0 … classes − 1.
    """

    train: TensorPair
    val: TensorPair
    test: TensorPair
    classes: int = 10


@dataclass(frozen=True, eq=False, kw_only=True)
class DetailedSplit(Split):
    """A split of which more is known than inputs and targets.

    Parameters
    ----------
    details : dict of str to dict of str to Tensor
        ``details["test"]["instances"]``: by part (train, val, test) and name, one entry for each example.
    """

    details: Mapping[str, Mapping[str, Tensor]]


@dataclass(frozen=True)
class _Archives:
    """Where a data set lies below a root, the published checksums of `FILES`, the statistics of its pixels."""

    title: str
    folder: str
    dataset: str  # the class in torchvision.datasets
    md5: tuple[str, str, str, str]
    mean: float
    std: float


FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)
ARCHIVES = {
    "mnist": _Archives(
        title="MNIST",
        folder="mnist/MNIST/raw",
        dataset="MNIST",
        md5=(
            "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "d53e105ee54ea40749a09fcbcd1e9432",
            "9fb629c4189551a2d022fa330f9573f3",
            "ec29112dd5afa0611ce80d1b7f02629c",
        ),
        mean=0.1307,
        std=0.3081,
    ),
    "fashion_mnist": _Archives(
        title="Fashion-MNIST",
        folder="fashion-mnist/FashionMNIST/raw",
        dataset="FashionMNIST",
        md5=(
            "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "25c81989df183df01b3e8a0aad5dffbe",
            "bef4ecab320f06d8554ea6380940ec79",
            "bb300cfdad3c16e7a12a480ee83cd310",
        ),
        mean=0.2860,
        std=0.3530,
    ),
}


def digits(seed: int = 0) -> Split:
    """Return scikit-learn's 1,797 digits of 8 × 8 pixels: 1,077 to train, 360 to validate, 360 to test.

    Parameters
    ----------
    seed : int
        Of the permutation that makes the split; the same seed gives the same split everywhere.

    Returns
    -------
    Split
        Inputs of shape (n, 1, 8, 8) with pixels in 0 … 1 (the file's 0 … 16, divided by 16).
    """
    from sklearn.datasets import load_digits  # needed here alone, and slow to import

    bunch = load_digits()
    inputs = torch.from_numpy(bunch.images).float().div_(16).unsqueeze(1)
    targets = torch.from_numpy(bunch.target).long()
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(seed))
    train, val, test = (TensorPair(inputs[i], targets[i]) for i in torch.split(order, [1077, 360, 360]))
    return Split(train, val, test)


def mnist(root: str | Path | None = None, *, seed: int = 0, validation: int = 5000) -> Split:
    """Return MNIST: 70,000 handwritten digits of 28 × 28 pixels, the official test set untouched.

    Parameters
    ----------
    root : path, optional
        Folder that holds ``mnist/MNIST/raw/*.gz``; by default the places that this module's docstring names.
    seed : int
        Of the permutation that carves the validation examples from the 60,000 training examples.
    validation : int
        How many examples to carve, 1 … 59,999.

    Returns
    -------
    Split
        Inputs of shape (n, 1, 28, 28), normalized as (pixel − 0.1307) / 0.3081, the training set's mean and deviation.

    Raises
    ------
    FileNotFoundError
        If an archive is nowhere; the message says which file goes where and which command fetches it.
    ValueError
        If an archive is not byte for byte the published one, or `validation` is out of range.
    """
    return _idx_split("mnist", root, seed, validation)


def fashion_mnist(root: str | Path | None = None, *, seed: int = 0, validation: int = 5000) -> Split:
    """Return Fashion-MNIST: 70,000 pieces of clothing of 28 × 28 pixels, the official test set untouched.

    Parameters
    ----------
    root : path, optional
        Folder that holds ``fashion-mnist/FashionMNIST/raw/*.gz``; by default the places this module's docstring names.
    seed, validation : int
        As in `mnist`.

    Returns
    -------
    Split
        Inputs of shape (n, 1, 28, 28), normalized as (pixel − 0.2860) / 0.3530, the training set's mean and deviation.

    Raises
    ------
    FileNotFoundError, ValueError
        As in `mnist`.
    """
    return _idx_split("fashion_mnist", root, seed, validation)


CIFAR_FILES = (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin")
CIFAR_FOLDER = "cifar-10/cifar-10-batches-bin"
CIFAR_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
CIFAR_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
CIFAR_RECORD = 1 + 3 * 32 * 32  # label, then red, green, blue, row by row
# SHA-1 of each file: of the official archive (as Apache MXNet publishes them), and of the copy repaired from JPEG.
CIFAR_SHA1 = {
    "data_batch_1.bin": ("aadd24acce27caa71bf4b10992e9e7b2d74c2540", "ba2bd1d9f68920320dc7f67b610c3ff1703ce639"),
    "data_batch_2.bin": ("c0ba65cce70568cd57b4e03e9ac8d2a5367c1795", "30d0b168cbf340cc566743584c85d4531df96040"),
    "data_batch_3.bin": ("1dd00a74ab1d17a6e7d73e185b69dbf31242f295", "552f21bc79e6f934d1332a26ab34e93ca160aeef"),
    "data_batch_4.bin": ("aab85764eb3584312d3c7f65fd2fd016e36a258e", "4793a5ac92d4e85f952d7a045b5f731722dc5f03"),
    "data_batch_5.bin": ("26e2849e66a845b7f1e4614ae70f4889ae604628", "4837685ca7fd49c2c9ecdeab7c358d66b466ca45"),
    "test_batch.bin": ("67eb016db431130d61cd03c7ad570b013799c88c", "cbea4389ae3e377c0090406f1f786efe5ded9c7e"),
}
CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def cifar10(root: str | Path | None = None, *, seed: int = 0, validation: int = 5000) -> Split:
    """Return CIFAR-10: 60,000 photographs of 32 × 32 pixels in ten classes, the official test set untouched.

    Also read, with a warning, is a copy in which 93 images (73 to train, 20 to test; 88 ships, 5 horses) were restored
    from JPEG, about 8 grey levels off; the page `datasets` lists them by file and index. Records that this project
    stores were made with that copy.

    Parameters
    ----------
    root : path, optional
        Folder that holds the six files of the binary version below ``cifar-10/cifar-10-batches-bin/``, as they are
        (``data_batch_1.bin``) or compressed one by one (``data_batch_1.bin.xz``); by default the places that this
        module's docstring names.
    seed : int
        Of the permutation that carves the validation examples from the 50,000 training examples.
    validation : int
        How many examples to carve, 1 … 49,999.

    Returns
    -------
    Split
        Inputs of shape (n, 3, 32, 32), each channel less its mean over its deviation on the training set:
        (0.4914, 0.4822, 0.4465) and (0.2470, 0.2435, 0.2616).

    Raises
    ------
    FileNotFoundError
        If a file is nowhere; the message says which file goes where.
    ValueError
        If a file's SHA-1 is neither that of the official archive nor that of the copy, or `validation` is out of range.

    Warns
    -----
    UserWarning
        If the files are those of the copy.
    """
    if not 0 < validation < 50_000:
        raise ValueError(f"validation must lie in 1 … 49,999 examples, got {validation}.")
    paths = _find_cifar(root)
    (*batches, test), repaired = zip(*map(_records, paths), strict=True)
    if any(repaired):
        warnings.warn(
            f"CIFAR-10 in {paths[0].parent} is a repaired copy: 93 of its 60,000 images come from JPEG.", stacklevel=2
        )
    both = np.concatenate(batches)
    order = torch.randperm(len(both), generator=torch.Generator().manual_seed(seed)).numpy()
    val, train = order[:validation], order[validation:]
    return Split(_photographs(both[train]), _photographs(both[val]), _photographs(test))


def crop_and_flip(inputs: Tensor, generator: torch.Generator, padding: int = 4) -> Tensor:
    """Return each image of a batch at a random place, zeros moving in at the border, and mirrored by a fair coin.

    Parameters
    ----------
    inputs : Tensor
        (n, channels, height, width), on any device.
    generator : torch.Generator
        On the CPU; two equal ones give equal batches on every device.
    padding : int
        By how many pixels an image moves at most, up, down, left and right.
    """
    n, _, height, width = inputs.shape
    down, right = torch.randint(0, 2 * padding + 1, (2, n), generator=generator)
    flip = torch.rand(n, generator=generator) < 0.5
    columns = torch.where(flip.unsqueeze(1), torch.arange(width).flip(0), torch.arange(width))
    y = (down.unsqueeze(1) + torch.arange(height)).to(inputs.device)
    x = (right.unsqueeze(1) + columns).to(inputs.device)
    padded = torch.nn.functional.pad(inputs, (padding,) * 4).permute(0, 2, 3, 1)
    example = torch.arange(n, device=inputs.device)
    return padded[example.view(-1, 1, 1), y.unsqueeze(2), x.unsqueeze(1)].permute(0, 3, 1, 2)


def _find_cifar(root: str | Path | None) -> list[Path]:
    folders = [base / CIFAR_FOLDER for base in _roots(root)]
    found: list[Path] = []
    for file in CIFAR_FILES:
        places = [folder / name for folder in folders for name in (file, f"{file}.xz")]
        path = next((place for place in places if place.is_file()), None)
        if path is None:
            raise FileNotFoundError(
                f"CIFAR-10 is not here: {file} belongs into {folders[-1]}; "
                "`python -m pruning_lib.companion.data fetch cifar10` downloads and unpacks the binary version."
            )
        found.append(path)
    return found


def _records(path: Path) -> tuple[np.ndarray, bool]:
    """Return a file's records, (10000, 3073) bytes, and whether they are those of the repaired copy."""
    try:
        raw = lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()
    except lzma.LZMAError as error:
        raise ValueError(f"{path} is damaged ({error}); delete it and fetch it again.") from error
    came = hashlib.sha1(raw, usedforsecurity=False).hexdigest()
    official, repaired = CIFAR_SHA1[path.name.removesuffix(".xz")]
    if came not in (official, repaired):
        raise ValueError(
            f"{path} is damaged or of another version: its SHA-1 is {came} ({len(raw):,} bytes), that of the binary "
            f"version {official}; delete it and fetch it again."
        )
    return np.frombuffer(raw, np.uint8).reshape(-1, CIFAR_RECORD), came == repaired


def _photographs(table: np.ndarray) -> TensorPair:
    inputs = torch.from_numpy(table[:, 1:].reshape(-1, 3, 32, 32).copy()).float().div_(255)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (CIFAR_MEAN, CIFAR_STD))
    return TensorPair(inputs.sub_(mean).div_(std), torch.from_numpy(table[:, 0].copy()).long())


NUCLEI_FILE = "nuclei/dsb2018_stage1_train_fixes_128.npz"
XRAY_FILE = "covid-xray/covid_cxr_128.npz"
XRAY_MEAN, XRAY_STD = 0.5434, 0.2355
PARTS = ("train", "val", "test")
SHARES = (0.6, 0.2, 0.2)


def nuclei(root: str | Path | None = None, *, seed: int = 0) -> DetailedSplit:
    """Return the 664 micrographs of stage1_train of the 2018 Data Science Bowl (BBBC038), with a class for each pixel.

    Many of them are crops of one slide or plate, and which ones is not published. Images of one original size, kind
    and look (`look_alikes`) therefore stay in one part. What leaks between the parts nevertheless, measured, stands on
    the page `datasets`.

    Parameters
    ----------
    root : path, optional
        Folder that holds ``nuclei/dsb2018_stage1_train_fixes_128.npz``; by default the places that this module's
        docstring names.
    seed : int
        Of the order in which groups are dealt to the parts.

    Returns
    -------
    DetailedSplit
        Inputs of shape (n, 3, 128, 128), each image less its own mean over its own deviation; targets (n, 128, 128)
        int64, 1 where a nucleus is. Details: ``instances`` (n, 128, 128) int64, 0 for background, 1, 2, … for the
        nuclei of an image (touching ones are one in the targets); ``group`` and ``index`` (n,), the latter into the
        file.

    Raises
    ------
    FileNotFoundError
        If the file is nowhere; the message says which command builds it.
    ValueError
        If the file is damaged.
    """
    arrays = _arrays("nuclei", NUCLEI_FILE, root, ("images", "instances", "orig_wh", "is_colour", "dark_background"))
    images, instances = arrays["images"], arrays["instances"]
    kinds = np.column_stack([arrays["orig_wh"], arrays["is_colour"], arrays["dark_background"]])
    strata = np.unique(kinds, axis=0, return_inverse=True)[1].ravel()
    units = look_alikes(images, strata)

    def pair(chosen: np.ndarray) -> TensorPair:
        inputs = torch.from_numpy(images[chosen]).permute(0, 3, 1, 2).float()
        deviation, mean = torch.std_mean(inputs, (1, 2, 3), keepdim=True)
        inputs = inputs.sub_(mean).div_(deviation.clamp_min(1)).contiguous()
        return TensorPair(inputs, torch.from_numpy(instances[chosen] > 0).long())

    details = {"instances": instances.astype(np.int64), "group": units, "index": np.arange(len(images))}
    return _detailed(_deal(units, strata, seed), pair, details, classes=2)


def chest_xrays(
    root: str | Path | None = None, *, seed: int = 0, source: int | None = None, noncommercial: bool = True
) -> DetailedSplit:
    """Return 1,275 frontal chest X-rays of 834 patients: COVID-19, other pneumonia or disease, no finding.

    To show training and pruning, never medical evidence. Every COVID-19 image comes from one collection and most of
    the others from another, so that a network scores well by telling collections apart, by markers, crops and
    contrast: the page `datasets` measures it. ``source=0`` is the control: the first collection alone, COVID-19
    against everything else.

    Parameters
    ----------
    root : path, optional
        Folder that holds ``covid-xray/covid_cxr_128.npz``; by default the places that this module's docstring names.
    seed : int
        Of the order in which patients are dealt to the parts, source by source and class by class. No patient is in
        two parts, and the control's parts are subsets of the whole set's.
    source : {None, 0}
        0: the 275 images of ieee8023/covid-chestxray-dataset, classes 0 (COVID-19) and 1 (else).
    noncommercial : bool
        Keep the 174 images under CC BY-NC-SA. False for whatever shows images and is stored; the parts of the others
        stay as they are.

    Returns
    -------
    DetailedSplit
        Inputs of shape (n, 1, 128, 128), (pixel / 255 − 0.5434) / 0.2355, the mean and deviation of all pixels.
        Details (n,): ``patient``, ``source`` (0, or 1 for NIH ChestX-ray), ``noncommercial`` (1: CC BY-NC-SA),
        ``index`` into the file.

    Raises
    ------
    FileNotFoundError
        If the file is nowhere; the message says which command builds it.
    ValueError
        If `source` is neither None nor 0, or the file is damaged.
    """
    if source not in (None, 0):
        raise ValueError(f"source must be None or 0 (1 has no COVID-19 image), got {source}.")
    arrays = _arrays("chest_xrays", XRAY_FILE, root, ("images", "label", "patient", "source", "noncommercial"))
    images, labels = arrays["images"], arrays["label"].astype(np.int64)
    parts = _deal(arrays["patient"], 3 * arrays["source"].astype(np.int64) + labels, seed)
    kept = np.full(len(labels), True) if noncommercial else arrays["noncommercial"] == 0
    if source == 0:
        kept &= arrays["source"] == 0
        labels = labels.clip(max=1)
    parts = [chosen[kept[chosen]] for chosen in parts]

    def pair(chosen: np.ndarray) -> TensorPair:
        inputs = torch.from_numpy(images[chosen]).unsqueeze(1).float().div_(255).sub_(XRAY_MEAN).div_(XRAY_STD)
        return TensorPair(inputs, torch.from_numpy(labels[chosen]))

    details = {name: arrays[name].astype(np.int64) for name in ("patient", "source", "noncommercial")}
    details["index"] = np.arange(len(images))
    return _detailed(parts, pair, details, classes=3 if source is None else 2)


def look_alikes(images: np.ndarray, strata: np.ndarray, distance: float = 2.0) -> np.ndarray:
    """Return a group for each image: images of one stratum whose colours and textures are close.

    Average linkage, within each stratum, of `look`'s vectors, until groups are `distance` apart.

    Parameters
    ----------
    images : ndarray
        (n, height, width, 3) bytes.
    strata : ndarray
        (n,) integers; no group reaches over two.
    distance : float
        Below it, two groups become one. The nearest neighbour of a nucleus image is typically 0.7 away.

    Returns
    -------
    ndarray
        (n,) integers from 0.
    """
    from sklearn.cluster import AgglomerativeClustering  # slow to import

    vectors = look(images)
    units = np.zeros(len(images), np.int64)
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        if len(members) == 1:
            units[members] = units.max() + 1
            continue
        linkage = AgglomerativeClustering(n_clusters=None, distance_threshold=distance, linkage="average")
        units[members] = units.max() + 1 + linkage.fit_predict(vectors[members])
    return units - 1


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


def _deal(units: np.ndarray, strata: np.ndarray, seed: int) -> list[np.ndarray]:
    """Return the examples of train, val and test: each group, large ones first, goes where its stratum lacks most."""
    names, first, member, sizes = np.unique(units, return_index=True, return_inverse=True, return_counts=True)
    part = np.zeros(len(names), np.int64)
    missing: dict[int, np.ndarray] = {}
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed)).numpy()
    for group in order[np.argsort(-sizes[order], kind="stable")]:
        stratum = int(strata[first[group]])
        lacks = missing.setdefault(stratum, np.multiply(SHARES, (strata == stratum).sum()))
        part[group] = lacks.argmax()
        lacks[part[group]] -= sizes[group]
    return [np.flatnonzero(part[member.ravel()] == p) for p in range(len(PARTS))]


def _detailed(
    parts: list[np.ndarray], pair: Callable[[np.ndarray], TensorPair], details: dict[str, np.ndarray], classes: int
) -> DetailedSplit:
    known = {
        name: {key: torch.from_numpy(values[chosen]) for key, values in details.items()}
        for name, chosen in zip(PARTS, parts, strict=True)
    }
    train, val, test = map(pair, parts)
    return DetailedSplit(train, val, test, classes, details=known)


def _arrays(name: str, file: str, root: str | Path | None, wanted: tuple[str, ...]) -> dict[str, np.ndarray]:
    places = [base / file for base in _roots(root)]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise FileNotFoundError(
            f"{places[-1]} is not here; `python -m pruning_lib.companion.data build {name} --from FOLDER"
            f"{f' --root {root}' if root else ''}` makes it from the originals, which the page `datasets` names."
        )
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {key: stored[key] for key in wanted}
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} is damaged or another file ({error}); build it again.") from error


def fetch(name: str, root: str | Path | None = None) -> Path:
    """Download a data set's archives, verified by checksum, and return the folder that holds them.

    Parameters
    ----------
    name : {"mnist", "fashion_mnist", "cifar10"}
        The data set.
    root : path, optional
        Below which folder to put it; ``~/.cache/pruning_lib`` by default. What lies there and is whole is kept.

    Raises
    ------
    ConnectionError
        If no mirror gives an archive.
    """
    from torchvision import datasets  # only needed to download, and slow to import
    from torchvision.datasets.utils import download_and_extract_archive, download_url

    if name == "cifar10":
        whole = Path(root or CACHE).expanduser() / CIFAR_FOLDER
        if not all((whole / file).is_file() for file in CIFAR_FILES):
            try:
                download_and_extract_archive(CIFAR_URL, str(whole.parent), md5=CIFAR_MD5, remove_finished=True)
            except (OSError, RuntimeError) as error:
                raise ConnectionError(
                    f"{CIFAR_URL} gave no CIFAR-10 ({error}); unpack it into {whole.parent} by hand."
                ) from error
        return whole
    archives = _archives(name)
    folder = Path(root or CACHE).expanduser() / archives.folder
    mirrors: list[str] = getattr(datasets, archives.dataset).mirrors
    for file, md5 in zip(FILES, archives.md5, strict=True):
        for mirror in mirrors:
            try:
                download_url(mirror + file, root=str(folder), filename=file, md5=md5)
                break
            except (OSError, RuntimeError) as error:
                reason = error
        else:
            raise ConnectionError(
                f"No mirror of {archives.title} gave {file} ({reason}); put that file into {folder} by hand."
            )
    return folder


def _archives(name: str) -> _Archives:
    if name not in ARCHIVES:
        raise ValueError(f"There is no data set '{name}'; there are {', '.join(ARCHIVES)}, cifar10.")
    return ARCHIVES[name]


def _idx_split(name: str, root: str | Path | None, seed: int, validation: int) -> Split:
    archives = _archives(name)
    if not 0 < validation < 60_000:
        raise ValueError(f"validation must lie in 1 … 59,999 examples, got {validation}.")
    arrays = [_read(path, md5) for path, md5 in zip(_find(name, root), archives.md5, strict=True)]
    images, labels, test_images, test_labels = arrays
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed)).numpy()
    val, train = order[:validation], order[validation:]
    return Split(
        _pair(images[train], labels[train], archives),
        _pair(images[val], labels[val], archives),
        _pair(test_images, test_labels, archives),
    )


def _pair(images: np.ndarray, labels: np.ndarray, archives: _Archives) -> TensorPair:
    inputs = torch.from_numpy(images).unsqueeze(1).float().div_(255).sub_(archives.mean).div_(archives.std)
    return TensorPair(inputs, torch.from_numpy(labels).long())


def _roots(root: str | Path | None) -> list[Path]:
    """Return where data is looked for, in this order."""
    named = os.environ.get("PRUNING_LIB_DATA")
    roots = [Path(root)] if root else [*([Path(named)] if named else []), CACHE]
    return [base.expanduser() for base in roots]


def _find(name: str, root: str | Path | None) -> list[Path]:
    archives = _archives(name)
    folders = [base / archives.folder for base in _roots(root)]
    found: list[Path] = []
    for file in FILES:
        path = next((folder / file for folder in folders if (folder / file).is_file()), None)
        if path is None:
            raise FileNotFoundError(
                f"{archives.title} is not here: {file} belongs into {folders[-1]}"
                + (f" (nor is it in {folders[0]}, after PRUNING_LIB_DATA)" if len(folders) > 1 else "")
                + f"; `python -m pruning_lib.companion.data fetch {name}{f' --root {root}' if root else ''}` "
                "downloads it."
            )
        found.append(path)
    return found


def _read(path: Path, md5: str) -> np.ndarray:
    """Return an IDX file's array of bytes; the checksum vouches for everything after it."""
    raw = path.read_bytes()
    came = hashlib.md5(raw, usedforsecurity=False).hexdigest()
    if came != md5:
        raise ValueError(
            f"{path} is damaged or half-downloaded: its md5 is {came} ({len(raw):,} bytes), the published one {md5}; "
            "delete it and fetch it again."
        )
    content = gzip.decompress(raw)
    dimensions = content[3]  # IDX: two zero bytes, element type, number of dimensions, one big-endian size for each
    shape = np.frombuffer(content, ">i4", count=dimensions, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape).copy()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run ``python -m pruning_lib.companion.data fetch NAME`` or ``build NAME --from FOLDER``."""
    parser = argparse.ArgumentParser(
        prog="python -m pruning_lib.companion.data", description="Put image data into a cache."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    fetching = commands.add_parser("fetch", help="download and verify")
    fetching.add_argument("name", choices=[*ARCHIVES, "cifar10"])
    building = commands.add_parser("build", help="make a file from a data set's originals")
    building.add_argument("name", choices=["nuclei", "chest_xrays"])
    building.add_argument("--from", dest="originals", required=True, help="folder that holds the originals")
    for command in (fetching, building):
        command.add_argument("--root", help=f"folder to put it below (default {CACHE})")
    options = parser.parse_args(arguments)
    try:
        if options.command == "fetch":
            path = fetch(options.name, options.root)
        else:
            from pruning_lib.companion.data._derived import build  # only needed to build

            path = build(options.name, options.originals, options.root or CACHE)
        sys.stdout.write(f"{path}\n")
    except ImportError as error:
        parser.exit(1, f"{options.command} needs {error.name}, which is not installed: pip install {error.name}\n")
    except (OSError, ValueError) as error:
        parser.exit(1, f"{error}\n")


if __name__ == "__main__":
    main()
