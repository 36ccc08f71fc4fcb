"""The methods that the suites compare, each built from a run's configuration, and the optimizer that goes with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, Optimizer

from pruning_lib.regularizers import (
    L1,
    L2,
    GroupHoyer,
    GroupLasso,
    Guided,
    NetworkSlimming,
    Polarization,
    RecedingNeurons,
    Regularizer,
    SeReNe,
    StochasticPruning,
    bound_batchnorm,
    receding_parameters,
)
from pruning_lib.units import BatchNorm, Group, Member, Units, bounded_scale, weighted

INPUTS = "inputs"
Config = dict[str, Any]
Build = Callable[[nn.Module, Config, Units], Regularizer | None]


def _serene(**settings: Any) -> Build:
    return lambda model, config, units: SeReNe(model, config["strength"], **settings)


def _sampled_serene(model: nn.Module, config: Config, units: Units) -> Regularizer:
    more = {key: config[key] for key in ("every", "smoothing", "seed", "space") if key in config}
    return SeReNe(model, config["strength"], estimator="sampled", **more)


def _guided(base: type[L1] | type[L2] | type[GroupLasso]) -> Build:
    return lambda model, config, units: Guided(
        model, config["strength"], base=base, guidance=config["guidance"], units=units
    )


def _stochastic(base: type[L1] | type[L2]) -> Build:
    return lambda model, config, units: StochasticPruning(
        model,
        config["strength"],
        base=base,
        probability=config.get("probability", "gaussian"),
        temperature=config["temperature"],
        seed=config["seed"],
    )


def _stochastic_decay(model: nn.Module, config: Config, units: Units) -> Regularizer:
    """Sample under the optimizer's weight decay, which reaches scales, shifts and biases, too; see `DECAYED`.

    Readings of the paper that `config` tells apart: τ relative to each layer or to the whole network, scales sampled or
    not, regrowing or held.
    """
    temperature: Any = config["temperature"]
    if config.get("tau") == "network":
        norms = [name for name, module in model.named_modules() if isinstance(module, BatchNorm)]
        sampled = [*weighted(model), *norms] if config["scales"] else [*weighted(model)]
        weights = torch.cat([layer.weight.detach().flatten() for layer in weighted(model).values()])
        temperature = dict.fromkeys(sampled, temperature * weights.square().mean().sqrt().item())
    more = {key: config[key] for key in ("mode", "scales") if key in config}
    return StochasticPruning(model, temperature=temperature, seed=config["seed"], **more)


def _sampling_alone(model: nn.Module, config: Config, units: Units) -> Regularizer:
    # Without a penalty it is the temperature that varies; records call it strength.
    return StochasticPruning(model, temperature=config["strength"], seed=config["seed"])


def _columns_with_inputs(model: nn.Module, config: Config, units: Units) -> Regularizer:
    # Inputs are units that no layer writes.
    name, first = next(iter(weighted(model).items()))
    inputs = torch.arange(first.weight.shape[1])
    everything = Units([Group(INPUTS, len(inputs), "stream", (), (), (Member(name, inputs),)), *units.values()])
    return GroupLasso(model, config["strength"], over="columns", units=everything)


METHODS: dict[str, Build] = {
    "dense": lambda model, config, units: None,
    "l2": lambda model, config, units: L2(model, config["strength"]),
    "l1": lambda model, config, units: L1(model, config["strength"]),
    "group-lasso": lambda model, config, units: GroupLasso(model, config["strength"], units=units),
    "group-lasso-inputs": _columns_with_inputs,
    "group-lasso-loss": lambda model, config, units: GroupLasso(model, config["strength"], apply="loss", units=units),
    "group-hoyer": lambda model, config, units: GroupHoyer(model, config["strength"], units=units),
    "serene-exact": _serene(estimator="exact"),
    "serene-sampled": _sampled_serene,
    "serene-lower-bound": _serene(estimator="lower-bound"),
    "serene-local": _serene(estimator="local"),
    "serene-released": _serene(estimator="exact", scaling="released"),
    "stochastic": _sampling_alone,
    "stochastic-l2": _stochastic(L2),
    "stochastic-l1": _stochastic(L1),
    "dense-long": lambda model, config, units: None,
    "decay": lambda model, config, units: None,
    "guided-l2": _guided(L2),
    "guided-l1": _guided(L1),
    "guided-group-lasso": _guided(GroupLasso),
    "slimming": lambda model, config, units: NetworkSlimming(model, config["strength"], units=units),
    "polarization": lambda model, config, units: Polarization(model, config["strength"], t=config["t"], units=units),
    "rni": lambda model, config, units: RecedingNeurons(model, config["strength"], shift=config["shift"], units=units),
}

# Readings: of the two methods that are reconstructions, and of the sum over positions that SeReNe leaves open for
# convolutions. The suites set what is read differently.
GUIDANCES = ("constant", "linear", "quadratic", "exponential", "step")
KERNELS = ("gaussian", "laplace", "sigmoid", "deterministic")
SPACES = ("mean", "sum", "abs-of-sum")
METHODS |= {f"guided-group-lasso-{guidance}": METHODS["guided-group-lasso"] for guidance in GUIDANCES}
METHODS |= {f"stochastic-l2-{kernel}": METHODS["stochastic-l2"] for kernel in KERNELS}
METHODS |= {f"serene-{space}": METHODS["serene-sampled"] for space in SPACES}
# Under which reading do filters die by themselves? BatchNorm or none is a matter of the network.
DEATHS: dict[str, Config] = {
    "layer": {"tau": "layer", "scales": False},
    "network": {"tau": "network", "scales": False},
    "scales": {"tau": "layer", "scales": True},
    "held": {"tau": "layer", "scales": False, "mode": "mask"},
    "scales-held": {"tau": "layer", "scales": True, "mode": "mask"},
}
# Their strength is the optimizer's weight decay.
DECAYED = {"dense-long", "decay", *(f"stochastic-decay-{reading}" for reading in DEATHS)}
METHODS |= {f"stochastic-decay-{reading}": _stochastic_decay for reading in DEATHS}


def prepare(model: nn.Module, config: Config) -> None:
    """Bound or set the scales of a fresh model's BatchNorms as the method wants them, in place."""
    if config["method"] == "rni":
        bound_batchnorm(model)
    elif "scale" in config:
        for norm in (module for module in model.modules() if isinstance(module, BatchNorm)):
            nn.init.constant_(norm.weight, config["scale"])


def optimizer_of(model: nn.Module, config: Config, lr: float) -> Optimizer:
    """Return SGD with the run's settings; bounded scales learn ten times as fast and do not decay, as published."""
    decay = config["strength"] if config["method"] in DECAYED else config.get("weight_decay", 0.0)
    norms = (module for module in model.modules() if isinstance(module, BatchNorm))
    bounded = any(bounded_scale(norm) is not None for norm in norms)
    parameters = receding_parameters(model, lr, decay) if bounded else model.parameters()
    nesterov = config.get("nesterov", False)
    return SGD(parameters, lr, momentum=config["momentum"], weight_decay=decay, nesterov=nesterov)
