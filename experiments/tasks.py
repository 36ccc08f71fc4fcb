"""Data sets by the names that configurations give them, and what their task is judged by beside the accuracy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from pruning_lib.companion import data, metrics
from pruning_lib.training import evaluate

DATA: dict[str, Callable[[], data.Split]] = {
    "mnist": data.mnist,
    "fashion-mnist": data.fashion_mnist,
    "cifar10": data.cifar10,
    "digits": data.digits,
    "nuclei": data.nuclei,
    "chest-xrays": data.chest_xrays,
    "chest-xrays-within": partial(data.chest_xrays, source=0),
}


@cache
def split(name: str, device: str = "cpu") -> data.Split:
    """Return a data set, whole on a device, read once a process."""
    if device == "cpu":
        return DATA[name]()
    found = split(name)
    parts = {part: getattr(found, part) for part in ("train", "val", "test")}
    moved: dict[str, Any] = {part: data.TensorPair(*(x.to(device) for x in pair)) for part, pair in parts.items()}
    if isinstance(found, data.DetailedSplit):
        moved["details"] = {p: {name: x.to(device) for name, x in of.items()} for p, of in found.details.items()}
    return replace(found, **moved)


def judge(model: nn.Module, name: str, part: str, device: str = "cpu") -> dict[str, float]:
    """Return loss, accuracy and the task's own scores of a model on a part of the data, ``"val"`` or ``"test"``."""
    whole = split(name, device)
    pair: data.TensorPair = getattr(whole, part)
    if not isinstance(whole, data.DetailedSplit):
        return evaluate(model, pair)._asdict()
    outputs = _outputs(model, pair)
    found = evaluate(nn.Identity(), data.TensorPair(outputs, pair.targets))._asdict()
    return found | OWN_SCORES[name](outputs, pair.targets, whole.details[part])


def _outputs(model: nn.Module, pair: data.TensorPair) -> Tensor:
    kept: list[Tensor] = []

    def keep(outputs: Tensor, targets: Tensor) -> Tensor:
        kept.append(outputs)
        return outputs.new_zeros(())

    evaluate(model, pair, batch_size=16, loss_fn=keep)
    return torch.cat(kept)


def _maps(outputs: Tensor, targets: Tensor, details: Mapping[str, Tensor]) -> dict[str, float]:
    found = outputs.argmax(1)
    return {
        "dice": metrics.dice(found, targets),
        "instance_f1": metrics.instance_f1(found, details["instances"]),
    }


def _diagnoses(outputs: Tensor, targets: Tensor, details: Mapping[str, Tensor]) -> dict[str, float]:
    return {
        "balanced_accuracy": metrics.balanced_accuracy(outputs.argmax(1), targets),
        "auroc": metrics.auroc(outputs, targets),
    }


def _xrays(outputs: Tensor, targets: Tensor, details: Mapping[str, Tensor]) -> dict[str, float]:
    """COVID-19 against the rest, everywhere and among the images of the first collection, where no source tells it."""
    odds = torch.stack([outputs[:, 0], outputs[:, 1:].logsumexp(1)], 1)
    covid, first = targets.clip(max=1), details["source"] == 0
    return _diagnoses(outputs, targets, details) | {
        "auroc_covid": metrics.auroc(odds, covid),
        "auroc_within": metrics.auroc(odds[first], covid[first]),
    }


OWN_SCORES: dict[str, Callable[[Tensor, Tensor, Mapping[str, Tensor]], dict[str, float]]] = {
    "nuclei": _maps,
    "chest-xrays": _xrays,
    "chest-xrays-within": _diagnoses,
}
