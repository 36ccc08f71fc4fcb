"""Stochastic weight pruning (Ben-Guigui et al., 2021, arXiv 2012.03827); see `weights-die-then-nodes`.

    w̃ = w − η ∂(L + λΩ)/∂w        z_j ~ Bernoulli(P₀(w̃_j))        w_j ← (1 − z_j) w̃_j        after every step

P₀ falls with |w|, so that small weights are zeroed more often. The sampling after every step and Ω = ½‖w‖² as the
recommended penalty are the paper's. It could not be read in full: the P₀ below, their temperatures τ and the choice
between regrowing and holding are a *reconstruction*; the library offers several rather than guess one. With x = |w|/τ,

    P₀ = exp(−E(x))      gaussian: E = x²/2      laplace: E = x      sigmoid: E = ln(1 + eˣ) − ln 2, so P₀ = 2σ(−x)
                         deterministic: E = 0 below x = 1, ∞ above: magnitude pruning at every step, without chance

One of K steps zeroes a weight, more likely than not, where P₀ > ln 2 / K: "gaussian" acts like a soft threshold at
|w| ≈ τ √(2 ln K), some 4 τ, while the tails of "laplace" and "sigmoid" reach several times as far.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pruning_lib._arguments import checked, one_of
from pruning_lib.regularizers._base import (
    FOREIGN,
    Regularizer,
    check_state,
    checked_strength,
    incoming_norms,
    learning_rates,
    nothing,
    regularized_layers,
)
from pruning_lib.regularizers._l2 import L2
from pruning_lib.regularizers._scales import regularized_norms
from pruning_lib.units import BatchNorm, Units, Weighted, check_plain, is_layer

Probability = Callable[[Tensor], Tensor]
"""P₀: |w|/τ ≥ 0 → probability of being zeroed, elementwise and never rising."""

ENERGIES: dict[str, Probability] = {
    "gaussian": lambda x: 0.5 * x.square(),
    "laplace": lambda x: x,
    "sigmoid": lambda x: torch.nn.functional.softplus(x) - math.log(2),
    "deterministic": lambda x: torch.where(x < 1, 0.0, torch.inf),
}


# Weights that a CPU samples at once, in its cache.
PIECE = 2**16


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
        ``functools.partial(Guided, base=GroupLasso, units=units)``.
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
    scales : bool
        Sample the scales γ of the BatchNorms (of these units), too; λ then does not reach them, so decay them with the
        optimizer's ``weight_decay``. A row in front of a BatchNorm never dies by itself, for its slope grows as it
        shrinks; a scale can.

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
    On digits the abstract's claim holds in kind: at about as many zero weights, L2 has cleared the most nodes on both
    sides, L1 fewer, and sampling alone none: it leaves one-sided ones. Setting the smallest weights to zero once, after
    a training with the same penalty, empties fewer nodes than sampling with L2 and more than sampling alone.

    The optimizer's momentum of a zeroed weight is left as it is. Under ``"regrow"`` it is the only memory that such a
    weight has: a gradient that persists builds up there until one step leaps over τ. Under ``"mask"`` it moves nothing.

    Random numbers are expensive on a CPU. A step draws twice as many as its largest piece has weights (a piece: a
    layer, but at most 65,536 weights or one row), and each piece reads them from a place drawn anew. So every weight
    has its exact P₀, independent from step to step, and two weights of different pieces rarely share a number, never
    for long.

    Examples
    --------
    >>> import torch
    >>> import pruning_lib as prl
    >>> layer = torch.nn.Linear(4, 1, bias=False)
    >>> _ = layer.weight.detach().copy_(torch.tensor([[0.05, 0.09, 0.2, 1.0]]))
    >>> reg = prl.StochasticPruning(layer, probability="deterministic", temperature={"": 0.1})
    >>> reg.update(torch.optim.SGD(layer.parameters(), lr=0.1))
    >>> layer.weight.detach()
    tensor([[0.0000, 0.0000, 0.2000, 1.0000]])
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
        scales: bool = False,
    ) -> None:
        self.strength = checked_strength(strength, self)
        self.mode = one_of(mode, "mode", ("regrow", "mask"))
        checked("StochasticPruning", base=base, probability=probability, temperature=temperature, scales=scales)
        checked("StochasticPruning", seed=seed)
        self.probability = probability
        self.seed = int(seed)
        self._energy = _energy(probability)
        self._layers: dict[str, Weighted | BatchNorm] = {**regularized_layers(model, units, self, in_place=True)}
        if scales:
            self._layers |= regularized_norms(model, units, self)
            check_plain(self._layers, "StochasticPruning")
        self.temperatures = _temperatures(temperature, self._layers)
        self.base = base(model, strength) if units is None else base(model, strength, units=units)
        checked("StochasticPruning", regularizer=self.base)
        self._kept: dict[str, Tensor] = {}
        self._step = 0

    @property
    def layers(self) -> tuple[str, ...]:
        """Return the names of the layers whose weights are sampled, in the order of registration."""
        return tuple(self._layers)

    def penalty(self, outputs: Tensor) -> Tensor:
        """Return λΩ, or what else `base` adds to the loss."""
        self.base.strength = self.strength
        return self.base.penalty(outputs) if self.strength > 0 else nothing(outputs, self)

    @torch.no_grad()
    def update(self, optimizer: Optimizer) -> None:
        """Let `base` update, then zero the drawn ones of the weights that `optimizer` trains."""
        self.base.strength = self.strength
        if self.strength > 0:
            self.base.update(optimizer)
        trained = learning_rates(optimizer, self, (layer.weight for layer in self._layers.values()))
        pools: dict[torch.device, Tensor] = {}
        for number, (name, layer) in enumerate(self._layers.items()):
            weight = layer.weight
            if weight.requires_grad and id(weight) in trained:
                if weight.device not in pools:
                    pools[weight.device] = self._pool(weight.device)
                self._sample(name, weight, pools[weight.device], np.random.default_rng((self.seed, self._step, number)))
        self._step += 1

    @torch.no_grad()
    def probabilities(self) -> dict[str, Tensor]:
        """Return {layer: P₀(w)}, in the shape of the weights: each one's chance to be zeroed by a step from here."""
        return {name: self._energies(layer.weight, name).neg().exp() for name, layer in self._layers.items()}

    def importance(self) -> dict[str, Tensor]:
        """Return {layer: ‖incoming weights‖₂}, shape (units,)."""
        return incoming_norms({name: layer for name, layer in self._layers.items() if is_layer(layer)})

    def state_dict(self) -> dict[str, Any]:
        """Return strength, temperatures, seed and step, the mask, and the state of `base`."""
        return {
            **super().state_dict(),
            "temperatures": dict(self.temperatures),
            "seed": self.seed,
            "step": self._step,
            "kept": {name: mask.clone() for name, mask in self._kept.items()},
            "base": self.base.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state that `state_dict` returned.

        Raises
        ------
        ValueError
            If it belongs to another network. Nothing is changed then.
        """
        shapes = {name: layer.weight.shape for name, layer in self._layers.items()}
        check_state(state, self, strength=float, temperatures=Mapping, seed=int, step=int, kept=Mapping, base=Mapping)
        if (
            state["temperatures"].keys() != shapes.keys()
            or state["step"] < 0
            or not all(isinstance(m, Tensor) and shapes.get(name) == m.shape for name, m in state["kept"].items())
        ):
            raise ValueError(FOREIGN.format("StochasticPruning"))
        checked("StochasticPruning", strength=state["strength"], seed=state["seed"], temperature=state["temperatures"])
        temperatures = _temperatures(state["temperatures"], self._layers)
        self.base.load_state_dict(state["base"])
        super().load_state_dict(state)
        self.temperatures = temperatures
        self.seed, self._step = int(state["seed"]), int(state["step"])
        self._kept = {
            name: mask.to(self._layers[name].weight.device, copy=True) for name, mask in state["kept"].items()
        }

    def _energies(self, weight: Tensor, name: str) -> Tensor:
        """Return E of weights of a layer, in float32 at least."""
        size = weight.abs() if weight.element_size() >= 4 else weight.float().abs_()
        return self._energy(size.div_(self.temperatures[name]))

    def _pool(self, device: torch.device) -> Tensor:
        """Return this step's −ln u, float32, with u in (0, 1]: the same whatever came before."""
        seed = np.random.SeedSequence((self.seed, self._step)).generate_state(1, np.uint64)
        generator = torch.Generator(device).manual_seed(int(seed[0]))
        count = 2 * max(layer.weight[: _piece(layer.weight)].numel() for layer in self._layers.values())
        return torch.rand(count, generator=generator, device=device).neg_().add_(1).log_().neg_()

    def _sample(self, name: str, weight: Tensor, pool: Tensor, places: np.random.Generator) -> None:
        """Zero the drawn weights of a layer, piece by piece; each piece reads the pool from a place of its own."""
        rows = _piece(weight)
        if self.mode == "mask" and name not in self._kept:
            self._kept[name] = torch.ones_like(weight)
        for start in range(0, len(weight), rows):
            piece = weight[start : start + rows]
            place = places.integers(len(pool) - piece.numel() + 1)
            drawn = pool[place : place + piece.numel()].view(piece.shape)
            # u ≤ P₀ zeroes. 1.0 where a weight stays, as floats multiply five times as fast as a bool mask fills.
            stays = torch.gt(self._energies(piece, name), drawn, out=torch.empty_like(drawn))
            if self.mode == "mask":
                stays = self._kept[name][start : start + rows].mul_(stays)
            piece.mul_(stays)


def _piece(weight: Tensor) -> int:
    """Return how many rows of a weight are sampled at once: on a CPU what its cache holds, elsewhere all."""
    return max(1, PIECE * len(weight) // weight.numel()) if weight.device.type == "cpu" else len(weight)


def _energy(probability: str | Probability) -> Callable[[Tensor], Tensor]:
    """Return E = −ln P₀, or raise ValueError if P₀ is unknown or not a falling probability."""
    if isinstance(probability, str):
        return ENERGIES[one_of(probability, "probability", ENERGIES)]
    grid = torch.linspace(0, 10, 101)
    values = probability(grid)
    if not isinstance(values, Tensor) or values.shape != grid.shape:
        raise ValueError("probability must map a tensor of |w|/τ to a tensor of the same shape.")
    if not bool(((values >= 0) & (values <= 1)).all()) or bool((values.diff() > 0).any()):
        raise ValueError("probability must stay in [0, 1] and never rise with |w|/τ; small weights go first.")
    return lambda x: -probability(x).log()


def _temperatures(
    temperature: float | Mapping[str, float], layers: Mapping[str, Weighted | BatchNorm]
) -> dict[str, float]:
    """Return τ of each layer, or raise ValueError if one is missing or not a positive number."""
    if isinstance(temperature, Mapping):
        if temperature.keys() != layers.keys():
            odd = sorted(temperature.keys() ^ layers.keys(), key=str)[0]
            raise ValueError(f"temperature must name each layer of {', '.join(layers)} and no other; see '{odd}'.")
        taus = {name: float(temperature[name]) for name in layers}
    else:
        scales = {name: layer.weight.detach().float().square().mean().sqrt().item() for name, layer in layers.items()}
        taus = {name: float(temperature) * scale for name, scale in scales.items()}
    for name, tau in taus.items():
        if not math.isfinite(tau) or tau <= 0:
            raise ValueError(
                f"StochasticPruning got temperature={temperature!r}, which makes τ = {tau:g} in '{name}'; it must be "
                "positive (and a layer of zeros needs its own, in a mapping)."
            )
    return taus
