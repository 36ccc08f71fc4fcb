"""Which channels are one choice: those that `shrink` could only remove together, or from several parts equally.

Two things bind channels that are classes of their own.

    together   A view gives channels two axes, as (groups, channels of a group) in a shuffle. What is cut is cut along
               one axis, so channel j goes from every group or from none.
    equally    The halves of a chunk and the groups of a grouped convolution stay equally long. Each may lose other
               channels, and all lose as many.

The first joins classes. The second divides the classes of a component into cells, and one choice takes one of each.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.fx import Node

from pruning_lib.channels._classes import components
from pruning_lib.channels._graph import argument, base, computes, operand
from pruning_lib.channels._heads import follows
from pruning_lib.channels._shapes import by_channel, distinct, flat, in_groups, narrow, repeated
from pruning_lib.channels._state import Analysis

COUNTED = ("split", "split_with_sizes", "slice", "narrow", "select", "unbind", "roll", "chunk", "unsafe_chunk")


def bind(state: Analysis) -> Tensor:
    """Join the classes that go together, and return component and cell of each class that goes equally, else −1.

    Returns
    -------
    Tensor
        int64 of shape (classes, 2). Cells are numbered within their component.
    """
    for labels in _grids(state):
        _tie(state, labels)
    equal = list(_equal_parts(state))
    return _cells(state, equal)


def _grids(state: Analysis) -> Iterator[Tensor]:
    """Yield the labels of all that has more than one axis of channels."""
    for node in state.graph.nodes:
        yield from flat(state.labels.get(node))
        if computes(node) and base(node) == "channel_shuffle":
            axis, groups = 1, int(argument(node, 1, "groups"))
            yield in_groups(by_channel(state.labels_of(operand(node)), axis), groups)
    yield from state.elements.values()


def _tie(state: Analysis, labels: Tensor) -> None:
    """Join what differs along all axes but the last of those along which classes differ."""
    thin = narrow(labels)
    if sum(size > 1 for size in thin.shape) < 2:
        return
    grid = narrow(repeated(state.classes.roots[thin]))
    axes = [axis for axis, size in enumerate(grid.shape) if size > 1]
    if len(axes) > 1:
        first = grid
        for axis in axes[:-1]:
            first = first.narrow(axis, 0, 1)
        state.classes.union(first, grid, "is viewed along two axes, of which one cannot shrink")


def _equal_parts(state: Analysis) -> Iterator[Tensor]:
    """Yield labels of shape (parts, …) of whose parts each has to lose as many; pin what literal positions count."""
    for call in state.calls:
        if call.groups > 1 and not call.depthwise:
            yield call.rows.reshape(call.groups, -1)
            yield call.columns.reshape(call.groups, -1)
    for node in state.graph.nodes:
        counts = computes(node) and base(node) in COUNTED and not follows(state, node)
        if counts and node not in state.unknown and operand(node) in state.labels:
            yield from _moved_parts(state, node)


def _moved_parts(state: Analysis, node: Node) -> Iterator[Tensor]:
    """Yield the parts of a chunk; pin the channels in front of the last position that is a number in forward."""
    name = base(node)
    place = 2 if name.startswith("split") or "chunk" in name else 1
    axis = argument(node, place, "dim", 0)
    labels = state.labels_of(operand(node))
    if not isinstance(axis, int) or name == "roll":
        state.classes.pin(labels, f"passes `{name}`, which counts channels")
        return
    axis %= labels.ndim
    lines = state.classes.roots[by_channel(labels, axis)]
    if bool((lines == lines[:1]).all()):
        return
    sizes = [part.shape[axis] for part in flat(state.labels[node])] if name not in ("select", "unbind") else []
    if "chunk" in name and len(set(sizes)) == 1:
        yield lines.reshape(len(sizes), -1)
    else:
        counted = _counted(node, len(lines), sizes)
        state.classes.pin(lines[:counted], f"passes `{name}` at a literal position")


def _counted(node: Node, length: int, sizes: list[int]) -> int:
    """Return how many channels lie in front of the last position that an operator names."""
    if base(node) == "slice":
        ends = [argument(node, 2, "start"), argument(node, 3, "end")]
        named = [int(end) for end in ends if end is not None and end != sys.maxsize]
        return length if min(named, default=0) < 0 else min(max(named, default=0), length)
    # The last part of a split may shrink; sizes that are written out have to add up.
    return length - sizes[-1] if base(node) == "split" and len(sizes) > 1 else length


def _cells(state: Analysis, equal: list[Tensor]) -> Tensor:
    """Divide the classes that have to go equally into cells of which one choice takes one each."""
    roots, pinned = state.classes.roots, set(state.classes.pinned)
    found = torch.full((len(roots), 2), -1)
    equal = [roots[parts] for parts in equal]
    edges = [torch.stack([parts.flatten()[:-1], parts.flatten()[1:]]) for parts in equal]
    joined = components(len(roots), *torch.cat(edges, 1)) if edges else roots
    members: dict[int, list[Tensor]] = {}
    for parts in equal:
        members.setdefault(int(joined[parts.flatten()[0]]), []).append(parts)
    for number, constraints in enumerate(members.values()):
        classes = [root for root in distinct(torch.cat([p.flatten() for p in constraints])).tolist() if root]
        free = torch.tensor([root for root in classes if root not in pinned], dtype=torch.int64)
        # How many channels each class has in each part; what has as many in all parts is bound to nothing.
        counts = [torch.stack([(free[:, None] == part).sum(1) for part in parts], 1) for parts in constraints]
        bound = torch.stack([(count != count[:, :1]).any(1) for count in counts]).any(0)
        if not bool(bound.any()):
            continue
        kinds, cell = torch.unique(torch.cat(counts, 1)[bound], dim=0, return_inverse=True)
        totals = kinds.sum(0).split([count.shape[1] for count in counts])
        if all(bool((total == total[0]).all()) for total in totals):
            found[free[bound]] = torch.stack([torch.full_like(cell, number), cell], 1)
        else:
            state.classes.pin(free[bound], "is counted in parts that cannot lose equally many")
    return found
