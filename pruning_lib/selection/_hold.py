"""Holding zeros: what is exactly zero stays zero through further training."""

from __future__ import annotations

from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pruning_lib._arguments import checked, optional
from pruning_lib._model import check_same_model
from pruning_lib.units import BatchNorm, Weighted, bounded_scale, check_plain, is_layer, rows, weighted


class Hold:
    """Keeps zeros at zero, as `hold` starts it; `remove()` releases them.

    Examples
    --------
    >>> import torch
    >>> import pruning_lib as prl
    >>> layer = torch.nn.Linear(2, 1, bias=False)
    >>> _ = layer.weight.detach().copy_(torch.tensor([[0.0, 1.0]]))
    >>> held = prl.hold(layer)
    >>> _ = layer.weight.detach().add_(0.5)
    >>> held.apply()
    >>> layer.weight.detach()
    tensor([[0.0000, 1.5000]])
    >>> held.remove()
    """

    def __init__(self, masks: list[tuple[Tensor, Tensor]], optimizer: Optimizer | None) -> None:
        self._masks = masks
        self._handles = [p.register_hook(_Masked(living)) for p, living in masks if p.requires_grad]  # type: ignore[no-untyped-call]
        if optimizer is not None:
            self._handles.append(optimizer.register_step_post_hook(lambda *_: self.apply()))

    @torch.no_grad()
    def apply(self) -> None:
        """Set the held weights to zero again."""
        for parameter, living in self._masks:
            parameter.mul_(living)

    def remove(self) -> None:
        """Release the zeros."""
        for handle in self._handles:
            handle.remove()


class _Masked:
    """A hook that masks a gradient on its way.

    A fresh copy: in place it would change what another parameter got, or the caller, where both share the memory.
    """

    def __init__(self, living: Tensor) -> None:
        self.living = living

    def __call__(self, gradient: Tensor) -> Tensor:
        return gradient * self.living


def hold(model: nn.Module, optimizer: Optimizer | None = None) -> Hold:
    """Hold what is exactly zero at zero through further training.

    Held are the zeros of linear and convolution weights and of BatchNorm's γ, and the bias of a unit all of whose
    incoming weights are zero, if it is zero too. Their gradient is masked; momentum that was not cleared, or an update
    that ignores gradients, would still move them, so pass the optimizer to have them zeroed after every step. Bounded
    scales that `zero` set to 0 hold themselves there, with or without this. The zeros of embeddings and of other
    parameters with more than one axis, as positions, are held too, unless all of it is 0.

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

    Examples
    --------
    >>> import torch
    >>> import pruning_lib as prl
    >>> layer = torch.nn.Linear(2, 1, bias=False)
    >>> _ = layer.weight.detach().copy_(torch.tensor([[0.0, 1.0]]))
    >>> optimizer = torch.optim.SGD(layer.parameters(), lr=0.5)
    >>> held = prl.hold(layer, optimizer)
    >>> layer(torch.ones(1, 2)).sum().backward()
    >>> optimizer.step()
    >>> layer.weight.detach()
    tensor([[0.0000, 0.5000]])
    """
    masks: list[tuple[Tensor, Tensor]] = []
    checked("hold", model=model)
    optional("hold", optimizer=optimizer)
    check_same_model("hold", model, optimizer=optimizer)
    layers = {**weighted(model), **{name: module for name, module in model.named_modules() if _written(module)}}
    check_plain(layers, "hold")
    for layer in layers.values():
        masks.append((layer.weight, (layer.weight != 0).to(layer.weight.dtype)))
        bias = getattr(layer, "bias", None)
        if bias is not None:
            dead = (rows(layer).flatten(1) == 0).all(1) & (bias == 0)
            masks.append((bias, (~dead).to(bias.dtype)))
    norms = [module for module in model.modules() if isinstance(module, BatchNorm) and module.affine]
    scales = [norm.weight for norm in norms if bounded_scale(norm) is None]
    masks += [(scale, (scale != 0).to(scale.dtype)) for scale in scales]
    held = {id(parameter) for parameter, _ in masks}
    for table in model.parameters():
        # One that is 0 as a whole is waiting to be learned.
        if id(table) not in held and table.ndim > 1 and bool(table.any()):
            masks.append((table, (table != 0).to(table.dtype)))
    return Hold(masks, optimizer)


def _written(module: nn.Module) -> TypeGuard[Weighted]:
    """Whether a module is a layer that somebody wrote."""
    return is_layer(module) and not isinstance(module, Weighted)
