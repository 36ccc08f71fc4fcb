"""Remove what is provably dead, and prove it: plan, cut, compensate, compare.

A channel goes when it is constant or read by nobody. A constant c that readers still need is first added elsewhere: to
the bias, b ← b + Σ_k c_k Σ_taps W_k, where no zero padding is read; else to one constant column j that stays,
W_j ← W_j + Σ_k (c_k / c_j) W_k. Derived in the chapter `from-zeros-to-smaller`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from pruning_lib._model import check, clone, first_line, place, tensors_of
from pruning_lib.channels._blame import blame
from pruning_lib.channels._compensate import compensate
from pruning_lib.channels._constants import stands_in
from pruning_lib.channels._find import describe, first_calls
from pruning_lib.channels._optimizer import check_optimizer, cut_optimizer
from pruning_lib.channels._plan import Plan, Shrunk, apply
from pruning_lib.channels._planning import make_plan
from pruning_lib.channels._solve import Pins, decide, label
from pruning_lib.channels._state import Analysis, Kept
from pruning_lib.channels._suspects import suspects
from pruning_lib.channels._trace import UNCHANGED, trace_pair
from pruning_lib.channels._training import hold_for_training
from pruning_lib.channels._verify import Comparison, compare, refer
from pruning_lib.units import unwrapped


def shrink(model: nn.Module, example: Any, *, optimizer: Optimizer | None = None) -> Shrunk:
    """Remove every channel that is provably dead, and nothing else; the outputs in eval mode stay equal.

    A unit is dead if no input changes it or if nothing reads it. Exactly zero is required: 1e-15 is alive. Constants
    move into biases or into one constant channel; a layer on the only way to the output keeps at least one unit, one
    that something bypasses becomes a `Constant`. What no rule covers stays, with a line in ``.plan.notes``; so do
    channels that ``forward`` counts, unless the module defines ``after_shrink(kept)`` and adapts, and channels that
    layers read which run in train mode alone. In train mode equality holds without dropout and with settled
    statistics; under further training the two networks are different.
    Derived in the chapter `from-zeros-to-smaller`; all rules on one page: *What shrink promises*.

    Parameters
    ----------
    model : nn.Module
        It is not touched. Of a wrapper (DataParallel, DistributedDataParallel, torch.compile) the module inside counts.
    example : Tensor, tuple, mapping or Inputs
        What forward takes, as `pruning_lib.inputs` says, on the model's device and of its dtype; one sample is enough.
    optimizer : torch.optim.Optimizer, optional
        SGD, Adam or another whose update is elementwise; it is not touched either.

    Returns
    -------
    Shrunk
        With ``.model``, ``.optimizer``, ``.plan``, ``.removed``, ``.max_error``.

    Raises
    ------
    TypeError, ValueError
        If the model has no prunable layer, the example does not fit it, or the optimizer cannot be cut.
    RuntimeError
        If the forward cannot be run or traced, if it changes its own weights, or if the outputs differ in float64 by
        more than 1e-9 and by more than rounding explains.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> import pruning_lib as prl
    >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> with torch.no_grad():
    ...     _ = model[0].weight[1].zero_()  # whatever comes in, unit 1 returns its bias
    >>> shrunk = prl.shrink(model, torch.ones(1, 2))
    >>> shrunk.model
    Sequential(
      (0): Linear(in_features=2, out_features=2, bias=True)
      (1): ReLU()
      (2): Linear(in_features=2, out_features=1, bias=True)
    )
    >>> shrunk.removed, shrunk.plan.units
    ({'0': 1}, {'0': [0, 2]})
    >>> x = torch.randn(5, 2)
    >>> torch.allclose(shrunk.model(x), model(x), atol=1e-6)
    True
    """
    model = unwrapped(model)
    inputs = check(model, example, prunable=not stands_in(model))
    _check_numbers(model)
    if optimizer is not None:
        check_optimizer(optimizer, model)
    graph = trace_pair(clone(model, share=True), inputs, "shrink")
    reference = refer(model, inputs, graph.words)
    hold_for_training(graph, inputs, "shrink")
    # Units are named by the network that came in, also those of layers that turn out to be constant.
    whole = label(graph)
    (units, _), calls = describe(whole), first_calls(whole)
    pins: Pins = []
    held = False  # what training mode alone needs
    while True:  # each round holds something that none held before
        # 1. Plan.
        state, kept = decide(graph, pins)
        plan = make_plan(state, kept, units, calls)
        # 2. Cut, and 3. compensate: a function of the dtype, as the comparison in float64 wants a copy of its own.
        make = functools.partial(_smaller, model, state, kept, plan)
        # 4. Compare.
        comparison = compare(reference, make)
        if comparison.equal:
            small = make(None)
            removed = {name: group.size - len(plan.units[name]) for name, group in units.items()}
            fresh = None if optimizer is None else cut_optimizer(optimizer, model, small, plan)
            return Shrunk(small, fresh, plan, removed, comparison.error)
        if comparison.training and not held:
            hold_for_training(graph, inputs, "shrink", always=True)
            held = True
            continue
        # A constant may be another one at another size: from then on, only 0 is trusted where that can be.
        if comparison.raised is None and not graph.cautious:
            graph.cautious = True
            continue
        # A literal size in forward may be to blame: keep the channels that it counts, and plan again.
        more = suspects(state, kept, pins, comparison, make(None), inputs)
        if not more:
            raise RuntimeError(_refusal(model, state, kept, comparison, make))
        pins += more


def _refusal(
    model: nn.Module, state: Analysis, kept: Kept, failure: Comparison, make: Callable[[torch.dtype | None], nn.Module]
) -> str:
    """Say by how much the outputs would change, on what and behind which operator, and what to do about it."""
    where = " in training mode" if failure.training else ""
    where += f" on inputs of shape {failure.inputs}" if failure.inputs else ""
    raised, behind = failure.raised, ""
    if failure.inputs and raised is None:
        behind = blame(state, kept, clone(model), make(None), failure.inputs)
    what = failure.difference if raised is None else f"{first_line(raised)}{place(raised)}"
    advice = "Leave the layers in front of it whole, or pass the part of the model that does without it."
    if not behind and (raised is None or not place(raised)):
        advice = "Pass a part of the model alone, such as its backbone."
    if strange := _not_finite(model):
        advice = "Give these weights finite numbers first."
    return f"`shrink` found that the outputs would change: {what}{where}{behind}{strange}. {UNCHANGED} {advice}"


def _not_finite(model: nn.Module) -> str:
    """Name a tensor that holds NaN or infinite numbers, which no smaller network can be held against."""
    for name, _, _, tensor in tensors_of(model):
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            return f"; '{name}' holds NaN or infinite numbers, so there may be nothing to compare"
    return ""


def _check_numbers(model: nn.Module) -> None:
    """Raise ValueError for tensors without numbers."""
    for name, _, _, tensor in tensors_of(model):
        if tensor.is_meta:
            raise ValueError(f"`shrink` looks at numbers, and '{name}' is on the meta device: load the weights first.")


def _smaller(model: nn.Module, state: Analysis, kept: Kept, plan: Plan, dtype: torch.dtype | None) -> nn.Module:
    """Return a smaller copy of the model, its floating-point tensors in another dtype if one is given."""
    small = clone(model, share=True)
    apply(plan, small, dtype)
    compensate(state, kept, small)
    return small
