"""Run a forward in float64 that names other types itself: ``x.to(torch.bfloat16)``, ``torch.full(…, dtype=x.dtype)``.

What a network computes in half precision is rounded there, and a comparison in float64 would measure this rounding. So
every type below float64 that the forward names is read as float64. Numbers that it writes, as ``torch.full(…, 0.1)``,
keep the rounding that they have in the traced network: it is part of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

WIDE = {torch.complex64: torch.complex128, torch.complex32: torch.complex128}
CASTS = {Tensor.float, Tensor.half, Tensor.bfloat16}
WRITTEN = {
    torch.full,
    torch.tensor,
    torch.scalar_tensor,
    torch.as_tensor,
    Tensor.new_full,
    torch.full_like,
    Tensor.new_tensor,
}


def native_dtype(model: nn.Module) -> torch.dtype:
    """Return the floating-point type of a model's tensors, the first one's."""
    tensors = (*model.parameters(), *model.buffers())
    return next((tensor.dtype for tensor in tensors if tensor.is_floating_point()), torch.get_default_dtype())


class InDouble(TorchFunctionMode):
    """Let everything that is floating point be float64; numbers in code are rounded to `native` first."""

    def __init__(self, native: torch.dtype) -> None:
        super().__init__()
        self.native = native

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = dict(kwargs or {})
        if func in CASTS:
            return Tensor.double(args[0])
        if func in WRITTEN:
            return self._written(func, args, named)
        if func is not Tensor.view:  # which reads the same bytes as another type
            args = tuple(map(_widened, args))
            named = {key: _widened(value) for key, value in named.items()}
        return _doubled(func(*args, **named))

    def _written(self, func: Callable[..., Any], args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        try:
            number = func(*args, **named)
        except RuntimeError:  # too large for the type: forward asked for the least number of a type that is another now
            return func(*args, **{**named, "dtype": torch.float64})
        if number.dtype == torch.float64:  # forward asked for the type of its input, which is another one when traced
            number = number.to(self.native)
        return _doubled(number)


def _widened(value: Any) -> Any:
    """Return float64 in place of any other floating-point type."""
    if not isinstance(value, torch.dtype):
        return value
    return torch.float64 if value.is_floating_point else WIDE.get(value, value)


def _doubled(result: Any) -> Any:
    """Return what was made in another type, out of integers or of nothing, in float64."""
    if not isinstance(result, Tensor):
        return result
    wide = _widened(result.dtype)
    return result if wide == result.dtype else result.to(wide)
