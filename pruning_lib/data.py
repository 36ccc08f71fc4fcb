"""Small image data as tensors in memory: scikit-learn's digits, MNIST, Fashion-MNIST, CIFAR-10.

Archives are looked for under ``root`` if it is given, else under the folder that the environment variable
``PRUNING_LIB_DATA`` names, then under ``~/.cache/pruning_lib``. They are read as they are: a folder may be read-only.
``python -m pruning_lib.data fetch mnist`` puts them there.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import lzma
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

CACHE = Path("~/.cache/pruning_lib")


class TensorPair(NamedTuple):
    """Examples: float32 inputs of shape (n, channels, height, width) and int64 targets of shape (n,)."""

    inputs: Tensor
    targets: Tensor


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
CIFAR_RECORDS = 10_000  # in a file
CIFAR_RECORD = 1 + 3 * 32 * 32  # label, then red, green, blue, row by row
CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def cifar10(root: str | Path | None = None, *, seed: int = 0, validation: int = 5000) -> Split:
    """Return CIFAR-10: 60,000 photographs of 32 × 32 pixels in ten classes, the official test set untouched.

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
        If a file does not hold 10,000 records of a label below 10 and 3,072 bytes, or `validation` is out of range.
    """
    if not 0 < validation < 50_000:
        raise ValueError(f"validation must lie in 1 … 49,999 examples, got {validation}.")
    *batches, test = (_records(path) for path in _find_cifar(root))
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
                f"CIFAR-10 is not here: {file} belongs into {folders[-1]}; `python -m pruning_lib.data fetch cifar10` "
                "downloads and unpacks the binary version."
            )
        found.append(path)
    return found


def _records(path: Path) -> np.ndarray:
    """Return a file's records, (10000, 3073) bytes; its own checksum vouches for what xz compressed."""
    try:
        raw = lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()
    except lzma.LZMAError as error:
        raise ValueError(f"{path} is damaged ({error}); delete it and fetch it again.") from error
    if len(raw) == CIFAR_RECORDS * CIFAR_RECORD:
        table = np.frombuffer(raw, np.uint8).reshape(CIFAR_RECORDS, -1)
        if table[:, 0].max() < 10:
            return table
    raise ValueError(f"{path} does not hold {CIFAR_RECORDS:,} records of CIFAR-10's binary version; fetch it again.")


def _photographs(table: np.ndarray) -> TensorPair:
    inputs = torch.from_numpy(table[:, 1:].reshape(-1, 3, 32, 32).copy()).float().div_(255)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (CIFAR_MEAN, CIFAR_STD))
    return TensorPair(inputs.sub_(mean).div_(std), torch.from_numpy(table[:, 0].copy()).long())


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
                + f"; `python -m pruning_lib.data fetch {name}{f' --root {root}' if root else ''}` downloads it."
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
    """Run ``python -m pruning_lib.data fetch NAME``."""
    parser = argparse.ArgumentParser(prog="python -m pruning_lib.data", description="Fetch image data into a cache.")
    command = parser.add_subparsers(required=True, metavar="fetch").add_parser("fetch", help="download and verify")
    command.add_argument("name", choices=[*ARCHIVES, "cifar10"])
    command.add_argument("--root", help=f"folder to put it below (default {CACHE})")
    options = parser.parse_args(arguments)
    try:
        sys.stdout.write(f"{fetch(options.name, options.root)}\n")
    except OSError as error:
        parser.exit(1, f"{error}\n")


if __name__ == "__main__":
    main()
