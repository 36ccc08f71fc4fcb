"""Chest X-rays of two collections: read, dealt to the parts by patient, built from the originals.

What `build` does was tested on small folders in the originals' layout, not on the originals themselves.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pruning_lib._types import TensorPair
from pruning_lib.companion import metrics
from pruning_lib.companion._arguments import checked, optional, said
from pruning_lib.companion.data._files import Column, read_arrays, write_arrays
from pruning_lib.companion.data._registry import DataSet, register
from pruning_lib.companion.data._resize import SIDE, averaged, to_bytes
from pruning_lib.companion.data._split import DetailedSplit, deal, detailed

FILE = "covid-xray/covid_cxr_128.npz"
ARRAYS = {
    "images": Column((SIDE, SIDE), dtype="uint8"),
    "label": Column(high=2),
    "patient": Column(high=10**6),
    "source": Column(high=1),
    "noncommercial": Column(high=1),
}
MEAN, STD = 0.5434, 0.2355
CLASSES = ("COVID-19", "other pneumonia / disease", "no finding")
COVID, NIH = "covid-chestxray-dataset", "COVID-19"  # folders of the originals
NIH_LICENCE = "NIH CC: use unrestricted, attribution requested"
# Those of the licences in the collection's metadata that allow adaptations to be passed on.
LICENCES = ("CC BY-NC-SA", "CC BY-NC-SA 4.0", "CC BY 3.0", "CC BY 4.0", "CC BY", "CC BY-SA")
COLUMNS = {"patientid", "finding", "view", "modality", "filename", "license"}


def chest_xrays(
    root: str | Path | None = None, *, seed: int = 0, source: int | None = None, noncommercial: bool = True
) -> DetailedSplit:
    """Return 1,275 frontal chest X-rays of 834 patients: COVID-19, other pneumonia or disease, no finding.

    To show training and pruning, never medical evidence. Every COVID-19 image comes from one collection and most of
    the others from another, so that a network scores well by telling collections apart, by markers, crops and
    contrast: the page `datasets` measures it. ``source=0`` is the control: the first collection alone, COVID-19
    against everything else.

    Parameters
    ----------
    root : path, optional
        Folder that holds ``covid-xray/covid_cxr_128.npz``; by default the places that the package's docstring names.
    seed : int
        Of the order in which patients are dealt to the parts, source by source and class by class. No patient is in
        two parts, and the control's parts are subsets of the whole set's.
    source : {None, 0}
        0: the 275 images of ieee8023/covid-chestxray-dataset, classes 0 (COVID-19) and 1 (else).
    noncommercial : bool
        Keep the 174 images under CC BY-NC-SA. False for whatever shows images and is stored; the parts of the others
        stay as they are.

    Returns
    -------
    DetailedSplit
        Inputs of shape (n, 1, 128, 128), (pixel / 255 − 0.5434) / 0.2355, the mean and deviation of all pixels.
        Details (n,): ``patient``, ``source`` (0, or 1 for NIH ChestX-ray), ``noncommercial`` (1: CC BY-NC-SA),
        ``index`` into the file.

    Raises
    ------
    FileNotFoundError
        If the file is nowhere; the message says which command builds it.
    ValueError
        If `source` is neither None nor 0, or the file is damaged.

    Examples
    --------
    >>> control = chest_xrays(source=0, noncommercial=False)
    >>> control.classes
    2
    >>> control.details["val"]["noncommercial"].any()
    tensor(False)
    """
    checked("chest_xrays", seed=seed, noncommercial=noncommercial)
    optional("chest_xrays", root=root)
    if source is not None and (type(source) is not int or source != 0):
        raise ValueError(f"chest_xrays got {said('source', source)}; it needs None or 0 (1 has no COVID-19 image).")
    arrays = read_arrays("chest-xrays", FILE, root, ARRAYS, most=5000)
    images, labels = arrays["images"], arrays["label"].astype(np.int64)
    # Dealt before anything is left out, so that the parts of a choice are subsets of the whole set's.
    parts = deal(arrays["patient"], 3 * arrays["source"].astype(np.int64) + labels, seed)
    wanted = np.full(len(labels), True) if noncommercial else arrays["noncommercial"] == 0
    if source == 0:
        wanted &= arrays["source"] == 0
        labels = labels.clip(max=1)
    parts = [places[wanted[places]] for places in parts]

    def pair(places: np.ndarray) -> TensorPair:
        inputs = torch.from_numpy(images[places]).unsqueeze(1).float().div_(255).sub_(MEAN).div_(STD)
        return TensorPair(inputs, torch.from_numpy(labels[places]))

    details = {name: arrays[name].astype(np.int64) for name in ("patient", "source", "noncommercial")}
    details["index"] = np.arange(len(images))
    return detailed(parts, pair, details, classes=3 if source is None else 2)


def scores(outputs: Tensor, targets: Tensor, details: Mapping[str, Tensor]) -> dict[str, float]:
    """Return how well classes are recognized, whatever their shares."""
    return {
        "balanced_accuracy": metrics.balanced_accuracy(outputs.argmax(1), targets),
        "auroc": metrics.auroc(outputs, targets),
    }


def scores_by_source(outputs: Tensor, targets: Tensor, details: Mapping[str, Tensor]) -> dict[str, float]:
    """Return COVID-19 against the rest, too: everywhere, and among the first collection, where no source tells it."""
    odds = torch.stack([outputs[:, 0], outputs[:, 1:].logsumexp(1)], 1)
    covid, first = targets.clip(max=1), details["source"] == 0
    return scores(outputs, targets, details) | {
        "auroc_covid": metrics.auroc(odds, covid),
        "auroc_within": metrics.auroc(odds[first], covid[first]),
    }


def build(originals: Path, root: Path) -> Path:
    """Write the file that `chest_xrays` reads, from two collections that lie side by side in a folder.

    ``covid-chestxray-dataset/metadata.csv`` and ``…/images`` (github.com/ieee8023/covid-chestxray-dataset, state of
    2020-06-05, commit 0f7245d): frontal X-rays under one of `LICENCES`; a blank licence, one without derivatives or
    an unclear one leaves an image out, and so does a file that is missing or repeats another.
    ``COVID-19/Dataset/Pneumonia`` and ``…/No_findings`` (github.com/muhammedtalo/COVID-19, commit ee3e2cf): a thousand
    images of NIH ChestX-ray, the patient being the number before the underscore. Each image is cropped to its central
    square and averaged over areas.
    """
    rows = [*_covid_rows(originals / COVID), *_nih_rows(originals / NIH / "Dataset")]
    patients = np.array([row["patient_id"] for row in rows])
    licences = np.array([row["licence"] for row in rows])
    arrays = {
        "images": np.stack([_image(row["path"]) for row in rows]),
        "label": np.array([row["label"] for row in rows], np.uint8),
        "patient": np.unique(patients, return_inverse=True)[1].astype(np.int32),
        "patient_id": patients,
        "source": np.array([row["source"] for row in rows], np.uint8),
        "noncommercial": np.array(["-NC" in licence for licence in licences], np.uint8),
        "filename": np.array([row["path"].name for row in rows]),
        "licence": licences,
        "class_names": np.array(CLASSES),
        "source_names": np.array(["ieee8023/covid-chestxray-dataset", "NIH ChestX-ray8/14 via muhammedtalo/COVID-19"]),
    }
    return write_arrays(root / FILE, arrays)


def _covid_rows(folder: Path) -> Iterator[dict[str, Any]]:
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
            frontal = row["modality"] == "X-ray" and row["view"] in ("PA", "AP", "AP Supine")
            if not frontal or row["license"].strip() not in LICENCES or not path.is_file():
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


def _nih_rows(folder: Path) -> Iterator[dict[str, Any]]:
    for label, name in ((1, "Pneumonia"), (2, "No_findings")):
        paths = sorted((folder / name).glob("*.png"))
        if not paths:
            raise FileNotFoundError(f"{folder / name} holds no PNG; put a checkout of muhammedtalo/COVID-19 there.")
        for path in paths:
            patient = f"nih-{path.stem.split('_')[0]}"
            yield {"path": path, "label": label, "patient_id": patient, "source": 1, "licence": NIH_LICENCE}


def _image(path: Path) -> np.ndarray:
    from PIL import Image  # only needed to build

    image = Image.open(path)
    deep = image.mode.startswith("I")
    pixels = np.asarray(image, np.float64) / 257 if deep else np.asarray(image.convert("L"))  # 16 bits to 8
    height, width = pixels.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return to_bytes(averaged(pixels[top : top + side, left : left + side]))


register(
    DataSet(
        name="chest-xrays",
        title="Chest X-rays",
        load=chest_xrays,
        scores=scores_by_source,
        score_names=("balanced_accuracy", "auroc", "auroc_covid", "auroc_within"),
        judged_by="balanced_accuracy",
        build=build,
    )
)
register(
    DataSet(
        name="chest-xrays-within",
        title="Chest X-rays of one collection",
        load=partial(chest_xrays, source=0),
        scores=scores,
        score_names=("balanced_accuracy", "auroc"),
        judged_by="balanced_accuracy",
    )
)
