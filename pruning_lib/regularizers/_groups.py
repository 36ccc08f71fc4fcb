"""Groups of weights that live and die together: rows, columns, or all that goes with a unit.

A unit's weights lie in several modules, and in each along one axis of the weight's `grouped_view`, (groups, outputs a
group, inputs a group, …kernel): its outputs are axis 1, its inputs axis 2. `Side` is that part of a set of units in one
module; `Block` is all sides of the units, whose lengths are the groups' lengths.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pruning_lib._arguments import one_of
from pruning_lib.regularizers._weights import WeightPenalty
from pruning_lib.units import (
    BatchNorm,
    Group,
    Member,
    Units,
    Weighted,
    check_plain,
    fitting,
    grouped_view,
    unit_axis,
    unwrapped,
)

Axis = Literal[1, 2]


@dataclass(frozen=True, eq=False)
class Side:
    """The part of some units in one module: its output channels (axis 1 of the grouped view) or its inputs (axis 2).

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
    axis: Axis
    unit: Tensor | None
    size: int

    def norms(self, weight: Tensor, power: Literal[1, 2] = 2) -> Tensor:
        """Return ‖·‖_power of each unit's part of a weight, shape (units,)."""
        view = grouped_view(self.module, weight)
        if self.axis == 1:
            norms: Tensor = torch.linalg.vector_norm(view, power, list(range(2, view.ndim))).flatten()
        else:
            # Not a norm over two axes that are apart, which takes seven times as long.
            sizes = view.square() if power == 2 else view.abs()
            sums = sizes.sum(1).unsqueeze(2).flatten(2).sum(2).flatten()
            norms = sums.sqrt() if power == 2 else sums
        if self.unit is None:
            return norms
        # What belongs to no unit is gathered in a last place.
        unit = self.unit.to(weight.device) % (self.size + 1)
        sums = norms.new_zeros(self.size + 1).index_add_(0, unit, norms.square() if power == 2 else norms)[:-1]
        return sums.sqrt() if power == 2 else sums

    def spread(self, values: Tensor, other: float, weight: Tensor) -> Tensor:
        """Return each unit's value, and `other` for channels of none, in a shape that broadcasts over the view."""
        if self.unit is not None:
            values = torch.cat([values, values.new_tensor([other])])[self.unit.to(values.device)]
        view = grouped_view(self.module, weight)
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


def viewed(operator: Callable[..., Any], module: Weighted | BatchNorm, weight: Tensor, values: Tensor) -> Tensor:
    """Return ``operator(weight, values)`` in the shape of the weight; the values broadcast over its grouped view."""
    result = torch.empty_like(weight)
    operator(grouped_view(module, weight), values, out=grouped_view(module, result))
    return result


def row_block(name: str, layer: Weighted) -> Block:
    """Return the rows of one layer as groups."""
    return Block(name, (Side(layer, 1, None, layer.weight.shape[unit_axis(layer)]),))


def row_blocks(layers: Mapping[str, Weighted], units: Units | None) -> list[Block]:
    """Return the rows of layers as groups, and all rows of a head of attention, where units say so, as one group."""
    heads = [
        group
        for group in (units or {}).values()
        if group.kind == "heads" and all(bool((member.index >= 0).all()) for member in group.writers)
    ]
    written = {member.layer for group in heads for member in group.writers}
    blocks = [row_block(name, layer) for name, layer in layers.items() if name not in written]
    return blocks + [
        Block(group.name, tuple(_side(layers[member.layer], member, 1, group.size) for member in group.writers))
        for group in heads
    ]


def unit_blocks(
    model: nn.Module, units: Units, over: Literal["columns", "coupled"], owner: object, *, in_place: bool
) -> list[Block]:
    """Return the groups over columns (a block a reader) or the coupled ones (a block a group of units)."""
    who = f"{type(owner).__name__} over {over}"
    modules = fitting(model, units.values(), who, reading=True)
    blocks = []
    for name, group in units.items():
        outputs = () if over == "columns" else _outputs(group, modules)
        if in_place:
            check_plain({m.layer: modules[m.layer] for m in (*outputs, *group.readers)}, type(owner).__name__)
        columns = [_side(modules[member.layer], member, 2, group.size) for member in group.readers]
        if over == "columns":
            blocks += [Block(name, (column,)) for column in columns]
        else:
            rows = [_side(modules[member.layer], member, 1, group.size) for member in outputs]
            blocks.append(Block(name, (*rows, *columns)))
    if not blocks:
        raise ValueError(f"{who} found no layer that reads a unit in {type(unwrapped(model)).__name__}.")
    return blocks


def _outputs(group: Group, modules: dict[str, Any]) -> tuple[Member, ...]:
    """Return what writes the units and what scales them."""
    return (*group.writers, *(member for member in group.norms if modules[member.layer].affine))


def _side(module: Weighted | BatchNorm, member: Member, axis: Axis, size: int) -> Side:
    plain = torch.equal(member.index.cpu(), torch.arange(size))
    return Side(module, axis, None if plain else member.index, size)


class GroupPenalty(WeightPenalty):
    """A penalty on the lengths of groups: those of `over`, of which a subclass lists the choices that it takes."""

    choices: tuple[str, ...]

    def __init__(self, model: nn.Module, strength: float, apply: str, over: str, units: Units | None) -> None:
        self.over = one_of(over, "over", self.choices)
        if over != "rows" and units is None:
            name = type(self).__name__
            raise ValueError(
                f"{name} over {over} needs units=pruning_lib.find_units(model, example): they say who reads a unit."
            )
        super().__init__(model, strength, apply, units)
        in_place = self.apply in ("prox", "decay")
        self._blocks: list[Block] = []
        if over in ("rows", "both"):
            self._blocks += row_blocks(self._layers, units)
        if over in ("columns", "both") and units is not None:
            self._blocks += unit_blocks(model, units, "columns", self, in_place=in_place)
        if over == "coupled" and units is not None:
            self._blocks += unit_blocks(model, units, "coupled", self, in_place=in_place)
        self._penalized = list(dict.fromkeys(side.module for block in self._blocks for side in block.sides))
        self._place = {module: place for place, module in enumerate(self._penalized)}

    @property
    def overlapping(self) -> bool:
        """Whether a weight belongs to several groups, as the row of one unit and the column of another."""
        return sum(len(block.sides) for block in self._blocks) > len(self._penalized)

    def _parts(self, block: Block, weights: list[Tensor]) -> list[Tensor]:
        """Return the lengths of the units' parts on each side of a block, each of shape (units,)."""
        return [side.norms(weights[self._place[side.module]]) for side in block.sides]

    def _lengths(self, weights: list[Tensor]) -> list[Tensor]:
        return [block.length(self._parts(block, weights)) for block in self._blocks]
