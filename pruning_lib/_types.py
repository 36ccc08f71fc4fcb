"""Types that more than one room shares."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class TensorPair(NamedTuple):
    """Inputs (examples, …) and their targets (examples, …).

    Examples
    --------
    >>> import torch
    >>> inputs, targets = TensorPair(torch.zeros(5, 3), torch.zeros(5).long())
    >>> len(inputs) == len(targets)
    True
    """

    inputs: Tensor
    targets: Tensor


LossFn = Callable[[Tensor, Tensor], Tensor]
"""(outputs, targets) → their mean loss, a scalar, as `torch.nn.functional.cross_entropy`."""
Augment = Callable[[Tensor, torch.Generator], Tensor]
"""A batch of inputs and a generator on the CPU → another batch, as `pruning_lib.companion.data.crop_and_flip`."""
