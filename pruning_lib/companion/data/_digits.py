"""scikit-learn's digits: real images without a download, on which every live cell of the book trains."""

from __future__ import annotations

import torch

from pruning_lib._types import TensorPair
from pruning_lib.companion._arguments import checked
from pruning_lib.companion.data._registry import DataSet, register
from pruning_lib.companion.data._split import Split


def digits(seed: int = 0) -> Split:
    """Return scikit-learn's 1,797 digits of 8 × 8 pixels: 1,077 to train, 360 to validate, 360 to test.

    Parameters
    ----------
    seed : int
        Of the permutation that makes the split; the same seed gives the same split everywhere.

    Returns
    -------
    Split
        Inputs of shape (n, 1, 8, 8) with pixels in 0 … 1 (the file's 0 … 16, divided by 16).

    Examples
    --------
    >>> split = digits()
    >>> split.train.inputs.shape
    torch.Size([1077, 1, 8, 8])
    >>> split.test.targets.bincount()
    tensor([28, 37, 30, 36, 39, 38, 34, 42, 38, 38])
    """
    checked("digits", seed=seed)
    from sklearn.datasets import load_digits  # needed here alone, and slow to import

    bunch = load_digits()
    inputs = torch.from_numpy(bunch.images).float().div_(16).unsqueeze(1)
    targets = torch.from_numpy(bunch.target).long()
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(seed))
    train, val, test = (TensorPair(inputs[places], targets[places]) for places in torch.split(order, [1077, 360, 360]))
    return Split(train, val, test)


register(DataSet(name="digits", title="scikit-learn's digits", load=digits))
