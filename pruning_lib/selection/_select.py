"""Choosing the least important units: a share, a budget of multiply-adds, a threshold, or what a loss can spare."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import get_args

from torch import Tensor, nn

from pruning_lib._arguments import checked, one_of, optional
from pruning_lib._model import clone
from pruning_lib.selection._budgets import within_budget
from pruning_lib.selection._ranking import Ranking, Scope
from pruning_lib.selection._scores import scores_by_group
from pruning_lib.selection._tolerance import checked_tolerance, finite_loss, largest, loss_of
from pruning_lib.selection._zero import zero
from pruning_lib.units import Chosen, Kind, Units, fitting

Loss = Callable[[nn.Module], float]
THIN = 0.05  # a group that is left with a smaller share of its units is warned of


def select(
    importance: Mapping[str, Tensor],
    units: Units,
    *,
    fraction: float | None = None,
    macs_left: float | None = None,
    max_macs: int | None = None,
    threshold: float | None = None,
    loss_fn: Loss | None = None,
    tolerance: float = 0.0,
    model: nn.Module | None = None,
    scope: Scope = "local",
    floor: int = 1,
    kinds: Iterable[Kind] = ("inner", "stream", "heads"),
    round_to: int = 1,
) -> Chosen:
    """Choose the least important units; nothing is changed.

    Parameters
    ----------
    importance : mapping of str to Tensor
        {layer: (channels,)} or {group: (units,)}, higher = keep, as `importance()` of any method and the functions of
        `pruning_lib.importance` return it. Linear and convolution layers whose units cannot go are passed over; several
        layers of one group are averaged.
    units : Units
        From `pruning_lib.find_units(model, example)`. Groups without importance, and those whose units stay although
        they are zeroed (`Group.stays`), stay whole and do not count.
    fraction : float, optional
        In [0, 1): exactly ⌊fraction · N⌋ of the N units of each class (see `scope`) go, ties by order.
    macs_left : float, optional
        In (0, 1]: as few units go as leave at most this share of the network's multiply-adds.
    max_macs : int, optional
        As few units go as leave at most so many multiply-adds for one example. Both count what `shrink` leaves after
        ``zero(…, shift="drop")``, as `pruning_lib.selection.expected_cost` does. Constants that ``"keep"`` leaves may
        need one channel more where a convolution pads.
    threshold : float, optional
        Units below it go.
    loss_fn, tolerance, model : optional
        As many units go as leave ``loss_fn(model)``, a validation loss, within (1 + tolerance) of the loss before,
        found by bisection on copies of `model`. Give exactly one of `fraction`, `macs_left`, `max_macs`,
        `threshold`, `loss_fn`.
    scope : {"local", "isomorphic", "global"}
        Rank each group by itself; or all units of groups of the same structure, whose layers have the same types and
        kernel sizes (Fang et al., 2024, arXiv 2407.04616); or all units together. A fraction then holds in each such
        class, and a budget or a loss takes the same share of every class, to within a unit. A threshold does not care.
        Lengths of rows and first-order losses compare badly between layers, and one list of several layers can empty
        one of them. ``"local"`` emptied no layer of the networks on which rankings were compared: see *Which ranking
        is safe?* among the tables, and the chapter *Choosing what to zero*. After a penalty that brought some layers
        nearer to zero than others, equal shares take units that live: take a threshold there, or ``"global"``.
    floor : int
        Units that every group keeps. What this prevents is reported by a warning.
    kinds : iterable of {"inner", "stream", "heads"}
        Groups that may lose units.
    round_to : int
        Every group but heads keeps a multiple of this many units (or all): the best of the chosen ones stay.

    Returns
    -------
    dict of str to Tensor
        {group name: bool (units,)}, True = prune, for every group.

    Warns
    -----
    UserWarning
        If a group is left with under 5 % of its units, or if a budget is missed by more than 2 % of the network, since
        units that can only go at once (the halves of a chunk, the groups of a convolution) cost more than that.

    Raises
    ------
    ValueError
        If a layer does not exist, importance has the wrong shape or is NaN, a number is out of range, the budget cannot
        be met, or not exactly one target is given.

    Examples
    --------
    >>> import torch
    >>> import pruning_lib as prl
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.ReLU(), torch.nn.Linear(4, 3))
    >>> units = prl.find_units(model, torch.zeros(1, 8))
    >>> scores = {"0": torch.tensor([0.3, 0.1, 0.9, 0.2])}
    >>> prl.select(scores, units, fraction=0.5)
    {'0': tensor([False,  True, False,  True])}
    >>> prl.select(scores, units, max_macs=33)  # 8 · 3 + 3 · 3
    {'0': tensor([False,  True, False, False])}
    """
    check_target(
        fraction=fraction, macs_left=macs_left, max_macs=max_macs, threshold=threshold, loss_fn=loss_fn, model=model,
        scope=scope, floor=floor, round_to=round_to,
    )  # fmt: skip
    checked("select", importance=importance, units=units, kinds=kinds)
    ranking = Ranking(scores_by_group(importance, units, frozenset(kinds)), units, scope, floor, round_to)
    if threshold is not None:
        chosen = ranking.below(threshold)
    elif fraction is not None:
        chosen = ranking.fraction(fraction)
    elif loss_fn is not None:
        assert model is not None
        chosen = _within_loss(ranking, units, model, loss_fn, tolerance)
    else:
        full = sum(units.macs.values())
        chosen = within_budget(ranking, units, round(macs_left * full) if macs_left is not None else int(max_macs or 0))
    if fraction and not any(bool(mask.any()) for mask in chosen.values()):
        warnings.warn(
            f"fraction={fraction:g} is less than a unit of any class that is ranked together, so none goes: take a "
            "larger one, or rank all units together, by scope='global'.",
            stacklevel=2,
        )
    _report_thin(chosen, units, scope)
    return chosen


def _report_thin(chosen: Chosen, units: Units, scope: str) -> None:
    """Warn of groups that are nearly gone, by name."""
    left = {name: int((~mask).sum()) for name, mask in chosen.items() if mask.any()}
    thin = [f"'{name}' ({n} of {units[name].size})" for name, n in left.items() if n < THIN * units[name].size]
    if thin:
        more = f" and {len(thin) - 5} more" if len(thin) > 5 else ""
        advice = "Ask for less" if scope == "local" else "Rank each group by itself, by scope='local'"
        warnings.warn(
            f"Under {THIN:.0%} of the units are left of {', '.join(thin[:5])}{more}: such layers seldom recover. "
            f"{advice}, or let every group keep more, by floor=.",
            stacklevel=3,
        )


def check_target(
    *,
    fraction: float | None = None,
    macs_left: float | None = None,
    max_macs: int | None = None,
    threshold: float | None = None,
    loss_fn: Loss | None = None,
    model: nn.Module | None = None,
    scope: str = "local",
    floor: int = 1,
    round_to: int = 1,
) -> None:
    """Raise one sentence unless exactly one target is given and every number is in range."""
    given = [target for target in (fraction, macs_left, max_macs, threshold, loss_fn) if target is not None]
    if len(given) != 1:
        raise ValueError(
            f"select got {len(given)} targets; give exactly one of fraction, macs_left, max_macs, threshold, loss_fn."
        )
    optional("select", fraction=fraction, macs_left=macs_left, max_macs=max_macs, threshold=threshold)
    optional("select", loss_fn=loss_fn, model=model)
    checked("select", floor=floor, round_to=round_to)
    one_of(scope, "scope", get_args(Scope))
    if loss_fn is not None and model is None:
        raise ValueError("select got loss_fn without model; pass model= so that copies of it can be evaluated.")


def _within_loss(ranking: Ranking, units: Units, model: nn.Module, loss_fn: Loss, tolerance: float) -> Chosen:
    """Choose as many of the least important units as `loss_fn` tolerates, by bisection."""
    fitting(model, units.values(), "select")
    limit = (1 + checked_tolerance(tolerance, "select")) * finite_loss(loss_fn, clone(model))

    def holds(count: int) -> bool:
        trial = clone(model)
        zero(trial, ranking.lowest(count), units)
        return loss_of(loss_fn, trial) <= limit

    return ranking.lowest(largest(holds, len(ranking.owners)))
