"""Chest X-rays: read, dealt whole by patient, and built from folders like the originals."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pruning_lib.companion import data
from pruning_lib.companion.data import _xrays
from tests.companion.data.splits import disjoint, joined, with_file

Small = tuple[Path, dict[str, np.ndarray]]


@pytest.fixture
def small(tmp_path: Path, no_data: None) -> Small:
    """Return a root with 300 X-rays of 100 patients, and their arrays."""
    rng = np.random.default_rng(0)
    patient = rng.permutation(np.repeat(np.arange(100), 3)).astype(np.int32)
    chest = {
        "images": rng.integers(0, 256, (300, 128, 128), dtype=np.uint8),
        "label": (patient % 3).astype(np.uint8),
        "patient": patient,
        "source": ((patient % 3 > 0) & (patient % 2 > 0)).astype(np.uint8),
        "noncommercial": (rng.random(300) < 0.3).astype(np.uint8),
    }
    (tmp_path / _xrays.FILE).parent.mkdir()
    np.savez(tmp_path / _xrays.FILE, **chest)
    return tmp_path, chest


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
        raw = small[1]["images"][known["index"]] / 255
        np.testing.assert_allclose(pair.inputs[:, 0].numpy(), (raw - 0.5434) / 0.2355, atol=1e-5)


def test_choices_only_drop_images_from_the_parts(small: Small) -> None:
    everything = data.chest_xrays(small[0])
    control, free = data.chest_xrays(small[0], source=0), data.chest_xrays(small[0], noncommercial=False)
    assert (control.classes, free.classes) == (2, 3)
    assert not joined(free, "noncommercial").any()
    assert len(joined(free, "index")) == 300 - small[1]["noncommercial"].sum()
    for part in data.PARTS:
        pair, whole, known = getattr(control, part), getattr(everything, part), everything.details[part]
        first = known["source"] == 0
        assert 0 < first.sum() < len(first)
        assert torch.equal(pair.inputs, whole.inputs[first])
        assert torch.equal(pair.targets, whole.targets[first].clamp(max=1))
        assert torch.equal(free.details[part]["index"], known["index"][known["noncommercial"] == 0])


def test_a_source_without_covid_is_no_choice(small: Small) -> None:
    with pytest.raises(ValueError, match="source=1; it needs None or 0"):
        data.chest_xrays(small[0], source=1)


def test_real_chest_xrays(data_root: Path) -> None:
    split = data.chest_xrays(with_file(data_root, _xrays.FILE))
    assert disjoint(split, "patient")
    targets = torch.cat([pair.targets for pair in (split.train, split.val, split.test)])
    sources, restricted = joined(split, "source"), joined(split, "noncommercial") > 0
    assert torch.bincount(3 * sources + targets).tolist() == [198, 65, 12, 0, 500, 500]
    assert targets[~restricted].bincount().tolist() == [90, 503, 508]
    assert (len(joined(split, "patient").unique()), int(restricted.sum())) == (834, 174)
    pixels = torch.cat([pair.inputs for pair in (split.train, split.val, split.test)])
    assert abs(pixels.mean().item()) < 1e-3
    assert pixels.std().item() == pytest.approx(1, abs=1e-3)


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
    images = tmp_path / _xrays.COVID / "images"
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
        path = tmp_path / _xrays.NIH / "Dataset" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (256, 256), dtype=np.uint8)).save(path)
    return tmp_path


def test_xrays_are_built_from_folders_like_both_collections(
    collections: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("root")
    path = data.build("chest-xrays", collections, root)
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
    image = Image.open(collections / _xrays.COVID / "images" / "a.png").convert("L")
    square = np.asarray(image)[:, 53:203]  # 150 of 256 columns, from the middle
    assert arrays["images"][0].mean() == pytest.approx(square.mean(), abs=0.05)
    assert abs(int(arrays["images"][0, 0, 0]) - int(square[0, 0])) < 60
    split = data.chest_xrays(root)
    assert len(joined(split, "index")) == 6


def test_metadata_of_another_date_are_named(collections: Path, tmp_path: Path) -> None:
    table = collections / _xrays.COVID / "metadata.csv"
    table.write_text("Patientid,finding,view,filename, url,license\n", encoding="utf-8")  # as it began, in March 2020
    with pytest.raises(ValueError, match=r"metadata.csv has no column modality, patientid: .* commit 0f7245d"):
        data.build("chest-xrays", collections, tmp_path / "root")


def test_a_folder_without_half_of_the_originals_is_named_and_nothing_is_written(
    tmp_path: Path, collections: Path
) -> None:
    for path in (collections / _xrays.NIH / "Dataset" / "No_findings").iterdir():
        path.unlink()
    with pytest.raises(FileNotFoundError, match="No_findings holds no PNG"):
        data.build("chest_xrays", collections, tmp_path / "root")
    assert not (tmp_path / "root").exists()
