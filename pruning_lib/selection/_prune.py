"""The whole way in one call: judge units, choose, zero, recalibrate, remove. Every step is a function of its own."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from pruning_lib._arguments import checked, optional
from pruning_lib._inputs import Inputs, begun
from pruning_lib._measure import recalibrate
from pruning_lib._model import check_outside_inference, clone, loss_on
from pruning_lib.channels import Shrunk, find_units, shrink
from pruning_lib.selection import importance as importances
from pruning_lib.selection._budgets import FAR, MISSED, OutOfReachError, cost
from pruning_lib.selection._select import select
from pruning_lib.selection._zero import zero
from pruning_lib.units import OUTPUT, BatchNorm, Chosen, Group, Units, unwrapped

CLOSE = 0.01  # by so much of the network more may stay than was asked for
ROUNDS = 3  # of choosing more, where chosen channels had to stay
FEW = 3  # groups that a note names


def prune(
    model: nn.Module,
    example: Any,
    *,
    macs_left: float,
    data: Any = None,
    loss_fn: Callable[[Any, Any], Tensor] | None = None,
    importance: Mapping[str, Tensor] | None = None,
    round_to: int = 1,
) -> Shrunk:
    """Return a copy of a trained network with this share of its multiply-adds, to be fine-tuned.

    `find_units`, an importance, `select`, `zero`, `recalibrate` and `shrink`, in this order; call them yourself where
    you want another choice. Make the optimizer of the fine-tuning afterwards, over ``.model.parameters()``.

    Parameters
    ----------
    model : nn.Module
        Trained. It is not touched. Of a wrapper the module inside counts.
    example : Tensor, tuple, mapping or Inputs
        What forward takes, as `pruning_lib.inputs` says, on the model's device and of its dtype; one sample is enough.
    macs_left : float
        In (0, 1): the share of the network's multiply-adds that stays, counted as `measure` counts them.
    data : Tensor, tuple, mapping or iterable of batches, optional
        Training data, as `recalibrate` takes them; some thousand samples are enough. The statistics of every BatchNorm
        are computed anew from them. Their first batch is read before anything is traced, and run with `loss_fn`.
    loss_fn : callable, optional
        Mean loss of (outputs, targets), a scalar. Units are then judged by `importance.taylor` on the data, which have
        to hold targets (in batches of a Transformer: ``labels``; the outputs are then its ``.logits``). Forward does
        not get the targets: see `importance.taylor`.
    importance : mapping of str to Tensor, optional
        Judges the units instead: {layer or group: one number a unit}, higher = keep, as `select` takes it. Layers that
        it leaves out stay whole.
    round_to : int
        Every group but heads is to keep a multiple of this many units (or all).
        Runtimes compute channels in blocks of 8 or so, and other widths can be slower than the whole network: see the
        chapter *Your own network*.

    Returns
    -------
    Shrunk
        With ``.model``, ``.widths`` (units of each group before and after), ``.max_error`` (of the removal, in
        float64) and ``.notes``: how much is left, of which groups little is, and which layers stay, and why. Print it.

    Raises
    ------
    TypeError, ValueError
        If arguments do not go together or are out of range, or if this share cannot be reached.
    RuntimeError
        If the forward cannot be traced; the sentence names the line.

    Notes
    -----
    Units that go leave a constant behind (``shift="keep"`` of `zero`). Where a convolution that pads with zeros reads
    them they leave 0, since a constant would need a channel there. Where an activation makes a constant of that 0, one
    channel stays all the same, and is counted. If still more stays than was asked for, more units are chosen, up to
    three times, as long as that makes it smaller.

    Without `importance` and `loss_fn` units are judged by the length of their weights times |γ|/√(v + ε) of their
    BatchNorm (`importance.magnitude`, ``of="folded"``). Lengths do not compare between layers, so that every group
    loses the same share, as `select` has it; and so it does by any other importance.

    Examples
    --------
    >>> import torch
    >>> import pruning_lib as prl
    >>> _ = torch.manual_seed(0)
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))
    >>> pruned = prl.prune(model, torch.zeros(1, 8), macs_left=0.5)
    >>> pruned.widths
    {'0': (16, 8)}
    >>> print(pruned)  # doctest: +ELLIPSIS
    0: 8 removed, 8 left
    largest relative error ...
    50.0 % of the multiply-adds are left
    """
    checked("prune", model=model, macs_left=macs_left, round_to=round_to)
    optional("prune", loss_fn=loss_fn, importance=importance)
    _check(data, loss_fn, importance)
    check_outside_inference("prune")
    if isinstance(data, Iterator):  # read twice: to judge, and to recalibrate; some fill the same memory each time
        data = [_copied(batch) for batch in data]
    unread = data if data is None else _tried(model, data, loss_fn)
    units = find_units(model, example)
    if all(group.stays == group.size for group in units.values()):
        raise ValueError(f"prune found no unit that could go:\n{units}")
    model = unwrapped(model)
    if loss_fn is not None:
        importance, unread = importances.taylor(clone(model), units, unread, loss_fn), data
    elif importance is None:
        importance = importances.magnitude(clone(model), units, of="folded")
    budget = macs_left
    try:
        chosen = _chosen(importance, units, budget, round_to)
    except OutOfReachError as error:
        raise ValueError(_out_of_reach(macs_left, round_to, error.least)) from error
    shrunk = _removed(model, example, units, chosen, unread)
    for _ in range(ROUNDS):
        over = _share(shrunk, units) - macs_left
        if over <= CLOSE:
            break
        budget -= over
        try:
            chosen = _chosen(importance, units, budget, round_to)
        except ValueError:  # nothing smaller can be chosen
            break
        again = _removed(model, example, units, chosen, data)
        if _share(again, units) >= _share(shrunk, units):  # what was chosen beside cannot go either
            break
        shrunk = again
    if macs_left - (left := _share(shrunk, units)) > FAR:
        warnings.warn(
            f"{left:.1%} of the multiply-adds are left where {macs_left:.1%} were to stay: units that go only at once "
            "cost more than the difference, or more could be removed than was chosen.",
            stacklevel=2,
        )
    shrunk.notes = [_left(shrunk, units, macs_left), *_thin(shrunk, macs_left), *_stale(model, data)]
    shrunk.notes += [reason for reason in units.reasons() if OUTPUT not in reason]
    return shrunk


def _copied(batch: Any) -> Any:
    """Return a batch whose tensors are its own; a view is copied alone, not what it is a view of."""
    if isinstance(batch, Inputs):
        return batch.map(Tensor.clone)
    if isinstance(batch, Mapping):  # pytrees do not know those of Transformers
        return {name: _copied(value) for name, value in batch.items()}
    return pytree.tree_map_only(Tensor, lambda tensor: tensor.detach().clone(), batch)


def _chosen(importance: Mapping[str, Tensor], units: Units, macs_left: float, round_to: int) -> Chosen:
    """Choose, and leave it to `prune` to say what is left: it counts what was removed, where `select` expects it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=MISSED)
        return select(importance, units, macs_left=macs_left, round_to=round_to)


def _tried(model: nn.Module, data: Any, loss_fn: Callable[[Any, Any], Tensor] | None) -> Any:
    """Return the data unread, or raise what their first batch leads to: a slip is told before anything is traced."""
    first, unread = begun(data, 128)  # as `taylor` splits them
    if loss_fn is not None:
        loss_on(clone(unwrapped(model)).eval(), first, loss_fn, "taylor")
    return unread


def _out_of_reach(macs_left: float, round_to: int, least: float) -> str:
    rounded = f" at round_to={round_to}" if round_to > 1 else ""
    return (
        f"prune cannot reach macs_left={macs_left:g}: at least {least:.1%} of the multiply-adds are in what stays"
        f"{rounded}, and `print(find_units(model, example))` says what that is, and why; ask for a larger share."
    )


def _removed(model: nn.Module, example: Any, units: Units, chosen: Chosen, data: Any) -> Shrunk:
    """Zero the chosen units of a copy, recalibrate it and shrink it."""
    small = clone(model)
    # Heads, too: where a mask that comes in may close them, a constant other than 0 would be lost.
    padded = {name for name, group in units.items() if group.kind == "heads" or _pads(small, group)}
    zero(small, {name: mask for name, mask in chosen.items() if name not in padded}, units)
    zero(small, {name: mask for name, mask in chosen.items() if name in padded}, units, shift="drop")
    if data is not None:
        recalibrate(small, data)
    return shrink(small, example)


def _thin(shrunk: Shrunk, macs_left: float) -> list[str]:
    """Say which groups are left with much less than was asked for, as where others cannot go."""
    widths = shrunk.widths.items()
    thin = [f"{name} ({left} of {size})" for name, (size, left) in widths if left < macs_left * size / 2]
    if not thin:
        return []
    more = f" and {len(thin) - FEW} more" if len(thin) > FEW else ""
    return [f"little is left of {', '.join(thin[:FEW])}{more}: those pay for what stays whole"]


def _stale(model: nn.Module, data: Any) -> list[str]:
    """Say that statistics were not renewed, if there are any and no data."""
    normalized = any(isinstance(module, BatchNorm) and module.track_running_stats for module in model.modules())
    if data is not None or not normalized:
        return []
    return ["the statistics of the BatchNorms are still those of the dense network: pass data to renew them"]


def _check(data: Any, loss_fn: object, importance: object) -> None:
    """Raise ValueError for what does not go together, before anything is traced."""
    if loss_fn is not None and importance is not None:
        raise ValueError(
            "prune got loss_fn and importance; give one of them, since each says by what units are judged."
        )
    if loss_fn is not None and data is None:
        raise ValueError("prune got loss_fn without data; pass training data with targets, or leave loss_fn out.")


def _pads(model: nn.Module, group: Group) -> bool:
    """Whether a layer reads the units between zeros at its borders.

    A constant other than 0 would show there, and could move into no bias: one channel of every group would have to
    stay. A BatchNorm that follows takes up the difference once its statistics are renewed.
    """
    readers = (model.get_submodule(member.layer) for member in group.readers)
    return any(getattr(reader, "padding", 0) not in (0, (0,), (0, 0), (0, 0, 0), "valid") for reader in readers)


def _share(shrunk: Shrunk, units: Units) -> float:
    """Return the share of the multiply-adds that is left in a network that was shrunk."""
    gone = {name: torch.ones(group.size, dtype=torch.bool) for name, group in units.items()}
    for name, mask in gone.items():
        mask[shrunk.plan.units[name]] = False
    return cost(gone, units) / sum(units.macs.values())


def _left(shrunk: Shrunk, units: Units, wanted: float) -> str:
    """Say how much is left, in numbers of the network that was returned."""
    share = _share(shrunk, units)
    over = f", where {100 * wanted:g} % were asked for: what stays, and why, is said here" if share > wanted else ""
    return f"{100 * share:.1f} % of the multiply-adds are left{over}"
