"""CIFAR-10, read from the official binary version: torchvision's is a pickle, which runs code when it is read."""

from __future__ import annotations

import hashlib
import lzma
import warnings
from pathlib import Path

import numpy as np
import torch

from pruning_lib._types import TensorPair
from pruning_lib.companion._arguments import checked, optional
from pruning_lib.companion.data._files import find, roots
from pruning_lib.companion.data._registry import DataSet, register
from pruning_lib.companion.data._split import Split, carve, check_validation

EXAMPLES = 50_000  # to train and validate
FILES = (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin")
FOLDER = "cifar-10/cifar-10-batches-bin"
URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
RECORD = 1 + 3 * 32 * 32  # label, then red, green, blue, row by row
SIZE = 10_000 * RECORD  # of a file
# SHA-1 of each file: of the official archive (as Apache MXNet publishes them), and of the copy repaired from JPEG.
SHA1 = {
    "data_batch_1.bin": ("aadd24acce27caa71bf4b10992e9e7b2d74c2540", "ba2bd1d9f68920320dc7f67b610c3ff1703ce639"),
    "data_batch_2.bin": ("c0ba65cce70568cd57b4e03e9ac8d2a5367c1795", "30d0b168cbf340cc566743584c85d4531df96040"),
    "data_batch_3.bin": ("1dd00a74ab1d17a6e7d73e185b69dbf31242f295", "552f21bc79e6f934d1332a26ab34e93ca160aeef"),
    "data_batch_4.bin": ("aab85764eb3584312d3c7f65fd2fd016e36a258e", "4793a5ac92d4e85f952d7a045b5f731722dc5f03"),
    "data_batch_5.bin": ("26e2849e66a845b7f1e4614ae70f4889ae604628", "4837685ca7fd49c2c9ecdeab7c358d66b466ca45"),
    "test_batch.bin": ("67eb016db431130d61cd03c7ad570b013799c88c", "cbea4389ae3e377c0090406f1f786efe5ded9c7e"),
}
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def cifar10(root: str | Path | None = None, *, seed: int = 0, validation: int = 5000) -> Split:
    """Return CIFAR-10: 60,000 photographs of 32 × 32 pixels in ten classes, the official test set untouched.

    Also read, with a warning, is a copy in which 93 images (73 to train, 20 to test; 88 ships, 5 horses) were restored
    from JPEG, about 8 grey levels off; the page `datasets` lists them by file and index. Records that this project
    stores were made with that copy.

    Parameters
    ----------
    root : path, optional
        Folder that holds the six files of the binary version below ``cifar-10/cifar-10-batches-bin/``, as they are
        (``data_batch_1.bin``) or compressed one by one (``data_batch_1.bin.xz``); by default the places that the
        package's docstring names.
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

    Examples
    --------
    >>> import warnings
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore")  # either copy will do
    ...     split = cifar10()
    >>> split.train.inputs.shape
    torch.Size([45000, 3, 32, 32])
    """
    checked("cifar10", seed=seed)
    optional("cifar10", root=root)
    check_validation(validation, EXAMPLES)
    paths = _paths(root)
    (*batches, test), repaired = zip(*map(_records, paths), strict=True)
    if any(repaired):
        warnings.warn(
            f"CIFAR-10 in {paths[0].parent} is a repaired copy: 93 of its 60,000 images come from JPEG.", stacklevel=2
        )
    both = np.concatenate(batches)
    train, val = carve(len(both), validation, seed)
    return Split(_photographs(both[train]), _photographs(both[val]), _photographs(test))


def _paths(root: str | Path | None) -> list[Path]:
    paths: list[Path] = []
    for file in FILES:
        path = find(root, f"{FOLDER}/{file}", f"{FOLDER}/{file}.xz")
        if path is None:
            raise FileNotFoundError(
                f"CIFAR-10 is not here: {file} belongs into {roots(root)[-1] / FOLDER}; "
                "`python -m pruning_lib.companion.data fetch cifar10` downloads and unpacks the binary version."
            )
        paths.append(path)
    return paths


def _records(path: Path) -> tuple[np.ndarray, bool]:
    """Return a file's records, (10000, 3073) bytes, and whether they are those of the repaired copy."""
    raw = path.read_bytes()
    try:
        if path.suffix == ".xz":  # one byte more than it should give is enough to tell that it is another file
            raw = lzma.LZMADecompressor().decompress(raw, max_length=SIZE + 1)
    except lzma.LZMAError as error:
        raise ValueError(f"{path} is damaged ({error}); delete it and fetch it again.") from error
    actual = hashlib.sha1(raw, usedforsecurity=False).hexdigest()
    official, repaired = SHA1[path.name.removesuffix(".xz")]
    if actual not in (official, repaired):
        raise ValueError(
            f"{path} is damaged or of another version: its SHA-1 is {actual} ({len(raw):,} bytes), that of the binary "
            f"version {official}; delete it and fetch it again."
        )
    return np.frombuffer(raw, np.uint8).reshape(-1, RECORD), actual == repaired


def _photographs(table: np.ndarray) -> TensorPair:
    inputs = torch.from_numpy(table[:, 1:].reshape(-1, 3, 32, 32).copy()).float().div_(255)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return TensorPair(inputs.sub_(mean).div_(std), torch.from_numpy(table[:, 0].copy()).long())


def _fetch(root: Path) -> Path:
    from torchvision.datasets.utils import download_and_extract_archive  # only needed to download, and slow to import

    folder = root / FOLDER
    if not all(_whole(folder / file) for file in FILES):
        try:
            download_and_extract_archive(URL, str(folder.parent), md5=MD5, remove_finished=True)
        except (OSError, RuntimeError) as error:
            raise ConnectionError(
                f"{URL} gave no CIFAR-10 ({error}); unpack it into {folder.parent} by hand."
            ) from error
    return folder


def _whole(path: Path) -> bool:
    """Whether a file is there to its last byte: an extraction that was interrupted leaves a shorter one."""
    try:
        _records(path)
    except (FileNotFoundError, ValueError):
        return False
    return True


register(DataSet(name="cifar10", title="CIFAR-10", load=cifar10, fetch=_fetch))
