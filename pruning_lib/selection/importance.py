"""SELECT: importances of units that need no penalty; compared in the chapter `choosing-what-to-zero`.

    magnitude    ‖w_i‖_p, or |γ_i|, or ‖w_i‖_p |γ_i| / √(v_i + ε), the row that is left once BatchNorm is folded away
    taylor       |∂L/∂z_i| at z_i = 1, where z_i multiplies what unit i emits: the loss moves by that when i goes
    random       U(0, 1)

and `fluctuation` and `wanda`, from what layers read; their formulas are in their file.

Each returns {group: (units,)}, higher = keep, as `select` takes it, by default the same share of every group, to a
fraction or to a budget: a network of uniform width.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pruning_lib._arguments import checked, one_of
from pruning_lib._inputs import Batch, batches
from pruning_lib._model import (
    at_least_float,
    before_batchnorm,
    check_outside_inference,
    eval_mode,
    first_name,
    first_read,
    loss_on,
)
from pruning_lib.selection._activations import fluctuation as fluctuation
from pruning_lib.selection._activations import wanda as wanda
from pruning_lib.selection._scores import unit_mean
from pruning_lib.units import BatchNorm, Member, Units, fitting, is_layer, rows, unwrapped


@torch.no_grad()
def magnitude(
    model: nn.Module,
    units: Units,
    *,
    norm: float = 2,
    of: Literal["weights", "scales", "folded"] = "weights",
) -> dict[str, Tensor]:
    """Return how large the weights of each unit are.

    Parameters
    ----------
    model : nn.Module
        The network that `units` were made from; not changed.
    units : Units
        From `pruning_lib.find_units(model, example)`.
    norm : float
        p ≥ 1 of ‖w_i‖_p, over the incoming weights without bias. 2, or 1 as in Li et al. (2017, arXiv 1608.08710).
    of : {"weights", "scales", "folded"}
        ‖w_i‖_p; |γ_i| of the BatchNorms (groups without one are left out, so they stay whole); or their product over
        the running deviation. BatchNorm divides by the length of a row, so that ‖w_i‖ alone then says little, as a
        warning says. To rank so on purpose, ``warnings.filterwarnings("ignore", message=".*BatchNorm divides")``.

    Returns
    -------
    dict of str to Tensor
        {group: (units,)}; a mean over the layers where several write or rescale a unit.

    Raises
    ------
    ValueError
        If `units` are another model's, `of` is unknown, `norm` is below 1, no group has a scale
        (``of="scales"``), or a BatchNorm keeps no running variance (``of="folded"``).

    Examples
    --------
    >>> import torch
    >>> import pruning_lib as prl
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1))
    >>> _ = model[0].weight.detach().copy_(torch.tensor([[3.0, 4.0], [0.0, 0.5], [0.0, 0.0]]))
    >>> prl.importance.magnitude(model, prl.find_units(model, torch.zeros(1, 2)))
    {'0': tensor([5.0000, 0.5000, 0.0000])}
    """
    checked("magnitude", model=model, units=units, norm=norm)
    one_of(of, "of", ("weights", "scales", "folded"))
    modules = fitting(model, units.values(), "magnitude")
    if of == "weights" and (layer := before_batchnorm(model, modules, units)):
        warnings.warn(
            f"magnitude(of='weights') ranks rows by their length, and behind '{layer}' a BatchNorm divides by it: "
            "rank by what is left once it is folded away, of='folded'.",
            stacklevel=3,
        )
    sizes: dict[str, Tensor] = {}
    for name, group in units.items():
        lengths = {m: rows(modules[m.layer]).flatten(1).norm(norm, dim=1) for m in group.writers}
        norms = [m for m in group.norms if modules[m.layer].affine or of == "folded"]
        scales = {m: _scale(modules[m.layer], m.layer, divide=of == "folded") for m in norms}
        if of != "scales":
            sizes[name] = _mean(lengths, group.size)
        if of != "weights" and scales:
            sizes[name] = sizes.get(name, 1) * _mean(scales, group.size)
    if not sizes and units:
        raise ValueError("magnitude(of='scales') found no group with a BatchNorm that has a scale; use of='weights'.")
    return sizes


def taylor(
    model: nn.Module,
    units: Units,
    data: Any,
    loss_fn: Callable[[Any, Any], Tensor] = F.cross_entropy,
    *,
    batch_size: int = 128,
) -> dict[str, Tensor]:
    """Return by how much the loss would move, to first order, without each unit (Molchanov et al., 2019, 1906.10771).

    This is the paper's gate, standing where layers read the unit, whoever wrote it. Behind a ReLU |∂L/∂z_i| is
    |Σ_j w_ij ∂L/∂w_ij + b_i ∂L/∂b_i| over the weights of a unit, or |γ_i ∂L/∂γ_i + β_i ∂L/∂β_i| with BatchNorm. The
    paper's other criterion, by weights, adds their squares instead, so that signs do not cancel.

    Parameters
    ----------
    model : nn.Module
        The network that `units` were made from. It runs in evaluation mode; weights, statistics, gradients and modes
        are then what they were. Frozen and computed weights make no difference.
    units : Units
        From `pruning_lib.find_units(model, example)`.
    data : (inputs, targets) or iterable of batches
        Training data: inputs (examples, …), or a mapping of them by forward's names, and targets (examples, …); or
        batches of both as a DataLoader gives them.
    loss_fn : callable
        Mean loss of (outputs, targets), a scalar. Outputs are what forward returns, or its ``.logits`` if it has some,
        as a network of Transformers; `loss_fn` takes apart what holds several tensors. Targets are the second of a
        pair, or the ``labels`` of a mapping, which forward does not get: a model that makes its inputs from them wants
        those inputs (``decoder_input_ids``) in the batch.
    batch_size : int
        Examples that one derivative is taken over, of data that come in one piece. Signs cancel within a batch, not
        between: the result is the root of the mean square over batches.

    Returns
    -------
    dict of str to Tensor
        {group: (units,)}, in units of the loss.

    Raises
    ------
    TypeError, ValueError
        If `units` are another model's, a reader is not a linear or convolution layer, `data` are empty or without
        targets, `batch_size` is below 1, a layer is read past its module, or a derivative is NaN or infinite.

    Examples
    --------
    The loss is the mean output, 2 · 1 + 0.5 · 3 + 1 · 0: without a unit it moves by that unit's term.

    >>> import torch
    >>> import pruning_lib as prl
    >>> model = torch.nn.Sequential(torch.nn.Linear(1, 3, bias=False), torch.nn.Linear(3, 1, bias=False))
    >>> _ = model[0].weight.detach().copy_(torch.tensor([[1.0], [3.0], [0.0]]))
    >>> _ = model[1].weight.detach().copy_(torch.tensor([[2.0, 0.5, 1.0]]))
    >>> x = torch.ones(4, 1)
    >>> units = prl.find_units(model, x)
    >>> prl.importance.taylor(model, units, (x, x), loss_fn=lambda outputs, targets: outputs.mean())
    {'0': tensor([2.0000, 1.5000, 0.0000])}
    """
    checked("taylor", model=model, units=units, loss_fn=loss_fn, batch_size=batch_size)
    check_outside_inference("taylor")
    modules = fitting(model, units.values(), "taylor", reading=True)
    model = unwrapped(model)
    count = 0
    like = next(model.parameters())
    gates = {name: torch.ones(group.size, device=like.device, dtype=like.dtype) for name, group in units.items()}
    # In half precision the square of a slope below 2e-4 is zero.
    squares = {name: torch.zeros_like(gate, dtype=at_least_float(like.dtype)) for name, gate in gates.items()}
    readers = [(name, member) for name, group in units.items() for member in group.readers]
    handles: list[Any] = []
    try:
        for name, member in readers:
            gate = gates[name].requires_grad_()
            hook = _gated(gate, member)
            handles.append(modules[member.layer].register_forward_pre_hook(hook, with_kwargs=True))
        with eval_mode(model):
            for batch in batches(data, int(batch_size)):
                count += batch.inputs.batch
                for name, slope in _slopes(model, gates, loss_fn, batch).items():
                    squares[name] += slope.to(squares[name].dtype).square() * batch.inputs.batch
    finally:
        for handle in handles:
            handle.remove()
    if unknown := [name for name, square in squares.items() if not bool(square.isfinite().all())]:
        raise ValueError(
            f"taylor found derivatives of '{unknown[0]}' that are NaN or infinite: look at the data, the "
            "weights and the loss."
        )
    return {name: (square / count).sqrt() for name, square in squares.items()}


def random(units: Units, seed: int = 0) -> dict[str, Tensor]:
    """Return numbers drawn evenly from [0, 1): what any other importance has to beat.

    Parameters
    ----------
    units : Units
        From `pruning_lib.find_units(model, example)`.
    seed : int
        The same seed gives the same numbers.

    Returns
    -------
    dict of str to Tensor
        {group: (units,)}.

    Examples
    --------
    >>> import torch
    >>> import pruning_lib as prl
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1))
    >>> units = prl.find_units(model, torch.zeros(1, 2))
    >>> first, again = prl.importance.random(units, seed=1), prl.importance.random(units, seed=1)
    >>> torch.equal(first["0"], again["0"]), first["0"].shape
    (True, torch.Size([3]))
    """
    checked("random", units=units, seed=seed)
    generator = torch.Generator().manual_seed(int(seed))
    return {name: torch.rand(group.size, generator=generator) for name, group in units.items()}


def _mean(values: dict[Member, Tensor], size: int) -> Tensor:
    """Return each unit's mean over the layers that know it, shape (units,)."""
    means = [unit_mean(value, member.index.to(value.device), size) for member, value in values.items()]
    return torch.stack(means).nanmean(0)


def _scale(norm: BatchNorm, name: str, *, divide: bool) -> Tensor:
    """Return |γ|, or |γ|/√(v + ε), of a BatchNorm, shape (channels,)."""
    if not divide:
        return norm.weight.abs()
    if norm.running_var is None:
        raise ValueError(f"magnitude(of='folded') needs the running variance of '{name}', which keeps none.")
    deviation = (norm.running_var + norm.eps).sqrt()
    return norm.weight.abs() / deviation if norm.affine else 1 / deviation


def _gated(gate: Tensor, member: Member) -> Callable[..., Any]:
    """Return a hook that multiplies a layer's input by the units' gates, whose values are 1."""

    def hook(layer: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        x = first_read(layer, arguments, keywords)
        assert is_layer(layer)
        index = member.index.to(x.device)
        # The gates alone carry a slope here, and 0 is added: the outputs stay what they are to the bit.
        factor = (index >= 0) * (gate - 1)[index.clamp(min=0)]
        trailing = layer.weight.ndim - 2
        gated = x + factor.view(-1, *[1] * trailing) * x.detach()
        if arguments:
            return (gated, *arguments[1:]), keywords
        return arguments, keywords | {first_name(layer, keywords): gated}

    return hook


@torch.enable_grad()
def _slopes(
    model: nn.Module, gates: dict[str, Tensor], loss_fn: Callable[[Any, Any], Tensor], batch: Batch
) -> dict[str, Tensor]:
    """Return ∂L/∂z of every gate that stands somewhere."""
    standing = {name: gate for name, gate in gates.items() if gate.requires_grad}
    if not standing:
        return {}
    loss = loss_on(model, batch, loss_fn, "taylor")
    if not loss.requires_grad:
        raise ValueError("taylor got a loss that does not depend on the outputs, so that it has no slope.")
    slopes = torch.autograd.grad(loss, list(standing.values()), allow_unused=True)
    for name, slope in zip(standing, slopes, strict=True):
        if slope is None:
            raise ValueError(f"taylor saw no layer read the units of '{name}'; a weight is used without its module.")
    return dict(zip(standing, slopes, strict=True))
