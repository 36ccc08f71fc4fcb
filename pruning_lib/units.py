"""The one vocabulary that every part of the library shares: what can be pruned, who writes it, who reads it.

Plain data. `pruning_lib.channels` traces a network and fills it; regularizers, `select` and `zero` only read it. It is
one long file because all rooms share its words, and read them together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils import parametrize

Kind = Literal["inner", "stream", "heads"]
Chosen = dict[str, Tensor]
"""Units by group: {group name: bool tensor of shape (units,)}, True = prune."""

Weighted = nn.Linear | _ConvNd
BatchNorm = _BatchNorm


def is_layer(module: nn.Module) -> TypeGuard[Weighted]:
    """Whether a module multiplies by a weight of units: a linear layer, a convolution, or one that somebody wrote.

    A layer of one's own passes a parameter ``weight`` to `torch.nn.functional.linear` or a convolution, or is Hugging
    Face's `Conv1D`. `find_units` lists it if that is what its forward does; its methods treat it as its like in torch.
    """
    weight = module._parameters.get("weight")
    own = weight is not None and weight.ndim > 1 and not isinstance(module, nn.Embedding | nn.EmbeddingBag)
    return isinstance(module, Weighted) or own


def inputs_first(module: nn.Module) -> bool:
    """Whether a layer is Hugging Face's `Conv1D`, which GPT-2 is made of: x W + b with a weight (inputs, outputs)."""
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf")


def unit_axis(layer: nn.Module) -> int:
    """Return the axis of the weight that counts the layer's units: 1 for a transposed convolution, else 0."""
    return 1 if isinstance(layer, _ConvTransposeNd) or inputs_first(layer) else 0


def rows(layer: Weighted) -> Tensor:
    """Return the layer's weight as a view of shape (units, …): row i holds what unit i reads.

    Parameters
    ----------
    layer : nn.Linear or convolution
        A transposed convolution must have one group; its output channels are brought to the front.
    """
    return layer.weight.transpose(0, unit_axis(layer))


def grouped_view(module: Weighted | BatchNorm, weight: Tensor) -> Tensor:
    """Return a weight as a view of shape (groups, outputs a group, inputs a group, …kernel), whatever its layer is.

    Parameters
    ----------
    module : linear, convolution or BatchNorm
        A scale of a BatchNorm becomes (1, channels, 1).
    weight : Tensor
        The module's weight, or another tensor of its shape.
    """
    if isinstance(module, BatchNorm):
        return weight.view(1, -1, 1)
    view = weight.view(getattr(module, "groups", 1), -1, *weight.shape[1:])
    # A transposed convolution has one group here, and its weight is (inputs, outputs, …kernel).
    return view.transpose(1, 2) if unit_axis(module) else view


def weighted(model: nn.Module, *, foreign: bool = False) -> dict[str, Weighted]:
    """Return the linear and convolution layers by name, in the order of registration; shared weights come once.

    With `foreign`, Hugging Face's `Conv1D`, too. Transposed convolutions in groups are left out: their weights have no
    axis that counts units.
    """
    seen: set[int] = set()
    layers: dict[str, Weighted] = {}
    for name, layer in model.named_modules():
        if not (isinstance(layer, Weighted) or (foreign and inputs_first(layer))) or in_groups(layer):
            continue
        # A weight that is computed (parametrized, masked) is a new tensor each time, and shared with nobody.
        own = layer._parameters.get("weight")
        if own is None or id(own) not in seen:
            seen.add(id(own))
            layers[name] = layer
    return layers


def in_groups(module: nn.Module) -> bool:
    """Whether a module is a transposed convolution in groups."""
    return isinstance(module, _ConvTransposeNd) and module.groups > 1


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the user's module inside `DataParallel`, `DistributedDataParallel` and `torch.compile`."""
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        return unwrapped(model.module)
    inner = getattr(model, "_orig_mod", None)
    return unwrapped(inner) if isinstance(inner, nn.Module) else model


def check_plain(layers: Mapping[str, nn.Module], what: str) -> None:
    """Raise ValueError if a weight is computed from others, so that changing it in place would change nothing."""
    for name, layer in layers.items():
        if layer._parameters.get("weight") is None and getattr(layer, "weight", None) is not None:
            raise ValueError(
                f"{what} changes weights in place, and that of '{name}' is computed from others; make it plain first "
                "(torch.nn.utils.parametrize.remove_parametrizations, torch.nn.utils.prune.remove)."
            )


def bounded_scale(norm: nn.Module) -> tuple[Tensor, Tensor] | None:
    """Return γ and the mask of the scales held at 0, both of shape (channels,), of a BatchNorm bounded by σ; else None.

    `pruning_lib.bound_batchnorm` bounds them. Their `weight` is computed: to zero a scale, set the mask.
    """
    if not parametrize.is_parametrized(norm, "weight"):
        return None
    computed: Any = norm.parametrizations
    dead = getattr(computed.weight[0], "dead", None)
    return None if dead is None else (computed.weight.original, dead)


@dataclass(frozen=True, eq=False)
class Member:
    """A layer's place in a group.

    Parameters
    ----------
    layer : str
        Module name, as in ``model.named_modules()``.
    index : Tensor
        int64 of shape (channels,): the unit that each channel of the layer belongs to, −1 where it belongs to none.
        For a writer or a normalization a channel is an output channel, for a reader an input channel; a linear layer
        behind a flatten reads each unit through as many channels as the map has pixels.
    exposed : bool
        Of a writer in a group with normalizations: whether some reader gets its bias past all of them, and past the
        depthwise layers of the group.

    Examples
    --------
    Behind the flatten of a map of 2 × 1 pixels a linear layer reads each of three channels twice.

    >>> import torch
    >>> from pruning_lib import Member
    >>> Member("fc1", torch.arange(3).repeat_interleave(2)).index
    tensor([0, 0, 1, 1, 2, 2])
    """

    layer: str
    index: Tensor
    exposed: bool = False


@dataclass(frozen=True, eq=False)
class Table:
    """A parameter's place in a group: an embedding, or what forward adds to a stream as it is.

    Parameters
    ----------
    parameter : str
        Its name, as in ``model.named_parameters()`` or ``model.named_buffers()``.
    axis : int
        The axis that counts channels.
    index : Tensor
        int64 of shape (channels,): the unit of each channel, −1 for none.
    shift : bool
        Whether it holds one number a channel, which `zero` treats as it treats a bias.
    """

    parameter: str
    axis: int
    index: Tensor
    shift: bool = False


@dataclass(frozen=True, eq=False)
class Group:
    """Units that live and die one by one: neurons of a linear layer, channels of a convolution or a residual stream.

    Parameters
    ----------
    name : str
        The first writer in the order of computation.
    size : int
        Number of units.
    kind : {"inner", "stream", "heads"}
        ``"inner"``: one layer writes it. ``"stream"``: several do, and their sum is read. ``"heads"``: all that
        queries, keys and values of one head of attention are made of; heads that share keys and values are one unit.
    writers, norms, readers : tuple of Member
        Linear and convolution layers that write the units, normalizations that rescale them, layers that read them.
    bypassed : bool
        Whether some path from input to output avoids these units, so that all of them may go.
    tables : tuple of Table
        Embeddings and parameters that write the units, too, as positions added to a stream. `zero` zeroes them along;
        they are neither penalized nor ranked.
    products : tuple of Member
        Products between activations, as in attention, that are made for each unit, by their names in `Units.macs`.
    even : tuple of tuples of Tensor
        Sets of units that lose equally many each, int64 (units,): the halves of a chunk, the groups of a grouped
        convolution. `select` takes one of each set at a time, and `shrink` removes no more than all of them lost.
    structure : str
        The types and kernel sizes of its layers. Groups of the same structure can be ranked together; one without a
        structure is like no other.
    stays : int
        How many units of each bound set (or of the group) stay where more than that are zeroed. 1, where a constant is
        left that a convolution reads beside the zeros of its border: one unit then stands for the others. All of them,
        where what is left varies, or no reader can take it up; they go only where their readers are zeroed.
        0 on the meta device, where nothing is known.

    Examples
    --------
    >>> import torch
    >>> from pruning_lib import Group, Member
    >>> every = torch.arange(4)
    >>> print(Group("conv1", 4, "inner", (Member("conv1", every),), (Member("bn1", every),), (Member("conv2", every),)))
    conv1 → bn1 → conv2, 4 units, inner
    """

    name: str
    size: int
    kind: Kind
    writers: tuple[Member, ...]
    norms: tuple[Member, ...]
    readers: tuple[Member, ...]
    bypassed: bool = False
    tables: tuple[Table, ...] = ()
    products: tuple[Member, ...] = ()
    even: tuple[tuple[Tensor, ...], ...] = ()
    structure: str = ""
    stays: int = 0

    def __str__(self) -> str:
        path = " → ".join(member.layer for member in (*self.writers, *self.norms, *self.readers))
        along = f", with {', '.join(table.parameter for table in self.tables)}" if self.tables else ""
        held = "; zeroed, all of them stay" if 0 < self.size == self.stays else ""
        return f"{path}, {self.size} unit{'s' * (self.size != 1)}, {self.kind}{along}{held}"

    @property
    def parts(self) -> list[Tensor]:
        """The bound sets, or all units as one set, int64 (units,) each."""
        return [units for sets in self.even for units in sets] or [torch.arange(self.size)]


SEVERAL = 8
"""Layers that stay for one reason are listed one by one up to this many."""
OUTPUT = "writes the model's output"
"""Why the last layer stays."""


class Units(Mapping[str, Group]):
    """The groups of a network by name, as `pruning_lib.find_units(model, example)` returns them.

    Print it for writers, readers and reasons.

    Parameters
    ----------
    groups : iterable of Group
        In the order of computation.
    fixed : mapping of str to str
        Layers whose units cannot go, each with the reason, as in ``{"fc3": "writes the model's output"}``.
    macs : mapping of str to int, optional
        Multiply-adds for one example, as `measure` counts them: of every linear and convolution layer by its name,
        fixed ones included, and of what multiplies besides (attention, recurrent cells) by module and operator.

    Examples
    --------
    >>> import torch
    >>> import pruning_lib as prl
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))
    >>> units = prl.find_units(model, torch.zeros(1, 8))
    >>> units
    0 → 2, 16 units, inner
    2 stays: it writes the model's output
    >>> units["0"].size, units.macs
    (16, {'0': 128, '2': 48})
    """

    def __init__(
        self, groups: Iterable[Group], fixed: Mapping[str, str] | None = None, macs: Mapping[str, int] | None = None
    ) -> None:
        many = isinstance(groups, Iterable) and not isinstance(groups, str | Tensor)
        listed: list[Any] = [*groups] if many else [groups]
        if not all(isinstance(group, Group) for group in listed) or not all(
            isinstance(names, Mapping | None) for names in (fixed, macs)
        ):
            raise TypeError("Units is made of groups and of mappings by layer, as `find_units` makes it.")
        self._groups: dict[str, Group] = {group.name: group for group in listed}
        self.fixed = dict(fixed or {})
        self.macs = dict(macs or {})
        self._home = {
            member.layer: group.name for group in self._groups.values() for member in (*group.norms, *group.writers)
        }

    def __getitem__(self, name: str) -> Group:
        return self._groups[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._groups)

    def __len__(self) -> int:
        return len(self._groups)

    def translate(self, layer: str) -> str:
        """Return the name of the group that `layer`, a writer or a normalization, belongs to.

        Raises
        ------
        ValueError
            If `layer` writes no group; the message lists the names there are.
        """
        if not isinstance(layer, str):
            raise TypeError(f"A layer is named by a text; got {type(layer).__name__}.")
        if layer not in self._home:
            why = f": it {self.fixed[layer]}" if layer in self.fixed else ""
            raise ValueError(
                f"{layer!r:.100} names no prunable group{why}. The groups are {', '.join(self) or 'none'}."
            )
        return self._home[layer]

    def reasons(self) -> list[str]:
        """Return in sentences which layers stay, and why; those of one reason together where they are many.

        Examples
        --------
        >>> Units([], {name: "has no rule" for name in "abcdefghij"}).reasons()
        ['a and 9 more stay: each has no rule']
        """
        alike: dict[str, list[str]] = {}
        for layer, reason in self.fixed.items():
            alike.setdefault(reason, []).append(layer)
        sentences = []
        for reason, layers in alike.items():
            if len(layers) > SEVERAL:
                sentences.append(f"{layers[0]} and {len(layers) - 1} more stay: each {reason}")
            else:
                sentences += [f"{layer} stays: it {reason}" for layer in layers]
        return sentences

    def __str__(self) -> str:
        return "\n".join([*map(str, self.values()), *self.reasons()])

    __repr__ = __str__


def fitting(model: nn.Module, groups: Iterable[Group], owner: str, *, reading: bool = False) -> dict[str, Any]:
    """Return the modules of a model by name if every layer of these groups is there, with as many channels.

    Parameters
    ----------
    model : nn.Module
        Wrappers are looked through.
    groups : iterable of Group
        For example ``find_units(model, example).values()``.
    owner : str
        Who asks, for the message.
    reading : bool
        Whether the weights of the readers are needed, too.

    Raises
    ------
    ValueError
        If the groups are those of another model, or of this one before `shrink`; or if a reader is needed and is not a
        linear or convolution layer.
    """
    modules: dict[str, Any] = dict(unwrapped(model).named_modules())
    for group in groups:
        for table in group.tables:
            home, _, attribute = table.parameter.rpartition(".")
            parameter = getattr(modules.get(home), attribute, None)
            if parameter is None or parameter.shape[table.axis] != len(table.index):
                raise ValueError(f"{owner} got units of another model: '{table.parameter}' is not what it was there.")
        for member in (*group.writers, *group.norms, *group.readers):
            if member.layer not in modules:
                raise ValueError(f"{owner} got units of another model: it has no layer '{member.layer}'.")
            module = modules[member.layer]
            if member in group.readers and not is_layer(module):
                if reading:
                    raise ValueError(
                        f"{owner} needs the weights that read '{group.name}', and '{member.layer}', a "
                        f"{type(module).__name__}, is not a linear or convolution layer."
                    )
                continue
            channels = _channels(module, reads=member in group.readers)
            if channels != len(member.index):
                raise ValueError(
                    f"{owner} got units of another model: its '{member.layer}' has {channels or 'no'} channels, theirs "
                    f"has {len(member.index)}. After `shrink`, call `find_units` again."
                )
    return modules


def _channels(module: nn.Module, *, reads: bool) -> int | None:
    """Return how many channels a layer has on one side; None for what is not a layer of a group."""
    if isinstance(module, nn.Linear):
        return module.in_features if reads else module.out_features
    if isinstance(module, _ConvNd):
        return module.in_channels if reads else module.out_channels
    if isinstance(module, BatchNorm):
        return module.num_features
    if not is_layer(module):
        return None
    axis = unit_axis(module)
    return int(module.weight.shape[1 - axis] * getattr(module, "groups", 1) if reads else module.weight.shape[axis])
