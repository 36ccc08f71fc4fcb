"""Which channels are the same, which are constant, which are read: three tensors for each tensor of the graph.

    labels  int64, the class of channels that an element belongs to; channels of one class stay or go together
    values  float64, the value of an element that no input can change, NaN for a live one
    used    bool, whether the output can change with the element

All three have the shape of the tensor they describe, with stride 0 along every axis on which they do not vary.
Label 0 is no class: inputs, literals and padding, whose size nothing may change.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from pruning_lib.channels import _layers as layers
from pruning_lib.channels import _rules as rules
from pruning_lib.channels._layers import Call
from pruning_lib.channels._shapes import (
    Labels,
    align,
    by_channel,
    common,
    distinct,
    flat,
    like,
    narrow,
    spread,
    uniform,
)
from pruning_lib.channels._trace import Graph, base, shape_of

FEW = 1 << 16  # elements of a parameter that are followed one by one


class Classes:
    """Channels that stay or go together: labels, which of them are the same, and why some cannot go.

    What is said about labels is written down and joined when somebody asks: all at once is a hundred times faster.
    """

    def __init__(self) -> None:
        self._count = 1
        self._pairs: list[Tensor] = []
        self._pins: list[tuple[Tensor, str]] = []
        self._roots: Tensor | None = None

    def new(self, count: int) -> Tensor:
        """Return `count` labels, each a class of its own."""
        self._roots = None
        self._count += count
        return torch.arange(self._count - count, self._count)

    def union(self, left: Tensor, right: Tensor, reason: str) -> None:
        """Join two broadcastable tensors of labels element by element; what meets label 0 is pinned for `reason`."""
        dims = max(left.ndim, right.ndim)
        left, right = align(left, dims), align(right, dims)
        shape = [max(pair) for pair in zip(left.shape, right.shape, strict=True)]
        left, right = common(left.expand(shape), right.expand(shape))
        differ = left != right
        low, high = torch.minimum(left[differ], right[differ]), torch.maximum(left[differ], right[differ])
        self.pin(high[low == 0], reason)
        pairs = distinct((low[low > 0] << 32) | high[low > 0])
        self._pairs.append(torch.stack([pairs >> 32, pairs & 0xFFFFFFFF]))
        self._roots = None

    def pin(self, labels: Tensor, reason: str) -> None:
        """Keep the classes of these labels, whatever else is found."""
        self._pins.append((distinct(narrow(labels).reshape(-1)), reason))
        self._roots = None

    @property
    def roots(self) -> Tensor:
        """The class of every label, its smallest one."""
        if self._roots is None:
            pairs = torch.cat([torch.zeros((2, 0), dtype=torch.int64), *self._pairs], 1)
            self._roots = _components(self._count, pairs[0], pairs[1])
            self._pinned: dict[int, str] = {}
            for labels, reason in self._pins:
                for root in distinct(self._roots[labels]).tolist():
                    if root:
                        self._pinned.setdefault(root, reason)
        return self._roots

    @property
    def pinned(self) -> dict[int, str]:
        """The classes that cannot go, and why."""
        assert self.roots is not None
        return self._pinned

    def of(self, labels: Tensor) -> Tensor:
        """Return the class of each label, narrowed as the labels are."""
        return self.roots[narrow(labels)].expand(labels.shape)


def _components(count: int, left: Tensor, right: Tensor) -> Tensor:
    """Return the smallest node that each of `count` nodes is connected with, by the edges (left, right)."""
    roots = torch.arange(count)
    while True:
        low = torch.minimum(roots[left], roots[right])
        hooked = roots.scatter_reduce(0, roots[left], low, "amin").scatter_reduce(0, roots[right], low, "amin")
        while not torch.equal(further := hooked[hooked], hooked):
            hooked = further
        if torch.equal(hooked, roots):
            return roots
        roots = hooked


@dataclass
class Analysis:
    """Labels, values and uses of a traced network; `rules` fill it.

    Parameters
    ----------
    severed : dict of Node to Tensor
        Layers that return the same constants for every input, (channels,); their inputs do not matter.
    scaled : dict of Node to Tensor
        Maps that vary over positions, the same one for each channel up to a factor, (channels,); NaN for live channels.
    calls, norms, groups
        The linear and convolution layers, the BatchNorms with their labels, the GroupNorms with a label a group.
    axes, elements : dict of Node to labels
        Of parameters: along the first two axes of a layer's weight, else one for each element.
    leaves : dict of Node to list of Node
        The tensors that a layer's weight is computed from.
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
    calls: list[Call] = field(default_factory=list)
    norms: list[tuple[Node, Tensor]] = field(default_factory=list)
    groups: dict[str, Tensor] = field(default_factory=dict)
    axes: dict[Node, list[Tensor]] = field(default_factory=dict)
    leaves: dict[Node, list[Node]] = field(default_factory=dict)
    elements: dict[Node, Tensor] = field(default_factory=dict)
    frozen: dict[Node, str] = field(default_factory=dict)
    unknown: dict[Node, str] = field(default_factory=dict)
    taps: dict[Any, Tensor] = field(default_factory=dict)
    constants: dict[Node, Tensor] = field(default_factory=dict)

    # Labels of parameters: one for each index of an axis where a layer multiplies by them, else one for each element.

    def axis(self, weight: Any, axis: int, groups: int = 1) -> Tensor:
        """Return the labels along one axis of a layer's weight, which may be computed from several tensors.

        The second axis of a grouped layer's weight has labels of its own for each group, (groups × size,).
        """
        leaves = self.leaves[weight]
        for leaf in leaves:
            found, sizes = self.axes.setdefault(leaf, []), self.graph.tensors[leaf].shape
            fixed = leaf in self.frozen or leaf not in self.graph.owned
            for a in range(len(found), axis + 1):
                count = sizes[a] * (groups if a else 1)
                found.append(torch.zeros(count, dtype=torch.int64) if fixed else self.classes.new(count))
        for leaf in leaves[1:]:
            reason = f"has a weight that stays: it {self.frozen.get(leaf, 'is a literal in forward')}"
            self.classes.union(self.axes[leaves[0]][axis], self.axes[leaf][axis], reason)
        return self.axes[leaves[0]][axis]

    def of(self, node: Any, vector: bool = False) -> Tensor:
        """Return an operand's labels in its full shape; a parameter of one element is a scalar, unless a `vector`."""
        if not isinstance(node, Node):
            return torch.zeros(())
        if node in self.labels:
            return self.labels[node]  # type: ignore[no-any-return]
        if node in self.leaves:
            for leaf in self.leaves[node]:
                self.freeze(leaf, "has a weight that is read element by element")
            return torch.zeros((), dtype=torch.int64).expand(shape_of(node))
        tensor = self.graph.tensors[node]
        if node not in self.elements:
            # Element by element, a weight that forward computes would make millions of classes.
            size = tensor.numel()
            if node in self.frozen or node not in self.graph.owned or size < 2 - vector or size > FEW:
                return torch.zeros((), dtype=torch.int64).expand(tensor.shape)
            self.elements[node] = self.classes.new(tensor.numel()).reshape(tensor.shape)
        return self.elements[node]

    def freeze(self, node: Node, reason: str) -> None:
        """Keep all that a node holds: its channels, or a parameter's shape."""
        if node in self.graph.tensors:
            self.frozen.setdefault(node, reason)
            found = [*self.axes.get(node, []), *([self.elements[node]] if node in self.elements else [])]
        else:
            found = flat(self.labels.get(node))
        for labels in found:
            self.classes.pin(labels, reason)

    def value(self, node: Any) -> Tensor:
        """Return an operand's values; parameters come in their own dtype, everything else in float64."""
        return self.tensor(node).detach().cpu()

    def tensor(self, node: Any) -> Tensor:
        """Return an operand's values where they are; a parameter is not copied."""
        return self.values[node] if node in self.values else self.graph.tensors[node]

    def give_up(self, node: Node, reason: str | None = None) -> None:
        """Treat `node` as an operator without a rule: all it reads stays, all it writes is live and of no class."""
        why = reason or f"feeds `{base(node)}`, which has no rule"
        self.unknown[node] = why
        for source in node.all_input_nodes:
            self.freeze(source, why)
        self.labels[node] = like(node.meta.get("val"), 0, torch.int64)

    def mark(self, node: Any, used: Tensor) -> None:
        """Add to what is used of an operand."""
        if not isinstance(node, Node) or node not in self.labels or not isinstance(self.labels[node], Tensor):
            return
        before = self.used.get(node)
        if before is None:
            self.used[node] = used
            return
        first, second = common(before, used)
        self.used[node] = (first | second).expand(used.shape)


def label(
    graph: Graph, pins: Iterable[tuple[Node, str]] = (), severed: Mapping[Node, Tensor] | None = None
) -> Analysis:
    """Find which channels belong together, and which of them no removal may touch."""
    state = Analysis(graph, severed=dict(severed or {}))
    for node in graph.nodes:
        if node in graph.opaque and node in graph.tensors:
            state.frozen[node] = "is changed in place by forward"
        if node not in state.severed and (layers.weighs(node) or base(node) == "embedding"):
            rules.find_leaves(state, node)
    for node in graph.nodes:
        if node.op == "placeholder":
            if node not in graph.tensors:
                state.labels[node] = like(node.meta.get("val"), 0, torch.int64)
        elif node.op == "output":
            for source in node.all_input_nodes:
                state.freeze(source, "writes the model's output")
        elif node in state.severed:
            vector = state.classes.new(len(state.severed[node]))
            state.labels[node] = spread(vector, channel_axis(node), shape_of(node))
        elif node in graph.opaque:
            state.give_up(node, f"feeds `{base(node)}`, which changes a view in place")
        else:
            rules.find(node).label(state, node)
    for node, reason in pins:
        state.freeze(node, reason)
    return state


def propagate(state: Analysis) -> None:
    """Find the constants, forward, then what is used, backward."""
    nan = float("nan")
    for node in state.graph.nodes:
        outside = node.op == "placeholder" and (node not in state.graph.tensors or node in state.graph.opaque)
        if outside or node in state.unknown:
            state.values[node] = like(node.meta.get("val"), nan, torch.float64)
        elif node in state.severed:
            state.values[node] = spread(state.severed[node], channel_axis(node), shape_of(node))
        elif node.op == "call_function":
            rules.find(node).value(state, node)
    for node in reversed(state.graph.nodes):
        if node.op == "output" or node in state.unknown:
            for source in node.all_input_nodes:
                for_all(state, source)
        elif node.op == "call_function" and node in state.used and node not in state.severed:
            rules.find(node).use(state, node)


def channel_axis(node: Node) -> int:
    """Return the axis that holds the channels of what a layer or a BatchNorm returns."""
    return layers.channel_axis(node) if layers.weighs(node) else 1


def constant(state: Analysis, kept: Kept, node: Node) -> Tensor | None:
    """Return what a layer or a BatchNorm emits, (channels,), if no kept channel is both live and used; else None."""
    axis = channel_axis(node)
    stay = kept.of(by_channel(state.labels[node], axis)[:, 0])
    used = by_channel(state.used[node], axis).any(1) if node in state.used else torch.zeros_like(stay)
    values = uniform(state.values[node], axis)
    return None if bool((stay & used & values.isnan()).any()) else torch.where(values.isnan(), 0.0, values)


def for_all(state: Analysis, node: Node) -> None:
    """Mark a node as used wholly."""
    if isinstance(state.labels.get(node), list):
        state.used[node] = [torch.ones((), dtype=torch.bool).expand(part.shape) for part in flat(state.labels[node])]
    elif isinstance(state.labels.get(node), Tensor):
        state.used[node] = torch.ones((), dtype=torch.bool).expand(state.labels[node].shape)


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
        new = distinct(self.roots[labels.reshape(-1)])
        new = new[~self.classes[new]]
        if len(new):
            self.classes[new] = True
            self.notes.setdefault(reason, set()).update(new.tolist())


def live(state: Analysis) -> Tensor:
    """Return a mask over classes: some element is live and used."""
    mask = torch.zeros(len(state.classes.roots), dtype=torch.bool)
    for node, used in state.used.items():
        for labels, values, uses in zip(flat(state.labels[node]), flat(state.values[node]), flat(used), strict=True):
            if node in state.scaled:
                lives = state.scaled[node].isnan().reshape(1, -1, *[1] * (values.ndim - 2))
                values = torch.where(lives, narrow(values), 0.0).expand(values.shape)
            if labels.ndim:
                classes, value, use = common(labels, values, uses)
                mask[state.classes.roots[classes[value.isnan() & use]]] = True
    return mask


def keep(state: Analysis) -> Kept:
    """Grow what is needed until every tensor that is left is a box: whole rows, whole columns, none of them empty."""
    roots = state.classes.roots
    kept = Kept(roots, torch.empty(0), live(state))
    kept.classes = kept.live.clone()
    kept.classes[torch.tensor([0, *state.classes.pinned], dtype=torch.int64)] = True
    tensors = [narrow(labels) for node in state.labels for labels in flat(state.labels[node]) if labels.ndim]
    tensors += [*state.elements.values(), *(vector for axes in state.axes.values() for vector in axes)]
    tensors = [labels for labels in tensors if labels.any()]
    while True:
        before = int(kept.classes.sum())
        for call in state.calls:
            layers.represent(state, call, kept)
            layers.balance(call, kept)
        for labels in tensors:
            _box(kept, labels)
        for node in state.graph.nodes:
            rules.keep_order(state, node, kept)
        if int(kept.classes.sum()) == before:
            return kept


def _box(kept: Kept, labels: Tensor) -> None:
    if not kept.of(labels).any():
        kept.add(labels.reshape(-1)[:1], "the last unit of a layer")
    stay = kept.of(labels)
    if sum(size > 1 for size in stay.shape) > 1 and not stay.all():
        box = torch.ones((), dtype=torch.bool)
        for axis in range(stay.ndim):
            others = [other for other in range(stay.ndim) if other != axis]
            box = box & stay.any(dim=others).reshape([-1 if other == axis else 1 for other in range(stay.ndim)])
        kept.add(labels[box], "part of a block of channels that is cut as a whole")
