"""Norm penalties and four ways to apply them: L1, L2, group lasso; derived in the chapter `what-a-penalty-does`.

    L1           R = λ Σ_ij |w_ij|       ∂R/∂w = λ sign(w)        prox: w ← sign(w) max(|w| − ηλ, 0)
    L2           R = ½λ Σ_ij w_ij²       ∂R/∂w = λ w              prox: w ← w / (1 + ηλ)
    GroupLasso   R = λ Σ_i ‖w_i‖₂        ∂R/∂w_i = λ w_i / ‖w_i‖  prox: w_i ← w_i max(1 − ηλ / ‖w_i‖₂, 0)

w_i: the weights of unit i without bias, by default those that it reads. ∂R/∂w is 0 where w, or its group, is 0.

    "loss"       R joins the loss, and the optimizer steps along its slope with that of the data
    "gradient"   the same slope without the value, which costs a pass over the weights: penalty() returns 0
    "decay"      after the optimizer's step, w ← w − η ∂R/∂w
    "prox"       after the optimizer's step, the w that minimizes R + ‖w − w′‖²/2η from where it stands, w′

L1 and the group lasso reach exactly 0 by "prox" alone: the others step over 0, back and forth. η is each parameter's
own learning rate. With momentum or Adam, "decay" and "prox" are decoupled: their steps are those of plain gradient
descent, whatever preconditioner the gradient met.

"gradient" adds to `.grad` inside the backward pass, through the term that `penalty` returns. So it is scaled, unscaled
and skipped by a GradScaler with everything else, weighed under accumulation as the loss that it stands in, and reduced
by DistributedDataParallel. A hook on the parameters would see none of these factors, and would add R once a backward.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.optim import Optimizer

from pruning_lib.regularizers._base import (
    Regularizer,
    checked_choice,
    checked_strength,
    incoming_norms,
    learning_rates,
    regularized_layers,
    snap,
)
from pruning_lib.units import BatchNorm, Member, Units, Weighted, check_plain, fitting, unit_axis, unwrapped

Apply = Literal["loss", "gradient", "prox", "decay"]
Over = Literal["rows", "columns", "coupled"]


class WeightPenalty(Regularizer):
    """A function of weights whose slope is known, applied in one of the ways at the top of this file."""

    ways: tuple[str, ...] = ("loss", "gradient", "prox", "decay")

    def __init__(self, model: nn.Module, strength: float, apply: str, units: Units | None) -> None:
        self.strength = checked_strength(strength, self)
        self.apply = checked_choice(apply, "apply", self.ways)
        self._layers = regularized_layers(model, units, self, in_place=apply in ("prox", "decay"))
        self._penalized: list[Weighted | BatchNorm] = list(self._layers.values())

    def penalty(self, outputs: Tensor) -> Tensor:
        """Return R; 0 with the slope of R under ``apply="gradient"``; plain 0 where `update` applies it."""
        if self.apply in ("prox", "decay"):
            return outputs.new_zeros(())
        value: Tensor = _Term.apply(self, *(module.weight for module in self._penalized))
        return self.strength * value

    @torch.no_grad()
    def update(self, optimizer: Optimizer) -> None:
        """Take the step of ``apply="prox"`` or ``"decay"`` for every weight that `optimizer` trains."""
        if self.apply in ("loss", "gradient"):
            return
        rates = learning_rates(optimizer)
        weights = [module.weight for module in self._penalized]
        steps = [self.strength * rates.get(id(w), 0.0) if w.requires_grad else 0.0 for w in weights]
        if self.apply == "prox":
            self._prox(weights, steps)
        else:
            slopes = self._slopes(weights, self._lengths(weights), 1.0)
            for weight, slope, step in zip(weights, slopes, steps, strict=True):
                if step:
                    snap(weight.sub_(slope, alpha=step))

    def importance(self) -> dict[str, Tensor]:
        """Return {layer: ‖incoming weights‖₂}, shape (units,); a BatchNorm that follows divides it out."""
        return incoming_norms(self._layers)

    def _lengths(self, weights: list[Tensor]) -> list[Tensor]:
        """Return the lengths of groups that value and slopes are made of, if there are groups."""
        return []

    def _value(self, weights: list[Tensor], lengths: list[Tensor]) -> Tensor:
        """Return R/λ, a scalar."""
        raise NotImplementedError

    def _slopes(self, weights: list[Tensor], lengths: list[Tensor], factor: Tensor | float) -> Iterable[Tensor]:
        """Yield factor · ∂(R/λ)/∂w of each weight, in its shape."""
        raise NotImplementedError

    def _prox(self, weights: list[Tensor], steps: list[float]) -> None:
        """Apply the proximal map of R/λ, in place, with a step for each weight; 0 leaves it."""
        raise NotImplementedError


class _Term(torch.autograd.Function):
    """R/λ, or 0 in its place, with a slope that takes a pass over the weights where autograd would take several."""

    @staticmethod
    def forward(ctx: Any, method: WeightPenalty, *weights: Tensor) -> Tensor:
        lengths = method._lengths(list(weights))
        ctx.save_for_backward(*weights, *lengths)
        ctx.method, ctx.count = method, len(weights)
        return weights[0].new_zeros(()) if method.apply == "gradient" else method._value(list(weights), lengths)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor | None, ...]:
        weights, lengths = ctx.saved_tensors[: ctx.count], ctx.saved_tensors[ctx.count :]
        return None, *ctx.method._slopes(list(weights), list(lengths), factor)


class L1(WeightPenalty):
    """Pull every weight toward zero by the same amount: scattered zeros.

    Parameters
    ----------
    model : nn.Module
        All its linear and convolution weights are penalized, biases and normalizations are not.
    strength : float
        λ ≥ 0.
    apply : {"prox", "loss", "gradient", "decay"}
        Soft threshold after the step (exact zeros), or one of the ways at the top of this file that reach none.
    units : Units, optional
        Penalize only the writers of these units; leaves the output layer alone.

    Raises
    ------
    ValueError
        If `strength` is negative or not finite, `apply` is unknown, no layer is found, or a weight that is to be
        changed in place is computed from others.
    """

    def __init__(self, model: nn.Module, strength: float, *, apply: Apply = "prox", units: Units | None = None) -> None:
        super().__init__(model, strength, apply, units)

    def _value(self, weights: list[Tensor], lengths: list[Tensor]) -> Tensor:
        return torch.stack([weight.abs().sum() for weight in weights]).sum()

    def _slopes(self, weights: list[Tensor], lengths: list[Tensor], factor: Tensor | float) -> Iterable[Tensor]:
        return (weight.sign().mul_(factor) for weight in weights)

    def _prox(self, weights: list[Tensor], steps: list[float]) -> None:
        for weight, step in zip(weights, steps, strict=True):
            if step:
                weight.copy_(torch.nn.functional.softshrink(weight, step))


class L2(WeightPenalty):
    """Shrink every weight in proportion to itself: small weights everywhere, no zeros (½λ‖w‖², weight decay).

    Parameters
    ----------
    model : nn.Module
        All its linear and convolution weights are penalized, biases and normalizations are not.
    strength : float
        λ ≥ 0. Under plain SGD ``apply="loss"`` equals the optimizer's ``weight_decay=λ`` on the same weights.
    apply : {"loss", "gradient", "prox", "decay"}
        A term of the loss, or its gradient alone; w / (1 + ηλ) or, as in AdamW, w (1 − ηλ) after the step.
    units : Units, optional
        Penalize only the writers of these units.

    Raises
    ------
    ValueError
        If `strength` is negative or not finite, `apply` is unknown, no layer is found, or a weight that is to be
        changed in place is computed from others.
    """

    def __init__(self, model: nn.Module, strength: float, *, apply: Apply = "loss", units: Units | None = None) -> None:
        super().__init__(model, strength, apply, units)

    def _value(self, weights: list[Tensor], lengths: list[Tensor]) -> Tensor:
        return 0.5 * torch.stack([torch.linalg.vector_norm(weight) for weight in weights]).square().sum()

    def _slopes(self, weights: list[Tensor], lengths: list[Tensor], factor: Tensor | float) -> Iterable[Tensor]:
        return (weight * factor for weight in weights)

    def _prox(self, weights: list[Tensor], steps: list[float]) -> None:
        for weight, step in zip(weights, steps, strict=True):
            if step:
                snap(weight.div_(1 + step))


class GroupLasso(WeightPenalty):
    """Pull all weights of a unit toward zero as one vector: whole units go.

    Yuan & Lin (2006); for convolutions Wen et al. (2016). Every unit costs the same, whatever its number of weights.

    Parameters
    ----------
    model : nn.Module
        Its linear and convolution weights are penalized, biases are not.
    strength : float
        λ ≥ 0.
    apply : {"prox", "loss", "gradient", "decay"}
        Group soft threshold after the step (groups become exactly 0), or one of the ways that reach no zero.
    over : {"rows", "columns", "coupled"}
        What a group is. ``"rows"``: what one layer's unit reads, the row of its weight. ``"columns"``: what one layer
        reads from a unit; several channels behind a flatten are one group. ``"coupled"``: all that goes with the unit,
        as one group: its row in every layer that writes it, its scale γ in every BatchNorm of the group, its columns in
        every layer that reads it; no bias, no shift β. The weight between two units is then in the group of each.
    units : Units, optional
        Penalize only the writers of these units (the readers, for columns); required but for rows.

    Raises
    ------
    ValueError
        If `strength` is negative or not finite, a choice is unknown, no layer is found, `units` are missing or those of
        another model, or a weight that is to be changed in place is computed from others.

    Notes
    -----
    The proximal map is exact for every group, also where its parts have learning rates of their own, as γ may: each
    part then shrinks by n/(n + ηλ), with n the length that the group is left with. Coupled groups of neighbouring
    layers overlap, and are mapped one after another in the order of computation, which is the map of their sum up to
    terms of (ηλ)². What is frozen counts in the length of its group and stays, so that such a group does not go.
    """

    def __init__(
        self,
        model: nn.Module,
        strength: float,
        *,
        apply: Apply = "prox",
        over: Over = "rows",
        units: Units | None = None,
    ) -> None:
        self.over = checked_choice(over, "over", ("rows", "columns", "coupled"))
        if over != "rows" and units is None:
            raise ValueError(
                f"GroupLasso over {over} needs units=pruning_lib.find_units(model, example): they say who reads a unit."
            )
        super().__init__(model, strength, apply, units)
        if over == "rows" or units is None:
            self._blocks = [row_block(name, layer) for name, layer in self._layers.items()]
        else:
            self._blocks = unit_blocks(model, units, over, self, in_place=self.apply in ("prox", "decay"))
        self._penalized = list(dict.fromkeys(side.module for block in self._blocks for side in block.sides))
        self._place = {module: place for place, module in enumerate(self._penalized)}

    def importance(self) -> dict[str, Tensor]:
        """Return {layer: ‖incoming weights‖₂}; by group, the length of its units' columns, or of the coupled groups."""
        if self.over == "rows":
            return super().importance()
        weights = [module.weight.detach() for module in self._penalized]
        squares: dict[str, Tensor] = {}
        for block, length in zip(self._blocks, self._lengths(weights), strict=True):
            square = length.square()
            squares[block.name] = squares[block.name] + square if block.name in squares else square
        return {name: square.sqrt() for name, square in squares.items()}

    def _parts(self, block: Block, weights: list[Tensor]) -> list[Tensor]:
        """Return the lengths of the units' parts on each side of a block, each of shape (units,)."""
        return [side.lengths(weights[self._place[side.module]]) for side in block.sides]

    def _lengths(self, weights: list[Tensor]) -> list[Tensor]:
        return [block.length(self._parts(block, weights)) for block in self._blocks]

    def _value(self, weights: list[Tensor], lengths: list[Tensor]) -> Tensor:
        return torch.stack([length.sum() for length in lengths]).sum()

    def _slopes(self, weights: list[Tensor], lengths: list[Tensor], factor: Tensor | float) -> Iterable[Tensor]:
        divisors: dict[nn.Module, Tensor] = {}
        for block, length in zip(self._blocks, lengths, strict=True):
            # What is 0 has slope 0; what belongs to no unit is divided by infinity.
            divisor = torch.where(length > 0, length, 1)
            for side in block.sides:
                mine = side.spread(divisor, torch.inf, weights[self._place[side.module]])
                other = divisors.get(side.module)
                # A weight in two groups is pulled by both: w/a + w/b.
                divisors[side.module] = mine if other is None else 1 / (1 / mine + 1 / other)
        for module, weight in zip(self._penalized, weights, strict=True):
            slope = torch.empty_like(weight)
            torch.div(joined(module, weight), divisors[module], out=joined(module, slope))
            yield slope.mul_(factor)

    def _prox(self, weights: list[Tensor], steps: list[float]) -> None:
        for block in self._blocks:
            reaches = [steps[self._place[side.module]] for side in block.sides]
            shares = block.shares(self._parts(block, weights), reaches)
            for side, share, reach in zip(block.sides, shares, reaches, strict=True):
                if reach:
                    weight = weights[self._place[side.module]]
                    joined(side.module, weight).mul_(side.spread(share, 1.0, weight))
                    snap(weight)


@dataclass(frozen=True, eq=False)
class Side:
    """The part of some units in one module: its output channels (axis 1 of the `joined` weight) or inputs (axis 2).

    Parameters
    ----------
    module : linear, convolution or BatchNorm
    axis : {1, 2}
    unit : Tensor or None
        int64 (channels,): the unit of each channel, −1 for none; None where channel i is unit i.
    size : int
        Number of units.
    """

    module: Weighted | BatchNorm
    axis: Literal[1, 2]
    unit: Tensor | None
    size: int

    def lengths(self, weight: Tensor) -> Tensor:
        """Return ‖·‖₂ of each unit's part, shape (units,)."""
        view = joined(self.module, weight)
        if self.axis == 1:
            lengths: Tensor = torch.linalg.vector_norm(view, 2, list(range(2, view.ndim))).flatten()
        else:
            # Not a norm over two axes that are apart, which takes seven times as long.
            lengths = view.square().sum(1).unsqueeze(2).flatten(2).sum(2).sqrt().flatten()
        if self.unit is None:
            return lengths
        # What belongs to no unit is gathered in a last place.
        unit = self.unit.to(weight.device) % (self.size + 1)
        return lengths.new_zeros(self.size + 1).index_add_(0, unit, lengths.square())[:-1].sqrt()

    def spread(self, values: Tensor, other: float, weight: Tensor) -> Tensor:
        """Return each unit's value, and `other` for channels of none, in a shape that broadcasts over the weight."""
        if self.unit is not None:
            values = torch.cat([values, values.new_tensor([other])])[self.unit.to(values.device)]
        view = joined(self.module, weight)
        shape = [view.shape[0], *[1] * (view.ndim - 1)]
        shape[self.axis] = view.shape[self.axis]
        return values.view(shape)


@dataclass(frozen=True, eq=False)
class Block:
    """Groups of weights, one a unit; `name` is the layer or the group of units that they are listed under."""

    name: str
    sides: tuple[Side, ...]

    def length(self, parts: list[Tensor]) -> Tensor:
        """Return ‖·‖₂ of each group from those of its parts, shape (units,)."""
        return parts[0] if len(parts) == 1 else torch.stack(parts).square().sum(0).sqrt()

    def shares(self, parts: list[Tensor], reaches: list[float]) -> list[Tensor]:
        """Return what the proximal map leaves of each part, as factors of shape (units,).

        n/(n + r) of a part of reach r = ηλ, with n the group's length afterwards: Σ_k ‖v_k‖²/(n + r_k)² = 1.
        """
        if len(set(reaches)) == 1:
            # n = ‖v‖ − r. A group at 0 divides 0 by 0; it has to stay 0.
            length, reach = self.length(parts), reaches[0]
            return [torch.where(length > reach, 1 - reach / length, 0.0)] * len(parts)
        part = torch.stack(parts)
        reach_ = part.new_tensor(reaches).unsqueeze(1)
        # Each part alone asks for at least so much; Newton's method on 1/‖·‖, nearly a line, rises from there.
        n = (part - reach_).amax(0).clamp(min=1e-12)
        gone = torch.where(part > 0, part / reach_, 0.0).square().sum(0) <= 1
        for _ in range(8):
            ratio = part / (n + reach_)
            norm = ratio.square().sum(0).sqrt().clamp(min=1e-12)
            n = n + (norm - 1) * norm.square() / (ratio.square() / (n + reach_)).sum(0).clamp(min=1e-12)
        return list(torch.where(gone & (reach_ > 0), 0.0, n / (n + reach_)))


def joined(module: Weighted | BatchNorm, weight: Tensor) -> Tensor:
    """Return the module's weight as a view of shape (groups, outputs a group, inputs a group, …kernel)."""
    if isinstance(module, BatchNorm):
        return weight.view(1, -1, 1)
    groups = getattr(module, "groups", 1)
    view = weight.view(groups, -1, *weight.shape[1:])
    return view.transpose(1, 2) if unit_axis(module) else view


def row_block(name: str, layer: Weighted) -> Block:
    """Return the rows of one layer as groups."""
    return Block(name, (Side(layer, 1, None, layer.weight.shape[unit_axis(layer)]),))


def unit_blocks(model: nn.Module, units: Units, over: str, owner: object, *, in_place: bool) -> list[Block]:
    """Return the groups over columns (a block a reader) or the coupled ones (a block a group of units)."""
    modules = fitting(model, units.values(), f"{type(owner).__name__} over {over}", reading=True)

    def side(member: Member, axis: Literal[1, 2], size: int) -> Side:
        plain = torch.equal(member.index.cpu(), torch.arange(size))
        return Side(modules[member.layer], axis, None if plain else member.index, size)

    blocks = []
    for name, group in units.items():
        norms = tuple(member for member in group.norms if modules[member.layer].affine)
        outputs = () if over == "columns" else (*group.writers, *norms)
        if in_place:
            check_plain({m.layer: modules[m.layer] for m in (*outputs, *group.readers)}, type(owner).__name__)
        columns = [side(member, 2, group.size) for member in group.readers]
        if over == "columns":
            blocks += [Block(name, (column,)) for column in columns]
        else:
            blocks.append(Block(name, (*(side(member, 1, group.size) for member in outputs), *columns)))
    if not blocks:
        raise ValueError(
            f"{type(owner).__name__} over {over} found no layer that reads a unit in {type(unwrapped(model)).__name__}."
        )
    return blocks
