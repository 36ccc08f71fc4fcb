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


IGNORED = (-100, 255)
"""What marks a target as no answer: for torch's losses, and by custom in maps."""


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
        axis 1 are classes: each of them, each pixel of a map, is an answer. −100, 255 where it is no class, and what
        ``loss_fn.ignore_index`` names count nowhere. For all others, and with one output, the accuracy is NaN.
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
            value, answers = loss_of(loss_fn, outputs, y, "evaluate").item(), _answers(y, outputs, loss_fn)
            # A batch without an answer has a mean loss of NaN, and no part in the whole.
            number = len(y) if answers is None else int(answers.sum())
            loss += value * number if number else 0.0
            right += math.nan if answers is None else int((outputs.argmax(1) == y)[answers].sum())
            count += number
    return Evaluation(loss / count, right / count) if count else Evaluation(math.nan, math.nan)


def _answers(targets: Tensor, outputs: Tensor, loss_fn: LossFn) -> Tensor | None:
    """Return which targets are classes along axis 1 of the outputs; None if they are no classes."""
    whole = not targets.is_floating_point() and not targets.is_complex()
    if not whole or outputs.ndim < 2 or targets.shape != outputs.shape[:1] + outputs.shape[2:]:
        return None
    count, numbers = outputs.shape[1], targets.long()
    ignored = (numbers == IGNORED[0]) | (numbers == getattr(loss_fn, "ignore_index", IGNORED[0]))
    if count <= IGNORED[1]:
        ignored |= numbers == IGNORED[1]
    known = (numbers >= 0) & (numbers < count)
    return known & ~ignored if count > 1 and bool((known | ignored).all()) else None
