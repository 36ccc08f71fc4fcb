"""CIFAR-10: records, checksums, the repaired copy, and an archive that is fetched from a server on this machine."""

from __future__ import annotations

import hashlib
import lzma
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
from pruning_lib.companion.data import _cifar10


@pytest.fixture
def photographs(tmp_path: Path, no_data: None, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, np.ndarray]:
    """Return a root with six files of 100 random records, one of them compressed, and all the records."""
    table = np.random.default_rng(0).integers(0, 256, (600, _cifar10.RECORD), dtype=np.uint8)
    table[:, 0] %= 10
    folder = tmp_path / _cifar10.FOLDER
    folder.mkdir(parents=True)
    for i, name in enumerate(_cifar10.FILES):
        raw = table[100 * i : 100 * (i + 1)].tobytes()
        monkeypatch.setitem(_cifar10.SHA1, name, (hashlib.sha1(raw).hexdigest(), "of the repaired copy"))
        if i == 2:
            (folder / f"{name}.xz").write_bytes(lzma.compress(raw, preset=0))
        else:
            (folder / name).write_bytes(raw)
    return tmp_path, table


def test_cifar_is_every_record_once_in_channels_then_rows(photographs: tuple[Path, np.ndarray]) -> None:
    root, table = photographs
    split = data.cifar10(root, validation=70)
    assert [len(pair.targets) for pair in (split.train, split.val, split.test)] == [430, 70, 100]
    first = table[500]  # the test set keeps its order
    pixel = (first[1 + 1024 * 2 + 32 * 5 + 9] / 255 - _cifar10.MEAN[2]) / _cifar10.STD[2]
    assert split.test.inputs[0, 2, 5, 9].item() == pytest.approx(pixel, rel=1e-5)
    assert split.test.targets.tolist() == table[500:, 0].tolist()
    both = torch.cat([split.val.targets, split.train.targets])
    order = torch.randperm(500, generator=torch.Generator().manual_seed(0))
    assert torch.equal(both, torch.from_numpy(table[:500, 0]).long()[order])


def test_cifar_that_is_missing_or_damaged_is_named(photographs: tuple[Path, np.ndarray]) -> None:
    root, _ = photographs
    folder = root / _cifar10.FOLDER
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
    monkeypatch.setitem(_cifar10.SHA1, "test_batch.bin", ("another", _cifar10.SHA1["test_batch.bin"][0]))
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
        for i, name in enumerate(_cifar10.FILES):
            (tmp_path / name).write_bytes(table[100 * i : 100 * (i + 1)].tobytes())
            packed.add(tmp_path / name, f"cifar-10-batches-bin/{name}")
    monkeypatch.setattr(_cifar10, "MD5", hashlib.md5(archive.read_bytes()).hexdigest())
    other = tmp_path / "other"
    with HTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(_cifar10, "URL", f"http://127.0.0.1:{server.server_port}/cifar.tar.gz")
        assert data.fetch("cifar10", other) == other / _cifar10.FOLDER
        server.shutdown()
    assert torch.equal(data.cifar10(other, validation=70).train.inputs, whole.train.inputs)
    monkeypatch.setattr(_cifar10, "URL", "http://127.0.0.1:9/")
    assert data.fetch("cifar10", other) == other / _cifar10.FOLDER
    with pytest.raises(ConnectionError, match=r"gave no CIFAR-10 .*unpack it into .*cifar-10 by hand"):
        data.fetch("cifar10", tmp_path / "third")
    last = other / _cifar10.FOLDER / "test_batch.bin"
    last.write_bytes(last.read_bytes()[:5000])  # an extraction that was interrupted is not whole
    with pytest.raises(ConnectionError, match="gave no CIFAR-10"):
        data.fetch("cifar10", other)


@pytest.mark.slow  # 20 s: six files of xz
def test_real_cifar(data_root: Path) -> None:
    if not (data_root / _cifar10.FOLDER).is_dir():
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
