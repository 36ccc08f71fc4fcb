"""The sensitivity S of a network's outputs to each unit, measured on the graph of one forward pass; for `SeReNe`.

    S_i = 1/C Σ_k E|∂y_k / ∂p_i|

p_i: pre-activation of unit i; y: the C outputs; E: mean over the batch (and over space for a convolution).

The outputs of a segmentation, a sequence or a regression are all the numbers that one example gives: a map of K classes
has C = K·H·W of them. A unit at one place moves few; what counts is the whole channel's reach, its sum over space.

The estimators of S differ in what one step costs:

    exact        C backward passes      S as above
    sampled      1 backward pass        E|∂y_k / ∂p_i| with an output k drawn for each example: unbiased for S
    lower-bound  1 backward pass        1/C E|Σ_k ∂y_k / ∂p_i| ≤ S; signs cancel, over the places of a map most of all
    local        none                   E|φ′(p_i)|, the unit's own activation φ alone

(All outputs at once with random signs would measure √Σ_k (∂y_k/∂p_i)², which falls the shorter of C·S the more outputs
a unit moves: no S, and no two layers alike.)

One example's slopes are taken while the others stay as they are. A BatchNorm in train mode mixes them; each example
then counts with a random sign, which no |·| notices and which keeps what the others send back from adding up.

Max pooling in windows that do not overlap hands each slope on to one place of p, so that Σ |∂y/∂p| is the same before
and behind it. It is taken behind, where there are fewer numbers: a tenth of the time of an exact step of LeNet-5.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeGuard

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from pruning_lib.units import BatchNorm, Weighted, is_layer, rows

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


@dataclass(frozen=True, eq=False)
class Estimator:
    """One way to measure S of every layer.

    Parameters
    ----------
    kind : {"exact", "sampled", "lower-bound", "local"}
        See the top of this file.
    space : {"mean", "sum", "abs-of-sum"} or None
        How the places of p are joined; None decides by the shape of the outputs.
    released : bool
        Divide by the batch size too, as the released code does.
    layers : mapping of str to layer
        Whose units are measured.
    probe : Probe
        Observes the forward passes of their model.
    generator : torch.Generator
        Draws outputs and signs.
    """

    kind: str
    space: str | None
    released: bool
    layers: Mapping[str, Weighted]
    probe: Probe
    generator: torch.Generator

    def measure(self, outputs: Tensor, seen: Seen) -> dict[str, Tensor]:
        """Return {layer: S}, float32 of shape (units,), for the pass that left `outputs` and `seen`."""
        return self._local(outputs, seen) if self.kind == "local" else self._global(outputs, seen)

    def _global(self, outputs: Tensor, seen: Seen) -> dict[str, Tensor]:
        """Return S of every layer, from as many backward passes as the estimator takes."""
        uses = [(name, use.edge) for name, its in seen.items() for use in its]
        edges = [edge for _, edge in uses]
        # Only the last axes of maps are places; a graph whose nodes Python has met is deleted by recursion.
        maps = [
            i for i, (name, edge) in enumerate(uses) if len(_shape(edge)) == 4 and _unit_axis(self.layers[name]) == 1
        ]
        if maps:
            for i, edge in zip(maps, _behind_pools([edges[i] for i in maps], outputs.grad_fn), strict=True):
                edges[i] = edge
        total: dict[str, Tensor] = {}
        space = self.space or ("mean" if outputs.ndim <= 2 else "sum")
        for seed in self._seeds(outputs.detach()):
            slopes = torch.autograd.grad(outputs, edges, seed, retain_graph=True, allow_unused=True)
            for (name, edge), slope in zip(uses, slopes, strict=True):
                if slope is not None:
                    # A slope is ours to overwrite, unless it is the seed itself, as at the output layer, or its signs
                    # are needed: two layers may share it, as before a sum.
                    mine = slope.data_ptr() != seed.data_ptr() and space != "abs-of-sum"
                    axis, shape = _unit_axis(self.layers[name]), _shape(edge)
                    places = math.prod(shape[other] for other in _places(len(shape), axis))
                    value = reduce_slopes(slope, space, axis, places, overwrite=mine)
                    total[name] = total[name] + value if name in total else value
        if not total:
            raise ValueError("SeReNe got outputs that do not come from the model's last forward pass; pass those.")
        share = 1.0 if self.kind == "sampled" else 1 / _numbers(outputs)
        if self.released:
            share /= outputs.shape[0]
        for name in seen.keys() - total.keys():
            # The outputs do not feel a layer that no path leads on from.
            total[name] = torch.zeros(len(rows(self.layers[name])), device=outputs.device)
        return {name: total[name] * share for name in seen}

    def _seeds(self, outputs: Tensor) -> Iterator[Tensor]:
        """Yield the vectors that each backward pass multiplies the outputs with, in the outputs' shape."""
        examples, count = len(outputs), _numbers(outputs)
        seeds: Iterable[Tensor]
        if self.kind == "lower-bound":
            seeds = [outputs.new_ones(examples, count)]
        elif self.kind == "sampled":
            drawn = torch.randint(count, (examples, 1), generator=self.generator).to(outputs.device)
            seeds = [outputs.new_zeros(examples, count).scatter_(1, drawn, 1.0)]
        else:
            # One at a time: those of a map, all at once, would take its size squared.
            seeds = (_one_hot(k, outputs.new_zeros(count)).expand(examples, count) for k in range(count))
        signs = None
        if self.probe.mixes_examples():
            signs = 2.0 * torch.randint(2, (examples, 1), generator=self.generator) - 1
        for seed in seeds:
            yield (seed if signs is None else seed * signs.to(seed)).reshape(outputs.shape)

    def _local(self, outputs: Tensor, seen: Seen) -> dict[str, Tensor]:
        """Return E|φ′(p)| of every layer, the mean of its uses; 1 for the layer that writes the outputs."""
        last = _first_of({use.edge.node for uses in seen.values() for use in uses}, outputs.grad_fn)
        values: dict[str, list[Tensor]] = {}
        for name, uses in seen.items():
            for use in uses:
                assert use.slope is not None
                values.setdefault(name, []).append(torch.ones_like(use.slope) if use.edge.node is last else use.slope)
        return {name: torch.stack(each).mean(0) for name, each in values.items()}


def _numbers(outputs: Tensor) -> int:
    """Return C, how many numbers one example gives."""
    return math.prod(outputs.shape[1:])


def _one_hot(k: int, zeros: Tensor) -> Tensor:
    """Set number k to 1."""
    zeros[k] = 1
    return zeros


def _unit_axis(layer: Weighted) -> int:
    """Return the axis of a layer's output that counts its units."""
    return -1 if isinstance(layer, nn.Linear) else 1


def _places(ndim: int, units: int) -> list[int]:
    """Return the axes that are neither examples nor units."""
    return [axis for axis in range(1, ndim) if axis != units % ndim]


def _shape(edge: GradientEdge) -> tuple[int, ...]:
    """Return the shape of the tensor at a place of the graph."""
    return tuple(edge.node._input_metadata[edge.output_nr].shape)


def _first_of(wanted: set[Any], node: Any) -> Any:
    """Follow a chain of operators of one input each (a cast, a temperature) back to the first wanted node."""
    while node is not None and node not in wanted:
        before = [source for source, _ in node.next_functions if source is not None]
        node = before[0] if len(before) == 1 else None
    return node


def _behind_pools(edges: Sequence[GradientEdge], root: Any) -> list[GradientEdge]:
    """Return each edge, or that behind the max pooling which alone takes it up, if its windows do not overlap."""
    takers: dict[tuple[Any, int], list[Any]] = {}
    met, todo = {root}, [root]
    while todo:
        node = todo.pop()
        for source in node.next_functions:
            takers.setdefault(source, []).append(node)
            if source[0] is not None and source[0] not in met:
                met.add(source[0])
                todo.append(source[0])
    moved = []
    for edge in edges:
        its = takers.get((edge.node, edge.output_nr), [])
        moved.append(GradientEdge(its[0], 0) if len(its) == 1 and _is_apart(its[0]) else edge)
    return moved


def _is_apart(node: Any) -> bool:
    """Whether a node of the graph is a max pooling whose windows share no place."""
    if node.name() != "MaxPool2DWithIndicesBackward0":
        return False
    windows, dilations = _pair(node._saved_kernel_size), _pair(node._saved_dilation)
    strides = _pair(node._saved_stride) or windows
    return all(d * (w - 1) < s for w, s, d in zip(windows, strides, dilations, strict=True))


def _pair(given: tuple[int, ...]) -> tuple[int, ...]:
    """Return a number for each axis; a tuple of one number stands for both."""
    return given * 2 if len(given) == 1 else given


def reduce_slopes(
    slope: Tensor, space: str, units: int = 1, places: int | None = None, *, overwrite: bool = False
) -> Tensor:
    """Reduce slopes ∂y/∂p of shape (examples, …, units, …) to (units,): over space, then the mean over examples.

    Parameters
    ----------
    slope : Tensor
        The examples are its first axis; what is neither examples nor units is space.
    space : {"mean", "sum", "abs-of-sum"}
        How places are joined: mean of |·|, sum of |·|, |sum of ·|.
    units : int
        The axis of the units.
    places : int, optional
        Of p, for the mean, where the slopes that are handed in are fewer: the others are zero. Default: their number.
    overwrite : bool
        `slope` is not needed any more. Two layers may share it, as before a sum: |·| of |·| is |·|.
    """
    axes = _places(slope.ndim, units)
    if space == "abs-of-sum" and axes:
        return slope.sum(axes, dtype=torch.float32).abs().mean(0)
    # A fresh array of a convolution's size costs more than its absolute values.
    size = slope.abs_() if overwrite and slope.is_contiguous() else slope.abs()
    total = size.sum([0, *axes], dtype=torch.float32)
    if places is None:
        places = math.prod(slope.shape[axis] for axis in axes)
    return total / (slope.shape[0] * (places if space == "mean" else 1))


def mean_over_ranks(values: dict[str, Tensor], examples: int) -> tuple[dict[str, Tensor], int]:
    """Average over the processes of `torch.distributed`, by their numbers of examples; return the sum of these too."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return values, examples
    flat = torch.cat(list(values.values()))
    joined = torch.cat([flat * examples, flat.new_tensor([examples])])
    dist.all_reduce(joined)
    parts = torch.split(joined[:-1] / joined[-1], [len(value) for value in values.values()])
    return dict(zip(values, parts, strict=True)), int(joined[-1])


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
        self._axes = {name: _unit_axis(layer) for name, layer in layers.items()}
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
