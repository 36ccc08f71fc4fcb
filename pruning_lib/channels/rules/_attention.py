"""Attention, fused or written out: a head is the unit.

    A_h = softmax(Q_h K_hᵀ / √d)        Y_h = A_h V_h

No head reads another one, so a head goes whole, out of Q, K and V at once: where nothing reads Y_h, or where V_h is a
constant, since each row of A_h sums to 1. The width d stays, as √d and the views of forward count it. Heads that share
keys and values are one unit with them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.fx import Node

from pruning_lib.channels._graph import argument, base, callers, computes, operand, shape_of
from pruning_lib.channels._shapes import (
    NAN,
    align,
    by_channel,
    distinct,
    first_along,
    in_groups,
    narrow,
    reduced,
    repeated,
    varies,
)
from pruning_lib.channels._state import Analysis
from pruning_lib.channels.rules._elementwise import Identity, either, unexpanded
from pruning_lib.channels.rules._norms import OverAxes
from pruning_lib.channels.rules._registry import Rule, find, rule

HEADS, ROWS, COLUMNS = -3, -2, -1
COUNTED = "shares heads with what cannot go"
OF_TORCH = "is read by MultiheadAttention, whose forward takes the width of its heads from that of its input"


def join_heads(state: Analysis, left: Tensor, right: Tensor) -> Tensor:
    """Join the heads of two operands, and return the labels of what is made of both.

    Where an operand is the same for all heads, it stays, and the heads are those of the other one.
    """
    shape = [max(sizes) for sizes in zip(left.shape, right.shape, strict=True)]
    many = [_heads(labels) for labels in (left, right)]
    if not any(count > 1 for counts in many for count in counts):
        return right.expand(shape)
    for one, other, counts in ((left, right, many[1]), (right, left, many[0])):
        if any(size == 1 < count for size, count in zip(one.shape, counts, strict=False)):
            state.classes.pin(one, "is shared by all heads")
            return other.expand(shape)
    state.classes.union(left, right, COUNTED)
    return either(left.expand(shape), right.expand(shape))


def _note_heads(state: Analysis, node: Node, *widths: int, values: Tensor | None = None) -> None:
    """Note the label of each head, if there are heads, for modules that count them."""
    labels = state.labels_of(node)
    if labels.ndim > 2 and len(distinct(line := by_channel(labels, labels.ndim + HEADS)[:, 0])) > 1:
        state.heads[node] = line, widths
        if values is not None and not any(count > 1 for count in _heads(values)):
            state.shared.append(line)


def _heads(labels: Tensor) -> torch.Size:
    """Return how many labels differ along the axes in front of rows and columns."""
    return narrow(repeated(labels)).shape[:ROWS]


@rule("scaled_dot_product_attention", literal="sizes")
class Attention(Rule):
    """Queries (…, heads, length, d), keys (…, heads, length, d) and values (…, heads, length, e)."""

    def label(self, state: Analysis, node: Node) -> None:
        if _in_torch(state, node):
            state.give_up(node, OF_TORCH)
            return
        if len(shape_of(node)) < 3:
            state.give_up(node, "is attended over without heads")
            return
        operands = [_repeated(node, i, state.labels_of(operand(node, i))) for i in range(3)]
        if any(bool(varies(labels, [ROWS]).any()) for labels in operands):
            state.give_up(node, "is attended over as if it were a length")
            return
        query, key, value = operands
        query, key = (state.classes.hold(each, [COLUMNS], "is summed over by attention") for each in (query, key))
        heads = join_heads(state, query[..., :1, :1], key[..., :1, :1])
        if isinstance(mask := argument(node, 3, "attn_mask"), Node):
            heads = join_heads(state, self._masks(state, mask, query.ndim), heads)
        state.labels[node] = join_heads(state, heads, value[..., :1, :]).expand(shape_of(node))
        _note_heads(state, node, query.shape[-1], value.shape[-1], values=value[..., :1, :])

    def _masks(self, state: Analysis, mask: Node, dims: int) -> Tensor:
        """Return the label of each head's mask, as of a bias that each head learns."""
        labels = align(state.labels_of(unexpanded(state, mask)), dims)
        labels = state.classes.hold(labels, [ROWS, COLUMNS], "is masked by attention")
        return first_along(labels, [ROWS, COLUMNS], keepdim=True)

    def value(self, state: Analysis, node: Node) -> None:
        values = narrow(_repeated(node, 2, state.values_of(operand(node, 2)))).double()
        constant = torch.where(varies(values, [ROWS]), NAN, first_along(values, [ROWS], keepdim=True))
        if not weights_sum_to_one(state, node):
            constant = torch.where(constant == 0, 0.0, NAN)
        state.values[node] = constant.expand(shape_of(node))

    def use(self, state: Analysis, node: Node) -> None:
        # Of values those that are read; of queries, keys and masks all of a head that is.
        read = state.live_use(node).any(ROWS, keepdim=True)
        heads = read.any(COLUMNS, keepdim=True)
        for i, part in enumerate((heads, heads, read, heads)):
            if not isinstance(source := argument(node, i, "attn_mask"), Node):
                continue
            shape = shape_of(source)
            if i in (1, 2) and part.shape[HEADS] > shape[HEADS] > 1:  # shared by several heads
                part = in_groups(part, shape[HEADS], part.ndim + HEADS).any(HEADS)
            state.mark(source, reduced(part, shape))


def _in_torch(state: Analysis, node: Node) -> bool:
    """Whether torch's own module attends, which no attribute tells how many heads are left."""
    return any(isinstance(state.graph.model.get_submodule(path), nn.MultiheadAttention) for path in callers(node))


def _repeated(node: Node, position: int, known: Tensor) -> Tensor:
    """Return what is known of an operand, with each shared head once for every query head that reads it."""
    queries, heads = shape_of(operand(node))[HEADS], known.shape[HEADS]
    shared = position > 0 and argument(node, 7, "enable_gqa", False) and queries != heads
    return known.repeat_interleave(queries // heads, HEADS) if shared else known


def weights_sum_to_one(state: Analysis, node: Node) -> bool:
    """Whether every row of the softmax has something to attend to, whatever comes in, and loses nothing to dropout."""
    mask = argument(node, 3, "attn_mask")
    if argument(node, 4, "dropout_p", 0.0):
        return False
    if not isinstance(mask, Node):
        return True
    values = narrow(state.values_of(mask))
    known = not bool(values.isnan().any())
    open_ = values != 0 if mask.meta["val"].dtype == torch.bool else values > -torch.inf
    return known and bool(open_.any(COLUMNS).all())


@rule("matmul bmm", literal="sizes")
class Product(Rule):
    """A product of activations, (…, heads, rows, inner) by (…, heads, inner, columns), as attention written out."""

    def label(self, state: Analysis, node: Node) -> None:
        sources = [operand(node, i) for i in range(2)]
        dims = len(shape_of(node))
        if _in_torch(state, node):
            state.give_up(node, OF_TORCH)
            return
        if any(source in state.graph.tensors or len(shape_of(source)) < 2 for source in sources):
            state.give_up(node)
            return
        left, right = (align(state.labels_of(source), dims) for source in sources)
        if bool(varies(left, [ROWS]).any()) and bool(varies(right, [COLUMNS]).any()):
            state.give_up(node, "is multiplied with other channels")
            return
        left = state.classes.hold(left, [COLUMNS], f"is summed over by `{base(node)}`")
        right = state.classes.hold(right, [ROWS], f"is summed over by `{base(node)}`")
        state.labels[node] = join_heads(state, left[..., :1], right[..., :1, :]).expand(shape_of(node))
        values = right[..., :1, :] if _is_softmax(sources[0]) else None
        _note_heads(state, node, left.shape[-1], right.shape[-1], values=values)

    def value(self, state: Analysis, node: Node) -> None:
        dims = len(shape_of(node))
        left, right = (narrow(align(state.values_of(operand(node, i)), dims)).double() for i in range(2))
        zero = (left == 0).all(COLUMNS, keepdim=True) | (right == 0).all(ROWS, keepdim=True)
        constant = torch.where(zero, 0.0, NAN)
        if _is_softmax(operand(node)):
            same = torch.where(varies(right, [ROWS]), NAN, first_along(right, [ROWS], keepdim=True))
            constant = torch.where(constant.isnan(), same, constant)
        state.values[node] = constant.expand(shape_of(node))

    def use(self, state: Analysis, node: Node) -> None:
        live = state.live_use(node)
        for i, axis in enumerate((COLUMNS, ROWS)):
            state.mark(operand(node, i), reduced(live.any(axis, keepdim=True), shape_of(operand(node, i))))


def _is_softmax(node: Node) -> bool:
    """Whether a tensor's rows sum to 1."""
    while computes(node) and isinstance(find(node), Identity):
        node = operand(node)
    return computes(node) and base(node) == "softmax" and OverAxes().axes(node) == [len(shape_of(node)) - 1]
