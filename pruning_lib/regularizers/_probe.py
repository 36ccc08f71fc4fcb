"""Observe the forward passes of a model: the place of each layer's pre-activation in the graph; for `SeReNe`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from pruning_lib.regularizers._slopes import reduce_slopes, unit_axis
from pruning_lib.units import BatchNorm, Weighted, is_layer

COMPILED = "SeReNe got a compiled model; it differentiates inside the graph, so pass the eager one."

Activation = Callable[[Tensor], Tensor]


class Use(NamedTuple):
    """What one call of a layer left."""

    edge: GradientEdge
    """The place of its pre-activation in the graph."""
    slope: Tensor | None
    """E|φ′(p)| where it is asked for."""


Seen = dict[str, list[Use]]
"""The uses of each layer."""


def check_eager(model: nn.Module) -> None:
    """Raise TypeError for what hooks cannot observe."""
    # A part that `torch.compile` wrapped, or that `module.compile()` changed in place, is opaque as well.
    for module in [model, *model.modules()] if isinstance(model, nn.Module) else ():
        if hasattr(module, "_orig_mod") or module._compiled_call_impl is not None:
            raise TypeError(COMPILED)
    if isinstance(model, nn.DataParallel) and len(model.device_ids) > 1:
        raise TypeError(
            "SeReNe got a DataParallel model, whose replicas it cannot observe; use DistributedDataParallel."
        )


class Probe:
    """Forward hooks that note, for each layer, the place of its pre-activation in the autograd graph.

    An edge, not the tensor: an in-place activation changes the tensor, and the edge still leads to what came before.
    """

    def __init__(self, model: nn.Module, layers: Mapping[str, Weighted], activation: Activation | None) -> None:
        self.norms: dict[str, BatchNorm] = {}
        self.compiled = False
        self._activation = activation
        self._seen: Seen = {}
        self._writer: dict[object, str] = {}
        self._axes = {name: unit_axis(layer) for name, layer in layers.items()}
        by_weight = {id(layer.weight): name for name, layer in layers.items()}
        self._names: dict[nn.Module, str] = {
            m: by_weight[id(m.weight)] for m in model.modules() if _has_weight_of(m, by_weight)
        }
        self._all_norms = [module for module in model.modules() if isinstance(module, BatchNorm)]
        self._handles = [model.register_forward_pre_hook(_Hook(self._start))]
        for module in (*self._names, *self._all_norms):
            self._handles.append(module.register_forward_hook(_Hook(self._note)))

    def mixes_examples(self) -> bool:
        """Whether a BatchNorm normalizes by the batch at hand."""
        return any(norm.training or norm.running_mean is None for norm in self._all_norms)

    def take(self) -> Seen:
        """Return what the last forward pass left, and forget it."""
        seen, self._seen, self._writer = self._seen, {}, {}
        return seen

    def remove(self) -> None:
        """Take the hooks off the model."""
        for handle in self._handles:
            handle.remove()

    def _start(self, model: nn.Module, inputs: tuple[Any, ...]) -> None:
        # A pass without gradients, of an evaluation say, leaves what was seen before.
        if torch.is_grad_enabled():
            self.take()
            self.compiled = torch.compiler.is_compiling()

    def _note(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        if output.grad_fn is None:
            return
        if isinstance(module, BatchNorm):
            # The BatchNorm's input is the very node that a layer wrote, or this BatchNorm follows something else.
            source = inputs[0].grad_fn if inputs else None
            name = self._writer.pop(source, None)
            if name is None:
                return
            self.norms[name] = module
            self._seen[name] = [use for use in self._seen[name] if use.edge.node is not source]
        else:
            name = self._names[module]
            self._writer[output.grad_fn] = name
        self._seen.setdefault(name, []).append(Use(get_gradient_edge(output), self._slope(output, self._axes[name])))

    def _slope(self, output: Tensor, axis: int) -> Tensor | None:
        """Return E|φ′(p)| of every unit, or None where no activation is asked for."""
        if self._activation is None:
            return None
        with torch.enable_grad():
            point = output.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self._activation(point).sum(), point)
        return reduce_slopes(slope, "mean", axis)


def _has_weight_of(module: nn.Module, by_weight: Mapping[int, str]) -> TypeGuard[Weighted]:
    """Whether a module computes with one of these weights; one that shares it is observed under the first's name."""
    return is_layer(module) and id(module.weight) in by_weight


class _Hook:
    """A hook that is left behind by copies and pickles of the model: they are not observed."""

    def __init__(self, call: Callable[..., None] | None = None) -> None:
        self._call = call

    def __call__(self, *arguments: Any) -> None:
        if self._call is not None:
            self._call(*arguments)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Hook:
        return _Hook()

    def __reduce__(self) -> tuple[type[_Hook], tuple[()]]:
        return _Hook, ()
