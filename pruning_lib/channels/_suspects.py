"""Find the literal size in `forward` that broke the cut network.

No rule can see whether a forward wrote ``x.view(-1, 512)`` or ``x.view(x.size(0), -1)``: the trace holds 512 in both
cases. So the network is cut as if every size were computed. If the outputs differ then, the operators that may hold a
literal are suspected, nearest to the failure first; their channels stay, and everything is decided again.
"""

from __future__ import annotations

import itertools

from torch import Tensor, nn
from torch.fx import Node

from pruning_lib._inputs import Inputs, paired
from pruning_lib._model import clone, user_frames
from pruning_lib.channels import rules
from pruning_lib.channels._graph import base, caller, callers, computes, frames_of, line_of
from pruning_lib.channels._shapes import flat
from pruning_lib.channels._solve import Pins
from pruning_lib.channels._state import Analysis, Kept
from pruning_lib.channels._trace import trace
from pruning_lib.channels._verify import Comparison

MISFIT = "is invalid for input of size"
"""What torch says where a tensor cannot be viewed in a shape."""


def suspects(state: Analysis, kept: Kept, pins: Pins, failure: Comparison, small: nn.Module, inputs: Inputs) -> Pins:
    """Name the operators whose literal sizes may have broken the cut network; none if all were named before."""
    done = {node for node, _ in pins}
    candidates = {
        node
        for node in state.graph.nodes
        if computes(node) and rules.literal(node) and node not in done and _loses_channels(state, kept, node)
    }
    # An error has a line in forward; a wrong number has none, but the cut network's shapes say where it went astray.
    error = failure.raised
    start = _differing(state, kept, small, inputs) if error is None else _where(state, error)
    # A literal in that very line.
    if here := [node for node in start if node in candidates]:
        return [_pin(node) for node in here]
    # None there moves channels that go: one may be given the size of others, as in ``q.reshape(n, x.shape[1])``.
    if (error is None or MISFIT in str(error)) and (lending := _lending(state, kept, start, done)):
        return lending
    # Else the nearest above it: ``y = x.view(-1, 512)`` succeeds with whatever is left, and the next layer complains.
    for node in start:
        if near := _upstream(node, candidates):
            return [_pin(each) for each in near]
        if error is not None and node not in done and node in state.labels:
            break
    # Else the line itself counts: ``assert x.shape[1] == 64``, or a size that its module took somewhere before.
    if error is not None:
        for counting in (start, _around(state, start)):
            if more := [node for node in counting if node not in done and node in state.labels]:
                return [(node, f"passes code that counts its channels{line_of(start[0])}") for node in more]
    # Nothing points anywhere: all of them, which is safe, and may keep more than it has to.
    return [_pin(node) for node in candidates]


def _pin(node: Node) -> tuple[Node, str]:
    return node, f"passes `{base(node)}` with a literal size{line_of(node)}"


def _lending(state: Analysis, kept: Kept, start: list[Node], done: set[Node]) -> Pins:
    """Name what loses a size that one of these views was given, though all that it moves itself stays.

    It is the nearest above of this size: forward read the number there, or the next round goes further.
    """
    found: Pins = []
    for node in start:
        given = {size for sizes in node.args if isinstance(sizes, list | tuple) for size in sizes}
        if base(node) in ("view", "reshape") and not _loses_channels(state, kept, node):
            above = reversed(state.graph.nodes[: state.graph.nodes.index(node)])
            lost = (each for each in above if each not in done and given & _lost_sizes(state, kept, each))
            reason = f"gives its size to a `{base(node)}` of other channels{line_of(node)}"
            found += [(each, reason) for each in itertools.islice(lost, 1)]
    return found


def _lost_sizes(state: Analysis, kept: Kept, node: Node) -> set[int]:
    """Return the sizes along which what an operator returned becomes smaller."""
    pairs = [
        pair
        for labels in flat(state.labels.get(node))
        for pair in zip(labels.shape, kept.left(labels).shape, strict=True)
    ]
    return {before for before, after in pairs if before != after}


def _loses_channels(state: Analysis, kept: Kept, node: Node) -> bool:
    """Whether some of the channels that an operator reads or returns go."""
    return any(
        not bool(kept.of(labels).all())
        for each in (*node.all_input_nodes, node)
        for labels in flat(state.labels.get(each))
    )


def _where(state: Analysis, error: Exception) -> list[Node]:
    """Return the nodes at, or last before, the innermost line of the traceback that the trace knows.

    The exporter notes lines of files that define modules alone. What a function of another file raised is found at the
    line that called it.
    """
    lines = [(file, line, node) for node in state.graph.nodes for file, line in frames_of(node)]
    for file, line in user_frames(error):
        if at := [node for other, number, node in lines if (other, number) == (file, line)]:
            return list(dict.fromkeys(at))
        if before := [(number, node) for other, number, node in lines if other == file and number < line]:
            return [max(before, key=lambda pair: pair[0])[1]]
    return []


def _around(state: Analysis, start: list[Node]) -> list[Node]:
    """Return all that the module around a line computes or reads: the line may use a size that it took earlier."""
    paths = {caller(state.graph, node)[0] for node in start}
    inside = [node for node in state.graph.nodes if computes(node) and paths & callers(node)]
    return [*inside, *(source for node in inside for source in node.all_input_nodes)]


def _differing(state: Analysis, kept: Kept, small: nn.Module, inputs: Inputs) -> list[Node]:
    """Trace the cut network again and return the first node whose shape is not what was predicted."""
    try:
        again = trace(clone(small), paired(inputs), "shrink").nodes
    except RuntimeError:
        return []
    for old, new in zip(filter(computes, state.graph.nodes), filter(computes, again), strict=False):
        if base(old) != base(new):  # forward took another way, say because a size was no longer what it asked for
            return [old]
        labels = state.labels.get(old)
        if isinstance(labels, Tensor) and tuple(kept.left(labels).shape) != tuple(new.meta["val"].shape):
            return [old]
    return []


def _upstream(node: Node, candidates: set[Node]) -> list[Node]:
    """Return the nearest candidates at or above a node."""
    seen, level = {node}, [node]
    while level:
        if near := [each for each in level if each in candidates]:
            return near
        level = [source for each in level for source in each.all_input_nodes if source not in seen]
        seen.update(level)
    return []
