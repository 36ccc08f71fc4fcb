"""Thresholding single weights: zero as many as a validation loss can spare."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn
from torch.optim import Optimizer

from pruning_lib._arguments import checked, optional
from pruning_lib._model import check_same_model, warn_left_out
from pruning_lib.selection._tolerance import checked_tolerance, finite_loss, largest, loss_of
from pruning_lib.selection._zero import fill
from pruning_lib.units import check_plain, weighted


@torch.no_grad()
def threshold_weights(
    model: nn.Module,
    loss_fn: Callable[[nn.Module], float],
    tolerance: float,
    *,
    optimizer: Optimizer | None = None,
) -> float:
    """Zero every small weight and bias that the validation loss can spare; SeReNe's thresholding step.

    One threshold T for all trainable linear and convolution layers, found by bisection over the sorted magnitudes: the
    loss at T is ≤ (1 + tolerance) · loss before, that at the next magnitude is not (arXiv 2102.03773; derived in
    `serene`). The released code bisects T itself between guessed brackets, and stops while the losses still differ.

    Parameters
    ----------
    model : nn.Module
        Changed in place: |w| < T becomes 0.
    loss_fn : callable
        model → validation loss, a float.
    tolerance : float
        ≥ 0, the share by which the loss may grow.
    optimizer : Optimizer, optional
        Its state for the zeroed weights is cleared.

    Returns
    -------
    float
        T; 0.0 where nothing could be spared.

    Raises
    ------
    ValueError
        If `tolerance` is negative, the loss is not finite, or there is no layer. Nothing is changed then, nor if
        `loss_fn` raises.

    Examples
    --------
    A loss that counts zeros, and may grow by 2.5 times: two weights are spared, and the third would be one too many.

    >>> import torch
    >>> import pruning_lib as prl
    >>> layer = torch.nn.Linear(4, 1, bias=False)
    >>> _ = layer.weight.detach().copy_(torch.tensor([[0.25, -0.5, 1.0, -2.0]]))
    >>> prl.threshold_weights(layer, lambda layer: 1.0 + int((layer.weight == 0).sum()), tolerance=2.5)
    1.0
    >>> layer.weight.detach()
    tensor([[ 0.,  0.,  1., -2.]])
    """
    checked("threshold_weights", model=model, loss_fn=loss_fn)
    optional("threshold_weights", optimizer=optimizer)
    check_same_model("threshold_weights", model, optimizer=optimizer)
    layers = weighted(model, foreign=True)
    warn_left_out("threshold_weights", model)
    check_plain(layers, "threshold_weights")
    tensors = [t for layer in layers.values() for t in (layer.weight, layer.bias) if t is not None and t.requires_grad]
    if not tensors:
        raise ValueError(f"threshold_weights found no linear or convolution layer to train in {type(model).__name__}.")
    limit = (1 + checked_tolerance(tolerance, "threshold_weights")) * finite_loss(loss_fn, model)
    before = [tensor.clone() for tensor in tensors]
    magnitudes = torch.cat([tensor.abs().flatten().float() for tensor in before])
    steps = torch.unique(magnitudes[magnitudes > 0])  # sorted

    def apply(count: int) -> float:
        """Zero what lies below the `count`-th magnitude (all of them at the end)."""
        limit_ = steps[count].item() if count < len(steps) else math.inf
        for tensor, old in zip(tensors, before, strict=True):
            torch.where(old.abs().float() < limit_, torch.zeros_like(old), old, out=tensor)
        return limit_

    def holds(count: int) -> bool:
        apply(count)
        return loss_of(loss_fn, model) <= limit

    try:
        count = largest(holds, len(steps))
    except BaseException:
        apply(0)
        raise
    threshold = apply(count)
    for tensor in tensors:
        fill(tensor, tensor == 0, 0.0, optimizer)
    return threshold if count else 0.0
