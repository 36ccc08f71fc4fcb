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

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from pruning_lib._arguments import checked, numbers, one_of, said
from pruning_lib.regularizers._base import incoming_norms, snap
from pruning_lib.regularizers._group_lasso import GroupLasso
from pruning_lib.regularizers._groups import Axis, Side, viewed
from pruning_lib.regularizers._l1 import L1
from pruning_lib.regularizers._l2 import L2
from pruning_lib.regularizers._weights import WeightPenalty
from pruning_lib.units import Member, Units, Weighted, check_plain, fitting, grouped_view, rows

Guidance = Callable[[Tensor], Tensor]
"""i/n in (0, 1] of every unit → its guidance, ≥ 0, up to a factor."""

GUIDANCES: dict[str, Guidance] = {
    "constant": torch.ones_like,
    "linear": lambda x: x,
    "quadratic": lambda x: x.square(),
    "exponential": lambda x: torch.exp(3 * x),
    "step": lambda x: (x > 0.5).to(x.dtype),
}
DEFAULT_APPLY: dict[type, Literal["loss", "prox"]] = {L1: "prox", L2: "loss", GroupLasso: "prox"}
AXES: dict[str, tuple[Axis, ...]] = {"incoming": (1,), "outgoing": (2,), "both": (1, 2)}


class Guided(WeightPenalty):
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

    Examples
    --------
    >>> import torch
    >>> import pruning_lib as prl
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.ReLU(), torch.nn.Linear(4, 3))
    >>> units = prl.find_units(model, torch.zeros(1, 8))
    >>> prl.Guided(model, strength=1e-4, guidance="step", units=units).guidance["0"].tolist()
    [0.0, 0.0, 2.0, 2.0]
    """

    ways = ("loss", "prox")

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
        if not any(base is each for each in DEFAULT_APPLY):
            raise TypeError(f"Guided got {said('base', base)}; it guides the classes L1, L2 and GroupLasso.")
        if units is None:
            raise ValueError("Guided needs units=pruning_lib.find_units(model, example): they say which units can go.")
        self.side = one_of(side, "side", AXES)
        super().__init__(model, strength, DEFAULT_APPLY[base] if apply is None else apply, units)
        self.base = base
        self.guidance = _normalized(guidance, units)
        # `importance` is of the layers that write units; those that read them may be penalized instead.
        self._writers = self._layers
        self._layers, self._parts = _parts(model, units, self.guidance, self.side)
        self._penalized = list(self._layers.values())
        if self.apply == "prox":
            check_plain(self._layers, "Guided")

    def importance(self) -> dict[str, Tensor]:
        """Return {layer: ‖incoming weights‖₂}, shape (units,)."""
        return incoming_norms(self._writers)

    @torch.no_grad()
    def distance(self) -> dict[str, Tensor]:
        """Return the lengths of the rows over their g under the group lasso, and the largest |w| over g under L1."""
        parts = {name: part for name, (part, *_) in zip(self._layers, self._parts, strict=True)}
        even = all(bool(part.g.all()) for part in parts.values())
        if self.base is L2 or self.side != "incoming" or not even:
            return super().distance()
        power: Literal[2] | float = 2 if self.base is GroupLasso else torch.inf
        lengths = {name: rows(layer).flatten(1).norm(power, dim=1) for name, layer in self._layers.items()}
        return {name: length / parts[name].g.to(length) for name, length in lengths.items()}

    def _lengths(self, weights: list[Tensor]) -> list[Tensor]:
        if self.base is not GroupLasso:
            return []
        return [part.side.norms(weight) for weight, parts in zip(weights, self._parts, strict=True) for part in parts]

    def _value(self, weights: list[Tensor], lengths: list[Tensor]) -> Tensor:
        # Not g @ norms: autocast would take a matrix product to a short dtype.
        if self.base is GroupLasso:
            every = [part for parts in self._parts for part in parts]
            return torch.stack([(part.g.to(n) * n).sum() for part, n in zip(every, lengths, strict=True)]).sum()
        power: Literal[1, 2] = 1 if self.base is L1 else 2
        values = [
            torch.stack([(part.g.to(weight) * part.side.norms(weight, power) ** power).sum() for part in parts]).mean()
            for weight, parts in zip(weights, self._parts, strict=True)
        ]
        return torch.stack(values).sum() / power

    def _slopes(self, weights: list[Tensor], lengths: list[Tensor], factor: Tensor | float) -> Iterable[Tensor]:
        length = iter(lengths)
        for module, weight, parts in zip(self._penalized, weights, self._parts, strict=True):
            if self.base is GroupLasso:
                pulls = [part.pull(weight, next(length), factor) for part in parts]
                yield pulls[0] if len(pulls) == 1 else pulls[0] + pulls[1]
            else:
                share = factor * _mean([part.spread(part.g, weight) for part in parts])
                yield viewed(torch.mul, module, weight.sign() if self.base is L1 else weight, share)

    def _prox(self, weights: list[Tensor], steps: list[float]) -> None:
        for module, weight, parts, step in zip(self._penalized, weights, self._parts, steps, strict=True):
            view = grouped_view(module, weight)
            if not step:
                continue
            if self.base is L1:
                reach = _mean([part.spread(step * part.g, weight) for part in parts])
                view.sub_(view.clamp(-reach, reach))
            elif self.base is L2:
                view.div_(_mean([part.spread(1 + step * part.g, weight) for part in parts]))
                snap(weight)
            else:
                for part in parts:
                    view.mul_(part.spread(part.left(weight, step), weight))
                snap(weight)


@dataclass(frozen=True, eq=False)
class _Part:
    """One side of a layer and its guidance, float64 of shape (groups,).

    A group is an output channel, or all input channels that hold one unit, as behind a flatten.
    """

    side: Side
    g: Tensor

    def spread(self, values: Tensor, weight: Tensor) -> Tensor:
        """Return one value a group in a shape that broadcasts over the grouped view."""
        return self.side.spread(values.to(weight), 1.0, weight)

    def pull(self, weight: Tensor, length: Tensor, factor: Tensor | float) -> Tensor:
        """Return factor · g w / ‖w‖₂ of every group, 0 in a group of zeros, in the shape of the weight."""
        direction = viewed(torch.div, self.side.module, weight, self.spread(torch.where(length > 0, length, 1), weight))
        grouped_view(self.side.module, direction).mul_(factor * self.spread(self.g, weight))
        return direction

    def left(self, weight: Tensor, step: float) -> Tensor:
        """Return what the group's soft threshold leaves of it, a factor of shape (groups,)."""
        length, reach = self.side.norms(weight), (step * self.g).to(weight)
        # A group at 0 divides 0 by 0; it has to stay 0.
        return torch.where(length > reach, 1 - reach / length, 0.0)


def _mean(shares: list[Tensor]) -> Tensor:
    """Return the mean over one side, or over both."""
    return shares[0] if len(shares) == 1 else (shares[0] + shares[1]) / 2


def _normalized(guidance: str | Guidance | Mapping[str, Tensor], units: Units) -> dict[str, Tensor]:
    """Return {group: g with mean 1}, or raise one sentence if this is not a guidance of these units."""
    checked("Guided", guidance=guidance)
    by_group = _by_name(guidance, units) if isinstance(guidance, Mapping) else _by_family(guidance, units)
    for name, g in by_group.items():
        size = units[name].size
        if g.shape != (size,):
            raise ValueError(f"guidance of '{name}' has shape {tuple(g.shape)}; it needs one value a unit, ({size},).")
        if not bool(((g >= 0) & g.isfinite()).all()) or not bool(g.any()):
            raise ValueError(
                f"guidance of '{name}' must be finite, nowhere negative and not all 0; only its shape counts."
            )
    return {name: g / g.mean() for name, g in by_group.items()}


def _by_name(guidance: Mapping[str, Tensor], units: Units) -> dict[str, Tensor]:
    """Return a user's guidance by group, float64 on the CPU."""
    given = {
        units.translate(name): numbers(g, f"guidance of '{name}'").to("cpu", torch.float64)
        for name, g in guidance.items()
    }
    if missing := sorted(units.keys() - given.keys()):
        raise ValueError(f"guidance leaves out '{missing[0]}'; give every group a tensor of shape (units,).")
    return given


def _by_family(guidance: str | Guidance, units: Units) -> dict[str, Tensor]:
    """Return a function of i/n, or the named one, by group."""
    if isinstance(guidance, str):
        guidance = GUIDANCES[one_of(guidance, "guidance", GUIDANCES)]
    shares = {name: torch.arange(1, group.size + 1, dtype=torch.float64) / group.size for name, group in units.items()}
    return {name: numbers(guidance(share), f"guidance of '{name}'") for name, share in shares.items()}


def _parts(
    model: nn.Module, units: Units, guidance: Mapping[str, Tensor], side: str
) -> tuple[dict[str, Weighted], list[list[_Part]]]:
    """Return the layers that write or read the units, and the guided sides of each."""
    modules = fitting(model, units.values(), "Guided", reading=side != "incoming")
    parts: dict[str, list[_Part]] = {}
    for axis in AXES[side]:
        members: dict[str, list[tuple[Tensor, Member]]] = {}
        for name, group in units.items():
            for member in group.writers if axis == 1 else group.readers:
                members.setdefault(member.layer, []).append((guidance[name], member))
        for layer, guided in members.items():
            parts.setdefault(layer, []).append(_part(modules[layer], axis, guided))
    return {name: modules[name] for name in parts}, list(parts.values())


def _part(module: Weighted, axis: Axis, members: list[tuple[Tensor, Member]]) -> _Part:
    """Join the members of all groups in one side of a layer; channels of no unit have g = 1 and stand alone."""
    channels = torch.arange(len(members[0][1].index))
    g, first = torch.ones(len(channels), dtype=torch.float64), channels.clone()
    for guidance, member in members:
        index = member.index.cpu()
        here = index >= 0
        g[here] = guidance[index[here]]
        if axis == 2:
            # Input channels of one unit are one group, and the first of them stands for it.
            earliest = torch.full((len(guidance),), len(channels)).scatter_reduce(
                0, index[here], channels[here], "amin"
            )
            first[here] = earliest[index[here]]
    firsts, group = torch.unique(first, return_inverse=True)
    alone = len(firsts) == len(channels)
    return _Part(Side(module, axis, None if alone else group, len(firsts)), g[firsts])
