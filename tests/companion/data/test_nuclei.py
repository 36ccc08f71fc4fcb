"""Nuclei: read, dealt whole by what looks alike, and built from a folder like the originals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pruning_lib.companion import data
from pruning_lib.companion.data import _nuclei
from pruning_lib.companion.data.__main__ import main
from tests.companion.data.splits import disjoint, joined, with_file

Small = tuple[Path, dict[str, np.ndarray]]


@pytest.fixture
def small(tmp_path: Path, no_data: None) -> Small:
    """Return a root with 120 images of 128 × 128 pixels of 10 looks and 2 kinds, and their arrays."""
    rng = np.random.default_rng(0)
    base = np.repeat(np.arange(10) % 5 * 48, 12).astype(np.uint8)
    texture = rng.integers(0, 3, (128, 128, 3), dtype=np.uint8)
    cells = {
        "images": base[:, None, None, None] + texture,
        "instances": rng.integers(0, 3, (120, 128, 128)).astype(np.uint16),
        "orig_wh": np.full((120, 2), 256, np.int32),
        "is_colour": np.repeat([0, 1], 60).astype(np.uint8),
        "dark_background": np.repeat([1, 0], 60).astype(np.uint8),
    }
    (tmp_path / _nuclei.FILE).parent.mkdir()
    np.savez(tmp_path / _nuclei.FILE, **cells)
    return tmp_path, cells


def test_looks_are_whole_dealt_by_kind_and_every_image_is_there_once(small: Small) -> None:
    split = data.nuclei(small[0])
    assert [len(pair.targets) for pair in (split.train, split.val, split.test)] == [72, 24, 24]  # 6 : 2 : 2 of 10 looks
    assert disjoint(split, "group")
    assert sorted(joined(split, "index").tolist()) == list(range(120))
    for part in data.PARTS:
        index = split.details[part]["index"]
        assert (index < 60).sum() == (index >= 60).sum()
        for group in split.details[part]["group"].unique():
            looks = index[split.details[part]["group"] == group] // 12
            assert len(looks) == 12
            assert len(looks.unique()) == 1, "twelve neighbours in the file were drawn with one look"
    other = data.nuclei(small[0], seed=1)
    assert set(other.details["test"]["index"].tolist()) != set(split.details["test"]["index"].tolist())


def test_pixels_are_standard_and_targets_are_where_nuclei_are(small: Small) -> None:
    root, cells = small
    split = data.nuclei(root)
    for part in data.PARTS:
        pair, known = getattr(split, part), split.details[part]
        raw = cells["images"][known["index"]].astype(float)
        expected = (raw - raw.mean((1, 2, 3), keepdims=True)) / np.maximum(raw.std((1, 2, 3), keepdims=True), 1)
        np.testing.assert_allclose(pair.inputs.permute(0, 2, 3, 1).numpy(), expected, atol=1e-3)
        assert torch.equal(known["instances"], torch.from_numpy(cells["instances"][known["index"]].astype(np.int64)))
        assert torch.equal(pair.targets, (known["instances"] > 0).long())


def test_look_is_quantiles_and_power_in_rings() -> None:
    images = np.random.default_rng(1).integers(0, 256, (5, 128, 128, 3), dtype=np.uint8)
    images[1] //= 2
    vectors = data.look(images)
    assert vectors.shape == (5, 38)
    green = np.sort(images[..., 1].reshape(5, -1))
    middle = green[:, round(0.5 * (128 * 128 - 1))] / 255
    np.testing.assert_allclose(vectors[:, 9 + 4], middle / max(middle.std(), 0.02))
    grey = images.mean(3)
    power = np.abs(np.fft.fft2(grey)) ** 2  # all of the plane, while the library takes half of it
    y, x = np.meshgrid(np.fft.fftfreq(128) * 128, np.fft.fftfreq(128) * 128, indexing="ij")
    ring = (np.hypot(y, x).round() >= 48) & (np.hypot(y, x).round() < 64)
    last = np.log1p(power[:, ring].mean(1))
    np.testing.assert_allclose(vectors[:, -1] * last.std(), last, rtol=2e-3)


def test_look_alikes_stay_within_their_stratum() -> None:
    images = np.zeros((6, 128, 128, 3), np.uint8)
    images[2:4] = 250
    units = data.look_alikes(images, np.array([0, 0, 0, 0, 1, 1]))
    assert units.tolist() in ([0, 0, 1, 1, 2, 2], [1, 1, 0, 0, 2, 2])


def test_real_nuclei(data_root: Path) -> None:
    split = data.nuclei(with_file(data_root, _nuclei.FILE))
    assert disjoint(split, "group")
    assert sorted(joined(split, "index").tolist()) == list(range(664))
    instances = joined(split, "instances")
    assert sum(len(image.unique()) - 1 for image in instances) == 28_647
    assert (instances > 0).float().mean().item() == pytest.approx(0.142, abs=5e-4)
    assert min(len(split.val.targets), len(split.test.targets)) > 100
    assert abs(split.test.inputs.mean((1, 2, 3))).max().item() < 1e-4


def test_flags_of_the_real_nuclei_are_those_that_their_file_holds(data_root: Path) -> None:
    with np.load(with_file(data_root, _nuclei.FILE) / _nuclei.FILE, allow_pickle=False) as stored:
        assert np.array_equal(_nuclei.is_colour(stored["images"]), stored["is_colour"])
        assert np.array_equal(_nuclei.has_dark_background(stored["images"]), stored["dark_background"])


def test_a_pixel_belongs_to_the_nucleus_that_covers_most_of_it() -> None:
    blocks = [np.zeros((512, 512), bool) for _ in range(4)]  # 4 × 4 old pixels for a new one
    blocks[0][0:4, 0:2] = True  # half of the new pixel (0, 0), from the left
    blocks[1][4:8, 0:1] = True  # a quarter of (1, 0) …
    blocks[2][4:8, 1:4] = True  # … and three quarters, by another
    blocks[3][100:101, 100:104] = True  # a quarter of (25, 25): vanishes
    labels = _nuclei.number_nuclei(blocks)
    assert labels.dtype == np.uint16
    assert labels[:3, 0].tolist() == [1, 2, 0], "the second is hidden, so the third is number 2"
    assert np.count_nonzero(labels) == 2


@pytest.fixture
def bowl(tmp_path: Path) -> Path:
    """Return a folder like stage1_train: a dark grey image with two nuclei, a coloured one with alpha and no mask."""
    rng = np.random.default_rng(0)
    first = np.full((256, 256, 4), 255, np.uint8)
    first[..., :3] = rng.integers(0, 30, (256, 256, 1))
    second = rng.integers(100, 255, (64, 320, 3), dtype=np.uint8)
    for name, pixels in (("b1", first), ("a0", second)):
        (tmp_path / name / "images").mkdir(parents=True)
        (tmp_path / name / "masks").mkdir()
        Image.fromarray(pixels).save(tmp_path / name / "images" / f"{name}.png")
    for i, corner in enumerate((10, 101)):
        mask = np.zeros((256, 256), np.uint8)
        mask[corner : corner + 20, 40:60] = 255
        Image.fromarray(mask).save(tmp_path / "b1" / "masks" / f"m{i}.png")
    (tmp_path / "notes").mkdir()
    return tmp_path


def test_nuclei_are_built_from_a_folder_like_the_bowls(bowl: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("root")
    main(["build", "nuclei", "--from", str(bowl), "--root", str(root)])
    with np.load(root / _nuclei.FILE, allow_pickle=False) as stored:
        arrays = dict(stored)
    assert arrays["ids"].tolist() == ["a0", "b1"]
    assert arrays["orig_wh"].tolist() == [[320, 64], [256, 256]]
    assert (arrays["is_colour"].tolist(), arrays["dark_background"].tolist()) == ([1, 0], [0, 1])
    assert (arrays["n_instances_orig"].tolist(), arrays["n_instances_128"].tolist()) == ([0, 2], [0, 2])
    expected = np.zeros((128, 128), int)
    expected[5:15, 20:30] = 1
    expected[50:61, 20:30] = 2  # rows 101 … 120 cover half of the new rows 50 and 60
    assert np.array_equal(arrays["instances"][1], expected)
    assert np.array_equal(arrays["masks"], arrays["instances"] > 0)
    original = np.asarray(Image.open(bowl / "b1/images/b1.png"))[..., :3]
    means = original.reshape(128, 2, 128, 2, 3).mean((1, 3))
    assert np.abs(arrays["images"][1] - means).max() <= 0.5
    assert not list((root / "nuclei").glob("*.part*"))
