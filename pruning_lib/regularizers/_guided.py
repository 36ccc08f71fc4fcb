"""Guided regularizers (Rafid & Sandu, 2023, arXiv 2305.18448): some units cost more; see `guided-regularizers`.

    R = λ Σ_n Σ_i g_i Ω(w_i)        Ω(w_i) = ‖w_i‖₁, ½‖w_i‖₂² or ‖w_i‖₂        g_i ≥ 0,  mean of g over a layer = 1

w_i: the weights of unit i, incoming, outgoing or both; g_i: the guidance, fixed before training and rising with the
index i, so that the last units go first and what is left stands together. With g = 1 it is L1, L2 or the group lasso.
The paper could not be read in full: this is a *reconstruction* from its abstract (units that cost more; guidance as a
prior over models; combination with structured penalties). The families of g, and their mean of 1, are ours.

As a prior. Training minimizes the mean loss of N examples plus R, so exp(−N R) is the prior of the weights: Laplace of
scale 1/(N λ g_i) for L1, normal of variance 1/(N λ g_i) for L2. What a unit has to explain before it is worth its
weights rises with i: of all networks with k units of one size the first k units are the most probable, and under
linear guidance the prior falls like exp(−a k²) where a constant one falls like exp(−a k). That is Occam's razor, and g
says what "simpler" means.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.optim import Optimizer

from pruning_lib.regularizers._base import Regularizer, checked_choice, learning_rates, snap
from pruning_lib.regularizers._norms import L1, L2, GroupLasso
from pruning_lib.units import Member, Units, Weighted, check_plain, fitting, unit_axis

Guidance = Callable[[Tensor], Tensor]
"""i/n in (0, 1] of every unit → its guidance, ≥ 0, up to a factor."""

GUIDANCES: dict[str, Guidance] = {
    "constant": torch.ones_like,
    "linear": lambda x: x,
    "quadratic": lambda x: x.square(),
    "exponential": lambda x: torch.exp(3 * x),
    "step": lambda x: (x > 0.5).to(x.dtype),
}


class Guided(Regularizer):
    """Penalize the units of each layer more, the higher their index: what remains stands together.

    Derived in the chapter `guided-regularizers`.

    Parameters
    ----------
    model : nn.Module
        Its linear and convolution weights that write or read the given units are penalized.
    strength : float
        λ ≥ 0, comparable with that of `base`: the guidance has mean 1 in every group.
    base : {L2, L1, GroupLasso}
        The class of the penalty that is guided; L2 is ½λ‖w‖².
    guidance : {"linear", "quadratic", "exponential", "step", "constant"}, callable or mapping of str to Tensor
        g as i/n, (i/n)², exp(3i/n), 𝟙[i > n/2] or 1, each over its mean; or a function of i/n; or {group: (units,)}.
    side : {"incoming", "outgoing", "both"}
        The weights that write a unit, that read it, or both. A weight between two guided units is weighed by the mean
        of their g; under the group lasso either side of a unit is a group of its own.
    apply : {"loss", "prox"}, optional
        As in `base`, whose default it takes. Under the group lasso on both sides the proximal map of the columns
        follows that of the rows, which is not quite that of their sum.
    units : Units
        From `pruning_lib.find_units(model, example)`. Required: only units that can go have an order to go in; without
        it the classes would be ranked too.

    Attributes
    ----------
    guidance : dict of str to Tensor
        {group: g}, float64 of shape (units,) and mean 1.

    Raises
    ------
    TypeError
        If `base` is another method.
    ValueError
        If `strength` is negative or not finite, a choice is unknown, `units` are missing or those of another model, the
        guidance is negative, not finite, all 0 or of the wrong length, or a proximal step meets a parametrized weight.

    Notes
    -----
    With constant guidance this is its base: on the incoming side ``base(model, strength, units=units)``.

    On digits dead units gather where g is high, but only ``"step"`` leaves them (nearly) contiguous: with the others,
    units that the loss needs stay alive among the dead.
    """

    def __init__(
        self,
        model: nn.Module,
        strength: float,
        *,
        base: type[L1] | type[L2] | type[GroupLasso] = L2,
        guidance: str | Guidance | Mapping[str, Tensor] = "linear",
        side: Literal["incoming", "outgoing", "both"] = "incoming",
        apply: Literal["loss", "prox"] | None = None,
        units: Units | None = None,
    ) -> None:
        if base not in (L1, L2, GroupLasso):
            raise TypeError(f"Guided got base={base!r}; it guides the classes L1, L2 and GroupLasso.")
        if units is None:
            raise ValueError("Guided needs units=pruning_lib.find_units(model, example): they say which units can go.")
        self.side = checked_choice(side, "side", ("incoming", "outgoing", "both"))
        if apply is not None:
            checked_choice(apply, "apply", ("loss", "prox"))
        plain = base(model, strength, units=units) if apply is None else base(model, strength, apply=apply, units=units)
        self.strength, self.apply, self.base = plain.strength, plain.apply, base
        self.guidance = _normalized(guidance, units)
        self._importance = plain.importance
        self._layers, self._parts = _parts(model, units, self.guidance, self.side)
        if self.apply == "prox":
            check_plain(self._layers, "Guided")

    def penalty(self, outputs: Tensor) -> Tensor:
        """Return R, or 0 where `update` applies it."""
        if self.apply == "prox":
            return outputs.new_zeros(())
        values = [_Penalty.apply(joined(layer), self, self._parts[name]) for name, layer in self._layers.items()]
        return self.strength * torch.stack(values).sum()

    @torch.no_grad()
    def update(self, optimizer: Optimizer) -> None:
        """Take the proximal step of every weight that `optimizer` trains, at its own learning rate."""
        if self.apply == "loss":
            return
        rates = learning_rates(optimizer)
        for name, layer in self._layers.items():
            if layer.weight.requires_grad and id(layer.weight) in rates:
                self._prox(joined(layer), self._parts[name], self.strength * rates[id(layer.weight)])

    def importance(self) -> dict[str, Tensor]:
        """Return {layer: ‖incoming weights‖₂}, shape (units,)."""
        return self._importance()

    def _value(self, weight: Tensor, parts: list[_Part]) -> Tensor:
        """Return R/λ of one layer."""
        # Not g @ norms: autocast would take a matrix product to a short dtype.
        if self.base is GroupLasso:
            return torch.stack([(part.g.to(weight) * part.lengths(weight)).sum() for part in parts]).sum()
        power = 1 if self.base is L1 else 2
        sums = [(part.g.to(weight) * part.norms(weight, power) ** power).sum() for part in parts]
        return torch.stack(sums).mean() / power

    def _slope(self, weight: Tensor, parts: list[_Part], factor: Tensor) -> Tensor:
        """Return factor · ∂(R/λ)/∂w of one layer; 0 where a norm has no slope."""
        if self.base is GroupLasso:
            pulls = [part.direction(weight).mul_(factor * part.spread(part.g, weight)) for part in parts]
            return pulls[0] if len(pulls) == 1 else pulls[0] + pulls[1]
        share = factor * _mean([part.spread(part.g, weight) for part in parts])
        return share * (weight.sign() if self.base is L1 else weight)

    def _prox(self, weight: Tensor, parts: list[_Part], step: float) -> None:
        """Apply the proximal map of `step` times R/λ, in place."""
        if self.base is L1:
            reach = _mean([part.spread(step * part.g, weight) for part in parts])
            weight.sub_(weight.clamp(-reach, reach))
        elif self.base is L2:
            weight.div_(_mean([part.spread(1 + step * part.g, weight) for part in parts]))
            snap(weight)
        else:
            for part in parts:
                length, reach = part.lengths(weight), (step * part.g).to(weight)
                # A group at 0 divides 0 by 0; it has to stay 0.
                scale = torch.where(length > reach, 1 - reach / length, 0.0)
                weight.mul_(part.spread(scale[part.first], weight))
            snap(weight)


class _Penalty(torch.autograd.Function):
    """R/λ of one layer, whose gradient takes a pass over the weights where autograd would take several."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, method: Guided, parts: list[_Part]) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.method, ctx.parts = method, parts
        return method._value(weight, parts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor, None, None]:
        return ctx.method._slope(*ctx.saved_tensors, ctx.parts, factor), None, None


@dataclass(frozen=True, eq=False)
class _Part:
    """One side of a layer: its output channels (axis 1 of the `joined` weight) or its input channels (axis 2).

    Input channels that hold the same unit, as behind a flatten, are one group, and the first of them stands for it.
    """

    axis: Literal[1, 2]
    g: Tensor  # float64 (channels,)
    first: Tensor  # int64 (channels,)

    def spread(self, values: Tensor, weight: Tensor) -> Tensor:
        """Return one value a channel in a shape that broadcasts over the `joined` weight."""
        shape = [weight.shape[0], *[1] * (weight.ndim - 1)]
        shape[self.axis] = weight.shape[self.axis]
        return values.to(weight).view(shape)

    def norms(self, weight: Tensor, power: int) -> Tensor:
        """Return ‖·‖_power of every channel, shape (channels,)."""
        others = [axis for axis in range(1, weight.ndim) if axis != self.axis]
        norms: Tensor = torch.linalg.vector_norm(weight, power, others)
        return norms.flatten()

    def lengths(self, weight: Tensor) -> Tensor:
        """Return ‖·‖₂ of every group at its first channel, 0 at the others, shape (channels,)."""
        norms = self.norms(weight, 2)
        if torch.equal(self.first, torch.arange(len(self.first))):
            return norms
        return torch.zeros_like(norms).index_add(0, self.first.to(norms.device), norms.square()).sqrt()

    def direction(self, weight: Tensor) -> Tensor:
        """Return each weight over the length of its group; 0 in a group of zeros."""
        length = self.lengths(weight)[self.first]
        return weight / self.spread(torch.where(length > 0, length, 1), weight)


def joined(layer: Weighted) -> Tensor:
    """Return the layer's weight as a view of shape (groups, outputs a group, inputs a group, …kernel)."""
    weight, groups = layer.weight, getattr(layer, "groups", 1)
    kernel = weight.shape[2:] or (1,)
    view = weight.view(groups, len(weight) // groups, weight.shape[1], *kernel)
    return view.transpose(1, 2) if unit_axis(layer) else view


def _mean(shares: list[Tensor]) -> Tensor:
    """Return the mean over one side, or over both."""
    return shares[0] if len(shares) == 1 else (shares[0] + shares[1]) / 2


def _normalized(guidance: str | Guidance | Mapping[str, Tensor], units: Units) -> dict[str, Tensor]:
    """Return {group: g with mean 1}, or raise ValueError if this is no guidance of these units."""
    if isinstance(guidance, Mapping):
        found = {
            units.translate(name): torch.as_tensor(g, dtype=torch.float64, device="cpu") for name, g in guidance.items()
        }
        if missing := sorted(units.keys() - found.keys()):
            raise ValueError(f"guidance leaves out '{missing[0]}'; give every group a tensor of shape (units,).")
    else:
        family = (
            GUIDANCES[checked_choice(guidance, "guidance", tuple(GUIDANCES))] if isinstance(guidance, str) else guidance
        )
        found = {
            name: family(torch.arange(1, group.size + 1, dtype=torch.float64) / group.size)
            for name, group in units.items()
        }
    for name, g in found.items():
        size = units[name].size
        if g.shape != (size,):
            raise ValueError(f"guidance of '{name}' has shape {tuple(g.shape)}; it needs one value a unit, ({size},).")
        if not bool(((g >= 0) & g.isfinite()).all()) or not bool(g.any()):
            raise ValueError(
                f"guidance of '{name}' must be finite, nowhere negative and not all 0; only its shape counts."
            )
    return {name: g / g.mean() for name, g in found.items()}


def _parts(
    model: nn.Module, units: Units, guidance: Mapping[str, Tensor], side: str
) -> tuple[dict[str, Weighted], dict[str, list[_Part]]]:
    """Return the layers that write or read the units, and the guided sides of each."""
    modules = fitting(model, units.values(), "Guided", reading=side != "incoming")
    parts: dict[str, list[_Part]] = {}
    axes: dict[str, tuple[Literal[1, 2], ...]] = {"incoming": (1,), "outgoing": (2,), "both": (1, 2)}
    for axis in axes[side]:
        members: dict[str, list[tuple[Tensor, Member]]] = {}
        for name, group in units.items():
            for member in group.writers if axis == 1 else group.readers:
                members.setdefault(member.layer, []).append((guidance[name], member))
        for layer, found in members.items():
            parts.setdefault(layer, []).append(_part(axis, found))
    return {name: modules[name] for name in parts}, parts


def _part(axis: Literal[1, 2], found: list[tuple[Tensor, Member]]) -> _Part:
    """Join the members of all groups in one side of a layer; channels of no unit have g = 1 and stand alone."""
    channels = torch.arange(len(found[0][1].index))
    g, first = torch.ones(len(channels), dtype=torch.float64), channels.clone()
    for guidance, member in found:
        index = member.index.cpu()
        here = index >= 0
        g[here] = guidance[index[here]]
        if axis == 2:
            earliest = torch.full((len(guidance),), len(channels)).scatter_reduce(
                0, index[here], channels[here], "amin"
            )
            first[here] = earliest[index[here]]
    return _Part(axis, g, first)
