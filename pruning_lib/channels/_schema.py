"""What was kept, as plain data: a `Plan`, and what one has to be before it cuts anything.

Everything that a plan can make a model do is bounded here: it can only cut what is there, and stand in for layers
that are there with no more channels than they had. Numbers are not looked at: `save` puts a checksum over them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, get_args, get_origin, get_type_hints

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from pruning_lib._arguments import checked
from pruning_lib._model import tensors_of
from pruning_lib.channels._constants import REPLACEABLE
from pruning_lib.channels._graph import PARAMETRIZED
from pruning_lib.channels._heads import NAMES
from pruning_lib.units import BatchNorm

FORMATS = (1, 2, 3, 4, 5)  # 2 has constants, 3 is accompanied by a checksum, 4 has attributes, 5 what they were


@dataclass(frozen=True)
class Plan:
    """How a network was made smaller.

    Parameters
    ----------
    model : str
        Class of the network.
    shapes : dict of str to list of int
        The dense shape of each tensor that was cut.
    kept : dict of str to dict of str to list of int
        For each tensor that was cut, the indices that stay along each axis that was cut.
    units : dict of str to list of int
        For each group, the units that stay.
    created : list of str
        Layers that got a bias, to hold constants that were removed in front of them.
    groups : dict of str to int
        Grouped convolutions and GroupNorms, and their new number of groups.
    blocks : dict of str to list of list of int
        For the weights of grouped convolutions, the indices that stay along axis 1, for each group that stays.
    constants : dict of str to int
        Layers that no input can change, and how many channels of constants stand in their place; negative where all
        of them are 0.
    attributes : dict of str to dict of str to int
        Modules that count their heads in attributes, and their new numbers.
    counted : dict of str to dict of str to int
        Every number of heads, or of filtered channels, that a module of the dense network holds in an attribute: no
        shape tells eight heads from four that are twice as wide.
    notes : list of str
        Why channels that carry nothing stayed.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> import pruning_lib as prl
    >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> with torch.no_grad():
    ...     _ = model[0].weight[1].zero_()
    >>> plan = prl.shrink(model, torch.ones(1, 2)).plan
    >>> plan.kept
    {'0.weight': {'0': [0, 2]}, '2.weight': {'1': [0, 2]}, '0.bias': {'0': [0, 2]}}
    >>> prl.Plan.from_json(plan.to_json()) == plan
    True
    """

    model: str
    shapes: dict[str, list[int]] = field(default_factory=dict)
    kept: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    units: dict[str, list[int]] = field(default_factory=dict)
    created: list[str] = field(default_factory=list)
    groups: dict[str, int] = field(default_factory=dict)
    blocks: dict[str, list[list[int]]] = field(default_factory=dict)
    constants: dict[str, int] = field(default_factory=dict)
    attributes: dict[str, dict[str, int]] = field(default_factory=dict)
    counted: dict[str, dict[str, int]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> str:
        """Return the plan as one line of JSON."""
        return json.dumps({"format": FORMATS[-1], **asdict(self)}, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read a plan; a TypeError or ValueError says what is wrong with it."""
        checked("Plan.from_json", text=text)
        plan = cls(**_parsed(text))
        if fault := next(_faults(plan), None):
            raise ValueError(f"{fault}.")
        return plan


def _parsed(text: str) -> dict[str, Any]:
    """Return the fields of a plan from its JSON, or raise ValueError if one of them is missing or of another type."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError("the plan is not what `save` writes: it is no JSON, or nested too deep.") from error
    hints = get_type_hints(Plan)
    if not isinstance(data, dict) or type(number := data.pop("format", None)) is not int or "model" not in data:
        raise ValueError("the plan is not what `save` writes: it names no format or no model.")
    if number not in FORMATS:
        raise ValueError(f"it has format {number % 10**6}, this version reads {', '.join(map(str, FORMATS))}.")
    for name, value in data.items():
        if name not in hints or not _is(value, hints[name]):
            raise ValueError(f"the plan is not what `save` writes: {quoted(name)} is unknown or of another type.")
    return data


def _is(value: object, hint: Any) -> bool:
    """Whether a value of JSON has a field's type; True is no int here."""
    inner = get_args(hint)
    if get_origin(hint) is dict:
        return isinstance(value, dict) and all(_is(item, inner[1]) for item in value.values())
    if get_origin(hint) is list:
        return isinstance(value, list) and all(_is(item, inner[0]) for item in value)
    return type(value) is hint


def quoted(name: str) -> str:
    """Return a name from a file for a message: on one line, and no longer than a name is."""
    return repr(name if len(name) <= 100 else f"{name[:100]}…")


def _faults(plan: Plan) -> Iterator[str]:
    """Say what is wrong with a plan, whatever it is for; each line relies on those before it."""
    for name in (*plan.kept, *plan.blocks):
        axes, blocks = plan.kept.get(name, {}), plan.blocks.get(name, [])
        if name not in plan.shapes:
            yield f"it cuts {quoted(name)} and does not say of which shape"
        sizes = {str(axis): size for axis, size in enumerate(plan.shapes[name])}
        cuts = [*axes.items(), *(("1", index) for index in blocks)]
        if not all(axis in sizes and _ascends(index, sizes[axis]) for axis, index in cuts):
            yield f"the indices kept of {quoted(name)} do not fit its shape"
        if blocks and "1" in axes:
            yield f"it cuts {quoted(name)} twice along one axis"
        if len({len(index) for index in blocks}) > 1:
            yield f"the groups of {quoted(name)} keep different numbers of channels"
    for name, index in plan.units.items():
        if index and not _ascends(index, index[-1] + 1):
            yield f"the units kept of {quoted(name)} are not in order"


def _ascends(index: Sequence[int], size: int) -> bool:
    return bool(index) and index == sorted(set(index)) and 0 <= index[0] <= index[-1] < size


def misfits(plan: Plan, model: nn.Module) -> Iterator[str]:
    """Say where a plan without faults was made for another network than `model`; each line relies on those before."""
    kind, modules = type(model).__name__, dict(model.named_modules())
    tensors = {name: tensor for name, _, _, tensor in tensors_of(model)}
    for name, shape in plan.shapes.items():
        if name not in tensors:
            yield f"the plan cuts {quoted(name)}, which {kind} does not have"
        if list(tensors[name].shape) != shape:
            yield f"{quoted(name)} has shape {list(tensors[name].shape)}, the plan was made for {str(shape)[:100]}"
    for layer in (*plan.created, *plan.groups, *plan.constants, *plan.attributes, *plan.counted):
        if layer not in modules:
            yield f"the plan changes {quoted(layer)}, which {kind} does not have"
    for layer in plan.created:
        weight = getattr(modules[layer], "weight", None)
        if not isinstance(weight, Tensor) or modules[layer]._parameters.get("bias", weight) is not None:
            yield f"the plan gives {quoted(layer)} a bias, which it has, or has no place for"
    for layer, count in plan.constants.items():
        module = modules[layer]
        if not layer or not isinstance(module, REPLACEABLE) or not 1 <= abs(count) <= channels_of(module):
            yield f"the plan replaces {quoted(layer)}, which cannot be replaced, or by more channels than it has"
    for layer, numbers in plan.attributes.items():
        for name, after in numbers.items():
            before = getattr(modules[layer], name, None) if name in NAMES else None
            if type(before) is not int or not 1 <= after <= before:
                said = f"{quoted(name)} of {quoted(layer)} to {str(after)[:20]}"
                yield f"the plan sets {said}, which counts neither heads nor channels"
    for layer, numbers in plan.counted.items():
        for name, was in numbers.items():
            now = getattr(modules[layer], name, None) if name in NAMES else None
            if now != was:
                yield f"{quoted(name)} of {quoted(layer)} is {str(now)[:20]}, the plan was made for {str(was)[:20]}"
    yield from _of_groups(plan, modules, tensors)


def channels_of(layer: Any) -> int:
    """Return how many channels a replaceable layer returns."""
    if isinstance(layer, nn.Linear):
        return layer.out_features
    return int(layer.num_features if isinstance(layer, BatchNorm) else layer.out_channels)


def _of_groups(plan: Plan, modules: Mapping[str, nn.Module], tensors: Mapping[str, Tensor]) -> Iterator[str]:
    """Say where numbers of groups are not those that the rows left of a grouped layer's tensors lie in."""
    for layer, after in plan.groups.items():
        before = _groups_and_rows(modules[layer])[0]
        if not 1 <= after <= before:
            yield f"the plan gives {quoted(layer)} {str(after)[:20]} groups, and it has {before}"
    first: dict[int, str] = {}  # the plan cuts a shared tensor under its first name
    blocks = dict(plan.blocks)
    for name, tensor in tensors.items():
        name, layer = first.setdefault(id(tensor), name), name.rpartition(".")[0].split(PARAMETRIZED)[0]
        before, rows = _groups_and_rows(modules[layer])
        if before < 2 or layer in plan.constants:
            continue
        after = plan.groups.get(layer, before)
        lie_in = Counter(i * before // rows for i in plan.kept.get(name, {}).get("0", range(rows)))
        uneven = tensor.shape[:1] == (rows,) and (len(lie_in) != after or len({*lie_in.values()}) > 1)
        if uneven or len(blocks.pop(name, range(after))) != after:
            yield f"what is kept of {quoted(name)} does not lie in {after} groups of one size"
    left = [name for name in blocks if name.rpartition(".")[0].split(PARAMETRIZED)[0] not in plan.constants]
    if left:
        yield f"the plan cuts {quoted(left[0])} by groups, and its layer has none"


def _groups_and_rows(layer: Any) -> tuple[int, int]:
    """Return the number of groups of a layer, and how long axis 0 of its tensors is where they lie along it."""
    if isinstance(layer, nn.GroupNorm):
        return layer.num_groups, layer.num_channels
    if isinstance(layer, _ConvNd):
        return layer.groups, layer.in_channels if layer.transposed else layer.out_channels
    groups = getattr(layer, "groups", 1)  # a layer of the user's own, whose weights may lie in any way
    return (groups, -1) if type(groups) is int else (1, -1)
