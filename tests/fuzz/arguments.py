"""Every public function of the library, called as it should be but for one argument.

What comes of it must be right, or an error of the library's own; nothing may be half-changed by an error, and a value
that the function's annotation does not allow may not pass.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD

import pruning_lib as prl
from pruning_lib.selection import cost, expected_cost
from tests.fuzz import companion
from tests.fuzz.cases import Case
from tests.fuzz.values import Named, anything, around, fits, is_not_finite
from tests.fuzz.verdict import Try, tried

LONG = ("epochs", "repeats", "rounds")
"""Numbers of what is done again and again."""


def network() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    return model.eval()


def dead() -> nn.Sequential:
    model = network()
    with torch.no_grad():
        model[3].weight[:2] = 0
    return model


def bounded() -> nn.Sequential:
    model = network()
    prl.bound_batchnorm(model)
    return model


X, Y = torch.linspace(-1, 1, 32).reshape(8, 4), torch.arange(8) % 3


@functools.cache
def found() -> prl.Units:
    return prl.find_units(network(), X)


def units() -> prl.Units:
    """Return the units of the network, found once."""
    whole = found()
    return prl.Units(whole.values(), whole.fixed, whole.macs)


def scores() -> dict[str, Tensor]:
    return prl.importance.magnitude(network(), found())


def chosen() -> dict[str, Tensor]:
    return {name: torch.arange(group.size) < 2 for name, group in found().items()}


def fitting(**more: Any) -> dict[str, Any]:
    model = network()
    return {
        "model": model,
        "train": (X, Y),
        "val": (X[:4], Y[:4]),
        "epochs": 1,
        "optimizer": SGD(model.parameters(), 0.1, momentum=0.9),
        "regularizer": prl.L2(model, 1e-4),
        "batch_size": 4,
        "progress": False,
        "threads": 1,
        "seed": 0,
        **more,
    }


def built(make: Callable[..., Any], model: Callable[[], nn.Module] = network, **more: Any) -> dict[str, Any]:
    return {"model": model(), "strength": 1e-3, "units": units(), **more}


def method(make: Callable[..., Any], name: str, model: Callable[[], nn.Module] = network, **more: Any) -> Case:
    return Case(name, make, lambda _: built(make, model, **more), pure=name != "SeReNe")


def used(way: str, make: Callable[[nn.Module], Any], model: Callable[[], nn.Module] = network) -> Case:
    """Return a call of a method's method, on a network with gradients behind a forward pass."""

    def call(regularizer: Any, model: Any, **given: Any) -> Any:
        return getattr(regularizer, way)(*given.values())

    def build(_: Path) -> dict[str, Any]:
        net = model()
        regularizer, optimizer = make(net), SGD(net.parameters(), 0.1, momentum=0.9)
        outputs = net(X)
        if way == "penalty":
            return {"regularizer": regularizer, "model": net, "outputs": outputs}
        F.cross_entropy(outputs + regularizer.penalty(outputs), Y).backward()
        optimizer.step()
        if way == "update":
            return {"regularizer": regularizer, "model": net, "optimizer": optimizer}
        return {"regularizer": regularizer, "model": net, "state": regularizer.state_dict()}

    owner = type(make(model())).__name__
    given = {"penalty": "outputs", "update": "optimizer"}.get(way, "state")
    return Case(f"{owner}.{way}", call, build, open=(given,), fixed=("regularizer", "model"))


def saved(folder: Path) -> dict[str, Any]:
    path = folder / "small.safetensors"
    if not path.exists():
        prl.save(prl.shrink(dead(), X), path)
    return {"model": network(), "path": path}


def recording(model: nn.Module, units: prl.Units, time: float) -> None:
    dynamics = prl.Dynamics(model, units)
    dynamics.record(0)
    dynamics.record(time)


METHODS: list[tuple[Callable[[nn.Module], Any], Callable[[], nn.Module]]] = [
    (lambda model: prl.L1(model, 1e-3), network),
    (lambda model: prl.L2(model, 1e-3, apply="gradient"), network),
    (lambda model: prl.GroupLasso(model, 1e-3, over="coupled", units=units()), network),
    (lambda model: prl.GroupHoyer(model, 1e-3, apply="decay"), network),
    (lambda model: prl.Guided(model, 1e-3, base=prl.L1, units=units()), network),
    (lambda model: prl.NetworkSlimming(model, 1e-3, apply="prox"), network),
    (lambda model: prl.Polarization(model, 1e-3), network),
    (lambda model: prl.StochasticPruning(model, 1e-3, mode="mask"), network),
    (lambda model: prl.SeReNe(model, 1e-3), network),
    (lambda model: prl.RecedingNeurons(model, 1e-3), bounded),
]


@functools.cache
def cases() -> tuple[Case, ...]:
    """Return every case; the calls are as they should be."""
    return (
        method(prl.L1, "L1", apply="prox"),
        method(prl.L2, "L2", apply="loss"),
        method(prl.GroupLasso, "GroupLasso", apply="prox", over="columns"),
        method(prl.GroupHoyer, "GroupHoyer", apply="loss", over="both"),
        method(prl.GroupSL, "GroupSL", apply="decay", alpha=16.0),
        method(prl.Guided, "Guided", base=prl.L2, guidance="linear", side="both", apply="prox"),
        method(prl.Guided, "Guided by name", guidance={"0": torch.ones(6), "3": [1.0] * 5}),
        method(prl.NetworkSlimming, "NetworkSlimming", apply="loss"),
        method(prl.Polarization, "Polarization", t=1.0),
        method(prl.RecedingNeurons, "RecedingNeurons", bounded, shift=3.0),
        method(
            prl.SeReNe,
            "SeReNe",
            estimator="exact",
            space="mean",
            scaling="paper",
            every=1,
            smoothing=0.5,
            activation=torch.relu,
            seed=0,
        ),
        method(
            prl.StochasticPruning,
            "StochasticPruning",
            base=prl.L2,
            probability="laplace",
            temperature=0.1,
            mode="mask",
            seed=0,
            scales=True,
        ),
        *(used(way, *each) for each in METHODS for way in ("penalty", "update", "load_state_dict")),
        Case("bound_batchnorm", prl.bound_batchnorm, lambda _: {"model": network(), "generator": torch.Generator()}),
        Case("unbind_batchnorm", prl.unbind_batchnorm, lambda _: {"model": bounded()}),
        Case(
            "receding_parameters",
            prl.receding_parameters,
            lambda _: {"model": bounded(), "lr": 0.1, "weight_decay": 1e-4},
            pure=True,
        ),
        Case(
            "measure",
            prl.measure,
            lambda _: {"model": network(), "example": X, "latency": True, "repeats": 1, "threads": 1},
            pure=True,
        ),
        Case("recalibrate", prl.recalibrate, lambda _: {"model": network(), "inputs": X, "batch_size": 4}),
        Case("recalibrate on batches", prl.recalibrate, lambda _: {"model": network(), "inputs": [(X, Y), (X, Y)]}),
        Case("evaluate", prl.evaluate, lambda _: {"model": network(), "data": (X, Y), "batch_size": 4}, pure=True),
        Case(
            "evaluate on batches",
            prl.evaluate,
            lambda _: {"model": network(), "data": [(X, Y)], "loss_fn": F.cross_entropy},
            pure=True,
        ),
        Case("fit", prl.fit, lambda _: fitting()),
        Case(
            "fit with all",
            prl.fit,
            lambda folder: fitting(
                schedule=prl.cosine,
                strength_schedule=prl.ramp(0.5),
                augment=lambda x, g: x,
                autocast=torch.bfloat16,
                callbacks=[prl.ThresholdOnPlateau(1, 0.1)],
                checkpoint=None,
                loss_fn=F.cross_entropy,
            ),
        ),
        Case("ThresholdOnPlateau", prl.ThresholdOnPlateau, lambda _: {"patience": 1, "tolerance": 0.1, "slack": 0.01}),
        Case("reach", prl.reach, lambda _: reaching(steps=10, schedule=prl.cosine)),
        Case(
            "TargetSize",
            prl.TargetSize,
            lambda _: reaching(units=units(), units_left=0.5, epochs=2, steps=8, within=0.5, threshold=0.1),
        ),
        Case("ramp", prl.ramp, lambda _: {"share": 0.5}),
        Case(
            "steps",
            lambda one, two, factor: prl.steps(one, two, factor=factor),
            lambda _: {"one": 0.5, "two": 0.75, "factor": 0.1},
        ),
        Case("cosine", prl.cosine, lambda _: {"progress": 0.5}),
        Case("Dynamics", prl.Dynamics, lambda _: {"model": network(), "units": units(), "threshold": 0.0}, pure=True),
        Case("Dynamics.record", recording, lambda _: {"model": network(), "units": units(), "time": 1.0}, pure=True),
        Case("shrinkage_field", prl.shrinkage_field, field_of, pure=True),
        Case("inputs", lambda example: prl.measure(network(), prl.inputs(example)), lambda _: {"example": X}),
        Case("load", prl.load, saved, pure=True),
        Case("Plan.from_json", prl.Plan.from_json, lambda folder: {"text": prl.Plan("Sequential").to_json()}),
        Case("Units", prl.Units, lambda _: {"groups": list(units().values()), "fixed": {}, "macs": {"0": 24}}),
        Case("Units.translate", lambda layer: units().translate(layer), lambda _: {"layer": "1"}),
        Case("find_units", prl.find_units, lambda _: {"model": network(), "example": X}, pure=True),
        Case("shrink", prl.shrink, lambda _: shrinking(), pure=True),
        Case("save", prl.save, lambda folder: {"shrunk": prl.shrink(dead(), X), "path": folder / "it.safetensors"}),
        *selecting(),
        *companion.cases(),
    )


def field_of(_: Path) -> dict[str, Any]:
    model = network()
    return {"regularizer": prl.L2(model, 0.1), "model": model, "inputs": X, "lr": 1e-4, "repeats": 1}


def shrinking() -> dict[str, Any]:
    model = dead()
    return {"model": model, "example": X[:1], "optimizer": SGD(model.parameters(), 0.1)}


def reaching(**more: Any) -> dict[str, Any]:
    model = network()
    whole = {"model": model} if "units" in more else {}
    return whole | {"reg": prl.L1(model, 0.1), "optimizer": SGD(model.parameters(), 0.1), **more}


def training(model: nn.Module) -> None:
    """Train a little."""


def judge(model: nn.Module) -> dict[str, Tensor]:
    return prl.importance.magnitude(model, found(), of="folded")


def loss(model: nn.Module) -> float:
    return float(F.cross_entropy(model(X.to(next(model.parameters()))).float(), Y).detach())


def chosen_from(**target: Any) -> dict[str, Any]:
    return {"importance": scores(), "units": units(), **target, "floor": 1, "kinds": ("inner",), "round_to": 1}


def zeroing(**more: Any) -> dict[str, Any]:
    model = network()
    optimizer = SGD(model.parameters(), 0.1, momentum=0.9)
    return {"model": model, "chosen": chosen(), "units": units(), "optimizer": optimizer, **more}


def selecting() -> Iterator[Case]:
    """Yield the cases of the room that selects."""
    of = prl.importance
    yield Case("select", prl.select, lambda _: chosen_from(fraction=0.5, scope="local"))
    yield Case("select macs_left", prl.select, lambda _: chosen_from(macs_left=0.5))
    yield Case("select max_macs", prl.select, lambda _: chosen_from(max_macs=60))
    yield Case("select threshold", prl.select, lambda _: chosen_from(threshold=0.5))
    yield Case("select loss", prl.select, lambda _: chosen_from(loss_fn=loss, tolerance=0.1, model=network()))
    yield Case("zero", prl.zero, lambda _: zeroing(shift="drop"))
    yield Case("zero mean", prl.zero, lambda _: zeroing(shift="mean", inputs=X))
    yield Case("hold", prl.hold, lambda _: {key: zeroing()[key] for key in ("model",)})
    yield Case(
        "threshold_weights",
        prl.threshold_weights,
        lambda _: {"model": network(), "loss_fn": loss, "tolerance": 0.1, "optimizer": None},
    )
    yield Case(
        "iterative",
        prl.iterative,
        lambda _: (
            {"model": network(), "units": units(), "importance": judge, "train": training, "rounds": 2}
            | {"fraction": 0.5, "shift": "keep", "floor": 1}
        ),
    )
    yield Case("magnitude", of.magnitude, lambda _: {"model": network(), "units": units(), "norm": 2, "of": "folded"})
    yield Case(
        "taylor",
        of.taylor,
        lambda _: {"model": network(), "units": units(), "data": (X, Y), "loss_fn": F.cross_entropy, "batch_size": 4},
        pure=True,
    )
    for importance in (of.fluctuation, of.wanda):
        yield Case(
            importance.__name__,
            importance,
            lambda _: {"model": network(), "units": units(), "data": X, "batch_size": 4},
            pure=True,
        )
    yield Case("prune", prl.prune, lambda _: {"model": network(), "example": X, "macs_left": 0.5, "data": X}, pure=True)
    yield Case("random", of.random, lambda _: {"units": units(), "seed": 0})
    yield Case("cost", cost, lambda _: {"chosen": chosen(), "units": units()})
    yield Case("expected_cost", expected_cost, lambda _: {"chosen": chosen(), "units": units()})


def fuzz(number: int, seed: int, folder: Path, only: str = "") -> Iterator[Try]:
    """Try `number` wrong calls, every case in turn."""
    rng = random.Random(seed)
    named = [case for case in cases() if case.name.startswith(only)]
    for case in named:  # a valid call works, and whatever is slow once is slow here
        with torch.random.fork_rng(devices=[]), suppress(FileNotFoundError):
            case.function(**case.build(folder))
    for i in range(number):
        with torch.random.fork_rng(devices=[]):
            yield attempt(named[i % len(named)], rng, folder)


def attempt(case: Case, rng: random.Random, folder: Path) -> Try:
    """Replace one argument of a valid call, call, and judge."""
    given = case.build(folder)
    name = rng.choice([each for each in given if each not in case.fixed])
    word, value = anything(rng) if rng.random() < 0.5 else around(rng, given[name])
    if name in LONG and isinstance(value, int) and 100 < value <= 2**62:
        word, value = "10**30", 10**30  # what is right would take for ever
    wrong = {**given, name: value}
    result = tried(case.name, f"{name} = {word}", lambda: case.function(**wrong), {**given, "wrong": value}, case.pure)
    if result.outcome == "accepted" and name not in case.open and not right(case, name, (word, value)):
        return Try(case.name, "faulty", f"{result.text}: was accepted")
    return result


def right(case: Case, name: str, wrong: Named) -> bool:
    """Whether an accepted value is one that the annotation allows, and no number that is none."""
    return fits(wrong[1], case.hints.get(name, Any)) and not is_not_finite(wrong[1])
