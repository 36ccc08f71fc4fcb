"""Normalizations, and softmax: by statistics that were stored, or by those of the example itself.

Stored statistics (BatchNorm in eval mode) treat each channel alone. With statistics of the example, whatever shares
them stays or goes together: removing a channel would change the mean that the others are measured by.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.fx import Node

from pruning_lib.channels._graph import argument, base, caller, operand, shape_of
from pruning_lib.channels._shapes import NAN, by_channel, common, first_along, in_groups, narrow, spread, varies
from pruning_lib.channels._state import Analysis
from pruning_lib.channels.rules._channelwise import CHANNELS, Channelwise, parameter, scaled
from pruning_lib.channels.rules._registry import Rule, rule


def _by_stored(state: Analysis, node: Node, values: Tensor) -> Tensor:
    """Normalize by running statistics, without scale and shift."""
    mean, variance = (parameter(state, node, position, values.ndim) for position in (3, 4))
    assert mean is not None
    assert variance is not None
    eps: float = argument(node, 7, "eps", 1e-5)
    return (values - mean) / (variance + eps).sqrt()


@rule("batch_norm")
class BatchNorm(Channelwise):
    """A channel for each element of γ, β and the running statistics."""

    def label(self, state: Analysis, node: Node) -> None:
        if argument(node, 5, "training", False) or argument(node, 3, "running_mean") is None:
            state.give_up(node, "feeds a BatchNorm without running statistics")
            return
        super().label(state, node)
        state.norms.append((node, by_channel(state.labels_of(node), CHANNELS)[:, 0]))

    def value(self, state: Analysis, node: Node) -> None:
        value = state.values_of(operand(node))
        thin = narrow(value)
        weight, bias = (parameter(state, node, position, thin.ndim) for position in (1, 2))
        state.values[node] = scaled(_by_stored(state, node, thin), weight, bias).expand(value.shape)


@rule("instance_norm")
class InstanceNorm(Channelwise):
    """Statistics over the positions of one channel, or stored ones."""

    def value(self, state: Analysis, node: Node) -> None:
        value = state.values_of(operand(node))
        thin = narrow(value)
        if argument(node, 5, "use_input_stats", True):
            # A constant is its own mean; what varies is live.
            normalized = torch.where(varies(thin, range(2, thin.ndim)), NAN, 0.0)
        else:
            normalized = _by_stored(state, node, thin)
        weight, bias = (parameter(state, node, position, thin.ndim) for position in (1, 2))
        state.values[node] = scaled(normalized, weight, bias).expand(value.shape)


@rule("group_norm")
class GroupNorm(Rule):
    """Channels of one group share statistics: the group is the unit."""

    def label(self, state: Analysis, node: Node) -> None:
        count = int(argument(node, 1, "num_groups"))
        name, module = caller(state.graph, node)
        if not isinstance(module, nn.GroupNorm) or module.num_groups != count:  # a number that no plan could change
            state.give_up(node, "feeds `group_norm` called with a literal number of groups")
            return
        labels = by_channel(state.labels_of(operand(node)), CHANNELS)
        reason = "shares the statistics of a GroupNorm with channels that cannot go"
        # Each group becomes one class: a mean over fewer channels would be another mean.
        for group in in_groups(labels, count):
            state.classes.union(group[:1, :1], group, reason)
        for vector in node.args[2:4]:
            if isinstance(vector, Node):
                state.classes.union(labels, state.labels_of(vector, vector=True)[:, None], reason)
        state.labels[node] = state.labels_of(operand(node))
        state.groups.setdefault(name, in_groups(labels[:, 0], count)[:, 0])

    def value(self, state: Analysis, node: Node) -> None:
        value, eps = state.values_of(operand(node)), argument(node, 4, "eps", 1e-5)
        thin = narrow(value)
        thin = thin.expand(thin.shape[0], value.shape[CHANNELS], *thin.shape[2:])
        axes = range(2, thin.ndim)
        constants = torch.where(varies(thin, axes), NAN, first_along(thin, axes, keepdim=True))
        # A group of constants alone normalizes to constants; one live channel makes the whole group live.
        shared = in_groups(constants, int(argument(node, 1, "num_groups")), CHANNELS)
        centred = shared - shared.mean(2, keepdim=True)
        normalized = (centred / (centred.square().mean(2, keepdim=True) + eps).sqrt()).flatten(1, 2)
        weight, bias = (parameter(state, node, position, thin.ndim) for position in (2, 3))
        state.values[node] = scaled(normalized, weight, bias).expand(value.shape)

    def use(self, state: Analysis, node: Node) -> None:
        channels = by_channel(state.live_use(node).expand(shape_of(node)), CHANNELS).any(1)
        # A channel that is used uses all of its group, through mean and variance.
        groups = in_groups(channels, int(argument(node, 1, "num_groups")))
        read = groups.any(1, keepdim=True).expand(groups.shape).flatten()
        state.mark(operand(node), spread(read, CHANNELS, shape_of(node)))


@rule("layer_norm rms_norm softmax log_softmax")
class OverAxes(Rule):
    """Statistics along some axes: followed where these hold positions, not where they hold channels."""

    def axes(self, node: Node) -> list[int]:
        """Return the axes over which softmax or a normalization works."""
        dims = len(shape_of(node))
        if base(node) in ("layer_norm", "rms_norm"):
            return list(range(dims - len(argument(node, 1, "normalized_shape")), dims))
        return [int(argument(node, 1, "dim")) % dims]

    def label(self, state: Analysis, node: Node) -> None:
        labels, axes = state.labels_of(operand(node)), self.axes(node)
        reason = f"feeds `{base(node)}`, whose statistics count every channel"
        if bool(varies(labels, axes).any()) and not bool(
            varies(first_along(labels, axes, keepdim=True), range(labels.ndim)).any()
        ):
            state.give_up(node, reason)
        else:
            # What has statistics of its own, as each head of a query, goes whole.
            state.labels[node] = state.classes.hold(labels, axes, reason)

    def use(self, state: Analysis, node: Node) -> None:
        used = common(state.used_of(node))[0].any(dim=self.axes(node), keepdim=True)
        state.mark(operand(node), used.expand(shape_of(node)))
