"""Receding neuron importances (Suteu & Guo, 2022, arXiv 2204.06404), derived in the chapter `receding-neurons`.

    p_i = α_i (x_i − μ_i) / √(σ_i² + ε)        α_i = σ(γ_i) ∈ (0, 1): the importance of channel i; no β
    s_i = σ(γ_i + b)        R = λ Σ_i s_i (1 − log s_i)        ∂R/∂γ_i = −λ s_i (1 − s_i) log s_i ≥ 0

The pull fades both for important channels (s → 1) and for those already gone (s → 0): only the middle recedes. It is
largest, 0.26 λ, at γ_i + b = −1.18. The shift b is felt by the penalty alone; the forward pass uses σ(γ).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from pruning_lib.regularizers._base import Regularizer, checked_strength
from pruning_lib.regularizers._batchnorm import regularized_norms
from pruning_lib.units import BatchNorm, Units, bounded_scale, unwrapped


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


class RecedingNeurons(Regularizer):
    """Push bounded BatchNorm scales of unimportant channels toward zero, and leave important ones alone.

    Derived in the chapter `receding-neurons`.

    Parameters
    ----------
    model : nn.Module
        Its BatchNorm scales must be bounded: call `bound_batchnorm(model)` first.
    strength : float
        λ ≥ 0, the penalty's weight in the loss. The paper's code uses 1e-3 for VGG-16, 1e-4 for ResNet-56.
    shift : float
        b, where the pull is felt: it is largest at γ = −1.18 − b. 3.0 (the released code's default, used for VGG-16)
        attacks importances below 0.1; 0.0 (used for ResNet-56) pulls on nearly all. Prefer 3.0 where BatchNorms
        follow one another: see the notes.
    units : Units, optional
        Penalize only the BatchNorms of these units.

    Raises
    ------
    ValueError
        If `strength` is negative or not finite, `shift` is not finite, or no bounded BatchNorm is found.

    Notes
    -----
    Published: SGD with Nesterov momentum 0.9, ten times the learning rate for the scales and no weight decay on them
    (`receding_parameters`); then one shot, ``select(reg.importance(), units, fraction=0.5, floor=3)``, with
    ``kinds=("inner",)`` for a ResNet, `zero`, `shrink`, and training again without the penalty.

    Where another BatchNorm follows the next layer it undoes a factor common to all scales, so that a whole layer can
    recede together at no loss, wherever the pull is felt by its best channels. In the chapter's network on digits, with
    ``shift=0.0`` (λ = 0.1) both BatchNorms that another follows end below 0.1, best channels included; with
    ``shift=3.0`` (λ = 0.3) the best of each stay above 0.3. Ranks compare within a layer alone, and `floor` is what
    keeps one that has slid.
    """

    def __init__(self, model: nn.Module, strength: float, *, shift: float = 3.0, units: Units | None = None) -> None:
        self.strength = checked_strength(strength, self)
        self.shift = float(shift)
        if not torch.tensor(self.shift).isfinite():
            raise ValueError(f"RecedingNeurons got shift={shift!r}; it must be a finite number (3.0 or 0.0 published).")
        norms = regularized_norms(model, units, self)
        self._norms = {name: norm for name, norm in norms.items() if bounded_scale(norm) is not None}
        if not self._norms:
            raise ValueError(
                f"RecedingNeurons found no bounded BatchNorm in {type(unwrapped(model)).__name__}: call "
                "bound_batchnorm(model) first, before the optimizer is built."
            )

    def penalty(self, outputs: Tensor) -> Tensor:
        """Return R over the living channels, a scalar."""
        gamma, dead = _joined(self._norms)
        x = gamma + self.shift
        return self.strength * (x.sigmoid() * (1 - F.logsigmoid(x))).masked_fill(dead, 0.0).sum()

    def importance(self) -> dict[str, Tensor]:
        """Return {BatchNorm: α = σ(γ)}, shape (channels,); 0 where dead."""
        return {name: norm.weight.detach() for name, norm in self._norms.items()}


@torch.no_grad()
def bound_batchnorm(model: nn.Module, *, generator: torch.Generator | None = None) -> None:
    """Bound the scale of every BatchNorm to (0, 1), in place: `weight` becomes σ(γ), γ ~ N(0, 1), without a shift β.

    For a network that is to be trained from here: scales and shifts that it had are lost, as in the paper, which
    replaces every BatchNorm. Call it before the optimizer is built, which would else train with the old settings and
    state, and after a conversion to SyncBatchNorm, which cannot follow it. From then on ``norm.weight`` is the scale
    for whoever reads it, and γ is ``norm.parametrizations.weight.original``.

    Parameters
    ----------
    model : nn.Module
        Its BatchNorms (1d, 2d, 3d, Sync) must have a scale of their own. Convert to SyncBatchNorm before, not after.
    generator : torch.Generator, optional
        Draws γ; by default torch's own, so that ``torch.manual_seed`` repeats it.

    Raises
    ------
    TypeError
        If `model` is no module, or wrapped for distribution or compilation.
    ValueError
        If there is no BatchNorm, or one is bounded already, has no scale, no size yet, or a scale that is computed in
        another way. Nothing is changed then.
    """
    if not isinstance(model, nn.Module) or unwrapped(model) is not model:
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
    """
    for norm in _bounded(model).values():
        scale = norm.weight.detach()
        trained = next(norm.parameters()).requires_grad
        # Not remove_parametrizations: it deletes the property from a class that copies of this BatchNorm share.
        norm.__class__ = parametrize.type_before_parametrizations(norm)
        del norm.parametrizations, norm.bias
        norm.weight = nn.Parameter(scale, requires_grad=trained)
        norm.bias = nn.Parameter(torch.zeros_like(scale), requires_grad=trained)


def receding_parameters(model: nn.Module, lr: float, weight_decay: float = 1e-4) -> list[dict[str, Any]]:
    """Return the parameter groups of the paper's code: the scales at ten times the learning rate, without weight decay.

    ``SGD(receding_parameters(model, lr=0.1), lr=0.1, momentum=0.9, nesterov=True)`` is its optimizer.

    Parameters
    ----------
    model : nn.Module
        With bounded scales.
    lr : float
        Of everything else; 0.1 published.
    weight_decay : float
        Of everything else; 1e-4 published.

    Raises
    ------
    ValueError
        If no BatchNorm is bounded.
    """
    scales = [bounded[0] for norm in _bounded(model).values() if (bounded := bounded_scale(norm)) is not None]
    unique = {id(scale): scale for scale in scales}
    others = [parameter for parameter in model.parameters() if id(parameter) not in unique]
    return [
        {"params": others, "lr": lr, "weight_decay": weight_decay},
        {"params": list(unique.values()), "lr": 10 * lr, "weight_decay": 0.0},
    ]


def _bounded(model: nn.Module) -> dict[str, BatchNorm]:
    """Return the bounded BatchNorms by name, or raise ValueError if there is none."""
    modules = unwrapped(model).named_modules()
    norms = {name: module for name, module in modules if isinstance(module, BatchNorm)}
    found = {name: norm for name, norm in norms.items() if bounded_scale(norm) is not None}
    if not found:
        raise ValueError(f"No BatchNorm of {type(model).__name__} is bounded; call bound_batchnorm(model) first.")
    return found


def _joined(norms: dict[str, BatchNorm]) -> tuple[Tensor, Tensor]:
    """Return γ and the mask of dead channels of all BatchNorms, each as one vector: one chain of operators for all."""
    found = [bounded for norm in norms.values() if (bounded := bounded_scale(norm)) is not None]
    return torch.cat([gamma for gamma, _ in found]), torch.cat([dead for _, dead in found])
