"""What a choice costs, and the fewest units that meet a budget."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pruning_lib._arguments import checked, numbered, said
from pruning_lib.selection._ranking import Ranking
from pruning_lib.units import Chosen, Group, Member, Units

CLOSE, FAR = 0.01, 0.02
"""Shares of a network's multiply-adds by which a budget may be missed: in search of a closer choice, and in silence."""
MISSED = ".*of the multiply-adds are left where"
"""Begins what `missed_text` says."""


class OutOfReachError(ValueError):
    """No choice meets a budget; `least` is the share of the multiply-adds that the smallest network needs."""

    least = 1.0


def cost(chosen: Mapping[str, Tensor], units: Units) -> int:
    """Return the multiply-adds for one example that are left once `chosen` is removed.

    A layer costs in proportion to the channels it writes and to those it reads; a depthwise one is a writer alone. Of
    bound units, as the halves of a chunk, as many count as `shrink` can remove.

    Parameters
    ----------
    chosen : mapping of str to Tensor
        {group: bool (units,)}, True = prune, for every group of `units`.
    units : Units
        From `pruning_lib.find_units(model, example)`.

    Raises
    ------
    TypeError, ValueError
        If a group has no such mask.

    Examples
    --------
    >>> import torch
    >>> import pruning_lib as prl
    >>> from pruning_lib.selection import cost
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.ReLU(), torch.nn.Linear(4, 3))
    >>> units = prl.find_units(model, torch.zeros(1, 8))
    >>> cost({"0": torch.tensor([True, False, False, False])}, units)  # 8 · 3 + 3 · 3
    33
    """
    _check_choice(chosen, units)
    share = {layer: [1.0, 1.0] for layer in units.macs}
    products = dict.fromkeys(units.macs, 1.0)
    for name, group in units.items():
        pruned = going(chosen[name].cpu(), group)
        for side, members in enumerate((group.writers, group.readers)):
            for member in members:
                if member.layer in share:
                    share[member.layer][side] -= _lost(pruned, member)
        for member in group.products:
            products[member.layer] *= 1 - _lost(pruned, member)
    return round(sum(macs * math.prod(share[layer]) * products[layer] for layer, macs in units.macs.items()))


def _check_choice(chosen: Mapping[str, Tensor], units: Units, owner: str = "cost") -> None:
    """Raise one sentence unless every group has its mask."""
    checked(owner, chosen=chosen, units=units)
    for name, group in units.items():
        mask = chosen.get(name)
        if mask is None or not numbered(mask) or mask.dtype != torch.bool or mask.shape != (group.size,):
            raise ValueError(f"{owner} got {said(f'{name!r}', mask)}; it needs a bool tensor of shape ({group.size},).")


def _lost(pruned: Tensor, member: Member) -> float:
    """Return the share of a member's channels that units hold which are pruned."""
    known = member.index >= 0
    return int(pruned[member.index[known]].sum()) / len(member.index)


def going(pruned: Tensor, group: Group) -> Tensor:
    """Return which of the units `pruned` can go: of bound sets each loses as many as all of them do."""
    if not group.even:
        return pruned
    going = pruned.clone()
    for sets in group.even:
        least = min(int(pruned[units].sum()) for units in sets)
        for units in sets:
            going[units[pruned[units]][least:]] = False
    return going


def expected_cost(chosen: Mapping[str, Tensor], units: Units) -> int:
    """Return the multiply-adds that are left once `chosen` is zeroed and `shrink` has removed what can go.

    `cost` counts all of `chosen` as removed. Here some stay (`Group.stays`), as they do if `zero` drops the shifts. So
    does a budget of `select`. Where a layer reads several groups, one unit may stand for all of them; each
    group counts one nevertheless.

    Parameters
    ----------
    chosen : mapping of str to Tensor
        {group: bool (units,)}, True = prune, for every group of `units`.
    units : Units
        From `pruning_lib.find_units(model, example)`.

    Raises
    ------
    TypeError, ValueError
        If a group has no such mask.

    Examples
    --------
    A sigmoid makes 0.5 of 0. One of the two channels that are zeroed stays, since the second convolution pads.

    >>> import torch
    >>> from torch import nn
    >>> import pruning_lib as prl
    >>> from pruning_lib.selection import cost, expected_cost
    >>> model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Sigmoid(), nn.Conv2d(4, 1, 3, padding=1))
    >>> units = prl.find_units(model, torch.zeros(1, 1, 5, 5))
    >>> chosen = {"0": torch.tensor([True, True, False, False])}
    >>> cost(chosen, units), expected_cost(chosen, units)  # 2 and 3 of 4 · 25 + 36 · 25
    (500, 750)
    """
    _check_choice(chosen, units, "expected_cost")
    going = {name: chosen[name].cpu().clone() for name in units}
    for name, group in units.items():
        for part in group.parts if group.stays < group.size else [torch.arange(group.size)]:
            going[name][part[going[name][part]][: group.stays]] = False
    return cost(going, units)


def within_budget(ranking: Ranking, units: Units, macs: int) -> Chosen:
    """Choose as few of the least important units as bring the cost to `macs`."""
    most = ranking.lowest(len(ranking.owners))
    full = sum(units.macs.values())
    least = expected_cost(most, units)
    if least > macs:
        rounded = f" and round_to={ranking.round_to}" if ranking.round_to > 1 else ""
        error = OutOfReachError(
            f"A budget of {macs} multiply-adds, {macs / full:.1%} of the network's {full}, cannot be met: with "
            f"floor={ranking.floor}{rounded} the smallest network costs {least}, {least / full:.1%}."
        )
        error.least = least / full
        raise error
    owners, best = ranking.owners, most
    while expected_cost(ranking.lowest(len(owners), owners), units) <= macs:
        count = _fewest(ranking, owners, units, macs)
        found = ranking.lowest(count, owners)
        best = max(best, found, key=lambda chosen: expected_cost(chosen, units))
        # Channels that are bound go at once, and may overshoot by far: then less important ones elsewhere go instead.
        if not count or macs - expected_cost(found, units) <= CLOSE * full or not _bound(units[owners[count - 1]]):
            break
        owners = [name for i, name in enumerate(owners) if i < count - 1 or name != owners[count - 1]]
    _report_distance(best, units, macs)
    return best


def _fewest(ranking: Ranking, owners: Sequence[str], units: Units, macs: int) -> int:
    """Return how many candidates meet the budget, by bisection."""
    low, high = -1, len(owners)  # high meets the budget, low does not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if expected_cost(ranking.lowest(middle, owners), units) <= macs else (middle, high)
    return high


def _bound(group: Group) -> bool:
    """Whether several channels of one layer go at once."""
    return bool(group.even) or any(int((member.index >= 0).sum()) > group.size for member in group.writers)


def _report_distance(chosen: Chosen, units: Units, macs: int) -> None:
    """Warn if the units that go at once cost so much that far less is left than was asked for."""
    full, left = sum(units.macs.values()), expected_cost(chosen, units)
    if any(mask.any() for mask in chosen.values()) and macs - left > FAR * full:
        warnings.warn(missed_text(left / full, macs / full), stacklevel=4)


def missed_text(left: float, wanted: float) -> str:
    """Say that a share of the multiply-adds is far below what was asked for."""
    return (
        f"{left:.1%} of the multiply-adds are left where {wanted:.1%} were to stay: no choice in this order comes "
        "closer, since a unit, or a block of units that can only go at once, costs more than that."
    )
