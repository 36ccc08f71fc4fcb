"""Nuclei and chest X-rays: read, dealt whole by group and patient, and built from folders like the originals."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from pruning_lib.companion import data, derived

Small = tuple[Path, dict[str, np.ndarray], dict[str, np.ndarray]]


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Small:
    """Return a root with 120 images of 128 × 128 pixels of 10 looks and 2 kinds, and 300 X-rays of 100 patients."""
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
    patient = rng.permutation(np.repeat(np.arange(100), 3)).astype(np.int32)
    chest = {
        "images": rng.integers(0, 256, (300, 4, 4), dtype=np.uint8),
        "label": (patient % 3).astype(np.uint8),
        "patient": patient,
        "source": ((patient % 3 > 0) & (patient % 2 > 0)).astype(np.uint8),
        "noncommercial": (rng.random(300) < 0.3).astype(np.uint8),
    }
    for file, arrays in ((data.NUCLEI_FILE, cells), (data.XRAY_FILE, chest)):
        (tmp_path / file).parent.mkdir()
        np.savez(tmp_path / file, **arrays)
    monkeypatch.setattr(data, "CACHE", tmp_path / "nothing")
    monkeypatch.delenv("PRUNING_LIB_DATA", raising=False)
    return tmp_path, cells, chest


def joined(split: data.DetailedSplit, name: str) -> Tensor:
    return torch.cat([split.details[part][name] for part in data.PARTS])


def disjoint(split: data.DetailedSplit, name: str) -> bool:
    train, val, test = (set(split.details[part][name].tolist()) for part in data.PARTS)
    return not (train & val or train & test or val & test)


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
    root, cells, _ = small
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


def test_patients_are_whole_and_dealt_by_class_and_source(small: Small) -> None:
    split = data.chest_xrays(small[0])
    assert split.classes == 3
    assert disjoint(split, "patient")
    assert sorted(joined(split, "index").tolist()) == list(range(300))
    for part, share in zip(data.PARTS, (0.6, 0.2, 0.2), strict=True):
        pair, known = getattr(split, part), split.details[part]
        assert torch.equal(pair.targets, known["patient"] % 3)
        whole = torch.bincount(3 * joined(split, "source") + joined(split, "patient") % 3)
        counts = torch.bincount(3 * known["source"] + pair.targets, minlength=len(whole))
        assert ((counts - share * whole).abs() <= 3).all(), "within a patient of three images of the share"
        raw = small[2]["images"][known["index"]] / 255
        np.testing.assert_allclose(pair.inputs[:, 0].numpy(), (raw - 0.5434) / 0.2355, atol=1e-5)


def test_choices_only_drop_images_from_the_parts(small: Small) -> None:
    everything = data.chest_xrays(small[0])
    control, free = data.chest_xrays(small[0], source=0), data.chest_xrays(small[0], noncommercial=False)
    assert (control.classes, free.classes) == (2, 3)
    assert not joined(free, "noncommercial").any()
    assert len(joined(free, "index")) == 300 - small[2]["noncommercial"].sum()
    for part in data.PARTS:
        pair, whole, known = getattr(control, part), getattr(everything, part), everything.details[part]
        kept = known["source"] == 0
        assert 0 < kept.sum() < len(kept)
        assert torch.equal(pair.inputs, whole.inputs[kept])
        assert torch.equal(pair.targets, whole.targets[kept].clamp(max=1))
        assert torch.equal(free.details[part]["index"], known["index"][known["noncommercial"] == 0])


def test_a_source_without_covid_is_no_choice(small: Small) -> None:
    with pytest.raises(ValueError, match="source must be None or 0 .* got 1"):
        data.chest_xrays(small[0], source=1)


@pytest.mark.parametrize(("name", "file"), [("nuclei", data.NUCLEI_FILE), ("chest_xrays", data.XRAY_FILE)])
def test_missing_and_damaged_files_are_named(small: Small, name: str, file: str) -> None:
    load, path = getattr(data, name), small[0] / file
    whole = path.read_bytes()
    for wrong in (whole[: len(whole) // 2], b"", b"text"):
        path.write_bytes(wrong)
        with pytest.raises(ValueError, match=rf"{path.name} is damaged or another file .* build it again"):
            load(small[0])
    np.savez(path, images=np.array([{}], dtype=object))  # an array that only a pickle can hold
    with pytest.raises(ValueError, match="is damaged or another file"):
        load(small[0])
    path.unlink()
    with pytest.raises(FileNotFoundError, match=rf"{path.name} is not here; .*build {name} --from FOLDER --root"):
        load(small[0])


def there(root: Path, file: str) -> Path:
    """Return the root, or skip: nobody may hand the file on, so that CI lacks it as well."""
    if not (root / file).is_file():
        pytest.skip(f"{root / file} was not built here.")
    return root


def test_real_nuclei(data_root: Path) -> None:
    split = data.nuclei(there(data_root, data.NUCLEI_FILE))
    assert disjoint(split, "group")
    assert sorted(joined(split, "index").tolist()) == list(range(664))
    instances = joined(split, "instances")
    assert sum(len(image.unique()) - 1 for image in instances) == 28_647
    assert (instances > 0).float().mean().item() == pytest.approx(0.142, abs=5e-4)
    assert min(len(split.val.targets), len(split.test.targets)) > 100
    assert abs(split.test.inputs.mean((1, 2, 3))).max().item() < 1e-4


def test_real_chest_xrays(data_root: Path) -> None:
    split = data.chest_xrays(there(data_root, data.XRAY_FILE))
    assert disjoint(split, "patient")
    targets = torch.cat([pair.targets for pair in (split.train, split.val, split.test)])
    sources, restricted = joined(split, "source"), joined(split, "noncommercial") > 0
    assert torch.bincount(3 * sources + targets).tolist() == [198, 65, 12, 0, 500, 500]
    assert targets[~restricted].bincount().tolist() == [90, 503, 508]
    assert (len(joined(split, "patient").unique()), int(restricted.sum())) == (834, 174)
    pixels = torch.cat([pair.inputs for pair in (split.train, split.val, split.test)])
    assert abs(pixels.mean().item()) < 1e-3
    assert pixels.std().item() == pytest.approx(1, abs=1e-3)


def test_flags_of_the_real_nuclei_are_those_that_their_file_holds(data_root: Path) -> None:
    with np.load(there(data_root, data.NUCLEI_FILE) / data.NUCLEI_FILE, allow_pickle=False) as stored:
        assert np.array_equal(derived.is_colour(stored["images"]), stored["is_colour"])
        assert np.array_equal(derived.dark_background(stored["images"]), stored["dark_background"])


def test_area_means_are_those_of_a_loop() -> None:
    pixels = np.random.default_rng(0).random((200, 300, 3))
    out = derived._averaged(pixels)
    for y, x in ((0, 0), (17, 90), (127, 127)):
        total, area = np.zeros(3), 0.0
        for i in range(200):  # in units in which an old pixel measures 128 × 128 and a new one 200 × 300
            height = max(0, min(128 * (i + 1), 200 * (y + 1)) - max(128 * i, 200 * y))
            for j in range(300) if height else ():
                share = height * max(0, min(128 * (j + 1), 300 * (x + 1)) - max(128 * j, 300 * x))
                total, area = total + share * pixels[i, j], area + share
        assert area == 200 * 300
        np.testing.assert_allclose(out[y, x], total / area, rtol=1e-9)
    assert out.mean() == pytest.approx(pixels.mean())


def test_a_pixel_belongs_to_the_nucleus_that_covers_most_of_it() -> None:
    blocks = [np.zeros((512, 512), bool) for _ in range(4)]  # 4 × 4 old pixels for a new one
    blocks[0][0:4, 0:2] = True  # half of the new pixel (0, 0), from the left
    blocks[1][4:8, 0:1] = True  # a quarter of (1, 0) …
    blocks[2][4:8, 1:4] = True  # … and three quarters, by another
    blocks[3][100:101, 100:104] = True  # a quarter of (25, 25): vanishes
    labels = derived._labels(blocks)
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
    data.main(["build", "nuclei", "--from", str(bowl), "--root", str(root)])
    with np.load(root / data.NUCLEI_FILE, allow_pickle=False) as stored:
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


ROW = {"patientid": "3", "finding": "COVID-19", "view": "PA", "modality": "X-ray", "folder": "images"}


@pytest.fixture
def collections(tmp_path: Path) -> Path:
    """Return both collections of X-rays, small: three rows to keep, one for each reason to leave out, three of NIH."""
    rows: list[dict[str, Any]] = [
        ROW | {"filename": "a.png", "license": "CC BY-NC-SA"},
        ROW | {"filename": "b.jpg", "license": "CC BY 3.0 ", "finding": "COVID-19, ARDS", "view": "AP Supine"},
        ROW | {"filename": "deep.png", "license": "CC BY", "finding": "No Finding", "patientid": "20"},
        ROW | {"filename": "blank.png", "license": ""},
        ROW | {"filename": "nd.png", "license": "CC BY-NC-ND 4.0"},
        ROW | {"filename": "side.png", "license": "CC BY", "view": "L"},
        ROW | {"filename": "ct.png", "license": "CC BY", "modality": "CT"},
        ROW | {"filename": "again.png", "license": "CC BY"},
        ROW | {"filename": "lost.png", "license": "CC BY"},
    ]
    rng = np.random.default_rng(0)
    images = tmp_path / derived.COVID / "images"
    images.mkdir(parents=True)
    for row in rows[:-1]:
        Image.fromarray(rng.integers(0, 256, (150, 256, 3), dtype=np.uint8)).save(images / row["filename"])
    (images / "again.png").write_bytes((images / "a.png").read_bytes())
    deep = np.full((256, 256), 257 * 100, np.uint16)
    deep[:, 128:] = 257 * 200
    Image.fromarray(deep).save(images / "deep.png")
    with (images.parent / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    for name in ("Pneumonia/00000061_012", "Pneumonia/00000061_015", "No_findings/00000061_000"):
        path = tmp_path / derived.NIH / "Dataset" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (256, 256), dtype=np.uint8)).save(path)
    return tmp_path


def test_xrays_are_built_from_folders_like_both_collections(
    collections: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("root")
    path = derived.build("chest_xrays", collections, root)
    with np.load(path, allow_pickle=False) as stored:
        arrays = dict(stored)
    expected = ["a.png", "b.jpg", "deep.png", "00000061_012.png", "00000061_015.png", "00000061_000.png"]
    assert arrays["filename"].tolist() == expected
    assert arrays["label"].tolist() == [0, 0, 2, 1, 1, 2]
    assert arrays["source"].tolist() == [0, 0, 0, 1, 1, 1]
    assert arrays["noncommercial"].tolist() == [1, 0, 0, 0, 0, 0]
    assert arrays["patient_id"].tolist() == ["ieee8023-3"] * 2 + ["ieee8023-20"] + ["nih-00000061"] * 3
    assert arrays["patient"].tolist() == [1, 1, 0, 2, 2, 2]  # in alphabetical order
    assert set(arrays["images"][2].ravel().tolist()) == {100, 200}, "16 bits become 8"
    image = Image.open(collections / derived.COVID / "images" / "a.png").convert("L")
    square = np.asarray(image)[:, 53:203]  # 150 of 256 columns, from the middle
    assert arrays["images"][0].mean() == pytest.approx(square.mean(), abs=0.05)
    assert abs(int(arrays["images"][0, 0, 0]) - int(square[0, 0])) < 60
    split = data.chest_xrays(root)
    assert len(joined(split, "index")) == 6


def test_a_folder_without_the_originals_is_named_and_nothing_is_written(
    tmp_path: Path, collections: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for name, message in (("nuclei", "holds no ID/images/ID.png"), ("chest_xrays", "metadata.csv is missing")):
        with pytest.raises(SystemExit):
            data.main(["build", name, "--from", str(empty), "--root", str(tmp_path / "root")])
        assert message in capsys.readouterr().err
    for path in (collections / derived.NIH / "Dataset" / "No_findings").iterdir():
        path.unlink()
    with pytest.raises(FileNotFoundError, match="No_findings holds no PNG"):
        derived.build("chest_xrays", collections, tmp_path / "root")
    assert not (tmp_path / "root").exists()


def test_metadata_of_another_date_are_named(collections: Path, tmp_path: Path) -> None:
    table = collections / derived.COVID / "metadata.csv"
    table.write_text("Patientid,finding,view,filename, url,license\n", encoding="utf-8")  # as it began, in March 2020
    with pytest.raises(ValueError, match=r"metadata.csv has no column modality, patientid: .* commit 0f7245d"):
        derived.build("chest_xrays", collections, tmp_path / "root")
