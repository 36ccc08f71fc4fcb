"""SeReNe: sensitivity-based regularization of neurons (Tartaglione et al., 2021, arXiv 2102.03773); see `serene`.

    S_i = 1/C Σ_k E|∂y_k / ∂p_i|        S̄_i = max(0, 1 − S_i)        w_ij ← (1 − λ S̄_i) (w_ij − η ∂L/∂w_ij)

p_i: pre-activation of unit i; y: the C outputs; E: mean over the batch (and over space for a convolution). A unit that
the outputs do not feel decays by λ a step, one that they feel (S ≥ 1) not at all. λ is not multiplied by η.

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
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, TypeGuard

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.optim import Optimizer

from pruning_lib.regularizers._base import (
    Regularizer,
    checked_choice,
    checked_strength,
    incoming_norms,
    learning_rates,
    regularized_layers,
    snap,
)
from pruning_lib.units import BatchNorm, Units, Weighted, bounded_scale, rows, unwrapped

Activation = Callable[[Tensor], Tensor]

COMPILED = "SeReNe got a compiled model; it differentiates inside the graph, so pass the eager one."


class SeReNe(Regularizer):
    """Decay the units that the outputs are insensitive to.

    Parameters
    ----------
    model : nn.Module
        Its linear and convolution layers are observed by hooks, in eager mode; one whose forward is not called (the
        `out_proj` of a MultiheadAttention) does not decay. Where a BatchNorm follows directly, p is its output and its
        scale decays with the row, bounded (`bound_batchnorm`) or not; the released code takes p before it and leaves
        the scale. A scale that is computed in another way stays.
    strength : float
        λ in [0, 1), a share of the weight per step. The authors' code uses 1e-4 by default.
    estimator : {"sampled", "exact", "lower-bound", "local"}
        How S is measured; see the top of this file. ``"exact"`` is the definition.
    space : {"mean", "sum", "abs-of-sum"}, optional
        Convolutions, and linear layers along a sequence: mean of |·| over the places of p (the released code), its sum,
        or |sum of ·| (the map moved as one). ``"local"`` knows the mean alone. Default: ``"mean"``; for outputs with
        places of their own, of which one place of p moves few, ``"sum"``. A network that treats each place alone then
        has the sensitivities that it has on single places.
    scaling : {"paper", "released"}
        ``"released"``, for ``"exact"`` alone, divides S by the batch size, as the released code does by differentiating
        the batch mean. S̄ is then close to 1 for every unit, and the method close to plain decay.
    every : int, optional
        S is measured at every such step and kept in between. Default: 3 for ``"sampled"``, else 1.
    smoothing : float, optional
        S of the update is an exponential moving average that keeps this share of its past at each measurement.
        Default: 0.6 for ``"sampled"``, else 0.
    activation : callable
        φ, for ``"local"`` alone. The layer that writes `outputs` counts as linear.
    units : Units, optional
        Regularize only the writers of these units; the released code decays the output layer too.
    seed : int
        Of the sampled outputs and signs.

    Raises
    ------
    TypeError
        If the model was compiled (a compiled graph has no pre-activation to differentiate), or is replicated by
        DataParallel.
    ValueError
        If `strength` is not in [0, 1) or too small for the weights' dtype, a choice is unknown or does not go with the
        estimator, no layer is found, or a weight is parametrized.
    """

    def __init__(
        self,
        model: nn.Module,
        strength: float = 1e-4,
        *,
        estimator: Literal["sampled", "exact", "lower-bound", "local"] = "sampled",
        space: Literal["mean", "sum", "abs-of-sum"] | None = None,
        scaling: Literal["paper", "released"] = "paper",
        every: int | None = None,
        smoothing: float | None = None,
        activation: Activation = torch.relu,
        units: Units | None = None,
        seed: int = 0,
    ) -> None:
        self.strength = _checked_share(strength, self)
        self.estimator = checked_choice(estimator, "estimator", ("sampled", "exact", "lower-bound", "local"))
        self.space = space if space is None else checked_choice(space, "space", ("mean", "sum", "abs-of-sum"))
        self.scaling = checked_choice(scaling, "scaling", ("paper", "released"))
        if scaling == "released" and estimator != "exact":
            raise ValueError(f"scaling='released' is the factor of the exact estimator; got estimator={estimator!r}.")
        if space not in (None, "mean") and estimator == "local":
            raise ValueError(f"estimator='local' knows space='mean' alone: no output is summed over; got {space!r}.")
        cheap = estimator == "sampled"
        self.every = (3 if cheap else 1) if every is None else int(every)
        self.smoothing = (0.6 if cheap else 0.0) if smoothing is None else float(smoothing)
        if self.every < 1:
            raise ValueError(f"SeReNe got every={every!r}; it is a number of steps, 1 or more.")
        if not 0 <= self.smoothing < 1:
            raise ValueError(f"SeReNe got smoothing={smoothing!r}; it is the share of the past kept, in [0, 1).")
        if not hasattr(seed, "__index__"):
            raise TypeError(f"SeReNe got seed={seed!r}; it is an integer.")
        _check_eager(model)
        self._layers = regularized_layers(model, units, self, in_place=True)
        self._check_dtype()
        self._generator = torch.Generator().manual_seed(seed)
        self._probe = _Probe(unwrapped(model), self._layers, activation if estimator == "local" else None)
        self._average: dict[str, Tensor] = {}
        self._pending: dict[str, Tensor] = {}
        self._examples = 0  # measured since the last update
        self._measured = 0  # measurements in the average
        self._step = 0

    def penalty(self, outputs: Tensor) -> Tensor:
        """Measure S on the last forward pass and return 0: the decay itself is taken by `update`.

        A measurement that is not finite, as under an overflow that a gradient scaler skips, is dropped. Of two forward
        passes in one loss the last is measured; call `penalty` after each to measure both.

        Parameters
        ----------
        outputs : Tensor
            The model's, before any softmax, from a forward pass with gradient. The first axis counts the examples, the
            others what one example gives: (N, C), (N,), maps (N, C, H, W), sequences (N, T, C). Pass a sequence before
            its steps are flattened into the examples, or the slopes of one sequence's steps are taken as one.

        Raises
        ------
        TypeError
            If `outputs` is no tensor, or a compiled model's.
        ValueError
            If `outputs` are a scalar, carry no graph, or do not come from the model's last forward pass.
        """
        _check_outputs(outputs)
        seen = self._probe.take()
        if self._probe.compiled:
            raise TypeError(COMPILED)
        if not seen:
            raise ValueError("SeReNe saw no forward pass since the last penalty; call model(inputs) first.")
        if self._step % self.every == 0:
            measured = self._local(outputs, seen) if self.estimator == "local" else self._measure(outputs, seen)
            self._note(*_mean_over_ranks(measured, len(outputs)))
        return outputs.new_zeros(())

    @torch.no_grad()
    def update(self, optimizer: Optimizer) -> None:
        """Decay the incoming weights of each unit, and the γ behind them, by λ S̄, where `optimizer` trains them."""
        strength, trained = _checked_share(self.strength, self), learning_rates(optimizer)
        for name, sensitivity in self.sensitivity().items():
            keep = 1 - strength * (1 - sensitivity).clamp(min=0)
            layer, norm = self._layers[name], self._probe.norms.get(name)
            weight = rows(layer)
            if layer.weight.requires_grad and id(layer.weight) in trained:
                snap(weight.mul_(keep.to(weight.dtype).view(-1, *[1] * (weight.ndim - 1))))
            if norm is not None and norm.affine:
                _decay_scale(norm, keep, trained)
        self._step += 1

    def sensitivity(self) -> dict[str, Tensor]:
        """Return {layer: S}, float32 tensors of shape (units,): the running average, or the last step's value.

        Raises
        ------
        ValueError
            If nothing has been measured yet.
        """
        if self._examples:
            self._measured += 1
            for name, value in self._pending.items():
                past = self._average.get(name, torch.zeros_like(value))
                self._average[name] = torch.lerp(value, past, self.smoothing)
            self._pending, self._examples = {}, 0
        if not self._average:
            raise ValueError("SeReNe has measured no sensitivity yet; call penalty(outputs) after a forward pass.")
        # The average starts at 0; dividing by the weight of what came in makes it unbiased from the first step.
        return {name: value / (1 - self.smoothing**self._measured) for name, value in self._average.items()}

    def importance(self) -> dict[str, Tensor]:
        """Return {layer: ‖incoming weights‖₂}: S small means little influence, S = 0 does not mean silent.

        Where BatchNorms follow, rank by `importance.magnitude(model, units, of="folded")`: they divide lengths out,
        and a layer can lose nearly all of its units to another (chapter *What held*).
        """
        return incoming_norms(self._layers)

    def remove(self) -> None:
        """Take the hooks off the model."""
        self._probe.remove()

    def state_dict(self) -> dict[str, Any]:
        """Return the strength, the running average of S and the state of the class sampling."""
        return {
            **super().state_dict(),
            "average": {name: value.clone() for name, value in self._average.items()},
            "measured": self._measured,
            "step": self._step,
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up the state that `state_dict` returned.

        Raises
        ------
        ValueError
            If it belongs to another network. Nothing is changed then.
        """
        missing = {"strength", "average", "measured", "step", "generator"} - state.keys()
        shapes = {name: (len(rows(layer)),) for name, layer in self._layers.items()}
        if missing or any(shapes.get(name) != value.shape for name, value in state["average"].items()):
            raise ValueError("SeReNe got the state of another network, or none; pass what its state_dict() returned.")
        super().load_state_dict(state)
        self._average = {
            name: value.to(self._layers[name].weight.device, copy=True) for name, value in state["average"].items()
        }
        self._measured, self._step = int(state["measured"]), int(state["step"])
        self._generator.set_state(state["generator"].cpu())
        self._pending, self._examples = {}, 0

    def _check_dtype(self) -> None:
        """Refuse a decay that rounding undoes: 1 − λ is 1 in a short dtype."""
        for name, layer in self._layers.items():
            dtype = layer.weight.dtype
            if 0 < self.strength < torch.finfo(dtype).eps / 2:
                raise ValueError(
                    f"SeReNe got strength={self.strength!r}, which {dtype} rounds away in '{name}'; keep the weights "
                    "in float32 and use torch.autocast."
                )

    def _note(self, measured: dict[str, Tensor], examples: int) -> None:
        """Join a measurement with those since the last update, by the number of examples."""
        if not all(bool(value.isfinite().all()) for value in measured.values()):
            return
        self._examples += examples
        for name, value in measured.items():
            past = self._pending.get(name, value)
            self._pending[name] = torch.lerp(past, value, examples / self._examples)

    def _measure(self, outputs: Tensor, seen: _Seen) -> dict[str, Tensor]:
        """Return S of every layer, from as many backward passes as the estimator takes."""
        edges = [(name, edge) for name, found in seen.items() for edge, _ in found]
        total: dict[str, Tensor] = {}
        space = self.space or ("mean" if outputs.ndim <= 2 else "sum")
        for seed in self._seeds(outputs.detach()):
            slopes = torch.autograd.grad(outputs, [e for _, e in edges], seed, retain_graph=True, allow_unused=True)
            for (name, _), slope in zip(edges, slopes, strict=True):
                if slope is not None:
                    # A slope is ours to overwrite, unless it is the seed itself, as at the output layer.
                    mine = slope.data_ptr() != seed.data_ptr()
                    value = reduce_slopes(slope, space, _unit_axis(self._layers[name]), overwrite=mine)
                    total[name] = total[name] + value if name in total else value
        if not total:
            raise ValueError("SeReNe got outputs that do not come from the model's last forward pass; pass those.")
        share = 1.0 if self.estimator == "sampled" else 1 / _numbers(outputs)
        if self.scaling == "released":
            share /= outputs.shape[0]
        for name in seen.keys() - total.keys():
            # The outputs do not feel a layer that no path leads on from.
            total[name] = torch.zeros(len(rows(self._layers[name])), device=outputs.device)
        return {name: total[name] * share for name in seen}

    def _seeds(self, outputs: Tensor) -> Iterator[Tensor]:
        """Yield the vectors that each backward pass multiplies the outputs with, in the outputs' shape."""
        examples, count = len(outputs), _numbers(outputs)
        seeds: Iterable[Tensor]
        if self.estimator == "lower-bound":
            seeds = [outputs.new_ones(examples, count)]
        elif self.estimator == "sampled":
            drawn = torch.randint(count, (examples, 1), generator=self._generator).to(outputs.device)
            seeds = [outputs.new_zeros(examples, count).scatter_(1, drawn, 1.0)]
        else:
            # One at a time: those of a map, all at once, would take its size squared.
            seeds = (_one_hot(k, outputs.new_zeros(count)).expand(examples, count) for k in range(count))
        signs = None
        if self._probe.mixes_examples():
            signs = 2.0 * torch.randint(2, (examples, 1), generator=self._generator) - 1
        for seed in seeds:
            yield (seed if signs is None else seed * signs.to(seed)).reshape(outputs.shape)

    def _local(self, outputs: Tensor, seen: _Seen) -> dict[str, Tensor]:
        """Return E|φ′(p)| of every layer, the mean of its uses; 1 for the layer that writes the outputs."""
        last = _first_of({edge.node for found in seen.values() for edge, _ in found}, outputs.grad_fn)
        values: dict[str, list[Tensor]] = {}
        for name, found in seen.items():
            for edge, slope in found:
                assert slope is not None
                values.setdefault(name, []).append(torch.ones_like(slope) if edge.node is last else slope)
        return {name: torch.stack(uses).mean(0) for name, uses in values.items()}


def _decay_scale(norm: BatchNorm, keep: Tensor, trained: Mapping[int, float]) -> None:
    """Multiply the scale of a BatchNorm by `keep`, if it is trained; a bounded one, σ(γ), through its γ."""
    bounded = bounded_scale(norm)
    scale = norm.weight if bounded is None else bounded[0]
    if not scale.requires_grad or id(scale) not in trained:
        return
    keep = keep.to(scale.dtype)
    if bounded is None:
        snap(scale.mul_(keep))
    else:
        # The γ of keep·σ(γ); σ(−69) is 1e-30, and lower ones stay.
        lower = keep.log() - torch.logaddexp((1 - keep).log(), -scale)
        scale.copy_(torch.maximum(lower, scale.clamp(max=-69.0)))


def _checked_share(strength: float, owner: object) -> float:
    """Return `strength`, or raise ValueError unless it is in [0, 1)."""
    value = checked_strength(strength, owner)
    if value >= 1:
        raise ValueError(f"SeReNe got strength={strength!r}; it is a share of the weight per step, below 1.")
    return value


def _check_eager(model: nn.Module) -> None:
    """Raise TypeError for what hooks cannot observe."""
    # A part that `torch.compile` wrapped, or that `module.compile()` changed in place, is opaque as well.
    for module in [model, *model.modules()] if isinstance(model, nn.Module) else ():
        if hasattr(module, "_orig_mod") or module._compiled_call_impl is not None:
            raise TypeError(COMPILED)
    if isinstance(model, nn.DataParallel) and len(model.device_ids) > 1:
        raise TypeError(
            "SeReNe got a DataParallel model, whose replicas it cannot observe; use DistributedDataParallel."
        )


def _check_outputs(outputs: Tensor) -> None:
    """Raise unless these are differentiable outputs of shape (examples, …)."""
    if not isinstance(outputs, Tensor):
        raise TypeError(f"SeReNe got a {type(outputs).__name__}; pass the tensor of outputs, (examples, …).")
    if outputs.ndim == 0:
        raise ValueError("SeReNe got a scalar; it needs the model's outputs, (examples, …), not the loss.")
    if outputs.grad_fn is None:
        raise ValueError("SeReNe got outputs without a graph; run the forward pass with gradients enabled.")


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


def _first_of(wanted: set[Any], node: Any) -> Any:
    """Follow a chain of operators of one input each (a cast, a temperature) back to the first wanted node."""
    while node is not None and node not in wanted:
        before = [source for source, _ in node.next_functions if source is not None]
        node = before[0] if len(before) == 1 else None
    return node


def reduce_slopes(slope: Tensor, space: str, units: int = 1, overwrite: bool = False) -> Tensor:
    """Reduce slopes ∂y/∂p of shape (examples, …, units, …) to (units,): over space, then the mean over examples.

    Parameters
    ----------
    slope : Tensor
        The examples are its first axis; what is neither examples nor units is space.
    space : {"mean", "sum", "abs-of-sum"}
        How places are joined: mean of |·|, sum of |·|, |sum of ·|.
    units : int
        The axis of the units.
    overwrite : bool
        `slope` is not needed any more. Two layers may share it, as before a sum: |·| of |·| is |·|.
    """
    units %= slope.ndim
    places = [axis for axis in range(1, slope.ndim) if axis != units]
    if space == "abs-of-sum" and places:
        return slope.sum(places, dtype=torch.float32).abs().mean(0)
    # A fresh array of a convolution's size costs more than its absolute values.
    size = slope.abs_() if overwrite and slope.is_contiguous() else slope.abs()
    total = size.sum([0, *places], dtype=torch.float32)
    count = math.prod(slope.shape[axis] for axis in places) if space == "mean" else 1
    return total / (slope.shape[0] * count)


def _mean_over_ranks(values: dict[str, Tensor], examples: int) -> tuple[dict[str, Tensor], int]:
    """Average over the processes of `torch.distributed`, by their numbers of examples; return the sum of these too."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return values, examples
    flat = torch.cat(list(values.values()))
    joined = torch.cat([flat * examples, flat.new_tensor([examples])])
    dist.all_reduce(joined)
    parts = torch.split(joined[:-1] / joined[-1], [len(value) for value in values.values()])
    return dict(zip(values, parts, strict=True)), int(joined[-1])


_Seen = dict[str, list[tuple[GradientEdge, Tensor | None]]]


class _Probe:
    """Forward hooks that note, for each layer, the place of its pre-activation in the autograd graph.

    An edge, not the tensor: an in-place activation changes the tensor, and the edge still leads to what came before.
    """

    def __init__(self, model: nn.Module, layers: Mapping[str, Weighted], activation: Activation | None) -> None:
        self.norms: dict[str, BatchNorm] = {}
        self.compiled = False
        self._activation = activation
        self._seen: _Seen = {}
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

    def take(self) -> _Seen:
        """Return what the last forward pass left, and forget it."""
        seen, self._seen, self._writer = self._seen, {}, {}
        return seen

    def remove(self) -> None:
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
            self._seen[name] = [found for found in self._seen[name] if found[0].node is not source]
        else:
            name = self._names[module]
            self._writer[output.grad_fn] = name
        self._seen.setdefault(name, []).append((get_gradient_edge(output), self._slope(output, self._axes[name])))

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
    return isinstance(module, Weighted) and id(module.weight) in by_weight


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
