"""Data: splits, checksums, a read-only folder, and what is said when archives are missing or damaged."""

from __future__ import annotations

import gzip
import hashlib
import lzma
import subprocess
import sys
import tarfile
import warnings
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch

from pruning_lib.companion import data


def idx(array: np.ndarray) -> bytes:
    """Return a gzipped IDX file: two zero bytes, 8 for uint8, the number of dimensions, then sizes, then bytes."""
    head = bytes([0, 0, 8, array.ndim]) + b"".join(int(n).to_bytes(4, "big") for n in array.shape)
    return gzip.compress(head + array.tobytes(), mtime=0)


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a root with 60,000 + 20 images of 2 × 2 pixels in MNIST's place, checksums to match."""
    rng = np.random.default_rng(0)
    arrays = [
        rng.integers(0, 256, (60_000, 2, 2), dtype=np.uint8),
        rng.integers(0, 10, 60_000, dtype=np.uint8),
        rng.integers(0, 256, (20, 2, 2), dtype=np.uint8),
        rng.integers(0, 10, 20, dtype=np.uint8),
    ]
    files = [idx(array) for array in arrays]
    true = data.ARCHIVES["mnist"]
    folder = tmp_path / true.folder
    folder.mkdir(parents=True)
    for name, content in zip(data.FILES, files, strict=True):
        (folder / name).write_bytes(content)
    md5 = tuple(hashlib.md5(content).hexdigest() for content in files)
    fake = data._Archives(true.title, true.folder, true.dataset, md5, true.mean, true.std)  # type: ignore[arg-type]
    monkeypatch.setitem(data.ARCHIVES, "mnist", fake)
    monkeypatch.setattr(data, "CACHE", tmp_path / "nothing")
    monkeypatch.delenv("PRUNING_LIB_DATA", raising=False)
    return tmp_path


def test_digits_are_all_there_once() -> None:
    from sklearn.datasets import load_digits

    split = data.digits()
    assert [len(pair.targets) for pair in (split.train, split.val, split.test)] == [1077, 360, 360]
    joined = torch.cat([pair.inputs for pair in (split.train, split.val, split.test)]).flatten(1)
    expected = torch.from_numpy(load_digits().data / 16).float()
    assert sorted(map(tuple, joined.tolist())) == sorted(map(tuple, expected.tolist()))


def test_digits_split_depends_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first, again, other = data.digits(), data.digits(), data.digits(seed=1)
    assert torch.equal(first.test.inputs, again.test.inputs)
    assert not torch.equal(first.test.inputs, other.test.inputs)
    assert torch.equal(state, torch.get_rng_state())


def test_validation_is_carved_from_training_and_pixels_are_normalized(small: Path) -> None:
    split = data.mnist(small, validation=1000)
    assert [len(pair.targets) for pair in (split.train, split.val, split.test)] == [59_000, 1000, 20]
    raw = np.frombuffer(gzip.decompress((small / "mnist/MNIST/raw" / data.FILES[0]).read_bytes())[16:], np.uint8)
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
    (small / "mnist/MNIST/raw" / data.FILES[3]).unlink()
    with pytest.raises(FileNotFoundError) as caught:
        data.mnist(small)
    message = str(caught.value)
    assert "t10k-labels-idx1-ubyte.gz belongs into" in message
    assert str(small / "mnist/MNIST/raw") in message
    assert f"python -m pruning_lib.companion.data fetch mnist --root {small}" in message


def test_an_archive_cut_in_half_is_named(small: Path) -> None:
    path = small / "mnist/MNIST/raw" / data.FILES[0]
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte.gz is damaged or half-downloaded.*1,000 bytes"):
        data.mnist(small)


@pytest.mark.parametrize("validation", [0, 60_000])
def test_validation_out_of_range(small: Path, validation: int) -> None:
    with pytest.raises(ValueError, match="validation must lie in 1 … 59,999"):
        data.mnist(small, validation=validation)


@pytest.mark.parametrize("name", list(data.ARCHIVES))
def test_checksums_and_file_names_are_those_that_torchvision_publishes(name: str) -> None:
    from torchvision import datasets

    archives = data.ARCHIVES[name]
    published = getattr(datasets, archives.dataset).resources
    assert published == list(zip(data.FILES, archives.md5, strict=True))


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


def test_an_unknown_name_is_answered_with_those_there_are() -> None:
    with pytest.raises(ValueError, match="no data set 'cifar'; there are mnist, fashion_mnist"):
        data.fetch("cifar")


def test_the_library_does_not_import_torchvision() -> None:
    code = (
        "import sys, pruning_lib.companion.data, pruning_lib.companion.models; sys.exit('torchvision' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture
def photographs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, np.ndarray]:
    """Return a root with six files of 100 random records, one of them compressed, and all the records."""
    table = np.random.default_rng(0).integers(0, 256, (600, data.CIFAR_RECORD), dtype=np.uint8)
    table[:, 0] %= 10
    folder = tmp_path / data.CIFAR_FOLDER
    folder.mkdir(parents=True)
    for i, name in enumerate(data.CIFAR_FILES):
        raw = table[100 * i : 100 * (i + 1)].tobytes()
        monkeypatch.setitem(data.CIFAR_SHA1, name, (hashlib.sha1(raw).hexdigest(), "of the repaired copy"))
        if i == 2:
            (folder / f"{name}.xz").write_bytes(lzma.compress(raw, preset=0))
        else:
            (folder / name).write_bytes(raw)
    monkeypatch.setattr(data, "CACHE", tmp_path / "nothing")
    monkeypatch.delenv("PRUNING_LIB_DATA", raising=False)
    return tmp_path, table


def test_cifar_is_every_record_once_in_channels_then_rows(photographs: tuple[Path, np.ndarray]) -> None:
    root, table = photographs
    split = data.cifar10(root, validation=70)
    assert [len(pair.targets) for pair in (split.train, split.val, split.test)] == [430, 70, 100]
    first = table[500]  # the test set keeps its order
    pixel = (first[1 + 1024 * 2 + 32 * 5 + 9] / 255 - data.CIFAR_MEAN[2]) / data.CIFAR_STD[2]
    assert split.test.inputs[0, 2, 5, 9].item() == pytest.approx(pixel, rel=1e-5)
    assert split.test.targets.tolist() == table[500:, 0].tolist()
    both = torch.cat([split.val.targets, split.train.targets])
    order = torch.randperm(500, generator=torch.Generator().manual_seed(0))
    assert torch.equal(both, torch.from_numpy(table[:500, 0]).long()[order])


def test_cifar_that_is_missing_or_damaged_is_named(photographs: tuple[Path, np.ndarray]) -> None:
    root, _ = photographs
    folder = root / data.CIFAR_FOLDER
    with pytest.raises(ValueError, match="1 … 49,999"):
        data.cifar10(root, validation=50_000)
    whole = (folder / "data_batch_3.bin.xz").read_bytes()
    (folder / "data_batch_3.bin.xz").write_bytes(whole[:1000])
    with pytest.raises(ValueError, match=r"data_batch_3.bin.xz is damaged .* fetch it again"):
        data.cifar10(root)
    (folder / "data_batch_3.bin.xz").write_bytes(whole)
    one = (folder / "data_batch_1.bin").read_bytes()
    (folder / "data_batch_1.bin").write_bytes(one[:-1] + bytes([one[-1] ^ 1]))  # a grey level off
    with pytest.raises(ValueError, match=r"data_batch_1.bin is damaged or of another version: its SHA-1 is"):
        data.cifar10(root)
    (folder / "data_batch_1.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"data_batch_1.bin belongs into .*fetch cifar10"):
        data.cifar10(root)


def test_a_repaired_copy_is_read_and_named(
    photographs: tuple[Path, np.ndarray], monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    root, _ = photographs
    before = data.cifar10(root, validation=70)
    assert not recwarn.list
    monkeypatch.setitem(data.CIFAR_SHA1, "test_batch.bin", ("another", data.CIFAR_SHA1["test_batch.bin"][0]))
    with pytest.warns(UserWarning, match=r"cifar-10-batches-bin is a repaired copy: 93 of its 60,000 images"):
        after = data.cifar10(root, validation=70)
    assert torch.equal(before.test.inputs, after.test.inputs)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def test_fetching_cifar_unpacks_the_archive_and_keeps_what_is_there(
    photographs: tuple[Path, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, table = photographs
    whole = data.cifar10(root, validation=70)
    archive = tmp_path / "cifar.tar.gz"
    with tarfile.open(archive, "w:gz") as packed:
        for i, name in enumerate(data.CIFAR_FILES):
            (tmp_path / name).write_bytes(table[100 * i : 100 * (i + 1)].tobytes())
            packed.add(tmp_path / name, f"cifar-10-batches-bin/{name}")
    monkeypatch.setattr(data, "CIFAR_MD5", hashlib.md5(archive.read_bytes()).hexdigest())
    other = tmp_path / "other"
    with HTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(data, "CIFAR_URL", f"http://127.0.0.1:{server.server_port}/cifar.tar.gz")
        assert data.fetch("cifar10", other) == other / data.CIFAR_FOLDER
        server.shutdown()
    assert torch.equal(data.cifar10(other, validation=70).train.inputs, whole.train.inputs)
    monkeypatch.setattr(data, "CIFAR_URL", "http://127.0.0.1:9/")
    assert data.fetch("cifar10", other) == other / data.CIFAR_FOLDER
    with pytest.raises(ConnectionError, match=r"gave no CIFAR-10 .*unpack it into .*cifar-10 by hand"):
        data.fetch("cifar10", tmp_path / "third")


@pytest.mark.slow  # 20 s: six files of xz
def test_real_cifar(data_root: Path) -> None:
    if not (data_root / data.CIFAR_FOLDER).is_dir():
        pytest.skip(f"{data_root} holds no CIFAR-10.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # either copy will do
        split = data.cifar10(data_root)
    assert (len(split.train.targets), len(split.val.targets), len(split.test.targets)) == (45_000, 5_000, 10_000)
    assert torch.cat([split.train.targets, split.val.targets]).bincount().tolist() == [5000] * 10
    assert split.test.targets.bincount().tolist() == [1000] * 10
    for channel in range(3):
        pixels = torch.cat([split.train.inputs[:, channel], split.val.inputs[:, channel]])
        assert abs(pixels.mean().item()) < 1e-3
        assert pixels.std().item() == pytest.approx(1, abs=1e-3)


def test_crops_and_flips_are_those_of_a_loop() -> None:
    inputs = torch.randn(50, 3, 6, 5)
    out = data.crop_and_flip(inputs, torch.Generator().manual_seed(3), padding=2)
    g = torch.Generator().manual_seed(3)
    down, right = torch.randint(0, 5, (2, 50), generator=g)
    flip = torch.rand(50, generator=g) < 0.5
    assert 5 < flip.sum() < 45
    for i in range(50):
        large = torch.zeros(3, 10, 9)
        large[:, 2:8, 2:7] = inputs[i]
        part = large[:, down[i] : down[i] + 6, right[i] : right[i] + 5]
        assert torch.equal(out[i], part.flip(2) if flip[i] else part)


def test_what_is_missing_to_download_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(SystemExit):
        data.main(["fetch", "mnist", "--root", "nowhere"])
    assert "fetch needs torchvision, which is not installed: pip install torchvision" in capsys.readouterr().err
