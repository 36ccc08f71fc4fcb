"""MNIST and Fashion-MNIST: splits, checksums, a read-only folder, and what is said when archives are missing."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pruning_lib.companion import data
from pruning_lib.companion.data import _mnist


def idx(array: np.ndarray) -> bytes:
    """Return a gzipped IDX file: two zero bytes, 8 for uint8, the number of dimensions, then sizes, then bytes."""
    head = bytes([0, 0, 8, array.ndim]) + b"".join(int(n).to_bytes(4, "big") for n in array.shape)
    return gzip.compress(head + array.tobytes(), mtime=0)


@pytest.fixture
def small(tmp_path: Path, no_data: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a root with 60,000 + 20 images of 2 × 2 pixels in MNIST's place, checksums to match."""
    rng = np.random.default_rng(0)
    arrays = [
        rng.integers(0, 256, (60_000, 2, 2), dtype=np.uint8),
        rng.integers(0, 10, 60_000, dtype=np.uint8),
        rng.integers(0, 256, (20, 2, 2), dtype=np.uint8),
        rng.integers(0, 10, 20, dtype=np.uint8),
    ]
    files = [idx(array) for array in arrays]
    true = _mnist.ARCHIVES["mnist"]
    folder = tmp_path / true.folder
    folder.mkdir(parents=True)
    for name, content in zip(_mnist.FILES, files, strict=True):
        (folder / name).write_bytes(content)
    md5 = tuple(hashlib.md5(content).hexdigest() for content in files)
    monkeypatch.setitem(_mnist.ARCHIVES, "mnist", replace(true, md5=md5))
    return tmp_path


def test_validation_is_carved_from_training_and_pixels_are_normalized(small: Path) -> None:
    split = data.mnist(small, validation=1000)
    assert [len(pair.targets) for pair in (split.train, split.val, split.test)] == [59_000, 1000, 20]
    raw = np.frombuffer(gzip.decompress((small / "mnist/MNIST/raw" / _mnist.FILES[0]).read_bytes())[16:], np.uint8)
    joined = torch.cat([split.train.inputs, split.val.inputs])
    assert joined.shape == (60_000, 1, 2, 2)
    assert joined.double().mean().item() == pytest.approx((raw.mean() / 255 - 0.1307) / 0.3081, abs=1e-5)


def test_a_read_only_folder_named_by_the_environment_works(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in (*small.rglob("*"), small):
        path.chmod(0o555 if path.is_dir() else 0o444)
    monkeypatch.setenv("PRUNING_LIB_DATA", str(small))
    before = sorted(small.rglob("*"))
    assert len(data.mnist().test.targets) == 20
    assert sorted(small.rglob("*")) == before


def test_what_is_missing_is_named_with_its_place_and_the_command(small: Path) -> None:
    (small / "mnist/MNIST/raw" / _mnist.FILES[3]).unlink()
    with pytest.raises(FileNotFoundError) as caught:
        data.mnist(small)
    message = str(caught.value)
    assert "t10k-labels-idx1-ubyte.gz belongs into" in message
    assert str(small / "mnist/MNIST/raw") in message
    assert f"python -m pruning_lib.companion.data fetch mnist --root {small}" in message


def test_an_archive_cut_in_half_is_named(small: Path) -> None:
    path = small / "mnist/MNIST/raw" / _mnist.FILES[0]
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte.gz is damaged or half-downloaded.*1,000 bytes"):
        data.mnist(small)


@pytest.mark.parametrize("validation", [0, 60_000])
def test_validation_out_of_range(small: Path, validation: int) -> None:
    with pytest.raises(ValueError, match="validation must lie in 1 … 59,999"):
        data.mnist(small, validation=validation)


@pytest.mark.parametrize("name", list(_mnist.ARCHIVES))
def test_checksums_and_file_names_are_those_that_torchvision_publishes(name: str) -> None:
    from torchvision import datasets

    archives = _mnist.ARCHIVES[name]
    published = getattr(datasets, archives.dataset).resources
    assert published == list(zip(_mnist.FILES, archives.md5, strict=True))


def test_real_mnist(data_root: Path) -> None:
    split = data.mnist(data_root)
    assert (len(split.train.targets), len(split.val.targets), len(split.test.targets)) == (55_000, 5_000, 10_000)
    assert split.test.targets.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    joined = torch.cat([split.train.inputs, split.val.inputs])
    assert abs(joined.mean().item()) < 1e-3
    assert joined.std().item() == pytest.approx(1, abs=1e-3)


def test_real_fashion_mnist(data_root: Path) -> None:
    split = data.fashion_mnist(data_root)
    targets = torch.cat([split.train.targets, split.val.targets])
    assert targets.bincount().tolist() == [6000] * 10
    assert abs(torch.cat([split.train.inputs, split.val.inputs]).mean().item()) < 1e-3


def test_fetch_keeps_what_is_whole(small: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in small.rglob("*.gz")}
    assert data.fetch("mnist", small) == small / "mnist/MNIST/raw"
    assert {path: path.stat().st_mtime_ns for path in small.rglob("*.gz")} == before


def test_fetch_without_a_network_says_where_the_file_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import datasets

    monkeypatch.setattr(datasets.MNIST, "mirrors", ["http://127.0.0.1:9/"])
    with pytest.raises(ConnectionError, match=r"No mirror of MNIST gave train-images.*put that file into .*MNIST/raw"):
        data.fetch("mnist", tmp_path)
