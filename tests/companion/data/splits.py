"""What tests ask of a split with details."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from pruning_lib.companion.data import PARTS, DetailedSplit


def joined(split: DetailedSplit, name: str) -> Tensor:
    return torch.cat([split.details[part][name] for part in PARTS])


def disjoint(split: DetailedSplit, name: str) -> bool:
    train, val, test = (set(split.details[part][name].tolist()) for part in PARTS)
    return not (train & val or train & test or val & test)


def with_file(root: Path, file: str) -> Path:
    """Return the root, or skip: nobody may hand the file on, so that CI lacks it as well."""
    if not (root / file).is_file():
        pytest.skip(f"{root / file} was not built here.")
    return root
