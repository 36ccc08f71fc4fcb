"""What `fit` is given, looked at before the first step: a slip costs a sentence instead of an epoch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from pruning_lib._arguments import a_, has, said
from pruning_lib._model import REFUSALS, check_same_model, clone, eval_mode, first_line, place
from pruning_lib._types import Augment, TensorPair
from pruning_lib.training._callbacks import Callback, Run
from pruning_lib.units import BatchNorm


def pair(part: object, name: str) -> TensorPair:
    """Return the inputs and targets of a data set, as many of each."""
    if not isinstance(part, tuple) or len(part) != 2 or not all(isinstance(tensor, Tensor) for tensor in part):
        raise TypeError(f"fit got {said(name, part)}; it needs two tensors, (inputs, targets).")
    if any(tensor.is_meta for tensor in part):
        raise ValueError(f"fit got tensors on the meta device in {name}, which holds no numbers; load the data first.")
    inputs, targets = part
    sizes = [len(tensor) if tensor.ndim else 0 for tensor in part]
    if sizes[0] != sizes[1] or not sizes[0]:
        raise ValueError(
            f"fit got {sizes[0]} inputs and {sizes[1]} targets in {name}; it needs as many of each, and at least one."
        )
    return TensorPair(inputs, targets)


def check_run(run: Run, callbacks: Sequence[Callback]) -> None:
    """Raise one sentence if the parts of a run do not belong together."""
    for callback in callbacks:
        if not has(callback, ("start", "before_epoch", "after_epoch", "finish", "close", "state_dict")):
            raise TypeError(f"fit got {a_(callback)} among callbacks; they need the methods of `Callback`.")
    check_same_model("fit", run.model, optimizer=run.optimizer, regularizer=run.regularizer)


@torch.no_grad()
def check_data(run: Run, augment: Augment | None = None) -> None:
    """Raise one sentence if a set holds what is not finite, or if its loss cannot be computed.

    Every target meets the outputs of one example, which finds wrong shapes, dtypes and classes for one forward pass.
    """
    random = torch.get_rng_state()
    model = run.model
    with contextlib.suppress(RuntimeError):  # a copy, because a forward may count its calls or draw
        model = clone(run.model, share=True)
    for name, (inputs, targets) in (("train", run.train), ("val", run.val)):
        if inputs.is_floating_point() and not bool(inputs.isfinite().all()):
            raise ValueError(f"fit got inputs in {name} that are not finite; leave those examples out or mend them.")
        try:
            first = augment(inputs[:1], torch.Generator()) if augment is not None and name == "train" else inputs[:1]
            with eval_mode(model):
                outputs = model(first)
            alike = isinstance(outputs, Tensor) and outputs.shape[:1] == (1,)
            for part in torch.split(targets, 1000) if alike else [targets[:1]]:
                run.loss_fn(outputs.expand(len(part), *outputs.shape[1:]) if alike else outputs, part)
        except REFUSALS as error:
            raise ValueError(f"fit cannot compute the loss of {name}: {first_line(error)}{place(error)}.") from error
        finally:
            torch.set_rng_state(random)


def trained(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield what has to stay finite: parameters that are trained, and the statistics of BatchNorms."""
    yield from ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)
    for prefix, module in model.named_modules():
        if isinstance(module, BatchNorm):
            yield from ((f"{prefix}.{name}", buffer) for name, buffer in module.named_buffers())
