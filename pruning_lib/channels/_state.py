"""What is known about a traced network: three tensors for each tensor of the graph, filled in by `rules`.

    labels  int64, the class of channels that an element belongs to; channels of one class stay or go together
    values  float64, the value of an element that no input can change, NaN for a live one
    used    bool, whether the output can change with the element

All three have the shape of the tensor they describe, with stride 0 along every axis on which they do not vary.
Label 0 is not a class: inputs, literals and padding have it, whose size nothing may change.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from pruning_lib.channels._classes import Classes
from pruning_lib.channels._graph import Graph, base, shape_of
from pruning_lib.channels._shapes import (
    NAN,
    NO_CLASS,
    Labels,
    by_channel,
    common,
    distinct,
    flat,
    like,
    narrow,
)

FEW = 1 << 16  # elements of a parameter that are followed one by one


@dataclass
class Call:
    """One call of a linear or convolution layer: the node, its weight, the labels on both of its sides."""

    node: Node
    weight: Node
    rows: Tensor
    columns: Tensor
    groups: int = 1

    @property
    def depthwise(self) -> bool:
        """Whether each group reads one channel, so that its outputs live and die with it."""
        return self.groups > 1 and len(self.columns) == self.groups


@dataclass
class Analysis:
    """Labels, values and uses of a traced network; `rules` fill it.

    Parameters
    ----------
    severed : dict of Node to Tensor
        Layers that return the same constants for every input, (channels,); their inputs do not matter.
    scaled : dict of Node to Tensor
        Maps that vary over positions, the same one for each channel up to a factor, (channels,); NaN for live channels.
    read : dict of Node to Tensor
        Of each layer, what it reads, (columns,): the constant, or NaN for a live channel.
    taps : dict of Node to Tensor
        Of each weight, which of its (groups, outputs, inputs) have a tap other than 0.
    calls, norms, groups
        The linear and convolution layers, the BatchNorms with their labels, the GroupNorms with a label a group.
    axes, elements : dict of Node to labels
        Of parameters: along the first two axes of a layer's weight, else one for each element.
    leaves : dict of Node to list of Node
        The tensors that a layer's weight is computed from.
    heads : dict of Node to (labels, widths)
        Of products that attention is made of, the label of each head, (heads,), and how wide one is.
    shared : list of labels
        Of heads that all take the same values, the label of each, (heads,).
    frozen, unknown : dict of Node to str
        Parameters and operators that keep their size, and why.
    """

    graph: Graph
    classes: Classes = field(default_factory=Classes)
    labels: dict[Node, Labels] = field(default_factory=dict)
    values: dict[Node, Labels] = field(default_factory=dict)
    used: dict[Node, Labels] = field(default_factory=dict)
    severed: dict[Node, Tensor] = field(default_factory=dict)
    scaled: dict[Node, Tensor] = field(default_factory=dict)
    read: dict[Node, Tensor] = field(default_factory=dict)
    taps: dict[Node, Tensor] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    norms: list[tuple[Node, Tensor]] = field(default_factory=list)
    groups: dict[str, Tensor] = field(default_factory=dict)
    axes: dict[Node, list[Tensor]] = field(default_factory=dict)
    leaves: dict[Node, list[Node]] = field(default_factory=dict)
    elements: dict[Node, Tensor] = field(default_factory=dict)
    heads: dict[Node, tuple[Tensor, tuple[int, ...]]] = field(default_factory=dict)
    shared: list[Tensor] = field(default_factory=list)
    frozen: dict[Node, str] = field(default_factory=dict)
    unknown: dict[Node, str] = field(default_factory=dict)

    # Labels

    def axis(self, weight: Node, axis: int, groups: int = 1) -> Tensor:
        """Return the labels along one axis of a layer's weight, which may be computed from several tensors.

        The second axis of a grouped layer's weight has labels of its own for each group, (groups × size,).
        """
        leaves = self.leaves[weight]
        # A literal in forward has no module that could be cut: it is of no class, and pins whatever it is joined with.
        for leaf in leaves:
            axes, sizes = self.axes.setdefault(leaf, []), self.graph.tensors[leaf].shape
            fixed = leaf in self.frozen or leaf not in self.graph.owned
            for a in range(len(axes), axis + 1):
                count = sizes[a] * (groups if a else 1)
                axes.append(torch.zeros(count, dtype=torch.int64) if fixed else self.classes.new(count))
        # weight · mask: row 3 of both goes, or neither.
        for leaf in leaves[1:]:
            reason = f"has a weight that stays: it {self.frozen.get(leaf, 'is a literal in forward')}"
            self.classes.union(self.axes[leaves[0]][axis], self.axes[leaf][axis], reason)
        return self.axes[leaves[0]][axis]

    def labels_of(self, node: Node, *, vector: bool = False) -> Tensor:
        """Return an operand's labels in its full shape; a parameter of one element is a scalar, unless a `vector`."""
        if node in self.labels:
            return _one(self.labels[node])
        if node in self.leaves:
            # The weight has labels along its axes already; a second reader sees single elements and could not follow.
            for leaf in self.leaves[node]:
                self.freeze(leaf, "has a weight that is read element by element")
            return NO_CLASS.expand(shape_of(node))
        tensor = self.graph.tensors[node]
        if node not in self.elements:
            # Element by element, a weight that forward computes would make millions of classes.
            size = tensor.numel()
            if node in self.frozen or node not in self.graph.owned or size < 2 - vector or size > FEW:
                return NO_CLASS.expand(tensor.shape)
            self.elements[node] = self.classes.new(size).reshape(tensor.shape)
        return self.elements[node]

    def freeze(self, node: Node, reason: str) -> None:
        """Keep all that a node holds: its channels, or a parameter's shape."""
        if node in self.graph.tensors:
            self.frozen.setdefault(node, reason)
            held = [*self.axes.get(node, []), *([self.elements[node]] if node in self.elements else [])]
        else:
            held = flat(self.labels.get(node))
        for labels in held:
            self.classes.pin(labels, reason)

    def give_up(self, node: Node, reason: str | None = None) -> None:
        """Treat `node` as an operator without a rule: all it reads stays, all it writes is live and of no class."""
        why = reason or f"feeds `{base(node)}`, which has no rule"
        self.unknown[node] = why
        for source in node.all_input_nodes:
            self.freeze(source, why)
        # Of no class: what comes out has a size that nobody can change any more.
        self.labels[node] = like(node.meta.get("val"), 0, torch.int64)

    # Values

    def values_of(self, node: Node) -> Tensor:
        """Return an operand's values; parameters come in their own dtype, everything else in float64."""
        value = self.tensor(node).detach().cpu()
        return torch.full((), NAN).double().expand(value.shape) if value.is_complex() else value

    def tensor(self, node: Node) -> Tensor:
        """Return an operand's values where they are; a parameter is not copied."""
        return _one(self.values[node]) if node in self.values else self.graph.tensors[node]

    # Uses

    def used_of(self, node: Node) -> Tensor:
        """Return which elements of what an operator returned are used."""
        return _one(self.used[node])

    def live_use(self, node: Node) -> Tensor:
        """Return which elements are both live and used, narrowed where both repeat: what an operator has to compute."""
        used, values = common(self.used_of(node), _one(self.values[node]))
        return used & values.isnan()

    def mark(self, node: Any, used: Tensor) -> None:
        """Add to what is used of an operand; parameters and numbers have no uses."""
        if not isinstance(node, Node) or not isinstance(self.labels.get(node), Tensor):
            return
        if node in self.used:
            first, second = common(self.used_of(node), used)
            used = (first | second).expand(used.shape)
        self.used[node] = used

    def mark_all(self, node: Node) -> None:
        """Mark all that a node returned as used."""
        if isinstance(self.labels.get(node), list):
            self.used[node] = [torch.ones((), dtype=torch.bool).expand(part.shape) for part in flat(self.labels[node])]
        elif isinstance(self.labels.get(node), Tensor):
            self.used[node] = torch.ones((), dtype=torch.bool).expand(self.labels_of(node).shape)


def layer_of(state: Analysis, call: Call) -> str:
    """Return the name of the layer that a call multiplies by."""
    return state.graph.owner(state.leaves[call.weight][0])


def _one(labels: Labels) -> Tensor:
    assert isinstance(labels, Tensor), "the operator returns several tensors"
    return labels


@dataclass
class Kept:
    """What stays: a mask over classes, those that are live among them, and the others by the reason why they stay."""

    roots: Tensor
    classes: Tensor
    live: Tensor
    notes: dict[str, set[int]] = field(default_factory=dict)

    def of(self, labels: Tensor) -> Tensor:
        """Return which of these labels stay."""
        return self.classes[self.roots[narrow(labels)]].expand(labels.shape)

    def add(self, labels: Tensor, reason: str) -> None:
        """Let these classes stay too."""
        # The first reason counts: a class that stays already needs no other.
        new = distinct(self.roots[labels.reshape(-1)])
        new = new[~self.classes[new]]
        if len(new):
            self.classes[new] = True
            self.notes.setdefault(reason, set()).update(new.tolist())

    def left(self, labels: Tensor) -> Tensor:
        """Return the labels that are left of a tensor when the others are cut."""
        # An axis of stride 0 holds positions, of which none is cut.
        stay = self.of(labels)
        for axis in range(labels.ndim):
            if labels.stride(axis) and labels.shape[axis] > 1:
                line = by_channel(stay, axis).any(1)
                labels = labels.index_select(axis, line.nonzero()[:, 0])
        return labels
