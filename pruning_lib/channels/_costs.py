"""Multiply-adds for one sample, counted as `measure` counts them: layers by name, all else by the operator."""

from __future__ import annotations

from collections.abc import Container, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg
from torch.utils import _pytree as pytree

from pruning_lib._products import Counter
from pruning_lib.channels import rules
from pruning_lib.channels._graph import Graph, base, caller, computes, operand, shape_of
from pruning_lib.channels._shapes import narrow, repeated
from pruning_lib.channels._state import Analysis
from pruning_lib.channels.rules._layers import transposed, weighs

MULTIPLY = ("matmul", "bmm", "baddbmm", "mm", "addmm", "einsum")
ATTENTION = "scaled_dot_product_attention"


def count_macs(state: Analysis, layers: list[str]) -> dict[str, int]:
    """Count multiply-adds for one sample, of these layers and of every other operator that has some."""
    graph = state.graph
    macs = dict.fromkeys(layers, 0)
    counter = Counter()
    # The graph was traced on a whole batch.
    batch = next(shape_of(node)[0] for node in graph.inputs if shape_of(node))
    for node in filter(computes, graph.nodes):
        if weighs(node):
            name = _name_of_layer(state, node, layers)
            # Every input of a transposed convolution meets every tap, as every output of the others does.
            counted = operand(node) if transposed(node) else node
            count = shape_of(counted).numel() * shape_of(operand(node, 1))[1:].numel()
        else:
            name, count = name_of(graph, node), _counted(node, graph, counter)
        if count or name in macs:
            macs[name] = macs.get(name, 0) + count // batch
    graph.uncounted |= counter.uncounted
    return macs


def _name_of_layer(state: Analysis, node: Node, layers: Container[str]) -> str:
    """Return what the multiply-adds of a layer go by: its name, or that of a weight which belongs to none."""
    weight = operand(node, 1)
    leaf = state.leaves.get(weight, [weight])[0]
    layer = state.graph.owner(leaf)
    return layer if layer in layers else state.graph.names.get(leaf, name_of(state.graph, node))


def name_of(graph: Graph, node: Node) -> str:
    """Return what the multiply-adds of an operator that is no layer go by."""
    return f"{caller(graph, node)[0] or 'forward'}: {node.name}"


def _counted(node: Node, graph: Graph, counter: Counter) -> int:
    """Return the multiply-adds of an operator, 0 for most."""
    name = base(node)
    if name == ATTENTION:
        query, value = shape_of(operand(node)), shape_of(operand(node, 2))
        return query.numel() // query[-1] * value[-2] * (query[-1] + value[-1])
    if name not in MULTIPLY and type(rules.find(node)) is not rules.Rule:
        return 0

    def meta(value: Any) -> Any:
        plain = isinstance(value, Tensor)
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta") if plain else value

    def operands(source: Node) -> Any:
        if "val" not in source.meta and source not in graph.tensors:  # a part of forward, as under another autocast
            whole = source.graph.owning_module
            assert whole is not None
            return whole.get_submodule(str(source.target))
        return pytree.tree_map(meta, source.meta["val"] if "val" in source.meta else graph.tensors[source])

    try:
        with torch.no_grad(), counter:
            node.target(*map_arg(node.args, operands), **map_arg(dict(node.kwargs), operands))  # type: ignore[operator]
    except Exception:  # an operator that cannot be run without data multiplies no matrices
        return 0
    return counter.macs


def products(state: Analysis, layers: Container[str]) -> Iterator[tuple[str, Tensor]]:
    """Yield name and labels of every axis of channels along which something multiplies that is none of these layers."""
    seen: set[str] = set()
    for call in state.calls:
        name = _name_of_layer(state, call.node, layers)
        if name not in layers and name not in seen:  # a filter that blurs, or a weight beside others
            seen.add(name)
            yield from ((name, state.classes.roots[side]) for side in (call.rows, call.columns)[: 2 - call.depthwise])
    for node in filter(computes, state.graph.nodes):
        for labels in _axes(state, node):
            yield name_of(state.graph, node), labels


def _axes(state: Analysis, node: Node) -> Iterator[Tensor]:
    """Yield the labels along each axis that a product is made along, where they differ."""
    name = base(node)
    if name not in (*MULTIPLY[:3], ATTENTION):
        return
    first = 1 if name == "baddbmm" else 0
    left, right = operand(node, first), operand(node, 2 if name == ATTENTION else first + 1)
    found: dict[int, Tensor] = {}
    # What is summed over stands last on the left, and second to last on the right.
    for source, summed in ((left, -1), (right, -2)):
        if isinstance(state.labels.get(source), Tensor):
            thin = narrow(repeated(state.classes.roots[narrow(state.labels_of(source))]))
            varied = [axis - thin.ndim for axis, size in enumerate(thin.shape) if size > 1]
            # Of attention the number of heads alone: how wide they are counts for queries and values apart.
            if len(varied) == 1 and (varied[0] < -2 or name != ATTENTION):
                found.setdefault(0 if varied[0] == summed else varied[0], thin.flatten())
    yield from found.values()
