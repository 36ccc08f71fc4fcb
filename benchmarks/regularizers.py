"""What every method costs a training step: `python -m benchmarks.regularizers [--networks lenet5 resnet56 vgg16]`.

LeNet-5 with batches of 100, ResNet-56 with 64, VGG-16 with 32, one thread; SGD with momentum, random images.

    step    a step with the method over a plain one, paired and interleaved: median and quartiles
    own     the method's own work (its penalty, the slope of that alone, its update) over a plain step
    peak    what a step allocates at most beyond a plain one, in copies of the parameters
    kept    tensors that the method holds between steps, in copies of the parameters

Steps are noisy where others work on the machine; `own` is less so, and misses what a whole step adds (one more term in
the sum of the slopes). Targets for what penalizes parameters: ≤ 1.02 on ResNet-56, ≤ 1.05 on LeNet-5 and VGG-16; at
most one copy kept. SeReNe differentiates the network, and its target is in `benchmarks.serene`. The regularizer of
Torch-Pruning stands beside them where that is installed.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

# The profiler's own messages, before it is loaded.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.profiler import ProfilerActivity, profile

from benchmarks.timing import interleaved, ratios
from pruning_lib import find_units
from pruning_lib.companion.models import VGG16, LeNet5, ResNet
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
)
from pruning_lib.units import Units

Maker = Callable[[nn.Module, Units, Tensor], Regularizer | None]


class TorchPruning(Regularizer):
    """The regularizer of Torch-Pruning's `GroupNormPruner`, which adds to the gradients before the optimizer's step."""

    def __init__(self, model: nn.Module, example: Tensor) -> None:
        import torch_pruning  # type: ignore[import-not-found, unused-ignore]

        importance = torch_pruning.importance.GroupMagnitudeImportance(p=2)
        last = [layer for layer in model.modules() if isinstance(layer, nn.Linear)][-1:]
        self.strength, self.model = 1e-6, model
        self.pruner = torch_pruning.pruner.GroupNormPruner(
            model, example, importance=importance, reg=1e-6, ignored_layers=last
        )

    def regularize(self) -> None:
        """Add to the gradients that there are."""
        self.pruner.regularize(self.model)

    def update(self, optimizer: Optimizer) -> None:
        """Leave the weights to the optimizer."""

    def importance(self) -> dict[str, Tensor]:
        """Return none."""
        return {}


def _receding(model: nn.Module) -> Regularizer:
    """Bound the scales first; what that costs the passes counts in `step`, not in `own`."""
    bound_batchnorm(model)
    return RecedingNeurons(model, 1e-6)


METHODS: dict[str, Maker] = {
    "plain": lambda m, u, x: None,
    "plain again": lambda m, u, x: None,
    "L1, loss": lambda m, u, x: L1(m, 1e-6, apply="loss"),
    "L1, prox": lambda m, u, x: L1(m, 1e-6, apply="prox"),
    "L2, loss": lambda m, u, x: L2(m, 1e-6, apply="loss"),
    "L2, prox": lambda m, u, x: L2(m, 1e-6, apply="prox"),
    "group lasso, loss": lambda m, u, x: GroupLasso(m, 1e-6, apply="loss"),
    "group lasso, gradient": lambda m, u, x: GroupLasso(m, 1e-6, apply="gradient"),
    "group lasso, decay": lambda m, u, x: GroupLasso(m, 1e-6, apply="decay"),
    "group lasso, prox": lambda m, u, x: GroupLasso(m, 1e-6, apply="prox"),
    "columns, loss": lambda m, u, x: GroupLasso(m, 1e-6, apply="loss", over="columns", units=u),
    "columns, prox": lambda m, u, x: GroupLasso(m, 1e-6, over="columns", units=u),
    "coupled, loss": lambda m, u, x: GroupLasso(m, 1e-6, apply="loss", over="coupled", units=u),
    "coupled, prox": lambda m, u, x: GroupLasso(m, 1e-6, over="coupled", units=u),
    "coupled, prox, two rates": lambda m, u, x: GroupLasso(m, 1e-6, over="coupled", units=u),
    "group Hoyer": lambda m, u, x: GroupHoyer(m, 1e-6),
    "group Hoyer, both": lambda m, u, x: GroupHoyer(m, 1e-6, over="both", units=u),
    "Group-SL": lambda m, u, x: GroupSL(m, 1e-6, units=u),
    "guided L2, loss": lambda m, u, x: Guided(m, 1e-6, units=u),
    "guided group lasso, prox": lambda m, u, x: Guided(m, 1e-6, base=GroupLasso, units=u),
    "slimming, loss": lambda m, u, x: NetworkSlimming(m, 1e-6),
    "slimming, prox": lambda m, u, x: NetworkSlimming(m, 1e-6, apply="prox"),
    "polarization": lambda m, u, x: Polarization(m, 1e-6),
    "receding neurons": lambda m, u, x: _receding(m),
    "stochastic pruning": lambda m, u, x: StochasticPruning(m, 1e-6, temperature=1e-3),
    "SeReNe, sampled": lambda m, u, x: SeReNe(m, 1e-6),
    "SeReNe, local": lambda m, u, x: SeReNe(m, 1e-6, estimator="local"),
}
if importlib.util.find_spec("torch_pruning") is not None:
    METHODS["Torch-Pruning's group norm"] = lambda m, u, x: TorchPruning(m, x)
TURN = 3
"""Steps a turn: SeReNe's sampled estimator measures at one of three."""
TWO_RATES = ("coupled, prox, two rates",)
"""Here the scales have a learning rate of their own, and the proximal map a root to find."""
SCALES = ("slimming, loss", "slimming, prox", "polarization", "receding neurons")
"""These need a BatchNorm, which LeNet-5 has not."""


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "lenet5": (LeNet5, (100, 1, 28, 28)),
    "resnet56": (ResNet, (64, 3, 32, 32)),
    "vgg16": (VGG16, (32, 3, 32, 32)),
}


class Stepper:
    """One network, its optimizer and its method; a call takes one training step."""

    def __init__(self, network: str, method: str) -> None:
        torch.manual_seed(0)
        make, shape = NETWORKS[network]
        self.model = make()
        example = torch.zeros(2, *shape[1:])
        self.reg = METHODS[method](self.model, find_units(self.model, example), example)
        short = [p for p in self.model.parameters() if p.ndim == 1] if method in TWO_RATES else []
        rest = [p for p in self.model.parameters() if all(p is not other for other in short)]
        units: list[dict[str, Any]] = [{"params": rest}, {"params": short, "lr": 0.1}]
        self.optimizer = torch.optim.SGD(units, lr=0.01, momentum=0.9)
        if (reg := self.reg) is not None and isinstance(reg, TorchPruning):
            self.optimizer.register_step_pre_hook(lambda *_: reg.regularize())
        self.x, self.y = torch.randn(shape), torch.randint(10, shape[:1])
        self.parameters = sum(p.numel() for p in self.model.parameters())

    def __call__(self) -> None:
        outputs = self.model(self.x)
        loss = F.cross_entropy(outputs, self.y)
        if self.reg is not None:
            loss = loss + self.reg.penalty(outputs)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        if self.reg is not None:
            self.reg.update(self.optimizer)

    def own(self, rounds: int) -> float:
        """Return the median seconds of the method's own work: penalty, its slope, update."""
        assert self.reg is not None
        outputs, seconds = torch.zeros(len(self.y), 10), []
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        for _ in range(rounds):
            start = time.perf_counter()
            term = self.reg.penalty(outputs)
            if term.requires_grad:
                torch.autograd.grad(term, parameters, allow_unused=True)
            if isinstance(self.reg, TorchPruning):
                self.reg.regularize()
            self.reg.update(self.optimizer)
            seconds.append(time.perf_counter() - start)
        return statistics.median(seconds)

    def peak(self) -> int:
        """Return the most bytes that the steps of a turn had allocated at once."""
        self.optimizer.zero_grad()
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
            for _ in range(TURN):
                self()
        assert seen.profiler is not None
        events: list[Any] = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
        held = most = 0
        for event in sorted(events, key=lambda event: event.start_ns()):
            held += event.nbytes()
            most = max(most, held)
        return most

    def kept(self) -> int:
        """Return the numbers in all tensors that the method holds, the network's own aside."""
        ours = {t.untyped_storage().data_ptr() for t in (*self.model.parameters(), *self.model.buffers())}
        found: dict[int, int] = {}
        seen, waiting = {id(self.model)}, [vars(self.reg)] if self.reg is not None else []
        while waiting:
            thing = waiting.pop()
            if id(thing) in seen or isinstance(thing, (nn.Module, type)):
                continue
            seen.add(id(thing))
            if isinstance(thing, Tensor):
                found[thing.untyped_storage().data_ptr()] = thing.untyped_storage().nbytes()
            elif isinstance(thing, (dict, list, tuple, set)):
                waiting += [*thing.values()] if isinstance(thing, dict) else [*thing]
            elif type(thing).__module__.startswith("pruning_lib"):
                waiting.append(vars(thing))
        return sum(size for place, size in found.items() if place not in ours) // 4


def table(network: str, methods: list[str], rounds: int) -> None:
    """Print one network's table."""
    steppers = {}
    for name in methods:
        stepper = Stepper(network, name)
        try:
            stepper()  # the momentum is there after one step
        except IndexError:
            # Torch-Pruning 1.6 miscounts the padded channels of option A.
            if not isinstance(stepper.reg, TorchPruning):
                raise
            print(f"{name} does not run on {network}")
        else:
            steppers[name] = stepper
    seconds = interleaved(steppers, rounds, inner=TURN)
    plain = statistics.median(seconds["plain"])
    base = steppers["plain"].peak()
    print(f"{network}, plain step {1000 * plain:.1f} ms    step  quartiles       own    peak    kept")
    for name, (median, lower, upper) in ratios(seconds, "plain").items():
        stepper = steppers[name]
        size = stepper.parameters
        reg = stepper.reg
        own = "-" if reg is None or isinstance(reg, SeReNe) else f"{1 + stepper.own(15) / plain:.3f}"
        peak, kept = (stepper.peak() - base) / 4 / size, stepper.kept() / size
        print(f"{name:<28} {median:9.3f}  {lower:.3f}–{upper:.3f}  {own:>6}  {peak:6.2f}  {kept:6.2f}", flush=True)
    del steppers
    gc.collect()


def main() -> None:
    """Print a table for each network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for network in options.networks:
        methods = [name for name in options.methods if network != "lenet5" or name not in SCALES]
        table(network, list(dict.fromkeys(["plain", *methods])), options.rounds)


if __name__ == "__main__":
    main()
