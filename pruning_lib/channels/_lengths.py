"""Tell lengths from channels: of a parameter that forward reads in part, what is not read at this size is not dead.

``x + self.position[:, :x.shape[1]]`` reads seven of 512 positions on an example of length seven. To a longer input the
others matter, so an axis may only lose what goes with channels that some layer writes.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor
from torch.fx import Node

from pruning_lib.channels._graph import argument, base, computes, operand, shape_of
from pruning_lib.channels._shapes import NAN, narrow
from pruning_lib.channels._state import Analysis
from pruning_lib.channels.rules._layers import channel_axis


def keep_lengths(state: Analysis) -> None:
    """Join what no layer writes with the channel that it lies beside, or pin it.

    Positions beyond the example's length are of the same channels as those before: along their axis, all that is
    written is one class. Where there is no such axis, as in a mask or a table of ids, the whole tensor stays.
    """
    if not state.elements:
        return
    roots = state.classes.roots
    mine = written(state)
    for labels in state.elements.values():
        classes = roots[labels]
        known = torch.where(mine[classes], classes, 0)
        if bool(known.all()):
            continue
        for axis in range(known.ndim):
            line = known.amax(axis, keepdim=True)
            one = (known == line) | (known == 0)
            known = torch.where((known == 0) & one.all(axis, keepdim=True), line, known)
        joined = (known != classes) & (known > 0)
        state.classes.union(labels[joined], known[joined], "")
        state.classes.pin(labels[known == 0], "is written by no layer")


def written(state: Analysis) -> Tensor:
    """Return a mask over classes: those that a layer, an embedding or what stands in for a layer writes."""
    mask = torch.zeros(len(state.classes.roots), dtype=torch.bool)
    writers = [call.rows for call in state.calls]
    for node in state.graph.nodes:
        if computes(node) and base(node) == "embedding" and operand(node) in state.leaves:
            writers += [
                state.axes[leaf][1] for leaf in state.leaves[operand(node)] if len(state.axes.get(leaf, ())) > 1
            ]
        elif node in state.severed:
            writers.append(state.labels_of(node).movedim(channel_axis(node), 0).flatten(1)[:, 0])
    for labels in writers:
        mask[state.classes.roots[labels]] = True
    mask[0] = False
    return mask


def settle_values(state: Analysis, node: Node) -> None:
    """Call live what differs along an axis that forward slices: at another length it may read another number there.

    Parameters
    ----------
    node : Node
        A tensor of the model, or what was computed from such tensors alone.
    """
    axes = _sliced(node)
    if not axes:
        return
    values, labels = state.values_of(node), state.labels.get(node, state.elements.get(node))
    live = torch.zeros((), dtype=torch.bool)
    for axis in axes:
        if not (isinstance(labels, Tensor) and _counts_channels(state, labels, axis)):
            live = live | (values != values.narrow(axis, 0, 1)).any(axis, keepdim=True)
    state.values[node] = torch.where(live, NAN, values.double()).expand(values.shape)


def _counts_channels(state: Analysis, labels: Tensor, axis: int) -> bool:
    """Whether the elements along an axis belong to channels that differ."""
    classes = state.classes.roots[narrow(labels)]
    pinned = torch.tensor([0, *state.classes.pinned])
    return bool(((classes != classes.narrow(axis, 0, 1)) & ~torch.isin(classes, pinned)).any())


def _sliced(node: Node) -> set[int]:
    """Return the axes along which readers take a part, by numbers that may follow from the sizes of the input."""
    axes: set[int] = set()
    picked: dict[int, set[int]] = {}
    for user in node.users:
        if not computes(user) or base(user) not in ("slice", "narrow", "select") or operand(user) is not node:
            continue
        axis = int(argument(user, 1, "dim", 0)) % len(shape_of(node))
        if base(user) == "select":
            picked.setdefault(axis, set()).add(int(argument(user, 2, "index")) % shape_of(node)[axis])
        elif (argument(user, 2, "start", 0), argument(user, 3, "end", sys.maxsize)) not in (
            (0, sys.maxsize),
            (None, None),
        ):
            axes.add(axis)
    return axes | {axis for axis, index in picked.items() if len(index) < shape_of(node)[axis]}
