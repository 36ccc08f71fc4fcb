"""Does training slow down as weights go to zero? `python -m benchmarks.denormals` (MNIST, one thread).

Numbers below 1.2e-38 are denormal, and some processors take a hundred times as long over them. First what this
processor does: the product of 128 × 784 by 784 × 300 numbers and a step of Adam, at the size of the weights given, over
the same at ordinary ones. Then LeNet-300 by each method, in a plain loop and in one that flushes denormals (as `fit`
does). It starts where long training ends, with half of the first layer's units and all weights of the outer pixels at
1e-29, so that they pass the denormal numbers during the run; a step's time at the start, at its slowest, and at the
end, and how many denormal numbers there were at most among weights, their slopes and the optimizer's state.

That a step's time stays level on a processor without the penalty proves little; no denormal numbers prove it anywhere.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pruning_lib import L1, L2, GroupHoyer, GroupLasso, Guided, Regularizer, SeReNe, StochasticPruning, find_units
from pruning_lib.companion.data import TensorPair, mnist
from pruning_lib.companion.models import LeNet300
from pruning_lib.training import flushed
from pruning_lib.units import Units

TINY = torch.finfo(torch.float32).tiny
Maker = Callable[[nn.Module, Units], Regularizer | None]
# Strengths that take a weight without any other pull from 1e-29 to beyond 1e-45 in a run.
METHODS: dict[str, Maker] = {
    "no penalty": lambda m, u: None,
    "L1, loss": lambda m, u: L1(m, 1e-5, apply="loss"),
    "L1, prox": lambda m, u: L1(m, 1e-5),
    "L2, loss": lambda m, u: L2(m, 0.5),
    "L2, prox": lambda m, u: L2(m, 0.5, apply="prox"),
    "group lasso, loss": lambda m, u: GroupLasso(m, 0.05, apply="loss", units=u),
    "group lasso, prox": lambda m, u: GroupLasso(m, 0.05, units=u),
    "columns, prox": lambda m, u: GroupLasso(m, 0.05, over="columns", units=u),
    "coupled, loss": lambda m, u: GroupLasso(m, 0.05, apply="loss", over="coupled", units=u),
    "coupled, prox": lambda m, u: GroupLasso(m, 0.05, over="coupled", units=u),
    "group Hoyer": lambda m, u: GroupHoyer(m, 0.05, units=u),
    "group Hoyer, both": lambda m, u: GroupHoyer(m, 0.05, over="both", units=u),
    "guided L2, prox": lambda m, u: Guided(m, 0.5, apply="prox", units=u),
    "guided group lasso, prox": lambda m, u: Guided(m, 0.05, base=GroupLasso, units=u),
    "stochastic pruning": lambda m, u: StochasticPruning(m, 0.5, units=u),
    "SeReNe, sampled": lambda m, u: SeReNe(m, 0.05),
}


def products() -> None:
    """Print what denormal numbers cost this processor."""
    print(f"{'time over that at size 1e-2':<34} as found  flushed")
    inputs, weight = torch.randn(128, 784), torch.randn(300, 784)
    for size in (1e-30, 1e-38, 1e-40):
        ratio = []
        for around in (nullcontext, flushed):
            with around():
                times = [_median(partial(F.linear, inputs, scale * weight)) for scale in (1e-2, size)]
                ratio.append(times[1] / times[0])
        print(f"{f'product, weights of {size:g}':<34} {ratio[0]:8.2f} {ratio[1]:8.2f}")
    for size in (1e-30, 1e-40):
        ratio = []
        for around in (nullcontext, flushed):
            with around():
                times = [_median(_adam(weight, scale)) for scale in (1e-2, size)]
                ratio.append(times[1] / times[0])
        print(f"{f'step of Adam, moments of {size:g}':<34} {ratio[0]:8.2f} {ratio[1]:8.2f}")


def _median(work: Callable[[], object], rounds: int = 25) -> float:
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def _adam(weight: Tensor, size: float) -> Callable[[], object]:
    parameter = nn.Parameter(weight.clone())
    optimizer = torch.optim.Adam([parameter], lr=0.0)
    parameter.grad = torch.zeros_like(parameter)
    optimizer.step()

    def step() -> None:
        for moment in ("exp_avg", "exp_avg_sq"):
            optimizer.state[parameter][moment].fill_(size)
        optimizer.step()

    return step


def run(maker: Maker, data: TensorPair, steps: int, momentum: float) -> Iterator[tuple[float, int]]:
    """Yield the seconds of each step and the denormal numbers after it, which are counted at every tenth step."""
    torch.manual_seed(0)
    model = LeNet300()
    with torch.no_grad():
        layer = model.fc1
        assert isinstance(layer, nn.Linear)
        layer.weight[150:] *= 1e-28
        layer.weight[:, (data.inputs == data.inputs.min()).flatten(1).all(0)] *= 1e-28
    reg = maker(model, find_units(model, data.inputs[:2]))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=momentum)
    batches = list(zip(torch.split(data.inputs, 100), torch.split(data.targets, 100), strict=True))
    found = 0
    for i in range(steps):
        x, y = batches[i % len(batches)]
        start = time.perf_counter()
        outputs = model(x)
        loss = F.cross_entropy(outputs, y)
        if reg is not None:
            loss = loss + reg.penalty(outputs)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if reg is not None:
            reg.update(optimizer)
        seconds = time.perf_counter() - start
        if i % 10 == 9:
            found = sum(map(_denormal, _numbers(model, optimizer)))
        yield seconds, found


def _numbers(model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
    for parameter in model.parameters():
        yield parameter.detach()
        if parameter.grad is not None:
            yield parameter.grad
        yield from (value for value in optimizer.state[parameter].values() if isinstance(value, Tensor))


def _denormal(values: Tensor) -> int:
    return int(((values != 0) & (values.abs() < TINY)).sum())


def table(data: TensorPair, steps: int, momentum: float) -> None:
    """Print one line a method and loop."""
    print(f"\nLeNet-300, momentum {momentum:g}: ms a step    start  slowest      end   denormal numbers at most")
    loops: dict[str, Callable[[], AbstractContextManager[None]]] = {"plain": nullcontext, "flushed": flushed}
    for name, maker in METHODS.items():
        for loop, around in loops.items():
            with around():
                seconds, found = zip(*run(maker, data, steps, momentum), strict=True)
            tenth = max(steps // 10, 1)
            parts = [1000 * statistics.median(seconds[i : i + tenth]) for i in range(0, steps, tenth)]
            row = f"{parts[0]:8.2f} {max(parts):8.2f} {parts[-1]:8.2f} {max(found):10d}"
            print(f"{name:<26} {loop:<12} {row}", flush=True)


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    products()
    data = mnist().train
    for momentum in (0.0, 0.9):
        table(TensorPair(data.inputs[:10_000], data.targets[:10_000]), options.steps, momentum)


if __name__ == "__main__":
    main()
