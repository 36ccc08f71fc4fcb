"""The methods that the suites compare: how each is built from a run's configuration, and what people call it.

A new method is one entry of `METHODS`, and, if its optimizer is special, a line of `optimizer_of`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, Optimizer

from pruning_lib.regularizers import (
    L1,
    L2,
    GroupHoyer,
    GroupLasso,
    GroupSL,
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


@dataclass(frozen=True)
class Method:
    """A method by the name that configurations give it.

    Parameters
    ----------
    label : str
        What people call it.
    build : callable
        (model, configuration, units) → regularizer, or None where nothing is penalized.
    settings : dict
        What its configurations hold beside the strength.
    decayed : bool
        Whether its strength is the weight decay of the optimizer, which reaches scales, shifts and biases, too.
    departs : str
        How every run of it departs from its paper, in sentences.
    uncut : str
        How those do that rank its units and cut them to a budget.
    """

    label: str
    build: Build
    settings: Config = field(default_factory=dict)
    decayed: bool = False
    departs: str = ""
    uncut: str = ""


def _nothing(model: nn.Module, config: Config, units: Units) -> None:
    return None


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
    """Sample under the optimizer's weight decay.

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


SAMPLED, HALF = {"every": 2, "smoothing": 0.7}, {"scale": 0.5}
GENTLY, GUIDANCE = {"temperature": 0.1}, {"guidance": "linear"}

METHODS: dict[str, Method] = {
    "dense": Method("no penalty", _nothing),
    "dense-long": Method("no penalty, trained as long as the pipeline", _nothing, decayed=True),
    "dense-twice": Method("no penalty, trained twice as long", _nothing, decayed=True),
    "dense-loop": Method("no penalty, trained as long as the loop", _nothing, decayed=True),
    "decay": Method("weight decay", _nothing, decayed=True),
    "l2": Method("L2", lambda model, config, units: L2(model, config["strength"])),
    # What SeReNe would be if no unit were sensitive: rows lose the share λ a step, whatever the learning rate.
    "plain-decay": Method(
        "plain decay", lambda model, config, units: L2(model, config["strength"] / config["lr"], apply="decay")
    ),
    "l1": Method("L1", lambda model, config, units: L1(model, config["strength"])),
    "group-lasso": Method(
        "group lasso", lambda model, config, units: GroupLasso(model, config["strength"], units=units)
    ),
    "group-lasso-inputs": Method("group lasso of units and inputs", _columns_with_inputs),
    "group-lasso-loss": Method(
        "group lasso by its gradient",
        lambda model, config, units: GroupLasso(model, config["strength"], apply="loss", units=units),
    ),
    "group-hoyer": Method(
        "group Hoyer", lambda model, config, units: GroupHoyer(model, config["strength"], units=units)
    ),
    "group-sl": Method("Group-SL", lambda model, config, units: GroupSL(model, config["strength"], units=units)),
    "serene-exact": Method("SeReNe, exact", _serene(estimator="exact")),
    "serene-sampled": Method("SeReNe", _sampled_serene, SAMPLED),
    "serene-lower-bound": Method("SeReNe, lower bound", _serene(estimator="lower-bound")),
    "serene-local": Method("SeReNe, local", _serene(estimator="local")),
    "serene-released": Method("SeReNe as released", _serene(estimator="exact", scaling="released")),
    "stochastic": Method("stochastic pruning alone", _sampling_alone),
    "stochastic-l2": Method("stochastic pruning with L2", _stochastic(L2), GENTLY),
    "stochastic-l1": Method("stochastic pruning with L1", _stochastic(L1), GENTLY),
    "guided-l2": Method("guided L2", _guided(L2), GUIDANCE),
    "guided-l1": Method("guided L1", _guided(L1), GUIDANCE),
    "guided-group-lasso": Method("guided group lasso", _guided(GroupLasso), GUIDANCE),
    "slimming": Method(
        "network slimming", lambda model, config, units: NetworkSlimming(model, config["strength"], units=units), HALF
    ),
    "polarization": Method(
        "polarization",
        lambda model, config, units: Polarization(model, config["strength"], t=config["t"], units=units),
        HALF | {"t": 1.2},
    ),
    "rni": Method(
        "receding importances",
        lambda model, config, units: RecedingNeurons(model, config["strength"], shift=config["shift"], units=units),
        {"shift": 3.0},
    ),
}

# Readings: of the two methods that are reconstructions, and of the sum over positions that SeReNe leaves open for
# convolutions.
GUIDANCES = ("constant", "linear", "quadratic", "exponential", "step")
KERNELS = ("gaussian", "laplace", "sigmoid", "deterministic")
SPACES = {"mean": "mean", "sum": "sum", "abs-of-sum": "|sum|"}
TEMPERATURES = {"cool": 0.05, "warm": 0.2}
# Under which reading do filters die by themselves? BatchNorm or none is a matter of the network.
DEATHS: dict[str, tuple[str, Config]] = {
    "layer": ("τ by layer", {"tau": "layer", "scales": False}),
    "network": ("τ of the network", {"tau": "network", "scales": False}),
    "scales": ("scales sampled", {"tau": "layer", "scales": True}),
    "held": ("zeros held", {"tau": "layer", "scales": False, "mode": "mask"}),
    "scales-held": ("scales sampled, zeros held", {"tau": "layer", "scales": True, "mode": "mask"}),
}


# How runs depart from papers: what every row of a verdict says unless a claim or its suite says more.
DEPARTURES = {
    "stochastic": ("Probability, temperature and decay are our reading.", "In the paper units die by themselves."),
    "guided": ("Guidance and penalty are our reading of an abstract.", "The paper thresholds, and does not fine-tune."),
    "serene": ("", "The paper thresholds weights at plateaus of the training, again and again."),
    "rni": ("The paper trains for 160 epochs, and retrains as long at the same rate.", ""),
    "slimming": ("Its paper trains for 160 epochs, and fine-tunes as long.", ""),
    "polarization": (
        "Its paper trains for 200 epochs, and fine-tunes as long.",
        "There units go whose scales lie below a gap, not as many as a budget says.",
    ),
}


def _reading(of: str, called: str, **settings: Any) -> Method:
    """Return a method read otherwise."""
    method = METHODS[of]
    return replace(method, label=f"{method.label}, {called}", settings=method.settings | settings)


METHODS |= {
    f"guided-group-lasso-{guidance}": _reading("guided-group-lasso", guidance, guidance=guidance)
    for guidance in GUIDANCES
}
METHODS |= {
    f"serene-{space}": _reading("serene-sampled", f"{called} over positions", space=space)
    for space, called in SPACES.items()
}
METHODS |= {
    f"stochastic-l2-{kernel}": _reading("stochastic-l2", kernel, probability=kernel) for kernel in KERNELS
}  # fmt: skip
METHODS |= {
    f"stochastic-l2-{name}": _reading("stochastic-l2", f"τ = {tau}", temperature=tau)
    for name, tau in TEMPERATURES.items()
}
METHODS |= {
    f"stochastic-decay-{reading}": Method(
        f"stochastic pruning with weight decay, {called}", _stochastic_decay, GENTLY | settings, decayed=True
    )
    for reading, (called, settings) in DEATHS.items()
}

METHODS = {
    name: replace(method, departs=departs, uncut=uncut)
    for name, method in METHODS.items()
    for departs, uncut in (DEPARTURES.get(name.partition("-")[0], ("", "")),)
}


def prepare(model: nn.Module, config: Config) -> None:
    """Bound or set the scales of a fresh model's BatchNorms as the method wants them, in place."""
    if config["method"] == "rni":
        bound_batchnorm(model)
    elif "scale" in config:
        for norm in (module for module in model.modules() if isinstance(module, BatchNorm)):
            nn.init.constant_(norm.weight, config["scale"])


def optimizer_of(model: nn.Module, config: Config, lr: float) -> Optimizer:
    """Return SGD with the run's settings; bounded scales learn ten times as fast and do not decay, as published."""
    method = METHODS.get(config["method"])  # controls are trained without one
    decay = config["strength"] if method and method.decayed else config.get("weight_decay", 0.0)
    norms = (module for module in model.modules() if isinstance(module, BatchNorm))
    bounded = any(bounded_scale(norm) is not None for norm in norms)
    parameters = receding_parameters(model, lr, decay) if bounded else model.parameters()
    nesterov = config.get("nesterov", False)
    return SGD(parameters, lr, momentum=config["momentum"], weight_decay=decay, nesterov=nesterov)


def regularizer_of(model: nn.Module, config: Config, units: Units) -> Regularizer | None:
    """Return the regularizer of a run's method, or None where nothing is penalized."""
    with warnings.catch_warnings():
        # Suites ask what a penalty on rows does in front of a BatchNorm, too.
        warnings.filterwarnings("ignore", message=".*BatchNorm divides")
        return METHODS[config["method"]].build(model, config, units)


def label(name: str) -> str:
    """Return what people call a method or a control."""
    if name in METHODS:
        return METHODS[name].label
    for begins, called in CONTROLS.items():
        if name == begins:
            return called
        if name.startswith(f"{begins}-") and (of := name.removeprefix(f"{begins}-")) in METHODS:
            return f"{called}, size of {label(of)}" if begins == "uniform" else f"{called}, widths of {label(of)}"
    raise KeyError(f"There is no method '{name}'; there are {', '.join(METHODS)}.")


CONTROLS = {
    "uniform": "uniform width",
    "random": "random units",
    "scratch-e": "Scratch-E",
    "scratch-b": "Scratch-B",
    "scratch": "published widths from the first step",
}
"""Small networks that anybody could have had instead, by the beginnings of their names."""
