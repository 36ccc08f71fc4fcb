"""What a choice costs, and the fewest units that meet a budget."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from pruning_lib.selection._ranking import Ranking
from pruning_lib.units import Chosen, Units


def cost(chosen: Mapping[str, Tensor], units: Units) -> int:
    """Return the multiply-adds for one example that are left once `chosen` is removed.

    A layer costs in proportion to the channels it writes and to those it reads; a depthwise one is a writer alone.

    Parameters
    ----------
    chosen : mapping of str to Tensor
        {group: bool (units,)}, True = prune, for every group of `units`.
    units : Units
        From `pruning_lib.find_units(model, example)`.

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
    share = {layer: [1.0, 1.0] for layer in units.macs}
    for name, group in units.items():
        pruned = chosen[name].cpu()
        for side, members in enumerate((group.writers, group.readers)):
            for member in members:
                if member.layer in share:
                    known = member.index >= 0
                    lost = pruned[member.index[known]].sum().item()
                    share[member.layer][side] -= lost / len(member.index)
    return round(sum(units.macs[layer] * write * read for layer, (write, read) in share.items()))


def within_budget(ranking: Ranking, units: Units, macs: int) -> Chosen:
    """Choose as few of the least important units as bring the cost to `macs`."""
    most = ranking.lowest(len(ranking.owners))
    if cost(most, units) > macs:
        full = sum(units.macs.values())
        raise ValueError(
            f"A budget of {macs} multiply-adds, {macs / full:.0%} of the network's {full}, cannot be met: with "
            f"floor={ranking.floor} the smallest network costs {cost(most, units)}."
        )
    low, high = -1, len(ranking.owners)  # high meets the budget, low does not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if cost(ranking.lowest(middle), units) <= macs else (middle, high)
    return ranking.lowest(high)
