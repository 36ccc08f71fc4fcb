"""Embeddings, and parameters that forward adds as they are: they write units, too, though no layer does.

A channel of ``table(words) + positions + f(x)`` is constant only if all three are, so `zero` zeroes them together.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.fx import Node

from pruning_lib.channels import rules
from pruning_lib.channels._graph import base, computes, operand
from pruning_lib.channels._shapes import distinct
from pruning_lib.channels._state import Analysis
from pruning_lib.channels.rules._sources import looks_up
from pruning_lib.units import Table

ADDS = ("add", "sub", "rsub")
JOINS = ("cat", "stack")


def find_tables(state: Analysis, place: Tensor) -> Iterator[tuple[int, Table]]:
    """Yield every table with the number of a group that it writes; `place` holds group and unit of every label."""
    seen: set[Node] = set()
    for node in state.graph.nodes:
        leaves = state.leaves.get(operand(node), []) if looks_up(node) else []
        for leaf in leaves:
            if leaf not in seen and leaf in state.graph.names and len(state.axes.get(leaf, ())) > 1:
                seen.add(leaf)
                yield from _entered(state.graph.names[leaf], 1, place[state.axes[leaf][1]], shift=False)
    moving = _moving(state.graph.inputs)
    for leaf, labels in state.elements.items():
        uses = set(_uses(leaf, moving))
        if not uses & {*ADDS, *JOINS}:
            continue
        lines = {axis: line for axis in range(labels.ndim) if (line := _line(place[labels], axis)) is not None}
        if len(lines) == 1:
            axis, line = next(iter(lines.items()))
            shift = labels.numel() == len(line) and not uses & {*JOINS}
            yield from _entered(state.graph.names[leaf], axis, line, shift=shift)


def _line(places: Tensor, axis: int) -> Tensor | None:
    """Return group and unit along an axis if nothing else differs in them; what forward has not read is in no group."""
    lines = places.movedim(axis, 0).reshape(places.shape[axis], -1, 2)
    line = lines.amax(1)
    alike = (lines == line[:, None]).all(2) | (lines[..., 0] < 0)
    return line if bool(alike.all()) and len(distinct(line)) > 1 else None


def _entered(parameter: str, axis: int, line: Tensor, *, shift: bool) -> Iterator[tuple[int, Table]]:
    """Yield a table for every group that it has units of."""
    for group in distinct(line[:, 0]).tolist():
        if group >= 0:
            yield group, Table(parameter, axis, torch.where(line[:, 0] == group, line[:, 1], -1), shift)


def _moving(sources: list[Node]) -> set[Node]:
    """Return all nodes that depend on the inputs."""
    found, left = set(sources), list(sources)
    while left:
        users = [user for user in left.pop().users if user not in found]
        found.update(users)
        left += users
    return found


def _uses(node: Node, moving: set[Node]) -> Iterator[str]:
    """Yield the operators that a parameter meets others at, looking through those that only move it.

    So does a product of parameters: in b − μ·w, as a BatchNorm with fixed statistics adds it, μ and w shift a channel
    as b does. A sum with a number, as of a variance and ε, meets nothing.
    """
    for user in node.users:
        if not computes(user):
            continue
        name = base(user)
        moves = rules.is_view(user) or name in ("clone", "contiguous", "to", "_to_copy", "repeat")
        if name in JOINS or (name in ADDS and len(user.all_input_nodes) > 1):
            yield name
        factor = name == "mul" or (name == "div" and user.args[0] is node)
        if name not in JOINS and (moves or (factor and user not in moving)):
            yield from _uses(user, moving)
