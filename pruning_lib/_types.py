"""Types that more than one room shares."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class TensorPair(NamedTuple):
    """Inputs (examples, …) and their targets (examples, …)."""

    inputs: Tensor
    targets: Tensor
