"""Operators with one parameter for each channel, the second axis: what BatchNorm, InstanceNorm and PReLU share."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fx import Node

from pruning_lib.channels._graph import base, operand, shape_of
from pruning_lib.channels._shapes import by_channel, finite, narrow
from pruning_lib.channels._state import Analysis
from pruning_lib.channels.rules._registry import Rule, rule

CHANNELS = 1


class Channelwise(Rule):
    """The parameters' elements are the channels; no channel reads another."""

    parameters = slice(1, 5)
    """The positions of the parameters among the operator's arguments."""

    def label(self, state: Analysis, node: Node) -> None:
        labels = state.labels_of(operand(node))
        reason = f"meets parameters of `{base(node)}` that cannot shrink"
        for vector in node.args[self.parameters]:
            if isinstance(vector, Node):
                state.classes.union(by_channel(labels, CHANNELS), state.labels_of(vector, vector=True)[:, None], reason)
        state.labels[node] = labels

    def use(self, state: Analysis, node: Node) -> None:
        state.mark(operand(node), state.live_use(node).expand(shape_of(node)))


def parameter(state: Analysis, node: Node, position: int, dims: int) -> Tensor | None:
    """Return one of a normalization's parameters, shaped to meet a tensor of `dims` axes, channels second."""
    source = node.args[position] if len(node.args) > position else None
    return state.values_of(source).double().reshape([1, -1] + [1] * (dims - 2)) if isinstance(source, Node) else None


def scaled(normalized: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """Apply scale and shift; a scale of 0 makes its channel constant, whatever comes in."""
    # Not by multiplication alone: 0 · NaN would be NaN, and a channel that γ = 0 has closed would pass for live.
    if weight is not None:
        normalized = torch.where(weight == 0, 0.0, normalized * weight)
    return finite(normalized if bias is None else normalized + bias)


@rule("prelu")
class PReLU(Channelwise):
    """A slope for each channel, or one slope for all, which no channel takes along."""

    def label(self, state: Analysis, node: Node) -> None:
        if shape_of(operand(node, 1)).numel() > 1:
            super().label(state, node)
        else:
            state.labels[node] = state.labels_of(operand(node))

    def value(self, state: Analysis, node: Node) -> None:
        value, slope = state.values_of(operand(node)), state.values_of(operand(node, 1)).double()
        # NaN > 0 is false, and slope · NaN is NaN: what is live stays live.
        thin = narrow(value)
        slope = slope.reshape([1, -1] + [1] * (thin.ndim - 2)) if slope.numel() > 1 else slope
        state.values[node] = finite(torch.where(thin > 0, thin, slope * thin)).expand(value.shape)
