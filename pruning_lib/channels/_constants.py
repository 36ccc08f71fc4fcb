"""What is left of a layer that no input can change: its constants, in the shape that the layer would return."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from pruning_lib.units import BatchNorm

REPLACEABLE = (
    *(nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
)


class Constant(nn.Module):
    """Return the same channels for every example and position; made by `shrink`, explained in `from-zeros-to-smaller`.

    It stands where a linear layer, a convolution or a BatchNorm stood that no input can change any more, as at the end
    of a dead residual branch. It costs no multiply-adds, and follows other batches and image sizes.

    Parameters
    ----------
    layer : nn.Module
        The layer that it replaces; its kernel, stride and padding say how large the output is.
    channels : int
        Number of channels returned.
    zero : bool
        Whether all of them are 0, and ``bias`` a buffer that says so. Otherwise it is a parameter.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from pruning_lib.channels import Constant
    >>> constant = Constant(nn.Conv2d(3, 2, kernel_size=3, stride=2), channels=2, zero=True)
    >>> constant
    Constant(2, zero)
    >>> constant(torch.ones(5, 3, 9, 9)).shape  # as the convolution's would be
    torch.Size([5, 2, 4, 4])
    """

    bias: Tensor

    def __init__(self, layer: nn.Module, channels: int, zero: bool) -> None:
        super().__init__()
        self.last = isinstance(layer, nn.Linear)
        self.follows = isinstance(layer, BatchNorm)
        self.geometry = _geometry(layer)
        # The layer's own dtype and device; a BatchNorm without scale has buffers alone.
        like = next(layer.parameters(), next(layer.buffers(), torch.empty(0)))
        value = torch.zeros(channels, dtype=like.dtype, device=like.device)
        # Zeros are a buffer: nothing has to be learnt, and an optimizer would only find another parameter to hold.
        if zero:
            self.register_buffer("bias", value)
        else:
            trains = any(parameter.requires_grad for parameter in layer.parameters())
            self.bias = nn.Parameter(value, requires_grad=trains)
        self.train(layer.training)

    def forward(self, x: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """Return a new tensor of shape (…, channels) in place of a linear layer, else (examples, channels, …).

        ``output_size`` asks for a size in space, as of a transposed convolution. Written so that torch.fx can trace it:
        no size is iterated over.
        """
        if self.last:
            return torch.zeros_like(x[..., :1], dtype=self.bias.dtype) + self.bias
        if self.follows:
            # Not movedim, which the older ONNX exporter writes with an axis of -1 where sizes are dynamic.
            each = torch.zeros_like(x[:, :1], dtype=self.bias.dtype).transpose(1, -1) + self.bias
            return each.transpose(1, -1).contiguous()
        axes = range(-len(self.geometry), 0)
        space = [
            _length(x.shape[axis], self.geometry[axis]) if output_size is None else output_size[axis] for axis in axes
        ]
        value = self.bias.reshape(-1, *[1] * len(space))
        # Asked of x: torch.fx of torch 2.8 hands no traced size to a tensor that is not traced itself.
        return x.new_zeros([x.shape[0], len(self.bias), *space], dtype=self.bias.dtype) + value

    def extra_repr(self) -> str:
        """Say how many channels there are and whether they are 0."""
        return f"{len(self.bias)}{'' if isinstance(self.bias, nn.Parameter) else ', zero'}"


def stands_in(model: nn.Module) -> bool:
    """Whether constants stand in a model for layers: it is a network also if none of these is left."""
    return isinstance(model, nn.Module) and any(isinstance(module, Constant) for module in model.modules())


def _geometry(layer: nn.Module) -> list[tuple[int, int, int, int]]:
    """Return (factor, addend, divisor, offset) of each axis of space, for `_length`."""
    if not isinstance(layer, _ConvNd):
        return []
    axes = []
    for axis, kernel in enumerate(layer.kernel_size):
        stride, span = layer.stride[axis], layer.dilation[axis] * (kernel - 1)
        padding: Any = layer.padding
        pads = {"same": span, "valid": 0}[padding] if isinstance(padding, str) else 2 * padding[axis]
        if isinstance(layer, _ConvTransposeNd):
            # (length − 1)·stride − pads + span + 1 + output_padding
            axes.append((stride, -stride - pads + span + 1 + layer.output_padding[axis], 1, 0))
        else:
            # (length + pads − span − 1) // stride + 1
            axes.append((1, pads - span - 1, stride, 1))
    return axes


def _length(length: int, geometry: tuple[int, int, int, int]) -> int:
    factor, addend, divisor, offset = geometry
    return (factor * length + addend) // divisor + offset
