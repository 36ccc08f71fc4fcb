"""List what can be pruned, after a trial cut: only that tells sizes which forward wrote down from computed ones."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node

from pruning_lib._inputs import Inputs
from pruning_lib._model import check, clone
from pruning_lib._products import warn_uncounted
from pruning_lib.channels import rules
from pruning_lib.channels._compensate import CONSTANT, factors
from pruning_lib.channels._constants import stands_in
from pruning_lib.channels._find import describe, writes
from pruning_lib.channels._graph import computes, shape_of
from pruning_lib.channels._plan import apply
from pruning_lib.channels._planning import cuts
from pruning_lib.channels._shapes import NAN, distinct, like, spread
from pruning_lib.channels._solve import Pins, find_constants, grow, label
from pruning_lib.channels._state import Analysis, Call, Kept, layer_of
from pruning_lib.channels._suspects import suspects
from pruning_lib.channels._trace import trace_pair
from pruning_lib.channels._training import hold_for_training
from pruning_lib.channels._verify import Comparison
from pruning_lib.channels.rules._layers import channel_axis
from pruning_lib.units import Units, unwrapped

ALL = -2  # of the units that are zeroed


def find_units(model: nn.Module, example: Any) -> Units:
    """Find the units of a network that can be pruned: who writes them, rescales them and reads them.

    Met in the chapter `serene`. The model is traced in eval mode on a copy; it is not touched.

    Parameters
    ----------
    model : nn.Module
        A network with at least one linear or convolution layer. Its forward must not branch on values.
    example : Tensor, tuple, mapping or Inputs
        What forward takes, as `pruning_lib.inputs` says, on the model's device and of its dtype; one sample is enough.

    Returns
    -------
    Units
        Groups by the name of their first writer, in the order of computation. Layers whose units cannot go stand in
        ``.fixed`` with the reason; ``.macs`` holds the multiply-adds of every layer for one sample.

    Raises
    ------
    TypeError, ValueError
        If the model has no prunable layer, or if the example does not fit it.
    RuntimeError
        If the forward cannot be traced; the sentence names the line.

    Warns
    -----
    UserWarning
        If an operator that is not torch's own may multiply matrices, and has no formula: ``.macs`` leaves it out.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> import pruning_lib as prl
    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3))
    >>> units = prl.find_units(model, torch.ones(1, 1, 8, 8))
    >>> units
    0 → 1 → 3, 4 units, inner
    3 stays: it writes the model's output
    >>> units.macs  # 4·1·3·3 taps at 6·6 positions, 2·4·3·3 at 4·4
    {'0': 1296, '3': 1152}
    """
    model = unwrapped(model)
    inputs = check(model, example, prunable=not stands_in(model))
    graph = trace_pair(clone(model), inputs, "find_units")
    hold_for_training(graph, inputs, "find_units")
    pins: Pins = []
    while True:  # each round names operators that none named before
        state = label(graph, pins)
        units, classes = describe(state, to_zero=True)
        more = _counted(state, units, pins, inputs)
        if not more:
            warn_uncounted("find_units", graph.uncounted)
            return _as_zeroed(state, units, classes)
        pins += more


def _counted(state: Analysis, units: Units, pins: Pins, inputs: Inputs) -> Pins:
    """Name operators that count channels, as views of written sizes do, by running what is left without a few units."""
    if not units:
        return []
    kept = _trial(state, units)
    small = clone(state.graph.model, share=True)
    apply(cuts(state, kept), small)
    try:
        with torch.no_grad():
            inputs.call(small.eval())
    except Exception as error:
        return suspects(state, kept, pins, Comparison(difference=str(error), raised=error), small, inputs)
    return []


def _trial(state: Analysis, units: Units) -> Kept:
    """Return what stays where the first unit of every group goes, or the first of each set that is bound."""
    roots = state.classes.roots
    classes = torch.ones(len(roots), dtype=torch.bool)
    rows = {layer_of(state, call): roots[call.rows] for call in reversed(state.calls)}
    for group in units.values():
        gone = torch.zeros(group.size + 1, dtype=torch.bool)  # the last place is for channels of no unit
        if group.size > 1:
            gone[[int(part[0]) for sets in group.even for part in sets] or [0]] = True
        for member in group.writers:
            classes[rows[member.layer][gone[member.index]]] = False
    kept = Kept(roots, classes, torch.ones_like(classes))
    for node in state.graph.nodes:  # all is live: what is constant makes no difference to sizes
        state.values[node] = like(node.meta.get("val"), NAN, torch.float64)
    grow(state, kept, constants=False)
    state.values.clear()
    return kept


def _as_zeroed(state: Analysis, units: Units, classes: dict[str, Tensor]) -> Units:
    """Note how many units of each group stay that are zeroed; `classes` holds the class of each unit of a group.

    Every second unit is taken to return 0, as units do after ``zero(…, shift="drop")``; what comes of that is computed.
    """
    if any(tensor.is_meta for tensor in state.graph.tensors.values()):  # without numbers nothing is known
        return units
    roots = state.classes.roots
    zeroed, group = torch.zeros(len(roots), dtype=torch.bool), torch.full((len(roots),), -1)
    for i, mine in enumerate(classes.values()):
        zeroed[mine[::2]], group[mine] = True, i
    find_constants(state, _zeros(state, units, zeroed))
    stays = [0] * len(units)
    for call in (call for call in state.calls if not call.depthwise):
        columns = roots[call.columns]
        for i in filter(lambda i: i >= 0, distinct(group[columns]).tolist()):
            stays[i] = max(stays[i], _stays(state, call, zeroed[columns] & (group[columns] == i)), key=abs)
    for i in distinct(group[_added(state, zeroed)]).tolist():
        stays[i] = ALL
    each = zip(units.values(), stays, strict=True)
    groups = (replace(group, stays=group.size if count == ALL else count) for group, count in each)
    return Units(groups, units.fixed, units.macs)


def _zeros(state: Analysis, units: Units, zeroed: Tensor) -> dict[Node, Tensor]:
    """Return what is 0, a mask in the shape of each node that writes, normalizes or holds `zeroed` classes."""
    roots = state.classes.roots
    zeros: dict[Node, Tensor] = {}
    for node, labels in [*((call.node, call.rows) for call in state.calls if writes(call)), *state.norms]:
        zeros[node] = spread(zeroed[roots[labels]], channel_axis(node), shape_of(node))
    named = {name: node for node, name in state.graph.names.items()}
    for table in (table for group in units.values() for table in group.tables):
        node, every_second = named[table.parameter], (table.index >= 0) & (table.index % 2 == 0)
        mask = spread(every_second, table.axis, shape_of(node))
        zeros[node] = zeros[node] | mask if node in zeros else mask
    return zeros


def _stays(state: Analysis, call: Call, zeroed: Tensor) -> int:
    """Return how many of the zeroed channels a reader needs: 0, 1 to stand for the others, or `ALL` of them."""
    if not bool(zeroed.any()):
        return 0
    whole = torch.ones(len(state.classes.roots), dtype=torch.bool)
    live, stand = zeroed.clone(), torch.zeros_like(zeroed)
    for values, where in factors(state, call, Kept(state.classes.roots, whole, whole)):
        here = live & ~values.isnan() & ((values == 0) | bool(where))
        live &= ~here
        stand |= here & (values != 0) & where.startswith("merge")
    return ALL if bool((live == zeroed).all()) else int(stand.any())


def _added(state: Analysis, zeroed: Tensor) -> Tensor:
    """Return the zeroed classes of which an operator that is no layer adds up constants."""
    kept = Kept(state.classes.roots, ~zeroed, torch.ones_like(zeroed))
    for node in filter(computes, state.graph.nodes):
        rules.find(node).keep(state, node, kept)
    added = [root for why, mine in kept.notes.items() if why.startswith(CONSTANT) for root in mine]
    return torch.tensor(added, dtype=torch.int64)
