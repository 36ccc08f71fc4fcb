"""Importances from what layers read: of a unit k that is read by the columns W_:,k.

    fluctuation    Var(x_k) ‖W_:,k‖²               FLAP (An et al., AAAI 2024, arXiv 2312.11983)
    wanda          mean_i |W_ik| · ‖x_k‖ / √N      Wanda (Sun et al., ICLR 2024, arXiv 2306.11695) by columns: Wanda-sp

Mean, variance and ‖x_k‖² / N = E[x_k²] are over the N examples and positions. A unit that several layers read, or one
layer by several channels, is the sum over these. The papers prune the linear layers of language models; what is said
here of kernels is ours: ‖W_:,k‖² sums over a kernel, and so does |W_ik|.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pruning_lib import _inputs
from pruning_lib._arguments import checked
from pruning_lib._model import at_least_float, eval_mode, first_read, run
from pruning_lib.units import Units, fitting, grouped_view, unwrapped


def fluctuation(model: nn.Module, units: Units, data: Any, *, batch_size: int = 256) -> dict[str, Tensor]:
    """Return how much of what layers compute varies with each unit, FLAP's criterion ``Var(x_k)·‖W_:,k‖²``.

    It is the mean squared change of the sums of a linear layer when the unit emits its mean instead: with
    ``zero(…, shift="mean")``, which is the paper's ``W_:,k·E[x_k]`` in the bias. A unit that emits a constant scores 0.

    Parameters
    ----------
    model : nn.Module
        The network that `units` were made from; it runs in evaluation mode, and is not changed.
    units : Units
        From `pruning_lib.find_units(model, example)`.
    data : Tensor, tuple or iterable of batches
        Training examples; targets are not needed.
    batch_size : int
        Examples a forward pass, of data that are split here.

    Returns
    -------
    dict of str to Tensor
        {group: (units,)}, in squares of what its readers compute. Between layers the paper standardizes it:
        (score − mean) / deviation, layer by layer.

    Raises
    ------
    TypeError, ValueError
        If `units` are another model's, a reader is not a linear or convolution layer, `data` are of no kind that the
        library takes or hold a number that is not finite, or a layer is read past its module.

    Examples
    --------
    Two units emit ±1 and a constant; the second is read with a larger weight, and may go.

    >>> import torch
    >>> import pruning_lib as prl
    >>> model = torch.nn.Sequential(torch.nn.Linear(1, 2), torch.nn.Linear(2, 1))
    >>> _ = model[0].weight.detach().copy_(torch.tensor([[1.0], [0.0]]))
    >>> _ = model[0].bias.detach().copy_(torch.tensor([0.0, 5.0]))
    >>> _ = model[1].weight.detach().copy_(torch.tensor([[2.0, 7.0]]))
    >>> x = torch.tensor([[1.0], [-1.0]])
    >>> prl.importance.fluctuation(model, prl.find_units(model, x), x)
    {'0': tensor([4., 0.])}
    """
    return _score(model, units, data, batch_size, "fluctuation", 2, lambda seen: seen.variance)


def wanda(model: nn.Module, units: Units, data: Any, *, batch_size: int = 256) -> dict[str, Tensor]:
    """Return Wanda's criterion by columns, mean_i |W_ik| · √E[x_k²], as FLAP's authors compare with (Wanda-sp).

    Parameters
    ----------
    model, units, data, batch_size
        As `fluctuation` takes them.

    Returns
    -------
    dict of str to Tensor
        {group: (units,)}. The paper's ‖x_k‖ is √N times as large, which is the same for all units of a layer.

    Raises
    ------
    TypeError, ValueError
        As `fluctuation` does.

    Examples
    --------
    >>> import torch
    >>> import pruning_lib as prl
    >>> model = torch.nn.Sequential(torch.nn.Linear(1, 2, bias=False), torch.nn.Linear(2, 2, bias=False))
    >>> _ = model[0].weight.detach().copy_(torch.tensor([[1.0], [3.0]]))
    >>> _ = model[1].weight.detach().copy_(torch.tensor([[2.0, 1.0], [-4.0, 0.0]]))
    >>> x = torch.tensor([[1.0], [-1.0]])
    >>> prl.importance.wanda(model, prl.find_units(model, x), x)
    {'0': tensor([3.0000, 1.5000])}
    """
    return _score(model, units, data, batch_size, "wanda", 1, lambda seen: (seen.variance + seen.mean.square()).sqrt())


class _Seen:
    """Mean and variance of what a layer reads, by channel, merged batch by batch."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = self.scatter = torch.zeros(())

    def add(self, values: Tensor) -> None:
        """Merge values of shape (channels, N); exact for a constant, which a difference of squares is not."""
        count, mean = values.shape[1], values.mean(1)
        scatter = (values - mean.unsqueeze(1)).square().sum(1)
        if not self.count:
            self.count, self.mean, self.scatter = count, mean, scatter
            return
        total, step = self.count + count, mean - self.mean
        self.scatter = self.scatter + scatter + step.square() * (self.count * count / total)
        self.mean = self.mean + step * (count / total)
        self.count = total

    @property
    def variance(self) -> Tensor:
        """Return the variance over everything seen, shape (channels,)."""
        return self.scatter / self.count


@torch.no_grad()
def _score(
    model: nn.Module,
    units: Units,
    data: Any,
    batch_size: int,
    who: str,
    power: int,
    of_input: Callable[[_Seen], Tensor],
) -> dict[str, Tensor]:
    """Return Σ over readers and their channels of `of_input` times the column of |W|^power: sum for 2, mean for 1."""
    checked(who, model=model, units=units, batch_size=batch_size)
    modules = fitting(model, units.values(), who, reading=True)
    readers = {member.layer for group in units.values() for member in group.readers}
    seen = _watched(unwrapped(model), {name: modules[name] for name in readers}, data, batch_size, who)
    scores: dict[str, Tensor] = {}
    for name, group in units.items():
        score = next(model.parameters()).new_zeros(group.size, dtype=torch.float64)
        for member in group.readers:
            if not seen[member.layer].count:
                raise ValueError(f"{who} saw no layer read the units of '{name}'; a weight is used without its module.")
            weights = grouped_view(modules[member.layer], modules[member.layer].weight).double().abs().pow(power)
            columns = weights.flatten(3).sum(3) if weights.ndim > 3 else weights  # (groups, outputs, inputs)
            columns = (columns.sum(1) if power == 2 else columns.mean(1)).flatten()
            index = member.index.to(score.device)
            known = index >= 0
            score.index_add_(0, index[known], (of_input(seen[member.layer]) * columns)[known])
        scores[name] = score.to(at_least_float(next(model.parameters()).dtype))
        if not scores[name].isfinite().all():
            raise ValueError(f"{who} got a score of '{name}' that is not finite; look at the data and the weights.")
    return scores


def _watched(model: nn.Module, layers: dict[str, Any], data: Any, batch_size: int, who: str) -> dict[str, _Seen]:
    """Return what each layer read while the data passed."""
    seen = {name: _Seen() for name in layers}

    def watch(name: str) -> Callable[..., None]:
        def hook(layer: Any, *called: Any) -> None:
            x = first_read(layer, *called).detach().double()
            # A linear layer's are the last axis, a convolution's stand before its map.
            channels = x.ndim + 1 - layer.weight.ndim
            seen[name].add(x.movedim(channels, 0).flatten(1))

        return hook

    handles = [layer.register_forward_pre_hook(watch(name), with_kwargs=True) for name, layer in layers.items()]
    try:
        with eval_mode(model):
            for batch in _inputs.batches(data, int(batch_size)):
                run(model, batch.inputs.to(model), who)
    finally:
        for handle in handles:
            handle.remove()
    return seen
