"""MNIST and Fashion-MNIST, read from the published archives as they are."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from pruning_lib._types import TensorPair
from pruning_lib.companion._arguments import checked, optional
from pruning_lib.companion.data._files import find, option, roots
from pruning_lib.companion.data._registry import DataSet, register
from pruning_lib.companion.data._split import Split, carve, check_validation


@dataclass(frozen=True)
class Archives:
    """Where a data set lies below a root, the published checksums of `FILES`, the statistics of its pixels."""

    title: str
    folder: str
    dataset: str  # the class in torchvision.datasets
    md5: tuple[str, ...]
    mean: float
    std: float


EXAMPLES = 60_000  # to train and validate
FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)
ARCHIVES = {
    "mnist": Archives(
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
    "fashion-mnist": Archives(
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


def mnist(root: str | Path | None = None, *, seed: int = 0, validation: int = 5000) -> Split:
    """Return MNIST: 70,000 handwritten digits of 28 × 28 pixels, the official test set untouched.

    Parameters
    ----------
    root : path, optional
        Folder that holds ``mnist/MNIST/raw/*.gz``; by default the places that the package's docstring names.
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

    Examples
    --------
    >>> mnist(validation=10_000).train.inputs.shape
    torch.Size([50000, 1, 28, 28])
    """
    return _load("mnist", root, seed, validation)


def fashion_mnist(root: str | Path | None = None, *, seed: int = 0, validation: int = 5000) -> Split:
    """Return Fashion-MNIST: 70,000 pieces of clothing of 28 × 28 pixels, the official test set untouched.

    Parameters
    ----------
    root : path, optional
        Folder that holds ``fashion-mnist/FashionMNIST/raw/*.gz``; by default the places that the package's docstring
        names.
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

    Examples
    --------
    >>> fashion_mnist().test.targets.bincount().tolist()
    [1000, 1000, 1000, 1000, 1000, 1000, 1000, 1000, 1000, 1000]
    """
    return _load("fashion-mnist", root, seed, validation)


def _load(name: str, root: str | Path | None, seed: int, validation: int) -> Split:
    archives = ARCHIVES[name]
    checked(name, seed=seed)
    optional(name, root=root)
    check_validation(validation, EXAMPLES)
    paths = _paths(name, root)
    images, labels, test_images, test_labels = map(_read, paths, archives.md5)
    train, val = carve(len(labels), validation, seed)
    return Split(
        _pair(images[train], labels[train], archives),
        _pair(images[val], labels[val], archives),
        _pair(test_images, test_labels, archives),
    )


def _paths(name: str, root: str | Path | None) -> list[Path]:
    archives = ARCHIVES[name]
    paths: list[Path] = []
    for file in FILES:
        path = find(root, f"{archives.folder}/{file}")
        if path is None:
            folders = [base / archives.folder for base in roots(root)]
            raise FileNotFoundError(
                f"{archives.title} is not here: {file} belongs into {folders[-1]}"
                + (f" (nor is it in {folders[0]}, after PRUNING_LIB_DATA)" if len(folders) > 1 else "")
                + f"; `python -m pruning_lib.companion.data fetch {name}{option(root)}` downloads it."
            )
        paths.append(path)
    return paths


def _read(path: Path, md5: str) -> np.ndarray:
    """Return an IDX file's array of bytes; the checksum vouches for everything after it."""
    raw = path.read_bytes()
    actual = hashlib.md5(raw, usedforsecurity=False).hexdigest()
    if actual != md5:
        raise ValueError(
            f"{path} is damaged or half-downloaded: its md5 is {actual} ({len(raw):,} bytes), the published one {md5}; "
            "delete it and fetch it again."
        )
    content = gzip.decompress(raw)
    dimensions = content[3]  # IDX: two zero bytes, element type, number of dimensions, one big-endian size for each
    shape = np.frombuffer(content, ">i4", count=dimensions, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape).copy()


def _pair(images: np.ndarray, labels: np.ndarray, archives: Archives) -> TensorPair:
    inputs = torch.from_numpy(images).unsqueeze(1).float().div_(255).sub_(archives.mean).div_(archives.std)
    return TensorPair(inputs, torch.from_numpy(labels).long())


def _fetch(name: str, root: Path) -> Path:
    from torchvision import datasets  # only needed to download, and slow to import
    from torchvision.datasets.utils import download_url

    archives = ARCHIVES[name]
    folder = root / archives.folder
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


register(DataSet(name="mnist", title="MNIST", load=mnist, fetch=partial(_fetch, "mnist")))
register(
    DataSet(name="fashion-mnist", title="Fashion-MNIST", load=fashion_mnist, fetch=partial(_fetch, "fashion-mnist"))
)
