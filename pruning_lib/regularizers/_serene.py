"""SeReNe: sensitivity-based regularization of neurons (Tartaglione et al., 2021, arXiv 2102.03773); see `serene`.

    S_i = 1/C Σ_k E|∂y_k / ∂p_i|        S̄_i = max(0, 1 − S_i)        w_ij ← (1 − λ S̄_i) (w_ij − η ∂L/∂w_ij)

p_i: pre-activation of unit i; y: the C outputs; E: mean over the batch (and over space for a convolution). A unit that
no output depends on decays by λ a step, one with S ≥ 1 not at all. λ is not multiplied by η.

How S is measured, and for which heads: `_sensitivity.py` beside this file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pruning_lib._arguments import checked, one_of, optional
from pruning_lib.regularizers._base import (
    FOREIGN,
    Regularizer,
    check_state,
    incoming_norms,
    learning_rates,
    regularized_layers,
    snap,
)
from pruning_lib.regularizers._probe import COMPILED, Activation, Probe, check_eager
from pruning_lib.regularizers._sensitivity import Estimator, mean_over_ranks
from pruning_lib.units import BatchNorm, Units, bounded_scale, rows, unwrapped


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
        How S is measured: from one backward pass, with an output drawn for each example (unbiased); from as many
        backward passes as there are outputs, the definition; from one, a bound that signs make smaller; or from the
        unit's own activation alone. The definition takes several outputs of small layers together (`torch.vmap`): hooks
        on tensors then see them together, too.
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

    Examples
    --------
    The output 2 p₀ + 0 p₁ moves twice as far as unit 0 and not at all with unit 1, so that only unit 1 decays.

    >>> import torch
    >>> import pruning_lib as prl
    >>> model = torch.nn.Sequential(torch.nn.Linear(1, 2), torch.nn.Linear(2, 1))
    >>> _ = model[1].weight.detach().copy_(torch.tensor([[2.0, 0.0]]))
    >>> reg = prl.SeReNe(model, strength=0.05, estimator="exact")
    >>> reg.penalty(model(torch.ones(4, 1))).item()
    0.0
    >>> reg.sensitivity()["0"]
    tensor([2., 0.])
    """

    per_step = True

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
        checked("SeReNe", strength=strength, activation=activation, seed=seed)
        self.strength = float(strength)
        self.estimator = one_of(estimator, "estimator", ("sampled", "exact", "lower-bound", "local"))
        self.space = space if space is None else one_of(space, "space", ("mean", "sum", "abs-of-sum"))
        self.scaling = one_of(scaling, "scaling", ("paper", "released"))
        if scaling == "released" and estimator != "exact":
            raise ValueError(f"scaling='released' is the factor of the exact estimator; got estimator={estimator!r}.")
        if space not in (None, "mean") and estimator == "local":
            raise ValueError(f"estimator='local' knows space='mean' alone: no output is summed over; got {space!r}.")
        optional("SeReNe", every=every, smoothing=smoothing)
        cheap = estimator == "sampled"
        self.every = (3 if cheap else 1) if every is None else int(every)
        self.smoothing = (0.6 if cheap else 0.0) if smoothing is None else float(smoothing)
        check_eager(model)
        self._layers = regularized_layers(model, units, self, in_place=True)
        self._check_dtype()
        self._generator = torch.Generator().manual_seed(int(seed))
        self._probe = Probe(unwrapped(model), self._layers, activation if estimator == "local" else None)
        self._estimator = Estimator(estimator, space, scaling == "released", self._layers, self._probe, self._generator)
        self._average: dict[str, Tensor] = {}
        self._pending: dict[str, Tensor] = {}
        self._examples = 0  # measured since the last update
        self._measured: dict[str, int] = {}  # measurements in the average, by layer
        self._step = 0

    @property
    def layers(self) -> tuple[str, ...]:
        """Return the names of the layers whose units decay, in the order of registration."""
        return tuple(self._layers)

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
            If `outputs` is not a tensor, or is a compiled model's.
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
            self._note(*mean_over_ranks(self._estimator.measure(outputs, seen), len(outputs)))
        return outputs.new_zeros(())

    @torch.no_grad()
    def update(self, optimizer: Optimizer) -> None:
        """Decay the incoming weights of each unit, and the γ behind them, by λ S̄, where `optimizer` trains them."""
        checked("SeReNe", strength=self.strength)
        trained = learning_rates(optimizer, self, (layer.weight for layer in self._layers.values()))
        for name, sensitivity in self.sensitivity().items():
            keep = 1 - self.strength * (1 - sensitivity).clamp(min=0)
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
            for name, value in self._pending.items():
                self._measured[name] = self._measured.get(name, 0) + 1
                past = self._average.get(name, torch.zeros_like(value))
                self._average[name] = torch.lerp(value, past, self.smoothing)
            self._pending, self._examples = {}, 0
        if not self._average:
            raise ValueError("SeReNe has measured no sensitivity yet; call penalty(outputs) after a forward pass.")
        # The average starts at 0; dividing by the weight of what came in makes it unbiased from the first step.
        return {name: value / (1 - self.smoothing ** self._measured[name]) for name, value in self._average.items()}

    def importance(self) -> dict[str, Tensor]:
        """Return {layer: ‖incoming weights‖₂}: S small means little influence, S = 0 does not mean silent.

        Where BatchNorms follow, rank by `importance.magnitude(model, units, of="folded")`: they divide lengths out,
        and a layer can lose nearly all of its units to another (chapter `which-method`).
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
            "measured": dict(self._measured),
            "step": self._step,
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state that `state_dict` returned.

        Raises
        ------
        ValueError
            If it belongs to another network. Nothing is changed then.
        """
        if isinstance(state, Mapping) and isinstance(count := state.get("measured"), int):  # of before 0.2: one for all
            state = {**state, "measured": dict.fromkeys(state.get("average", ()), count)}
        check_state(state, self, strength=float, average=Mapping, measured=Mapping, step=int, generator=Tensor)
        shapes = {name: (len(rows(layer)),) for name, layer in self._layers.items()}
        average, generator = state["average"], torch.Generator()
        try:
            generator.set_state(state["generator"].cpu())
        except (RuntimeError, TypeError):
            average = {"": None}
        measured = state["measured"]
        if measured.keys() != average.keys() or not all(
            isinstance(value, Tensor)
            and type(measured[name]) is int
            and measured[name] > 0
            and (shapes.get(name), torch.float32) == (value.shape, value.dtype)
            and bool(value.isfinite().all())
            for name, value in average.items()
        ):
            raise ValueError(FOREIGN.format("SeReNe"))
        super().load_state_dict(state)
        self._average = {name: value.to(self._layers[name].weight.device, copy=True) for name, value in average.items()}
        self._measured, self._step = dict(measured), int(state["step"])
        self._generator.set_state(generator.get_state())
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


def _check_outputs(outputs: Tensor) -> None:
    """Raise unless these are differentiable outputs of shape (examples, …)."""
    checked("SeReNe", outputs=outputs)
    if outputs.ndim == 0:
        raise ValueError("SeReNe got a scalar; it needs the model's outputs, (examples, …), not the loss.")
    if outputs.grad_fn is None:
        raise ValueError("SeReNe got outputs without a graph; run the forward pass with gradients enabled.")
