"""Which numbers cannot be negative, or not even 0, whatever comes in: 0 divided by a positive number is 0.

``F.normalize`` divides by a length that it keeps above 1e-12. So a channel of zeros is one of zeros behind it, too.
"""

from __future__ import annotations

from typing import Any

from torch.fx import Node

from pruning_lib.channels._graph import argument, base

POSITIVE, NEVER_NEGATIVE, ANY = 2, 1, 0
KEEP = {
    *("expand", "expand_as", "view", "reshape", "unsqueeze", "squeeze", "permute", "transpose", "flatten", "repeat"),
    *("clone", "contiguous", "to", "_to_copy", "detach", "slice", "select", "sqrt", "mean", "sum"),
}


def sign(node: Any) -> int:
    """Return what is known of an operand: POSITIVE, NEVER_NEGATIVE or ANY."""
    if isinstance(node, bool | int | float):
        return POSITIVE if node > 0 else NEVER_NEGATIVE if node == 0 else ANY
    if not isinstance(node, Node) or node.op != "call_function":
        return ANY
    name = base(node)
    if name in ("clamp_min", "clamp", "maximum"):
        # An upper bound of clamp is a number; one below 0 would take everything below 0.
        upper = argument(node, 2, "max") if name == "clamp" else None
        bound = argument(node, 1, "other" if name == "maximum" else "min")
        return max(sign(node.args[0]), sign(bound)) if upper is None or sign(upper) == POSITIVE else ANY
    if name == "add":
        parts = [sign(part) for part in node.args[:2]]
        scaled = argument(node, 2, "alpha", 1)
        return max(parts) if min(parts) > ANY and sign(scaled) == POSITIVE else ANY
    if name in ("mul", "div"):
        return min(NEVER_NEGATIVE, *(sign(part) for part in node.args[:2]))  # a product may underflow to 0
    if name == "pow":
        even = isinstance(node.args[1], int | float) and node.args[1] % 2 == 0 and node.args[1] > 0
        return max(sign(node.args[0]) and NEVER_NEGATIVE, NEVER_NEGATIVE if even else ANY)
    if name in ("linalg_vector_norm", "norm", "relu", "abs", "square", "sigmoid", "exp"):  # exp may underflow to 0
        return NEVER_NEGATIVE
    return sign(node.args[0]) if name in KEEP else ANY
