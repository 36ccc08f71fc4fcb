"""Pruning in rounds: judge, zero, hold, train, again."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

from torch import Tensor, nn
from torch.optim import Optimizer

from pruning_lib.selection._hold import hold
from pruning_lib.selection._scores import scores_by_group
from pruning_lib.selection._select import check_target, select
from pruning_lib.selection._zero import zero
from pruning_lib.units import Chosen, Units


def iterative(
    model: nn.Module,
    units: Units,
    importance: Callable[[nn.Module], Mapping[str, Tensor]],
    train: Callable[[nn.Module], object],
    *,
    rounds: int,
    fraction: float | None = None,
    macs_left: float | None = None,
    max_macs: int | None = None,
    shift: Literal["keep", "drop"] = "keep",
    optimizer: Optimizer | None = None,
    **options: Any,
) -> Chosen:
    """Prune in rounds: judge the units, zero the least important, hold them there, train. One round is one-shot.

    Every round leaves the same share of what the one before it left, of units or of multiply-adds: after r of R rounds
    (1 − fraction)^(r/R). A unit that was zeroed stays zero, whatever is judged later.

    Parameters
    ----------
    model : nn.Module
        Changed in place; `shrink` it afterwards.
    units : Units
        From `pruning_lib.find_units(model, example)`.
    importance : callable
        model → what `select` takes, as in ``lambda model: prl.importance.magnitude(model, units)``.
    train : callable
        model → anything: some epochs of training, after every round.
    rounds : int
        R ≥ 1.
    fraction, macs_left, max_macs : optional
        What the last round reaches, as `select` means it; exactly one of them.
    shift, optimizer : optional
        As `zero` takes them; an optimizer that outlives the rounds has to be named, for its momentum.
    **options
        Of `select`: scope, floor, kinds, round_to.

    Returns
    -------
    dict of str to Tensor
        {group name: bool (units,)}, True = zeroed.

    Raises
    ------
    ValueError
        If `rounds` is below 1, not exactly one target is given, or `select` or `zero` refuse.

    Examples
    --------
    Half of sixteen units in four rounds: each leaves 84 % of what the one before it left, rounded down.

    >>> import torch
    >>> import pruning_lib as prl
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))
    >>> units, left = prl.find_units(model, torch.zeros(1, 8)), []
    >>> zeroed = prl.iterative(
    ...     model,
    ...     units,
    ...     importance=lambda model: prl.importance.magnitude(model, units),
    ...     train=lambda model: left.append(int((model[0].weight != 0).any(1).sum())),
    ...     rounds=4,
    ...     fraction=0.5,
    ... )
    >>> left, int(zeroed["0"].sum())
    ([14, 12, 10, 8], 8)
    """
    if not (rounds >= 1 and rounds == int(rounds)):
        raise ValueError(f"iterative got rounds={rounds}; it needs at least 1, a whole number; 1 is one-shot pruning.")
    if sum(target is not None for target in (fraction, macs_left, max_macs)) != 1:
        raise ValueError(
            "iterative needs exactly one of fraction, macs_left and max_macs: what the last round reaches."
        )
    bounds = {name: options[name] for name in ("scope", "floor", "round_to") if name in options}
    check_target(fraction=fraction, macs_left=macs_left, max_macs=max_macs, **bounds)
    full = sum(units.macs.values())
    zeroed: Chosen = {}
    for done in (r / rounds for r in range(1, int(rounds) + 1)):
        scores = scores_by_group(importance(model), units, frozenset(("inner", "stream")))
        for name, mask in zeroed.items():
            if name in scores:
                scores[name][mask] = -math.inf
        target = {"fraction": 1 - (1 - fraction) ** done} if fraction is not None else {}
        target |= {"macs_left": macs_left**done} if macs_left is not None else {}
        target |= {"max_macs": round(full * (max_macs / full) ** done)} if max_macs is not None else {}
        zeroed = select(scores, units, **target, **options)
        zero(model, zeroed, units, shift=shift, optimizer=optimizer)
        held = hold(model, optimizer)
        try:
            train(model)
        finally:
            held.remove()
    return zeroed
