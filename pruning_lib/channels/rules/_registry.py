"""What a rule is, and the one table that says which operator has which.

A new operator needs one class in one file of this folder, under one decorator::

    @rule("cumsum")
    class Cumulative(Rule):
        def label(self, state, node): ...

A rule answers three questions about an operator, each in terms of tensors in the shape of what the operator returns:

    label  which channels are the same as which of the operands'     inputs → outputs
    value  which elements are constant, and what they are            inputs → outputs, NaN where live
    use    which elements of the operands the output depends on      outputs → inputs

It may say less than is true (more labels pinned, more elements live, more of them used), which costs units that could
have gone. It must never say more, which would cost exactness: `shrink` compares the outputs, and refuses then.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch.fx import Node

from pruning_lib.channels._graph import base, declares_view
from pruning_lib.channels._shapes import NAN, like
from pruning_lib.channels._state import Analysis, Kept

Numbers = Literal["", "positions", "sizes"]


class Rule:
    """How one family of operators treats labels and values (forward) and uses (backward)."""

    elementwise = False
    """Whether element i of the result is made of the operands' elements i alone."""

    def applies(self, node: Node) -> bool:
        """Whether the rule covers this call of the operator."""
        return True

    def label(self, state: Analysis, node: Node) -> None:
        """Set ``state.labels[node]`` and join labels that have to stay or go together, or ``state.give_up(node)``."""
        state.give_up(node)

    def value(self, state: Analysis, node: Node) -> None:
        """Set ``state.values[node]``; if nothing is said, every element is live."""
        state.values[node] = like(node.meta.get("val"), NAN, torch.float64)

    def use(self, state: Analysis, node: Node) -> None:
        """Call ``state.mark(operand, used)`` for each operand; if nothing is said, all of them are used wholly."""
        for source in node.all_input_nodes:
            state.mark_all(source)

    def keep(self, state: Analysis, node: Node, kept: Kept) -> None:
        """Call ``kept.add(labels, reason)`` for what the operator would get wrong if run on the kept channels alone."""


@dataclass(frozen=True)
class Entry:
    """A rule, and what else is known of one operator; see the parameters of `rule`."""

    rule: Rule
    view: bool = False
    literal: Numbers = ""


TABLE: dict[str, Entry] = {}
TAGGED: dict[torch.Tag, Entry] = {}
_NONE = Entry(Rule())
_Kind = TypeVar("_Kind", bound=type[Rule])


def rule(
    names: str, *, view: bool = False, literal: Numbers = "", tag: torch.Tag | None = None, **options: Any
) -> Callable[[_Kind], _Kind]:
    """Register a rule for operators: a decorator of its class; several of them may be stacked.

    Parameters
    ----------
    names : str
        Names of ATen operators, separated by spaces, without overload or the underscore of an in-place form. An
        operator of another library is ``"namespace::name"``.
    view : bool
        Whether the result may share memory with the first operand although the operator's schema does not say so.
    literal : {"", "positions", "sizes"}
        Which of its arguments a forward may have written as numbers that fit the dense network alone: positions along
        an axis of channels (``x[:, 8:]``), or the sizes of the result (``x.view(-1, 512)``). These operators are the
        suspects if a cut network fails.
    tag : torch.Tag, optional
        Register it also for every operator that torch tags so and that has no rule of its own.
    **options
        Passed to the class.

    Raises
    ------
    ValueError
        If one of the operators has a rule already.
    """

    def register(kind: _Kind) -> _Kind:
        entry = Entry(kind(**options), view, literal)
        for name in names.split():
            if name in TABLE:
                raise ValueError(f"`{name}` has a rule already: {type(TABLE[name].rule).__name__}.")
            TABLE[name] = entry
        if tag is not None:
            TAGGED[tag] = entry
        return kind

    return register


def _entry(node: Node) -> Entry:
    if (name := base(node)) in TABLE:
        return TABLE[name]
    return next((TAGGED[tag] for tag in getattr(node.target, "tags", ()) if tag in TAGGED), _NONE)


def find(node: Node) -> Rule:
    """Return the rule for a node's operator; where there is none, one that keeps all that the operator reads."""
    candidate = _entry(node).rule
    return candidate if candidate.applies(node) else _NONE.rule


def is_view(node: Node) -> bool:
    """Whether what the operator returns may share memory with its first operand."""
    return declares_view(node) or _entry(node).view


def literal(node: Node) -> Numbers:
    """Return which of the operator's arguments may be numbers that fit the dense network alone."""
    return _entry(node).literal
