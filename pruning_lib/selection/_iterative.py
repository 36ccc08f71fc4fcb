"""Pruning in rounds: judge, zero, hold, train, again."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

from torch import Tensor, nn
from torch.optim import Optimizer

from pruning_lib._arguments import checked, one_of, optional
from pruning_lib._model import check_same_model
from pruning_lib.selection._hold import hold
from pruning_lib.selection._scores import scores_by_group
from pruning_lib.selection._select import check_target, select
from pruning_lib.selection._zero import zero
from pruning_lib.selection.importance import random
from pruning_lib.units import Chosen, Kind, Units, fitting

OPTIONS = ("scope", "floor", "kinds", "round_to")


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
    TypeError, ValueError
        If `rounds` is below 1, not exactly one target is given, it cannot be met, or an argument is of another kind:
        nothing is changed then. In a later round if `importance` returns what `select` refuses.

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
    _check_all(model, units, importance, train, shift, optimizer)
    target = _checked_target(
        rounds,
        {"fraction": fraction, "macs_left": macs_left, "max_macs": max_macs},
        options,
        sum(units.macs.values()),
    )
    _check_reachable(units, target(rounds), options)
    zeroed: Chosen = {}
    for done in range(1, int(rounds) + 1):
        scores = scores_by_group(importance(model), units, frozenset(get_args(Kind)))
        for name, mask in zeroed.items():
            if name in scores:
                scores[name][mask] = -math.inf
        zeroed = select(scores, units, **target(done), **options)
        zero(model, zeroed, units, shift=shift, optimizer=optimizer)
        held = hold(model, optimizer)
        try:
            train(model)
        finally:
            held.remove()
    return zeroed


def _checked_target(
    rounds: int, targets: Mapping[str, Any], options: Mapping[str, Any], full: int
) -> Callable[[int], dict[str, Any]]:
    """Return what `select` is to be told in each round, after all checks of numbers."""
    checked("iterative", rounds=rounds)
    if unknown := [name for name in options if name not in OPTIONS]:
        raise TypeError(
            f"iterative got {unknown[0]}=, which it does not know; of select it takes {', '.join(OPTIONS)}."
        )
    given = {name: value for name, value in targets.items() if value is not None}
    if len(given) != 1:
        raise ValueError(
            "iterative needs exactly one of fraction, macs_left and max_macs: what the last round reaches."
        )
    check_target(**given, **{name: value for name, value in options.items() if name != "kinds"})
    ((name, last),) = given.items()

    def target(done: int) -> dict[str, Any]:
        share = done / rounds
        if name == "fraction":
            return {name: 1 - (1 - last) ** share}
        return {name: last**share if name == "macs_left" else round(full * (last / full) ** share)}

    return target


def _check_all(
    model: nn.Module, units: Units, importance: object, train: object, shift: str, optimizer: Optimizer | None
) -> None:
    """Raise before the first round what `zero`, `hold` and the calls would raise in it."""
    checked("iterative", model=model, units=units, importance=importance, train=train)
    one_of(shift, "shift", ("keep", "drop"))
    optional("iterative", optimizer=optimizer)
    check_same_model("iterative", model, optimizer=optimizer)
    fitting(model, units.values(), "iterative")


def _check_reachable(units: Units, target: dict[str, Any], options: dict[str, Any]) -> None:
    """Raise ValueError if the last round's target cannot be met, whatever the units are worth."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        select(random(units), units, **target, **options)
