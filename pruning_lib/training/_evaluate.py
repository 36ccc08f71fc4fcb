"""Mean loss and accuracy of a model over a set of examples."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pruning_lib._arguments import checked
from pruning_lib._inputs import batches
from pruning_lib._model import eval_mode, loss_of, run
from pruning_lib._types import LossFn, TensorPair
from pruning_lib.units import unwrapped


class Evaluation(NamedTuple):
    """Mean loss and share of right answers, 0 … 1, over a set of examples; NaN where the targets are not classes.

    Examples
    --------
    >>> loss, accuracy = Evaluation(loss=0.25, accuracy=0.9)
    >>> accuracy
    0.9
    """

    loss: float
    accuracy: float


@torch.no_grad()
def evaluate(
    model: nn.Module, data: TensorPair | Iterable[Any], batch_size: int = 1000, loss_fn: LossFn = F.cross_entropy
) -> Evaluation:
    """Return mean loss and accuracy of a model in evaluation mode; each module's mode is put back afterwards.

    Parameters
    ----------
    model : nn.Module
        Gives outputs of shape (examples, classes, …), or any other that `loss_fn` takes.
    data : TensorPair or iterable of batches
        Inputs (examples, …) and targets (examples, …), or batches of both as a DataLoader gives them: pairs, or
        mappings of forward's arguments that hold ``labels``. Integer targets in the shape of the outputs without their
        axis 1 are classes: each of them, each pixel of a map, is an answer. Numbers that are no class, as the −100 or
        255 of ``ignore_index``, count nowhere. For all others, and with a single output, the accuracy is NaN.
    batch_size : int
        Examples per forward pass, of data that come whole; it changes the result by rounding alone, unless the loss is
        no plain mean over answers, as one with weights of classes.
    loss_fn : callable
        Mean loss of (outputs, targets), a scalar.

    Raises
    ------
    TypeError, ValueError
        If the data are of another kind, if there are no examples or no targets, or not as many inputs as targets.

    Examples
    --------
    >>> import torch
    >>> logits = torch.tensor([[4.0, 0.0], [0.0, 4.0], [0.0, 4.0], [4.0, 0.0]])
    >>> evaluate(torch.nn.Identity(), TensorPair(logits, torch.tensor([0, 1, 1, 1]))).accuracy
    0.75
    """
    checked("evaluate", model=model, batch_size=batch_size, loss_fn=loss_fn)
    loss, right, count = 0.0, 0.0, 0
    with eval_mode(model):
        for inputs, targets in batches(data, int(batch_size)):
            if not isinstance(targets, Tensor):
                raise ValueError("evaluate needs targets: pass pairs (inputs, targets), or mappings with `labels`.")
            outputs = run(unwrapped(model), inputs.to(model), "evaluate")
            outputs = getattr(outputs, "logits", outputs)  # as networks of Transformers return them, beside others
            y = targets.to(outputs.device)
            value, classes = loss_of(loss_fn, outputs, y, "evaluate").item(), _are_classes(y, outputs)
            # A batch without an answer has a mean loss of NaN, and no part in the whole.
            number = int(((y >= 0) & (y < outputs.shape[1])).sum()) if classes and outputs.shape[1] > 1 else len(y)
            loss += value * number if number else 0.0
            right += int((outputs.argmax(1) == y).sum()) if classes and outputs.shape[1] > 1 else math.nan
            count += number
    return Evaluation(loss / count, right / count) if count else Evaluation(math.nan, math.nan)


def _are_classes(targets: Tensor, outputs: Tensor) -> bool:
    """Whether the targets are classes along axis 1 of the outputs."""
    whole = not targets.is_floating_point() and not targets.is_complex()
    return whole and outputs.ndim > 1 and targets.shape == outputs.shape[:1] + outputs.shape[2:]
