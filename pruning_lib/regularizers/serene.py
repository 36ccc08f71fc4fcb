"""SeReNe: sensitivity-based regularization of neurons (Tartaglione et al., 2021, arXiv 2102.03773); see `serene`.

    S_i = 1/C Σ_k E|∂y_k / ∂p_i|        S̄_i = max(0, 1 − S_i)        w_ij ← w_ij − η ∂L/∂w_ij − λ w_ij S̄_i

p_i: pre-activation of unit i; y: the C outputs; E: mean over the batch (and over space for a convolution). A unit that
the outputs do not feel decays by λ a step, one that they feel (S ≥ 1) not at all. λ is not multiplied by η.

The estimators of S differ in what one step costs:

    exact        C backward passes      S as above
    sampled      1 backward pass        E|∂y_k / ∂p_i| with a class k drawn for each example: unbiased for S
    lower-bound  1 backward pass        1/C E|Σ_k ∂y_k / ∂p_i| ≤ S
    local        none                   E|φ′(p_i)|, the unit's own activation φ alone
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.optim import Optimizer

from pruning_lib.regularizers.base import (
    Regularizer,
    checked_choice,
    checked_strength,
    incoming_norms,
    regularized_layers,
    unwrapped,
)
from pruning_lib.units import BatchNorm, Units, rows

Activation = Callable[[Tensor], Tensor]


class SeReNe(Regularizer):
    """Decay the units that the outputs are insensitive to.

    Parameters
    ----------
    model : nn.Module
        Its linear and convolution layers are observed by hooks, in eager mode. Where a BatchNorm follows directly, p is
        its output and its scale γ decays with the row. In train mode a BatchNorm mixes the examples of a batch: S then
        holds the cross terms too.
    strength : float
        λ in [0, 1), a share of the weight per step. The authors' code uses 1e-4 by default.
    estimator : {"sampled", "exact", "lower-bound", "local"}
        How S is measured; see the top of this file. ``"exact"`` is the paper's definition.
    space : {"mean", "sum", "abs-of-sum"}
        Convolutions: mean of |·| over the map (the authors' code), its sum, or |sum of ·| (the map moved as one).
    scaling : {"paper", "released"}
        ``"released"`` divides S by the batch size, as the authors' code does by differentiating the batch mean. S̄ is
        then close to 1 for every unit, and the method close to plain decay.
    every : int, optional
        S is measured at every such step and kept in between. Default: 2 for ``"sampled"``, 1 (the paper) otherwise.
    smoothing : float, optional
        S of the update is an exponential moving average that keeps this share of its past at each measurement.
        Default: 0.7 for ``"sampled"``, 0 (the paper) for the others.
    activation : callable
        φ, for ``"local"`` alone. The layer that writes `outputs` counts as linear.
    units : Units, optional
        Regularize only the writers of these units; the released code decays the output layer too.
    seed : int
        Of the sampled classes; use the same one on every rank.

    Raises
    ------
    TypeError
        If the model was compiled: a compiled graph has no pre-activation to differentiate.
    ValueError
        If `strength` is not in [0, 1), a choice is unknown, or no layer is found.
    """

    def __init__(
        self,
        model: nn.Module,
        strength: float = 1e-4,
        *,
        estimator: Literal["sampled", "exact", "lower-bound", "local"] = "sampled",
        space: Literal["mean", "sum", "abs-of-sum"] = "mean",
        scaling: Literal["paper", "released"] = "paper",
        every: int | None = None,
        smoothing: float | None = None,
        activation: Activation = torch.relu,
        units: Units | None = None,
        seed: int = 0,
    ) -> None:
        self.strength = checked_strength(strength, self)
        if self.strength >= 1:
            raise ValueError(f"SeReNe got strength={strength!r}; it is a share of the weight per step, below 1.")
        self.estimator = checked_choice(estimator, "estimator", ("sampled", "exact", "lower-bound", "local"))
        self.space = checked_choice(space, "space", ("mean", "sum", "abs-of-sum"))
        self.scaling = checked_choice(scaling, "scaling", ("paper", "released"))
        cheap = estimator == "sampled"
        self.every = (2 if cheap else 1) if every is None else int(every)
        self.smoothing = (0.7 if cheap else 0.0) if smoothing is None else float(smoothing)
        if self.every < 1:
            raise ValueError(f"SeReNe got every={every!r}; it is a number of steps, 1 or more.")
        if not 0 <= self.smoothing < 1:
            raise ValueError(f"SeReNe got smoothing={smoothing!r}; it is the share of the past kept, in [0, 1).")
        if hasattr(model, "_orig_mod"):
            raise TypeError("SeReNe got a compiled model; it differentiates inside the graph, so pass the eager one.")
        self._layers = regularized_layers(model, units, self)
        self._probe = _Probe(unwrapped(model), list(self._layers), activation if estimator == "local" else None)
        self._generator = torch.Generator().manual_seed(seed)
        self._average: dict[str, Tensor] = {}
        self._pending: dict[str, Tensor] = {}
        self._passes = 0  # measured since the last update
        self._measured = 0  # measurements in the average
        self._step = 0

    def penalty(self, outputs: Tensor) -> Tensor:
        """Measure S on this forward pass and return 0: the decay itself is taken by `update`.

        Parameters
        ----------
        outputs : Tensor
            Of shape (examples, C), before any softmax, from a forward pass with gradient.

        Raises
        ------
        ValueError
            If `outputs` have another shape, carry no graph, or no forward pass of the model led to them.
        """
        if outputs.ndim != 2:
            raise ValueError(
                f"SeReNe got outputs of shape {tuple(outputs.shape)}; it needs the model's, (examples, classes)."
            )
        if outputs.grad_fn is None:
            raise ValueError("SeReNe got outputs without a graph; run the forward pass with gradients enabled.")
        seen = self._probe.take()
        if not seen:
            raise ValueError("SeReNe saw no forward pass since the last penalty; call model(inputs) first.")
        if self._step % self.every:
            return outputs.new_zeros(())
        measured = self._local(outputs, seen) if self.estimator == "local" else self._measure(outputs, seen)
        for name, value in _mean_over_ranks(measured).items():
            self._pending[name] = self._pending[name] + value if name in self._pending else value
        self._passes += 1
        return outputs.new_zeros(())

    @torch.no_grad()
    def update(self, optimizer: Optimizer) -> None:
        """Decay each unit's incoming weights (and the γ behind them) by λ S̄ of that unit."""
        self._step += 1
        for name, sensitivity in self.sensitivity().items():
            keep = 1 - self.strength * (1 - sensitivity).clamp(min=0)
            weight = rows(self._layers[name])
            if self._layers[name].weight.requires_grad:
                weight.mul_(keep.to(weight.dtype).view(-1, *[1] * (weight.ndim - 1)))
            norm = self._probe.norms.get(name)
            if norm is not None and norm.affine and norm.weight.requires_grad:
                norm.weight.mul_(keep.to(norm.weight.dtype))

    def sensitivity(self) -> dict[str, Tensor]:
        """Return {layer: S}, float32 tensors of shape (units,): the running average, or the last step's value.

        Raises
        ------
        ValueError
            If nothing has been measured yet.
        """
        if self._passes:
            self._measured += 1
            for name, total in self._pending.items():
                past = self._average.get(name, torch.zeros_like(total))
                self._average[name] = torch.lerp(total / self._passes, past, self.smoothing)
            self._pending, self._passes = {}, 0
        if not self._average:
            raise ValueError("SeReNe has measured no sensitivity yet; call penalty(outputs) after a forward pass.")
        # The average starts at 0; dividing by the weight of what came in makes it unbiased from the first step.
        return {name: value / (1 - self.smoothing**self._measured) for name, value in self._average.items()}

    def importance(self) -> dict[str, Tensor]:
        """Return {layer: ‖incoming weights‖₂}: S small means little influence, S = 0 does not mean silent."""
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
        """Take up the state that `state_dict` returned."""
        super().load_state_dict(state)
        self._average = {name: value.clone() for name, value in state["average"].items()}
        self._measured, self._step = int(state["measured"]), int(state["step"])
        self._generator.set_state(state["generator"].cpu())
        self._pending, self._passes = {}, 0

    def _measure(self, outputs: Tensor, seen: _Seen) -> dict[str, Tensor]:
        """Return S of every layer, from as many backward passes as the estimator takes."""
        edges = [(name, edge) for name, found in seen.items() for edge, _ in found]
        total: dict[str, Tensor] = {}
        seeds = self._seeds(outputs.detach())
        for seed in seeds:
            slopes = torch.autograd.grad(outputs, [e for _, e in edges], seed, retain_graph=True, allow_unused=True)
            for (name, _), slope in zip(edges, slopes, strict=True):
                if slope is not None:
                    value = self._reduce(slope, name)
                    total[name] = total[name] + value if name in total else value
        share = 1.0 if self.estimator == "sampled" else 1 / outputs.shape[1]
        if self.scaling == "released":
            share /= outputs.shape[0]
        for name in seen.keys() - total.keys():
            # The outputs do not feel a layer that no path leads on from.
            total[name] = torch.zeros(len(rows(self._layers[name])), device=outputs.device)
        return {name: total[name] * share for name in seen}

    def _seeds(self, outputs: Tensor) -> list[Tensor]:
        """Return the vectors that each backward pass multiplies the outputs with, each of shape (examples, C)."""
        examples, classes = outputs.shape
        if self.estimator == "lower-bound":
            return [torch.ones_like(outputs)]
        if self.estimator == "sampled":
            drawn = torch.randint(classes, (examples, 1), generator=self._generator).to(outputs.device)
            return [torch.zeros_like(outputs).scatter_(1, drawn, 1.0)]
        one_hot = torch.eye(classes, dtype=outputs.dtype, device=outputs.device)
        return [row.expand(examples, classes) for row in one_hot]

    def _reduce(self, slope: Tensor, name: str) -> Tensor:
        """Reduce ∂y/∂p of one layer to (units,)."""
        return reduce_slopes(slope, self.space, units=-1 if isinstance(self._layers[name], nn.Linear) else 1)

    def _local(self, outputs: Tensor, seen: _Seen) -> dict[str, Tensor]:
        """Return E|φ′(p)| of every layer; 1 for the layer that writes the outputs."""
        total: dict[str, Tensor] = {}
        for name, found in seen.items():
            for edge, slope in found:
                assert slope is not None
                value = self._reduce(slope, name)
                if edge.node is outputs.grad_fn:
                    value = torch.ones_like(value)
                total[name] = total[name] + value if name in total else value
        return total


def reduce_slopes(slope: Tensor, space: str, units: int = 1) -> Tensor:
    """Reduce slopes ∂y/∂p of shape (examples, …, units, …) to (units,): over space, then the mean over examples.

    Parameters
    ----------
    slope : Tensor
        The examples are its first axis; what is neither examples nor units is space.
    space : {"mean", "sum", "abs-of-sum"}
        How places are joined: mean of |·|, sum of |·|, |sum of ·|.
    units : int
        The axis of the units.
    """
    units %= slope.ndim
    places = [axis for axis in range(1, slope.ndim) if axis != units]
    if space == "abs-of-sum" and places:
        return slope.sum(places, dtype=torch.float32).abs().mean(0)
    total = slope.abs().sum([0, *places], dtype=torch.float32)
    count = math.prod(slope.shape[axis] for axis in places) if space == "mean" else 1
    return total / (slope.shape[0] * count)


def _mean_over_ranks(values: dict[str, Tensor]) -> dict[str, Tensor]:
    """Average over the processes of `torch.distributed`, where there are several."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return values
    joined = torch.cat(list(values.values()))
    dist.all_reduce(joined)
    parts = torch.split(joined / dist.get_world_size(), [len(value) for value in values.values()])
    return dict(zip(values, parts, strict=True))


_Seen = dict[str, list[tuple[GradientEdge, Tensor | None]]]


class _Probe:
    """Forward hooks that note, for each layer, the place of its pre-activation in the autograd graph.

    An edge, not the tensor: an in-place activation changes the tensor, and the edge still leads to what came before.
    """

    def __init__(self, model: nn.Module, layers: list[str], activation: Activation | None) -> None:
        self.norms: dict[str, BatchNorm] = {}
        self._activation = activation
        self._seen: _Seen = {}
        self._writer: dict[object, str] = {}
        modules = dict(model.named_modules())
        self._names = {modules[name]: name for name in layers}
        self._handles = [model.register_forward_pre_hook(_Hook(self._start))]
        for module in modules.values():
            if module in self._names or isinstance(module, BatchNorm):
                self._handles.append(module.register_forward_hook(_Hook(self._note)))

    def take(self) -> _Seen:
        """Return what the last forward pass left, and forget it."""
        seen, self._seen, self._writer = self._seen, {}, {}
        return seen

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()

    def _start(self, model: nn.Module, inputs: tuple[Any, ...]) -> None:
        self.take()

    def _note(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        if output.grad_fn is None:
            return
        if isinstance(module, BatchNorm):
            # The BatchNorm's input is the very node that a layer wrote, or this BatchNorm follows something else.
            name = self._writer.pop(inputs[0].grad_fn, None)
            if name is None:
                return
            self.norms[name] = module
            self._seen[name].pop()
        else:
            name = self._names[module]
            self._writer[output.grad_fn] = name
        self._seen.setdefault(name, []).append((get_gradient_edge(output), self._slope(output)))

    def _slope(self, output: Tensor) -> Tensor | None:
        """Return φ′(p), elementwise, or None where no activation is asked for."""
        if self._activation is None:
            return None
        with torch.enable_grad():
            point = output.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self._activation(point).sum(), point)
        return slope


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
