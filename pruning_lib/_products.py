"""Multiply-adds by operator: torch's counter, with formulas for the products of matrices that it counts as nothing."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

Shape = Sequence[int]


class Counter(FlopCounterMode):
    """Count the multiply-adds of what runs inside ``with counter:``, and note what cannot be counted.

    Attributes
    ----------
    uncounted : set of str
        Operators that are not torch's own, have no formula, and read several matrices, so that they may multiply them.
    """

    def __init__(self) -> None:
        super().__init__(display=False, custom_mapping=_formulas())
        self.uncounted: set[str] = set()

    @property
    def macs(self) -> int:
        """Multiply-adds so far."""
        return self.get_total_flops() // 2

    def _count_flops(self, func_packet: Any, out: Any, args: Any, kwargs: Any) -> Any:
        name = getattr(func_packet, "_qualified_op_name", "aten::")
        strange = name.partition("::")[0] not in ("aten", "prim", "prims") and func_packet not in self.flop_registry
        if strange and sum(map(_is_matrix, pytree.tree_leaves((args, kwargs)))) > 1:
            self.uncounted.add(name)
        return super()._count_flops(func_packet, out, args, kwargs)  # type: ignore[no-untyped-call]


def warn_uncounted(what: str, names: set[str]) -> None:
    """Warn the caller of `what`, a public function that counted, of operators that it could not count, if any."""
    if names:
        listed = ", ".join(f"`{name}`" for name in sorted(names))
        text = f"`{what}` counts no multiply-adds for {listed}: it knows no formula for what they may multiply."
        warnings.warn(text, stacklevel=3)


def _is_matrix(value: Any) -> bool:
    """Whether an operand may be a matrix; a quantized layer's weight is packed in an object of its own."""
    if not isinstance(value, Tensor):
        return isinstance(value, torch.ScriptObject)
    number = value.is_floating_point() or value.is_quantized or value.dtype in (torch.int8, torch.uint8)
    return value.ndim > 1 and number


def _formulas() -> dict[Any, Callable[..., int]]:
    """Return the formulas by operator, of those that this torch and the libraries that are loaded have."""
    found = {
        getattr(getattr(torch.ops, space), name, None): formula
        for (space, names), formula in FORMULAS.items()
        for name in names.split()
    }
    return {packet: formula for packet, formula in found.items() if packet is not None}


def _product(left: Shape, right: Shape, *_: Any, out_shape: Shape, **__: Any) -> int:
    # Where groups lie along the axis that is summed over, every entry of the result sums its own group alone.
    groups = out_shape[0] if len(out_shape) > max(len(left), len(right)) else 1
    return 2 * prod(out_shape) * left[-1] // groups


def _added_product(_added: Shape, left: Shape, right: Shape, *_: Any, **__: Any) -> int:
    return 2 * prod(left) * (right[-1] if len(right) > 1 else 1)


def _bilinear(left: Shape, weight: Shape, *_: Any, **__: Any) -> int:
    return 2 * prod(left[:-1]) * prod(weight)


def _deformed_convolution(_source: Shape, weight: Shape, *_: Any, out_shape: Shape, **__: Any) -> int:
    return 2 * prod(out_shape) * prod(weight[1:])


FORMULAS: dict[tuple[str, str], Callable[..., int]] = {
    ("aten", "mv dot vdot _int_mm _grouped_mm _scaled_grouped_mm _scaled_grouped_mm_v2 _scaled_mm_v2"): _product,
    ("aten", "_weight_int8pack_mm _weight_int4pack_mm _weight_int4pack_mm_for_cpu"): _product,
    ("aten", "addmv addbmm"): _added_product,
    ("aten", "_trilinear"): _bilinear,
    ("transformers", "grouped_mm_fallback"): _product,  # a mixture of experts, where it is traced
    ("torchvision", "deform_conv2d"): _deformed_convolution,
}
"""Operations (two a multiply-add) from the shapes of an operator's arguments, by namespace and names."""
