"""BatchNorm scales bounded to (0, 1) by a sigmoid, as receding neuron importances need them.

    p_i = α_i (x_i − μ_i) / √(σ_i² + ε)        α_i = σ(γ_i), exactly 0 where dead        no β

A parametrization of `norm.weight`: whoever reads the weight gets α, and the optimizer trains γ.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from pruning_lib._arguments import checked, optional
from pruning_lib.units import BatchNorm, bounded_scale, unwrapped


class BoundedScale(nn.Module):
    """The parametrization γ → σ(γ), exactly 0 where `dead`; `bound_batchnorm` puts it on every BatchNorm's weight.

    Attributes
    ----------
    dead : Tensor
        bool of shape (channels,), a buffer: `zero` sets it, checkpoints hold it, `shrink` cuts it.
    """

    dead: Tensor

    def __init__(self, like: Tensor) -> None:
        super().__init__()
        self.register_buffer("dead", torch.zeros(like.shape, dtype=torch.bool, device=like.device))

    def forward(self, gamma: Tensor) -> Tensor:
        """Return the scale, of the shape of γ."""
        return gamma.sigmoid().masked_fill(self.dead, 0.0)


@torch.no_grad()
def bound_batchnorm(model: nn.Module, *, generator: torch.Generator | None = None) -> None:
    """Bound the scale of every BatchNorm to (0, 1), in place: `weight` becomes σ(γ), γ ~ N(0, 1), without a shift β.

    For a network that is to be trained from here: scales and shifts that it had are lost, as in the paper, which
    replaces every BatchNorm. Call it before the optimizer is built, which would otherwise train with the old settings
    and state, and after a conversion to SyncBatchNorm, which cannot follow it. From then on whoever reads
    ``norm.weight`` gets the scale, and γ is ``norm.parametrizations.weight.original``.

    Parameters
    ----------
    model : nn.Module
        Its BatchNorms (1d, 2d, 3d, Sync) must have a scale of their own. Convert to SyncBatchNorm before, not after.
    generator : torch.Generator, optional
        Draws γ; by default torch's own, so that ``torch.manual_seed`` repeats it.

    Raises
    ------
    TypeError
        If `model` is not a module, or wrapped for distribution or compilation.
    ValueError
        If there is no BatchNorm, or one is bounded already, has no scale, no size yet, or a scale that is computed in
        another way. Nothing is changed then.

    Examples
    --------
    >>> import torch
    >>> import pruning_lib as prl
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.BatchNorm1d(16))
    >>> prl.bound_batchnorm(model)
    >>> scale = model[1].weight
    >>> bool(((scale > 0) & (scale < 1)).all()), model[1].bias
    (True, None)
    """
    checked("bound_batchnorm", model=model)
    optional("bound_batchnorm", generator=generator)
    if unwrapped(model) is not model:
        raise TypeError(f"bound_batchnorm got a {type(model).__name__}; bound the plain nn.Module, then wrap it.")
    norms = {name: module for name, module in model.named_modules() if isinstance(module, BatchNorm)}
    if not norms:
        raise ValueError(f"bound_batchnorm found no BatchNorm in {type(model).__name__}; it bounds their scales.")
    for name, norm in norms.items():
        _check_boundable(name, norm)
    for norm in norms.values():
        device = "cpu" if generator is None else generator.device
        norm.weight.copy_(torch.randn(norm.weight.shape, generator=generator, device=device))
        norm.register_parameter("bias", None)
        parametrize.register_parametrization(norm, "weight", BoundedScale(norm.weight))


def _check_boundable(name: str, norm: BatchNorm) -> None:
    if bounded_scale(norm) is not None:
        raise ValueError(f"'{name}' is bounded already; bound_batchnorm is called once a model. Nothing was changed.")
    scale = norm._parameters.get("weight")
    if scale is None and not norm.affine:
        raise ValueError(f"'{name}' has no scale to bound; build it with affine=True. Nothing was changed.")
    if scale is None:
        raise ValueError(f"The scale of '{name}' is computed from others; make it plain first. Nothing was changed.")
    if is_lazy(scale):
        raise ValueError(f"'{name}' has no size yet; run the model on a batch first. Nothing was changed.")


def unbind_batchnorm(model: nn.Module) -> None:
    """Fold bounded scales into plain BatchNorms, in place: weight = σ(γ), 0 where dead, and β = 0; outputs stay equal.

    For the end, when others are to load or export the network: `RecedingNeurons` no longer applies, and an optimizer
    must be built anew. `shrink` first: in further training the β of a dead channel would bring it back as a constant.

    Raises
    ------
    ValueError
        If no BatchNorm is bounded.

    Examples
    --------
    >>> import torch
    >>> import pruning_lib as prl
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.BatchNorm1d(16))
    >>> prl.bound_batchnorm(model)
    >>> prl.unbind_batchnorm(model)
    >>> [name for name, _ in model[1].named_parameters()]
    ['weight', 'bias']
    """
    checked("unbind_batchnorm", model=model)
    for norm in bounded_norms(model).values():
        scale = norm.weight.detach()
        trained = next(norm.parameters()).requires_grad
        # Not remove_parametrizations: it deletes the property from a class that copies of this BatchNorm share.
        norm.__class__ = parametrize.type_before_parametrizations(norm)
        del norm.parametrizations, norm.bias
        norm.weight = nn.Parameter(scale, requires_grad=trained)
        norm.bias = nn.Parameter(torch.zeros_like(scale), requires_grad=trained)


def bounded_norms(model: nn.Module) -> dict[str, BatchNorm]:
    """Return the bounded BatchNorms by name, or raise ValueError if there is none."""
    modules = unwrapped(model).named_modules()
    norms = {name: module for name, module in modules if isinstance(module, BatchNorm)}
    bounded = {name: norm for name, norm in norms.items() if bounded_scale(norm) is not None}
    if not bounded:
        raise ValueError(f"No BatchNorm of {type(model).__name__} is bounded; call bound_batchnorm(model) first.")
    return bounded
