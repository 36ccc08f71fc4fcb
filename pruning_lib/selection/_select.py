"""SELECT: from importance to units, set to zero and held there. Derived in the chapter `serene`.

Statistics decide here *what* to zero; what may then be removed is logic, and lives in `pruning_lib.channels`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pruning_lib._model import clone
from pruning_lib.units import (
    BatchNorm,
    Chosen,
    Group,
    Kind,
    Units,
    Weighted,
    bounded_scale,
    check_plain,
    fitting,
    rows,
    unit_axis,
    unwrapped,
    weighted,
)


def select(
    importance: Mapping[str, Tensor],
    units: Units,
    *,
    fraction: float | None = None,
    macs: int | None = None,
    threshold: float | None = None,
    loss_fn: Callable[[nn.Module], float] | None = None,
    tolerance: float = 0.0,
    model: nn.Module | None = None,
    scope: Literal["global", "local"] = "global",
    floor: int = 1,
    kinds: Iterable[Kind] = ("inner", "stream"),
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
        From `pruning_lib.find_units(model, example)`. Groups without importance stay whole and do not count.
    fraction : float, optional
        In [0, 1): exactly ⌊fraction · N⌋ of the N units go, ties by order.
    macs : int, optional
        As few units go as bring the multiply-adds of linear and convolution layers, for one example, to this budget.
    threshold : float, optional
        Units below it go.
    loss_fn, tolerance, model : optional
        As many units go as leave ``loss_fn(model)``, a validation loss, within (1 + tolerance) of the loss before,
        found by bisection on copies of `model`. Give exactly one of `fraction`, `macs`, `threshold`, `loss_fn`.
    scope : {"global", "local"}
        Rank all units together, or each group by itself: a fraction then holds in each group, and a budget or a loss
        takes the same share of every group, to within a unit. Lengths of rows, and first-order losses, compare badly
        between convolutions and linear layers: look at the widths, or take ``"local"`` (chapter *What held*).
    floor : int
        Units that every group keeps. What this prevents is reported by a warning.
    kinds : iterable of {"inner", "stream"}
        Groups that may lose units.
    round_to : int
        Every group keeps a multiple of this many units (or all): the best of the chosen ones stay.

    Returns
    -------
    dict of str to Tensor
        {group name: bool (units,)}, True = prune, for every group.

    Raises
    ------
    ValueError
        If a layer does not exist, importance has the wrong shape or is NaN, a number is out of range, the budget cannot
        be met, or not exactly one target is given.
    """
    _check_targets(fraction, macs, threshold, loss_fn, model, floor, round_to, scope)
    scores = _by_group(importance, units, frozenset(kinds))
    ranking = _Ranking(scores, units, floor, round_to)
    if threshold is not None:
        return ranking.masks({name: int((score < threshold).sum()) for name, score in scores.items()}, warn=True)
    if scope == "local" and fraction is not None:
        return ranking.masks({name: share_of(fraction, len(score)) for name, score in scores.items()}, warn=True)
    if scope == "local":
        ranking = _Ranking({name: _quantiles(score) for name, score in scores.items()}, units, floor, round_to)
    if fraction is not None:
        return ranking.lowest(share_of(fraction, ranking.total), warn=True)
    if macs is not None:
        return _within_budget(ranking, units, macs)
    assert model is not None
    assert loss_fn is not None
    return _within_loss(ranking, units, model, loss_fn, tolerance)


def share_of(fraction: float, count: int) -> int:
    """Return ⌊fraction · count⌋; 0.29 of 100 is 29, although its nearest double times 100 lies below."""
    return math.floor(fraction * count + 1e-9)


def _quantiles(score: Tensor) -> Tensor:
    """Return where each unit stands among its group, in (0, 1); ties by index."""
    return (torch.argsort(torch.argsort(score, stable=True)) + 0.5) / len(score)


class _Ranking:
    """All candidate units from least to most important; a group's `floor` best are no candidates."""

    def __init__(self, scores: Mapping[str, Tensor], units: Units, floor: int, round_to: int) -> None:
        self.scores, self.groups, self.floor, self.round_to = scores, units, floor, round_to
        self.total = sum(len(score) for score in scores.values())
        self.order = {name: torch.argsort(score, stable=True) for name, score in scores.items()}
        names = list(scores)
        free = [self.order[name][: max(len(scores[name]) - floor, 0)] for name in names]
        flat = torch.cat([scores[name][indices] for name, indices in zip(names, free, strict=True)])
        owner = torch.cat([torch.full((len(indices),), i) for i, indices in enumerate(free)])
        # Stable on (group order, order within the group): equal scores go by index.
        self.owners = [names[int(i)] for i in owner[torch.argsort(flat, stable=True)]]

    def lowest(self, count: int, warn: bool = False) -> Chosen:
        """Choose the `count` least important candidates."""
        if warn:
            self._report(count, len(self.owners))
        taken = dict.fromkeys(self.scores, 0)
        for name in self.owners[:count]:
            taken[name] += 1
        return self.masks(taken)

    def masks(self, counts: Mapping[str, int], warn: bool = False) -> Chosen:
        """Choose the `counts` least important units of each group, as far as `floor` and `round_to` let them go."""
        if warn:
            free = {name: max(len(score) - self.floor, 0) for name, score in self.scores.items()}
            self._report(sum(counts.values()), sum(min(counts[name], free[name]) for name in counts))
        chosen = {}
        for name, group in self.groups.items():
            chosen[name] = torch.zeros(group.size, dtype=torch.bool)
            if name in counts:
                kept = max(group.size - counts[name], min(self.floor, group.size))
                kept = min(math.ceil(kept / self.round_to) * self.round_to, group.size)
                chosen[name][self.order[name][: group.size - kept]] = True
        return chosen

    def _report(self, wanted: int, may_go: int) -> None:
        if wanted > may_go:
            message = f"{wanted} units were to go, but floor={self.floor} a group leaves {may_go}."
            warnings.warn(message, stacklevel=4)


def _check_targets(
    fraction: float | None,
    macs: int | None,
    threshold: float | None,
    loss_fn: Callable[[nn.Module], float] | None,
    model: nn.Module | None,
    floor: int,
    round_to: int,
    scope: str,
) -> None:
    """Raise ValueError unless exactly one target is given and every number is in range."""
    given = [target for target in (fraction, macs, threshold, loss_fn) if target is not None]
    if len(given) != 1:
        raise ValueError(f"select got {len(given)} targets; give exactly one of fraction, macs, threshold, loss_fn.")
    if fraction is not None and not 0 <= fraction < 1:
        raise ValueError(f"select got fraction={fraction!r}; it must be in [0, 1): the share of units that go.")
    if macs is not None and not macs > 0:
        raise ValueError(f"select got macs={macs!r}; the budget is a positive number of multiply-adds for one example.")
    if threshold is not None and math.isnan(threshold):
        raise ValueError("select got threshold=nan; units below a number go.")
    if loss_fn is not None and model is None:
        raise ValueError("select got loss_fn without model; pass model= so that copies of it can be evaluated.")
    if not (floor >= 0 and round_to >= 1 and floor == int(floor) and round_to == int(round_to)):
        raise ValueError(
            f"select got floor={floor}, round_to={round_to}; they are whole numbers, floor ≥ 0 and round_to ≥ 1."
        )
    if scope not in ("global", "local"):
        raise ValueError(f"scope={scope!r} is unknown; choose 'global' or 'local'.")


def _by_group(importance: Mapping[str, Tensor], units: Units, kinds: frozenset[Kind]) -> dict[str, Tensor]:
    """Return {group: (units,)} on the CPU, in graph order; layers of one group are averaged unit by unit."""
    collected: dict[str, list[Tensor]] = {}
    for layer, given in importance.items():
        if layer in units.fixed:
            continue
        score = torch.as_tensor(given)
        name = _group_of(layer, units)
        group = units[name]
        index = next(member.index for member in (*group.writers, *group.norms) if member.layer == layer)
        if layer == name and score.shape == (group.size,):  # of units, where the layer may have other channels too
            index = torch.arange(group.size)
        if score.shape != index.shape:
            raise ValueError(
                f"importance of '{layer}' has shape {tuple(score.shape)}; the layer has {len(index)} units."
            )
        if score.isnan().any():
            raise ValueError(f"importance of '{layer}' holds NaN; did the training diverge?")
        if group.kind in kinds:
            collected.setdefault(name, []).append(unit_mean(score.detach().cpu().double(), index.cpu(), group.size))
    if not collected:
        raise ValueError("select found no group to choose from; importance names none, or kinds excludes all of them.")
    return {name: torch.stack(collected[name]).nanmean(0) for name in units if name in collected}


def _group_of(layer: str, units: Units) -> str:
    """Return the group that a layer with importance belongs to."""
    try:
        return units.translate(layer)
    except ValueError:
        raise ValueError(
            f"select got importance of '{layer}', which writes and rescales no group: its units cannot go, or it is of "
            "another network. Leave it out, or build the method with units=units, which does. The groups are "
            f"{', '.join(units) or 'none'}."
        ) from None


def unit_mean(score: Tensor, index: Tensor, size: int) -> Tensor:
    """Average a layer's score over the channels of each unit; NaN for units it does not write."""
    known = index >= 0
    total = score.new_zeros(size).index_add_(0, index[known], score[known])
    return total / score.new_zeros(size).index_add_(0, index[known], torch.ones_like(score[known]))


def cost(chosen: Mapping[str, Tensor], units: Units) -> int:
    """Return the multiply-adds for one example that are left once `chosen` is removed.

    A layer costs in proportion to the channels it writes and to those it reads; a depthwise one is a writer alone.
    """
    share = {layer: [1.0, 1.0] for layer in units.macs}
    for name, group in units.items():
        gone = chosen[name].cpu()
        for side, members in enumerate((group.writers, group.readers)):
            for member in members:
                if member.layer in share:
                    known = member.index >= 0
                    lost = gone[member.index[known]].sum().item()
                    share[member.layer][side] -= lost / len(member.index)
    return round(sum(units.macs[layer] * write * read for layer, (write, read) in share.items()))


def _within_budget(ranking: _Ranking, units: Units, macs: int) -> Chosen:
    """Choose as few of the least important units as bring the cost to `macs`."""
    most = ranking.lowest(len(ranking.owners))
    if cost(most, units) > macs:
        raise ValueError(
            f"macs={macs} cannot be met: with floor={ranking.floor} the smallest network costs {cost(most, units)}."
        )
    low, high = -1, len(ranking.owners)  # high meets the budget, low does not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if cost(ranking.lowest(middle), units) <= macs else (middle, high)
    return ranking.lowest(high)


def _within_loss(
    ranking: _Ranking, units: Units, model: nn.Module, loss_fn: Callable[[nn.Module], float], tolerance: float
) -> Chosen:
    """Choose as many of the least important units as `loss_fn` tolerates, by bisection."""
    limit = (1 + checked_tolerance(tolerance)) * finite_loss(loss_fn, model)

    def holds(count: int) -> bool:
        trial = clone(model)
        zero(trial, ranking.lowest(count), units)
        return float(loss_fn(trial)) <= limit

    return ranking.lowest(_largest(holds, len(ranking.owners)))


def _largest(holds: Callable[[int], bool], most: int) -> int:
    """Return a count in [0, most] that holds while the next one does not; 0 is taken to hold."""
    low, high = 0, most + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def checked_tolerance(tolerance: float) -> float:
    """Return `tolerance`, or raise ValueError if it is negative or not finite."""
    if not math.isfinite(tolerance) or tolerance < 0:
        raise ValueError(f"tolerance={tolerance!r}; it must be a finite share ≥ 0 by which the loss may grow.")
    return float(tolerance)


def finite_loss(loss_fn: Callable[[nn.Module], float], model: nn.Module) -> float:
    """Return the loss before anything is zeroed, or raise ValueError if it is not a finite number."""
    loss = float(loss_fn(model))
    if not math.isfinite(loss):
        raise ValueError(f"loss_fn returned {loss} for the model as it is; it must be a finite validation loss.")
    return loss


@torch.no_grad()
def zero(
    model: nn.Module,
    chosen: Mapping[str, Tensor],
    units: Units,
    *,
    shift: Literal["keep", "drop", "mean"] = "keep",
    optimizer: Optimizer | None = None,
    inputs: Tensor | None = None,
) -> None:
    """Set the chosen units to zero in place: incoming weights, γ, the bias in front of it; running mean 0, variance 1.

    A zeroed unit emits a constant. Which one, `shift` says: the shift is β of its BatchNorm, and the bias of a layer
    that no BatchNorm follows. A scale that `bound_batchnorm` bounds is 0 from then on, held by its mask; its unit
    emits 0.

    Parameters
    ----------
    model : nn.Module
        The network that `units` were made from, or one of the same layers.
    chosen : mapping of str to Tensor
        {group name: bool (units,)}, True = prune.
    units : Units
        From `pruning_lib.find_units(model, example)`.
    shift : {"keep", "drop", "mean"}
        Leave the shift, set it to 0, or set it so that the unit emits its mean over `inputs` (for activations that
        return a positive number as it is, such as ReLU; checked).
    optimizer : Optimizer, optional
        Momentum and other state of the zeroed weights is cleared, so that the next step does not move them.
    inputs : Tensor, optional
        Examples for ``shift="mean"``.

    Raises
    ------
    ValueError
        If a group or layer does not exist, a mask has the wrong shape, every unit of a layer without a bypass would go,
        or ``shift="mean"`` cannot be reached. Nothing is changed then.
    """
    if shift not in ("keep", "drop", "mean"):
        raise ValueError(f"shift={shift!r} is unknown; choose 'keep', 'drop' or 'mean'.")
    layers = _checked_layers(model, chosen, units, reading=shift == "mean")
    if shift == "mean":
        if inputs is None:
            raise ValueError("zero got shift='mean' without inputs; pass examples to take each unit's mean over.")
        means = _emissions(model, units, chosen, inputs)
    affected = {id(p): p for layer in layers.values() for p in (*layer.parameters(), *layer.buffers())}
    before = [(tensor, tensor.clone()) for tensor in affected.values()] if shift == "mean" else []
    try:
        for name, gone in chosen.items():
            constants = means[name] if shift == "mean" else None
            _zero_group(layers, units[name], gone.cpu(), shift, constants, None if before else optimizer)
        if shift == "mean":
            _check_means(means, _emissions(model, units, chosen, inputs), chosen)  # type: ignore[arg-type]
    except ValueError:
        for tensor, old in before:
            tensor.copy_(old)
        raise
    for name, gone in chosen.items() if before else ():  # nothing can fail any more
        _zero_group(layers, units[name], gone.cpu(), shift, means[name], optimizer)


def _checked_layers(
    model: nn.Module, chosen: Mapping[str, Tensor], units: Units, *, reading: bool
) -> dict[str, nn.Module]:
    """Return the modules of the chosen groups by name, after every check that can fail."""
    layers: dict[str, nn.Module] = {}
    for name, gone in chosen.items():
        if not isinstance(gone, Tensor):
            raise TypeError(f"the choice for '{name}' is a {type(gone).__name__}; it must be a bool tensor.")
        if name not in units:
            units.translate(name)
            raise ValueError(f"'{name}' writes the group '{units.translate(name)}'; choose units by that name.")
        group = units[name]
        if gone.dtype != torch.bool or gone.shape != (group.size,):
            raise ValueError(
                f"the choice for '{name}' is {gone.dtype} {tuple(gone.shape)}; it must be bool ({group.size},)."
            )
        if gone.all() and not group.bypassed:
            raise ValueError(
                f"all {group.size} units of '{name}' were chosen and nothing bypasses it: no input would reach the "
                "output. Keep at least one."
            )
        modules = fitting(model, [group], "zero", reading=reading)
        layers |= {member.layer: modules[member.layer] for member in (*group.writers, *group.norms, *group.readers)}
        written = {member.layer: modules[member.layer] for member in (*group.writers, *group.norms)}
        check_plain({layer: module for layer, module in written.items() if bounded_scale(module) is None}, "zero")
    return layers


def _zero_group(
    layers: Mapping[str, nn.Module],
    group: Group,
    gone: Tensor,
    shift: str,
    constants: Tensor | None,
    optimizer: Optimizer | None,
) -> None:
    """Zero the units `gone` of one group."""

    def set_shift(parameter: Tensor | None, index: Tensor, mask: Tensor) -> None:
        if constants is not None:
            values = constants[index.clamp(min=0)]
            if parameter is None and values[mask].any():
                raise ValueError(
                    f"shift='mean' needs a bias or β behind '{group.name}'; it has none. Use shift='keep'; nothing was "
                    "changed."
                )
            _fill(parameter, mask, values, optimizer)
        elif shift == "drop":
            _fill(parameter, mask, 0.0, optimizer)

    for member in group.writers:
        layer, mask = layers[member.layer], _at(member.index, gone)
        assert isinstance(layer, Weighted)
        shape = [1] * layer.weight.ndim
        shape[unit_axis(layer)] = -1
        _fill(layer.weight, mask.view(shape), 0.0, optimizer)
        if group.norms and not member.exposed:
            _fill(layer.bias, mask, 0.0, optimizer)
        else:
            set_shift(layer.bias, member.index, mask)
    for member in group.norms:
        norm, mask = layers[member.layer], _at(member.index, gone)
        assert isinstance(norm, BatchNorm)
        bounded = bounded_scale(norm)
        _fill(norm.weight if bounded is None else bounded[0], mask, 0.0, optimizer)
        if bounded is not None:  # σ(γ) is never 0
            bounded[1].logical_or_(mask.to(bounded[1].device))
        _fill(norm.running_mean, mask, 0.0, None)
        _fill(norm.running_var, mask, 1.0, None)
        set_shift(norm.bias, member.index, mask)


def _at(index: Tensor, gone: Tensor) -> Tensor:
    """Return which channels of a layer belong to the units `gone`."""
    return (index >= 0) & gone[index.clamp(min=0)]


def _fill(parameter: Tensor | None, mask: Tensor, value: Tensor | float, optimizer: Optimizer | None) -> None:
    """Set `parameter` to `value` where `mask` (broadcast) is True, and the optimizer's state for it to 0."""
    if parameter is None:
        return
    mask = mask.to(parameter.device)
    parameter.copy_(torch.where(mask, torch.as_tensor(value).to(parameter), parameter))
    for state in (optimizer.state.get(parameter, {}) if optimizer else {}).values():
        if isinstance(state, Tensor) and state.shape == parameter.shape:
            state.masked_fill_(mask, 0.0)


def _emissions(model: nn.Module, units: Units, chosen: Mapping[str, Tensor], inputs: Tensor) -> dict[str, Tensor]:
    """Return {group: (units,)}: the mean of what the group's first reader receives, in eval mode."""
    modules = dict(unwrapped(model).named_modules())
    found: dict[str, Tensor] = {}

    def watch(group: Group) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(module: nn.Module, arguments: tuple[Any, ...]) -> None:
            value = arguments[0].detach().double()
            axis = -1 if isinstance(module, nn.Linear) else 1
            channels = value.movedim(axis, -1).flatten(0, -2).mean(0)
            found[group.name] = unit_mean(channels, group.readers[0].index.to(channels.device), group.size)

        return hook

    watched = [units[name] for name in chosen if units[name].readers]
    handles = [modules[group.readers[0].layer].register_forward_pre_hook(watch(group)) for group in watched]
    training = {module: module.training for module in model.modules()}
    try:
        model.eval()
        model(inputs)
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in training.items():
            module.training = mode
    if unread := [group.name for group in watched if group.name not in found]:
        raise ValueError(
            f"shift='mean' saw no layer read the units of '{unread[0]}': its weight is used without its module. Use "
            "shift='keep'; nothing was changed."
        )
    return {name: found.get(name, torch.zeros(units[name].size)).cpu() for name in chosen}


def _check_means(wanted: Mapping[str, Tensor], got: Mapping[str, Tensor], chosen: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless the zeroed units emit the constants they were to emit."""
    for name, gone in chosen.items():
        gap = (wanted[name] - got[name])[gone.cpu()].abs()
        scale = 1 + wanted[name].abs().max()
        if len(gap) and gap.max() > 1e-4 * scale:
            raise ValueError(
                f"shift='mean' missed the mean of a unit of '{name}' by {gap.max():.2g}: its activation does not "
                "return a positive number as it is, or several layers shift it. Use shift='keep'; nothing was changed."
            )


def iterative(
    model: nn.Module,
    units: Units,
    importance: Callable[[nn.Module], Mapping[str, Tensor]],
    train: Callable[[nn.Module], object],
    *,
    rounds: int,
    fraction: float | None = None,
    macs: int | None = None,
    shift: Literal["keep", "drop"] = "keep",
    optimizer: Optimizer | None = None,
    **options: Any,
) -> Chosen:
    """Prune in rounds: judge the units, zero the least important, hold them there, train. One round is one-shot.

    Every round leaves the same share of what the one before it left, of units or of multiply-adds: after r of R rounds
    (1 − fraction)^(r/R). What is gone stays gone, whatever is judged later.

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
    fraction, macs : optional
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
    """
    if not (rounds >= 1 and rounds == int(rounds)):
        raise ValueError(f"iterative got rounds={rounds}; it needs at least 1, a whole number; 1 is one-shot pruning.")
    if (fraction is None) == (macs is None):
        raise ValueError("iterative needs exactly one of fraction and macs: what the last round reaches.")
    bounds = {
        name: options.get(name, default) for name, default in (("floor", 1), ("round_to", 1), ("scope", "global"))
    }
    _check_targets(fraction, macs, None, None, None, **bounds)
    full = sum(units.macs.values())
    gone: Chosen = {}
    for done in (r / rounds for r in range(1, int(rounds) + 1)):
        scores = _by_group(importance(model), units, frozenset(("inner", "stream")))
        for name, mask in gone.items():
            if name in scores:
                scores[name][mask] = -math.inf
        target = {"fraction": 1 - (1 - fraction) ** done} if fraction is not None else {}
        target |= {"macs": round(full * (macs / full) ** done)} if macs is not None else {}
        gone = select(scores, units, **target, **options)
        zero(model, gone, units, shift=shift, optimizer=optimizer)
        held = hold(model, optimizer)
        try:
            train(model)
        finally:
            held.remove()
    return gone


@torch.no_grad()
def threshold_weights(
    model: nn.Module,
    loss_fn: Callable[[nn.Module], float],
    tolerance: float,
    *,
    optimizer: Optimizer | None = None,
) -> float:
    """Zero every small weight and bias that the validation loss can spare; SeReNe's thresholding step.

    One threshold T for all trainable linear and convolution layers, found by bisection over the sorted magnitudes: the
    loss at T is ≤ (1 + tolerance) · loss before, that at the next magnitude is not (arXiv 2102.03773; derived in
    `serene`). The released code bisects T itself between guessed brackets, and stops while the losses still differ.

    Parameters
    ----------
    model : nn.Module
        Changed in place: |w| < T becomes 0.
    loss_fn : callable
        model → validation loss, a float.
    tolerance : float
        ≥ 0, the share by which the loss may grow.
    optimizer : Optimizer, optional
        Its state for the zeroed weights is cleared.

    Returns
    -------
    float
        T; 0.0 where nothing could be spared.

    Raises
    ------
    ValueError
        If `tolerance` is negative, the loss is not finite, or there is no layer. Nothing is changed then, nor if
        `loss_fn` raises.
    """
    layers = weighted(model)
    check_plain(layers, "threshold_weights")
    found = [tensor for layer in layers.values() for tensor in (layer.weight, layer.bias) if tensor is not None]
    tensors = [tensor for tensor in found if tensor.requires_grad]
    if not tensors:
        raise ValueError(f"threshold_weights found no linear or convolution layer to train in {type(model).__name__}.")
    limit = (1 + checked_tolerance(tolerance)) * finite_loss(loss_fn, model)
    before = [tensor.clone() for tensor in tensors]
    magnitudes = torch.cat([tensor.abs().flatten().float() for tensor in before])
    steps = torch.unique(magnitudes[magnitudes > 0])  # sorted

    def apply(count: int) -> float:
        """Zero what lies below the `count`-th magnitude (all of them at the end)."""
        limit_ = steps[count].item() if count < len(steps) else math.inf
        for tensor, old in zip(tensors, before, strict=True):
            torch.where(old.abs().float() < limit_, torch.zeros_like(old), old, out=tensor)
        return limit_

    def holds(count: int) -> bool:
        apply(count)
        return float(loss_fn(model)) <= limit

    try:
        count = _largest(holds, len(steps))
    except BaseException:
        apply(0)
        raise
    threshold = apply(count)
    for tensor in tensors:
        _fill(tensor, tensor == 0, 0.0, optimizer)
    return threshold if count else 0.0


class Hold:
    """Keeps zeros at zero; made by `hold`. `remove()` lets them go again."""

    def __init__(self, masks: list[tuple[Tensor, Tensor]], optimizer: Optimizer | None) -> None:
        self._masks = masks
        self._handles = [p.register_hook(_Masked(kept)) for p, kept in masks if p.requires_grad]  # type: ignore[no-untyped-call]
        if optimizer is not None:
            self._handles.append(optimizer.register_step_post_hook(lambda *_: self.apply()))

    @torch.no_grad()
    def apply(self) -> None:
        """Set the held weights to zero again."""
        for parameter, kept in self._masks:
            parameter.mul_(kept)

    def remove(self) -> None:
        """Release the zeros."""
        for handle in self._handles:
            handle.remove()


class _Masked:
    """A gradient hook that can be copied and pickled with its parameter."""

    def __init__(self, kept: Tensor) -> None:
        self.kept = kept

    def __call__(self, gradient: Tensor) -> Tensor:
        return gradient * self.kept


def hold(model: nn.Module, optimizer: Optimizer | None = None) -> Hold:
    """Hold what is exactly zero at zero through further training.

    Held are the zeros of linear and convolution weights and of BatchNorm's γ, and the bias of a unit all of whose
    incoming weights are zero, if it is zero too. Their gradient is masked; momentum that was not cleared, or an update
    that ignores gradients, would still move them, so pass the optimizer to have them zeroed after every step. Bounded
    scales that `zero` set to 0 hold themselves there, with or without this.

    Parameters
    ----------
    model : nn.Module
        Not changed.
    optimizer : Optimizer, optional
        Whose steps to follow.

    Returns
    -------
    Hold
        With `remove()`.
    """
    masks: list[tuple[Tensor, Tensor]] = []
    if optimizer is not None and not isinstance(optimizer, Optimizer):
        raise TypeError(
            f"hold got a {type(optimizer).__name__} for optimizer; it needs the torch.optim.Optimizer or None."
        )
    check_plain(weighted(model), "hold")
    for layer in weighted(model).values():
        masks.append((layer.weight, (layer.weight != 0).to(layer.weight.dtype)))
        if layer.bias is not None:
            dead = (rows(layer).flatten(1) == 0).all(1) & (layer.bias == 0)
            masks.append((layer.bias, (~dead).to(layer.bias.dtype)))
    norms = [module for module in model.modules() if isinstance(module, BatchNorm) and module.affine]
    scales = [norm.weight for norm in norms if bounded_scale(norm) is None]
    masks += [(scale, (scale != 0).to(scale.dtype)) for scale in scales]
    return Hold(masks, optimizer)
