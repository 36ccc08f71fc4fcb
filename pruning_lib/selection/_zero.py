"""Zeroing: the chosen units emit a constant from then on; what may then be removed is for `shrink` to say."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pruning_lib._arguments import checked, numbered, one_of, optional
from pruning_lib._inputs import Inputs, batches
from pruning_lib._model import check_same_model, eval_mode, first_read, run
from pruning_lib.selection._scores import unit_mean
from pruning_lib.units import (
    BatchNorm,
    Group,
    Units,
    bounded_scale,
    check_plain,
    fitting,
    is_layer,
    unit_axis,
    unwrapped,
)


@torch.no_grad()
def zero(
    model: nn.Module,
    chosen: Mapping[str, Tensor],
    units: Units,
    *,
    shift: Literal["keep", "drop", "mean"] = "keep",
    optimizer: Optimizer | None = None,
    inputs: Any = None,
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
    inputs : Tensor or iterable of batches, optional
        Examples for ``shift="mean"``: (samples, …), or batches as a DataLoader gives them, whose labels are not needed.

    Raises
    ------
    TypeError, ValueError
        If a group or layer does not exist, a mask has the wrong shape, every unit of a layer without a bypass would go,
        the optimizer holds nothing of the model, or ``shift="mean"`` cannot be reached, as with data that are empty or
        not finite. Nothing is changed then.

    Examples
    --------
    >>> import torch
    >>> import pruning_lib as prl
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU(), torch.nn.Linear(2, 1))
    >>> units = prl.find_units(model, torch.zeros(1, 2))
    >>> prl.zero(model, {"0": torch.tensor([True, False])}, units)
    >>> (model[0].weight == 0).all(1)
    tensor([ True, False])
    """
    one_of(shift, "shift", ("keep", "drop", "mean"))
    checked("zero", model=model, chosen=chosen, units=units)
    optional("zero", optimizer=optimizer)
    check_same_model("zero", model, optimizer=optimizer)
    layers = _checked_layers(model, chosen, units, reading=shift == "mean")
    if shift == "mean":
        if inputs is None:
            raise ValueError("zero got shift='mean' without inputs; pass examples to take each unit's mean over.")
        inputs = [batch.inputs for batch in batches(inputs)]  # read once: they are needed again
        means = _emissions(model, units, chosen, inputs)
        if unknown := [name for name, mean in means.items() if not bool(mean.isfinite().all())]:
            raise ValueError(
                f"shift='mean' found means of '{unknown[0]}' that are NaN or infinite: look at the data and at the "
                "weights. Nothing was changed."
            )
    affected = {id(p): p for layer in layers.values() for p in (*layer.parameters(), *layer.buffers())}
    before = [(tensor, tensor.clone()) for tensor in affected.values()] if shift == "mean" else []
    try:
        for name, mask in chosen.items():
            constants = means[name] if shift == "mean" else None
            _zero_group(layers, units[name], mask.cpu(), shift, constants, None if before else optimizer)
        if shift == "mean":
            _check_means(means, _emissions(model, units, chosen, inputs), chosen)
    except BaseException:
        for tensor, old in before:
            tensor.copy_(old)
        raise
    for name, mask in chosen.items() if before else ():  # nothing can fail any more
        _zero_group(layers, units[name], mask.cpu(), shift, means[name], optimizer)


def _checked_layers(
    model: nn.Module, chosen: Mapping[str, Tensor], units: Units, *, reading: bool
) -> dict[str, nn.Module]:
    """Return the modules of the chosen groups by name, after every check that can fail."""
    layers: dict[str, nn.Module] = {}
    for name, mask in chosen.items():
        if not numbered(mask):
            raise TypeError(f"the choice for '{name}' is a {type(mask).__name__}; it must be a bool tensor.")
        if name not in units:
            units.translate(name)
            raise ValueError(f"'{name}' writes the group '{units.translate(name)}'; choose units by that name.")
        group = units[name]
        if mask.dtype != torch.bool or mask.shape != (group.size,):
            raise ValueError(
                f"the choice for '{name}' is {mask.dtype} {tuple(mask.shape)}; it must be bool ({group.size},)."
            )
        if mask.all() and not group.bypassed:
            raise ValueError(
                f"all {group.size} units of '{name}' were chosen and nothing bypasses it: no input would reach the "
                "output. Keep at least one."
            )
        modules = fitting(model, [group], "zero", reading=reading)
        layers |= {member.layer: modules[member.layer] for member in (*group.writers, *group.norms, *group.readers)}
        owners = {table.parameter.rpartition(".")[0] for table in group.tables}
        layers |= {owner: modules[owner] for owner in owners}
        written = {member.layer: modules[member.layer] for member in (*group.writers, *group.norms)}
        check_plain({layer: module for layer, module in written.items() if bounded_scale(module) is None}, "zero")
    return layers


def _zero_group(
    layers: Mapping[str, nn.Module],
    group: Group,
    pruned: Tensor,
    shift: str,
    constants: Tensor | None,
    optimizer: Optimizer | None,
) -> None:
    """Zero the units `pruned` of one group."""

    def set_shift(parameter: Tensor | None, index: Tensor, mask: Tensor) -> None:
        if constants is not None:
            values = constants[index.clamp(min=0)]
            if parameter is None and values[mask].any():
                raise ValueError(
                    f"shift='mean' needs a bias or β behind '{group.name}'; it has none. Use shift='keep'; nothing was "
                    "changed."
                )
            fill(parameter, mask, values, optimizer)
        elif shift == "drop":
            fill(parameter, mask, 0.0, optimizer)

    for member in group.writers:
        layer, mask = layers[member.layer], _at(member.index, pruned)
        assert is_layer(layer)
        bias = getattr(layer, "bias", None)
        fill(layer.weight, _along(mask, layer.weight, unit_axis(layer)), 0.0, optimizer)
        if group.norms and not member.exposed:
            fill(bias, mask, 0.0, optimizer)
        else:
            set_shift(bias, member.index, mask)
    for table in group.tables:
        if not (table.shift and shift == "keep"):
            owner, _, attribute = table.parameter.rpartition(".")
            parameter = getattr(layers[owner], attribute)  # a buffer, where statistics are fixed
            fill(parameter, _along(_at(table.index, pruned), parameter, table.axis), 0.0, optimizer)
    for member in group.norms:
        norm, mask = layers[member.layer], _at(member.index, pruned)
        assert isinstance(norm, BatchNorm)
        _zero_scale(norm, mask, optimizer)
        set_shift(norm.bias, member.index, mask)


def _zero_scale(norm: BatchNorm, mask: Tensor, optimizer: Optimizer | None) -> None:
    """Set the scale of the masked channels to 0, and their statistics to those of a constant 0 of variance 1."""
    bounded = bounded_scale(norm)
    fill(norm.weight if bounded is None else bounded[0], mask, 0.0, optimizer)
    if bounded is not None:  # σ(γ) is never 0
        bounded[1].logical_or_(mask.to(bounded[1].device))
    fill(norm.running_mean, mask, 0.0, None)
    fill(norm.running_var, mask, 1.0, None)


def _along(mask: Tensor, parameter: Tensor, axis: int) -> Tensor:
    """Return the mask with its channels along one axis of the parameter."""
    return mask.view([-1 if i == axis % parameter.ndim else 1 for i in range(parameter.ndim)])


def _at(index: Tensor, pruned: Tensor) -> Tensor:
    """Return which channels of a layer belong to the units `pruned`."""
    return (index >= 0) & pruned[index.clamp(min=0)]


def fill(parameter: Tensor | None, mask: Tensor, value: Tensor | float, optimizer: Optimizer | None) -> None:
    """Set `parameter` to `value` where `mask` (broadcast) is True, and the optimizer's state for it to 0."""
    if parameter is None:
        return
    mask = mask.to(parameter.device)
    parameter.copy_(torch.where(mask, torch.as_tensor(value).to(parameter), parameter))
    for state in (optimizer.state.get(parameter, {}) if optimizer else {}).values():
        if isinstance(state, Tensor) and state.shape == parameter.shape:
            state.masked_fill_(mask, 0.0)


def _emissions(
    model: nn.Module, units: Units, chosen: Mapping[str, Tensor], inputs: Sequence[Inputs]
) -> dict[str, Tensor]:
    """Return {group: (units,)}: the mean of what the group's first reader receives, in eval mode."""
    modules = dict(unwrapped(model).named_modules())
    samples = sum(batch.batch for batch in inputs)
    means: dict[str, Tensor] = {}
    weight = 0.0  # of the batch that runs

    def watch(group: Group) -> Callable[..., None]:
        def hook(module: nn.Module, *called: Any) -> None:
            value = first_read(module, *called).detach().double()
            assert is_layer(module)
            axis = -1 if module.weight.ndim == 2 else 1
            channels = value.movedim(axis, -1).flatten(0, -2).mean(0)
            mean = unit_mean(channels, group.readers[0].index.to(channels.device), group.size)
            means[group.name] = means.get(group.name, 0) + weight * mean

        return hook

    watched = [units[name] for name in chosen if units[name].readers]
    handles = [
        modules[group.readers[0].layer].register_forward_pre_hook(watch(group), with_kwargs=True) for group in watched
    ]
    try:
        with eval_mode(model):
            for batch in inputs:
                weight = batch.batch / samples
                run(model, batch.to(model), "zero")
    finally:
        for handle in handles:
            handle.remove()
    if unread := [group.name for group in watched if group.name not in means]:
        raise ValueError(
            f"shift='mean' saw no layer read the units of '{unread[0]}': its weight is used without its module. Use "
            "shift='keep'; nothing was changed."
        )
    return {name: means.get(name, torch.zeros(units[name].size)).cpu() for name in chosen}


def _check_means(wanted: Mapping[str, Tensor], got: Mapping[str, Tensor], chosen: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless the zeroed units emit the constants they were to emit."""
    for name, mask in chosen.items():
        gap = (wanted[name] - got[name])[mask.cpu()].abs()
        scale = 1 + wanted[name].abs().max()
        if len(gap) and gap.max() > 1e-4 * scale:
            raise ValueError(
                f"shift='mean' missed the mean of a unit of '{name}' by {gap.max():.2g}: its activation does not "
                "return a positive number as it is, or several layers shift it. Use shift='keep'; nothing was changed."
            )
