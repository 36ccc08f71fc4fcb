"""Build the derived sets from their originals: nuclei and chest X-rays of 128 × 128 pixels.

``python -m pruning_lib.companion.data build nuclei --from FOLDER`` runs this. The page `datasets` names the originals
and what these functions were tested on: small folders in the originals' layout, not the originals themselves.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pruning_lib.companion.data import NUCLEI_FILE, XRAY_FILE

SIDE = 128
NIH_LICENCE = "NIH CC: use unrestricted, attribution requested"
# Those of the licences in the collection's metadata that allow adaptations to be passed on.
LICENCES = ("CC BY-NC-SA", "CC BY-NC-SA 4.0", "CC BY 3.0", "CC BY 4.0", "CC BY", "CC BY-SA")
COVID, NIH = "covid-chestxray-dataset", "COVID-19"
COLUMNS = {"patientid", "finding", "view", "modality", "filename", "license"}
CLASSES = ("COVID-19", "other pneumonia / disease", "no finding")


def build(name: str, originals: str | Path, root: str | Path) -> Path:
    """Write the file that `data.nuclei` or `data.chest_xrays` reads, and return its path.

    Parameters
    ----------
    name : {"nuclei", "chest_xrays"}
        What to build.
    originals : path
        Folder that holds the originals, as `nuclei` and `chest_xrays` of this module describe them.
    root : path
        Below which folder to write.

    Raises
    ------
    FileNotFoundError
        If `originals` does not hold what it should; nothing is written then.
    """
    file, make = {"nuclei": (NUCLEI_FILE, nuclei), "chest_xrays": (XRAY_FILE, chest_xrays)}[name]
    arrays = make(Path(originals).expanduser())
    path = Path(root).expanduser() / file
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part.npz")
    np.savez_compressed(unfinished, **arrays)
    unfinished.replace(path)
    return path


def nuclei(folder: Path) -> dict[str, Any]:
    """Return the arrays of a folder in the Data Science Bowl's layout: ``ID/images/ID.png``, ``ID/masks/*.png``.

    Whole images are averaged over areas, their aspect ratio is not kept. A pixel is foreground where nuclei cover at
    least half of it, and then belongs to the one that covers most. ``is_colour`` and ``dark_background`` are simple
    flags: channels that differ; a median below the middle of the scale.
    """
    places = sorted(place for place in folder.iterdir() if (place / "images" / f"{place.name}.png").is_file())
    if not places:
        raise FileNotFoundError(f"{folder} holds no ID/images/ID.png; name the folder stage1_train.")
    images, instances, sizes, nuclei_before = [], [], [], []
    for place in places:
        pixels = np.asarray(Image.open(place / "images" / f"{place.name}.png").convert("RGB"))
        masks = sorted((place / "masks").glob("*.png"))
        images.append(_bytes(_averaged(pixels)))
        instances.append(_labels(np.asarray(Image.open(path).convert("L")) > 0 for path in masks))
        sizes.append(pixels.shape[1::-1])
        nuclei_before.append(len(masks))
    stack, labels = np.stack(images), np.stack(instances)
    return {
        "images": stack,
        "instances": labels,
        "masks": (labels > 0).astype(np.uint8),
        "ids": np.array([place.name for place in places]),
        "orig_wh": np.array(sizes, np.int32),
        "n_instances_orig": np.array(nuclei_before, np.int32),
        "n_instances_128": labels.max((1, 2)).astype(np.int32),
        "is_colour": is_colour(stack),
        "dark_background": dark_background(stack),
    }


def is_colour(images: np.ndarray) -> np.ndarray:
    """Return 1 where the channels of an image (n, height, width, 3) differ by more than a grey level on average."""
    spread = images.max(3).astype(np.float32) - images.min(3)
    return np.asarray(spread.mean((1, 2)) > 1, np.uint8)


def dark_background(images: np.ndarray) -> np.ndarray:
    """Return 1 where the median over pixels of an image's grey value lies below 90 of 255."""
    return np.asarray(np.median(images.mean(3), axis=(1, 2)) < 90, np.uint8)


def chest_xrays(folder: Path) -> dict[str, Any]:
    """Return the arrays of two collections that lie side by side in a folder.

    ``covid-chestxray-dataset/metadata.csv`` and ``…/images`` (github.com/ieee8023/covid-chestxray-dataset, state of
    2020-06-05, commit 0f7245d): frontal X-rays under one of `LICENCES`; a blank licence, one without derivatives or
    an unclear one leaves an image out, and so does a file that is missing or repeats another.
    ``COVID-19/Dataset/Pneumonia`` and ``…/No_findings`` (github.com/muhammedtalo/COVID-19, commit ee3e2cf): a thousand
    images of NIH ChestX-ray, the patient being the number before the underscore. Each image is cropped to its central
    square and averaged over areas.
    """
    rows = [*_collected(folder / COVID), *_nih(folder / NIH / "Dataset")]
    patients = np.array([row["patient_id"] for row in rows])
    licences = np.array([row["licence"] for row in rows])
    return {
        "images": np.stack([_xray(row["path"]) for row in rows]),
        "label": np.array([row["label"] for row in rows], np.uint8),
        "patient": np.unique(patients, return_inverse=True)[1].astype(np.int32),
        "patient_id": patients,
        "source": np.array([row["source"] for row in rows], np.uint8),
        "noncommercial": np.array(["NC" in licence.split("BY")[-1] for licence in licences], np.uint8),
        "filename": np.array([row["path"].name for row in rows]),
        "licence": licences,
        "class_names": np.array(CLASSES),
        "source_names": np.array(["ieee8023/covid-chestxray-dataset", "NIH ChestX-ray8/14 via muhammedtalo/COVID-19"]),
    }


def _collected(folder: Path) -> Iterator[dict[str, Any]]:
    table = folder / "metadata.csv"
    if not table.is_file():
        raise FileNotFoundError(f"{table} is missing; put a checkout of ieee8023/covid-chestxray-dataset there.")
    seen = set()
    with table.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if missing := sorted(COLUMNS - set(reader.fieldnames or ())):
            raise ValueError(
                f"{table} has no column {', '.join(missing)}: it is of another date than the version read here; check "
                "out commit 0f7245d."
            )
        for row in reader:
            path = folder / row.get("folder", "images") / row["filename"]
            wanted = row["modality"] == "X-ray" and row["view"] in ("PA", "AP", "AP Supine")
            if not wanted or row["license"].strip() not in LICENCES or not path.is_file():
                continue
            digest = hashlib.sha256(path.read_bytes()).digest()
            if digest in seen:
                continue
            seen.add(digest)
            finding = row["finding"]
            yield {
                "path": path,
                "label": 0 if "COVID-19" in finding else 2 if finding == "No Finding" else 1,
                "patient_id": f"ieee8023-{row['patientid']}",
                "source": 0,
                "licence": row["license"].strip(),
            }


def _nih(folder: Path) -> Iterator[dict[str, Any]]:
    for label, name in ((1, "Pneumonia"), (2, "No_findings")):
        paths = sorted((folder / name).glob("*.png"))
        if not paths:
            raise FileNotFoundError(f"{folder / name} holds no PNG; put a checkout of muhammedtalo/COVID-19 there.")
        for path in paths:
            patient = f"nih-{path.stem.split('_')[0]}"
            yield {"path": path, "label": label, "patient_id": patient, "source": 1, "licence": NIH_LICENCE}


def _xray(path: Path) -> np.ndarray:
    image = Image.open(path)
    deep = image.mode.startswith("I")
    pixels = np.asarray(image, np.float64) / 257 if deep else np.asarray(image.convert("L"))  # 16 bits to 8
    height, width = pixels.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return _bytes(_averaged(pixels[top : top + side, left : left + side]))


def _labels(masks: Iterable[np.ndarray]) -> np.ndarray:
    """Return (128, 128) numbers from 1 for the masks that keep a pixel, 0 for background."""
    covered = np.zeros((SIDE, SIDE))
    most, owner = np.zeros((SIDE, SIDE)), np.zeros((SIDE, SIDE), np.int64)
    for number, mask in enumerate(masks, 1):
        share = _averaged(mask)
        covered += share
        owner[share > most] = number
        most = np.maximum(most, share)
    owner[covered < 0.5 - 1e-9] = 0
    kept, numbers = np.unique(owner, return_inverse=True)
    return np.asarray(numbers.reshape(owner.shape) + (kept[0] > 0), np.uint16)


def _averaged(pixels: np.ndarray) -> np.ndarray:
    """Return an image of 128 × 128 pixels, each the mean over the area that it covers in the original."""
    rows, columns = (_weights(size) for size in pixels.shape[:2])
    return np.moveaxis(np.tensordot(np.tensordot(rows, pixels.astype(np.float64), 1), columns, ([1], [1])), -1, 1)


def _weights(size: int) -> np.ndarray:
    """Return (128, size) the share of each old pixel in each new one; rows sum to 1."""
    edges = np.linspace(0, size, SIDE + 1)
    old = np.arange(size)
    overlap = np.minimum(edges[1:, None], old + 1) - np.maximum(edges[:-1, None], old)
    return np.asarray(overlap.clip(0) * SIDE / size)


def _bytes(values: np.ndarray) -> np.ndarray:
    return np.asarray(np.rint(values).clip(0, 255), np.uint8)
