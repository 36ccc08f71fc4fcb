"""List what can be pruned, after a trial cut: only that tells sizes which forward wrote down from computed ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from pruning_lib._inputs import Inputs
from pruning_lib._model import check, clone
from pruning_lib.channels._constants import stands_in
from pruning_lib.channels._find import describe
from pruning_lib.channels._plan import apply
from pruning_lib.channels._planning import cuts
from pruning_lib.channels._shapes import NAN, like
from pruning_lib.channels._solve import Pins, grow, label
from pruning_lib.channels._state import Analysis, Kept, layer_of
from pruning_lib.channels._suspects import suspects
from pruning_lib.channels._trace import trace_pair
from pruning_lib.channels._training import hold_for_training
from pruning_lib.channels._verify import Comparison
from pruning_lib.units import Units, unwrapped


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
        units = describe(state, to_zero=True)
        more = _counted(state, units, pins, inputs)
        if not more:
            return units
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
    return kept
