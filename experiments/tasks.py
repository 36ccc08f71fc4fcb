"""A data set on a device, read once a process, and what its task is judged by."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import nn

from pruning_lib._model import eval_mode
from pruning_lib.companion import data
from pruning_lib.companion.data import DATA_SETS
from pruning_lib.training import evaluate

BATCH = 16  # of outputs that are kept whole: maps are large


@cache
def split(name: str, device: str = "cpu") -> data.Split:
    """Return a data set, whole on a device, read once a process."""
    if device == "cpu":
        return DATA_SETS[name].load()
    found = split(name)
    parts = {part: getattr(found, part) for part in ("train", "val", "test")}
    moved: dict[str, Any] = {part: data.TensorPair(*(x.to(device) for x in pair)) for part, pair in parts.items()}
    if isinstance(found, data.DetailedSplit):
        moved["details"] = {p: {name: x.to(device) for name, x in of.items()} for p, of in found.details.items()}
    return replace(found, **moved)


@torch.no_grad()
def judge(model: nn.Module, name: str, part: str, device: str = "cpu") -> dict[str, float]:
    """Return loss, accuracy and the task's own scores of a model on a part of the data, ``"val"`` or ``"test"``."""
    whole = split(name, device)
    pair: data.TensorPair = getattr(whole, part)
    scores = DATA_SETS[name].scores
    if scores is None or not isinstance(whole, data.DetailedSplit):
        return evaluate(model, pair)._asdict()
    with eval_mode(model):
        outputs = torch.cat([model(inputs) for inputs in torch.split(pair.inputs, BATCH)])
    found = evaluate(nn.Identity(), data.TensorPair(outputs, pair.targets))._asdict()
    return found | scores(outputs, pair.targets, whole.details[part])
