"""Stochastic weight pruning (Ben-Guigui et al., 2020, arXiv 2012.03827); see `weights-die-then-nodes`.

    w̃ = w − η ∂(L + λΩ)/∂w        z_j ~ Bernoulli(P₀(w̃_j))        w_j ← (1 − z_j) w̃_j        after every step

P₀ falls with |w|, so that small weights are zeroed more often. The step itself and Ω = ½‖w‖² as the recommended
penalty are the paper's. It could not be read in full: the four P₀ below, their temperatures and the choice between
regrowing and holding are a *reconstruction*, and the library offers all of them rather than guess one. With x = |w|/τ:

    gaussian        exp(−x²/2)      a soft threshold: over K steps at x ≈ √(2 ln K)
    laplace         exp(−x)         its tail reaches large weights too, at x ≈ ln K
    sigmoid         2 σ(−x)         the same tail, twice as high
    deterministic   𝟙[x < 1]        the limit without chance: magnitude pruning at every step

P₀ is the survival function of a random threshold: w goes where |w| lies below a fresh draw of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pruning_lib.regularizers.base import (
    Regularizer,
    checked_choice,
    checked_strength,
    incoming_norms,
    learning_rates,
    regularized_layers,
)
from pruning_lib.regularizers.norms import L2
from pruning_lib.units import Units, Weighted, rows

Probability = Callable[[Tensor], Tensor]
"""P₀: |w|/τ ≥ 0 → probability of being zeroed, elementwise and never rising."""

PROBABILITIES: dict[str, Probability] = {
    "gaussian": lambda x: torch.exp(-0.5 * x.square()),
    "laplace": lambda x: torch.exp(-x),
    "sigmoid": lambda x: 2 * torch.sigmoid(-x),
    "deterministic": lambda x: (x < 1).to(x.dtype),
}


class StochasticPruning(Regularizer):
    """Zero small weights at random after every step, while a penalty pulls at all of them.

    Only single weights are ever zeroed. A unit dies when the last weight on one side of it has gone; the penalty then
    decides whether the other side follows. Derived in the chapter `weights-die-then-nodes`.

    Parameters
    ----------
    model : nn.Module
        All its linear and convolution weights are sampled, biases and normalizations are not.
    strength : float
        λ ≥ 0 of the penalty Ω; 0 leaves the sampling alone.
    base : callable
        Ω: `L2`, `L1` or another method, built as ``base(model, strength, units=units)``. To set more of it, use
        ``functools.partial(Guided, base=GroupLasso, units=groups)``.
    probability : {"gaussian", "laplace", "sigmoid", "deterministic"} or callable
        P₀, or a function of |w|/τ that keeps the shape, stays in [0, 1] and never rises.
    temperature : float or mapping of str to float
        c > 0, from which τ = c · (root mean square of that layer's weights now); or τ of every layer by name.
    mode : {"regrow", "mask"}
        What is zeroed may grow again from its next gradient step, or is held at 0 for good.
    seed : int
        Of the draws, which depend on it, on the step and on the layer alone: give every distributed rank the same.
    units : Units, optional
        Sample (and penalize) only the writers of these units; the output layer is then left alone, and with it one
        side of the last hidden layer.

    Attributes
    ----------
    temperatures : dict of str to float
        τ of each layer, in the units of its weights; may be changed while training.

    Raises
    ------
    ValueError
        If a number is out of range, a choice is unknown, P₀ leaves [0, 1] or rises, a layer has no temperature, no
        layer is found, or a weight is parametrized.

    Notes
    -----
    The optimizer's momentum of a zeroed weight is left as it is. Under ``"regrow"`` it is the only memory that such a
    weight has: a gradient that persists builds up there until one step leaps over τ. Under ``"mask"`` it moves nothing.
    """

    def __init__(
        self,
        model: nn.Module,
        strength: float = 0.0,
        *,
        base: Callable[..., Regularizer] = L2,
        probability: str | Probability = "gaussian",
        temperature: float | Mapping[str, float] = 0.1,
        mode: Literal["regrow", "mask"] = "regrow",
        seed: int = 0,
        units: Units | None = None,
    ) -> None:
        self.strength = checked_strength(strength, self)
        self.mode = checked_choice(mode, "mode", ("regrow", "mask"))
        self.probability = probability
        self.seed = seed
        self._probability = _checked_probability(probability)
        self._layers = regularized_layers(model, units, self, in_place=True)
        self.temperatures = _temperatures(temperature, self._layers)
        self.base = base(model, strength) if units is None else base(model, strength, units=units)
        self._held: dict[str, Tensor] = {}
        self._step = 0

    def penalty(self, outputs: Tensor) -> Tensor:
        """Return λΩ, or what else `base` adds to the loss."""
        if self.strength == 0:
            return outputs.new_zeros(())
        self.base.strength = self.strength
        return self.base.penalty(outputs)

    @torch.no_grad()
    def update(self, optimizer: Optimizer) -> None:
        """Let `base` update, then zero the drawn ones of the weights that `optimizer` trains."""
        if self.strength > 0:
            self.base.strength = self.strength
            self.base.update(optimizer)
        trained = learning_rates(optimizer)
        for number, (name, layer) in enumerate(self._layers.items()):
            if layer.weight.requires_grad and id(layer.weight) in trained:
                drawn = self._draw(number, self._chance(name))
                if self.mode == "mask":
                    drawn |= self._held.get(name, drawn)
                    self._held[name] = drawn
                layer.weight.masked_fill_(drawn, 0)
        self._step += 1

    @torch.no_grad()
    def probabilities(self) -> dict[str, Tensor]:
        """Return {layer: P₀(w)}, in the shape of the weights: each one's chance to be zeroed by a step from here."""
        return {name: self._chance(name) for name in self._layers}

    def importance(self) -> dict[str, Tensor]:
        """Return {layer: ‖incoming weights‖₂}, shape (units,)."""
        return incoming_norms(self._layers)

    def state_dict(self) -> dict[str, Any]:
        """Return strength, temperatures, seed and step, what is held at zero, and the state of `base`."""
        return {
            **super().state_dict(),
            "temperatures": dict(self.temperatures),
            "seed": self.seed,
            "step": self._step,
            "held": {name: mask.clone() for name, mask in self._held.items()},
            "base": self.base.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up the state that `state_dict` returned.

        Raises
        ------
        ValueError
            If it belongs to another network. Nothing is changed then.
        """
        shapes = {name: layer.weight.shape for name, layer in self._layers.items()}
        missing = {"strength", "temperatures", "seed", "step", "held", "base"} - state.keys()
        if (
            missing
            or state["temperatures"].keys() != shapes.keys()
            or any(shapes.get(name) != mask.shape for name, mask in state["held"].items())
        ):
            raise ValueError(
                "StochasticPruning got the state of another network, or none; pass what its state_dict() returned."
            )
        self.base.load_state_dict(state["base"])
        super().load_state_dict(state)
        self.temperatures = {name: float(tau) for name, tau in state["temperatures"].items()}
        self.seed, self._step = int(state["seed"]), int(state["step"])
        self._held = {
            name: mask.to(self._layers[name].weight.device, copy=True) for name, mask in state["held"].items()
        }

    def _chance(self, name: str) -> Tensor:
        """Return P₀ of one layer's weights, in float32 at least: a short dtype has no small probabilities."""
        weight = self._layers[name].weight.detach()
        size = weight.abs() if weight.element_size() >= 4 else weight.float().abs_()
        return self._probability(size.div_(self.temperatures[name]))

    def _draw(self, number: int, chance: Tensor) -> Tensor:
        """Return a bool tensor that is True with these probabilities, the same at this step whatever came before."""
        seed = np.random.SeedSequence((self.seed, self._step, number)).generate_state(1, np.uint64)
        generator = torch.Generator(chance.device).manual_seed(int(seed[0]))
        uniform = torch.rand(chance.shape, generator=generator, dtype=chance.dtype, device=chance.device)
        # 1 − u lies in (0, 1]: a probability that is next to nothing is never drawn, as u = 0 < P₀ would be.
        return uniform.neg_().add_(1) <= chance


def _checked_probability(probability: str | Probability) -> Probability:
    """Return P₀ as a function, or raise ValueError if it is unknown or no falling probability."""
    if isinstance(probability, str):
        return PROBABILITIES[checked_choice(probability, "probability", tuple(PROBABILITIES))]
    grid = torch.linspace(0, 10, 101)
    values = probability(grid)
    if not isinstance(values, Tensor) or values.shape != grid.shape:
        raise ValueError("probability must map a tensor of |w|/τ to a tensor of the same shape.")
    if not bool(((values >= 0) & (values <= 1)).all()) or bool((values.diff() > 0).any()):
        raise ValueError("probability must stay in [0, 1] and never rise with |w|/τ; small weights go first.")
    return probability


def _temperatures(temperature: float | Mapping[str, float], layers: Mapping[str, Weighted]) -> dict[str, float]:
    """Return τ of each layer, or raise ValueError if one is missing or not a positive number."""
    if isinstance(temperature, Mapping):
        if temperature.keys() != layers.keys():
            odd = sorted(temperature.keys() ^ layers.keys())[0]
            raise ValueError(f"temperature must name each layer of {', '.join(layers)} and no other; see '{odd}'.")
        found = {name: float(temperature[name]) for name in layers}
    else:
        scales = {name: rows(layer).detach().float().square().mean().sqrt().item() for name, layer in layers.items()}
        found = {name: float(temperature) * scale for name, scale in scales.items()}
    for name, tau in found.items():
        if not math.isfinite(tau) or tau <= 0:
            raise ValueError(
                f"StochasticPruning got temperature={temperature!r}, which makes τ = {tau:g} in '{name}'; it must be "
                "positive (and a layer of zeros needs its own, in a mapping)."
            )
    return found
