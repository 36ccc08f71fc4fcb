"""Gated linear units: one half of the channels opens and closes the other."""

from __future__ import annotations

import torch
from torch.fx import Node

from pruning_lib.channels._graph import argument, operand, shape_of
from pruning_lib.channels._state import Analysis
from pruning_lib.channels.rules._registry import Rule, rule


@rule("glu")
class Glu(Rule):
    """``a * b.sigmoid()`` of the two halves of one tensor: a channel is a pair, and both go together."""

    def axis(self, node: Node) -> int:
        return int(argument(node, 1, "dim", -1)) % len(shape_of(node))

    def label(self, state: Analysis, node: Node) -> None:
        left, right = state.labels_of(operand(node)).chunk(2, self.axis(node))
        state.classes.union(left, right, "gates channels that cannot go")
        state.labels[node] = left

    def value(self, state: Analysis, node: Node) -> None:
        # 0 times any gate is 0; a sigmoid is never exactly 0, and makes nothing constant.
        left, right = state.values_of(operand(node)).chunk(2, self.axis(node))
        state.values[node] = torch.where(left == 0, 0.0, left * right.sigmoid())

    def use(self, state: Analysis, node: Node) -> None:
        live = state.live_use(node).expand(shape_of(node))
        state.mark(operand(node), torch.cat([live, live], self.axis(node)))
