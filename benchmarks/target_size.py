"""Is a size reached without a search? ``python -m benchmarks.target_size [--networks lenet300 …] [--seeds 0 1 2]``

    steered     `TargetSize` with half of the units left, once a network, method and seed
    grid        the same training at fixed strengths, each a factor of √10 from the next, none of them chosen; half of
                that where one leaves nearly all of the units and the next nearly none. Of ResNet-18, seeds 1 and 2 are
                without strengths at which seed 0 keeps them all
    dense       the same training at the strength 0: what the smaller size costs without any fine-tuning
    held        the record: share of units left, counted before any selection (rows or scales that are exactly zero, of
                which all that a unit has must be), and validation error after the same number of epochs

The best strength of the grid is that of the lowest validation error among those that leave at most 5 points more units
than the target. Targets: within 5 points of the size; at most 1 point above the error of that strength.

With ``--methods l2 serene …``, on LeNet-300 alone: the methods of `benchmarks.feedback`, which `TargetSize` steers by
what it measures, from a first guess that is the same for all seeds; ``--guesses 10 0.1`` are the same guess times that.
Their record is a file of its own; ``--record PATH`` sends what is run elsewhere.

With ``--cost ROUNDS``: three epochs on 10,000 examples, steered and at a fixed strength, in turn; the ratio of times.

LeNets train on 20,000 digits of MNIST, VGG-16 and ResNet-18 on 10,000 images of CIFAR-10 (`PRUNING_LIB_DATA`). Runs
that the record holds are not repeated. Minutes on one thread a run: LeNet-300 0.3, LeNet-5 1, VGG-16 4, ResNet-18 7.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn

from benchmarks.feedback import FEEDBACK, optimizer_of
from benchmarks.timing import ratios
from pruning_lib import (
    GroupLasso,
    NetworkSlimming,
    Regularizer,
    TargetSize,
    Units,
    cosine,
    find_units,
    fit,
    shrink,
    zero,
)
from pruning_lib.companion import records
from pruning_lib.companion.data import Split, TensorPair, cifar10, mnist
from pruning_lib.companion.models import VGG16, LeNet5, LeNet300
from pruning_lib.training import Callback
from pruning_lib.units import BatchNorm

RECORD = records.SHIPPED / f"{records.MEASURED}target-size.json"
MEASURED = records.SHIPPED / f"{records.MEASURED}target-size-feedback.json"
METHODS = ("group-lasso", "slimming")
TARGET = 0.5
Train = Callable[[], dict[str, Any]]
FEW = 10_000  # examples of an epoch whose cost is measured
WEAK = 1e-3  # the strength beside which it is measured


@dataclass(frozen=True)
class Case:
    """A network, its data, and how it is trained."""

    build: Callable[[bool], nn.Module]  # with BatchNorm or without
    load: Callable[[], Split]
    examples: int
    epochs: int
    rate: float
    grids: dict[str, tuple[float, ...]]  # by method
    normalized: bool = False  # has BatchNorm in either case: then the group lasso takes coupled groups


CASES = {
    "lenet300": Case(
        lambda bn: LeNet300(10, (1, 28, 28), bn=bn), mnist, 20_000, 15, 0.1,
        {"group-lasso": (1e-2, 3e-2, 1e-1, 3e-1), "slimming": (3e-3, 1e-2, 3e-2, 1e-1)},
    ),
    "lenet5": Case(
        lambda bn: LeNet5(10, (1, 28, 28), bn=bn), mnist, 20_000, 15, 0.05,
        {"group-lasso": (1e-2, 3e-2, 1e-1, 3e-1), "slimming": (3e-3, 1e-2, 3e-2, 1e-1)},
    ),
    "vgg16-quarter": Case(
        lambda bn: VGG16(10, 0.25, 3), cifar10, 10_000, 15, 0.05,
        {"group-lasso": (1e-2, 3e-2, 5.6e-2, 1e-1, 3e-1), "slimming": (3e-3, 1e-2, 3e-2, 1e-1)}, normalized=True,
    ),
    "resnet18": Case(
        lambda bn: torchvision.models.resnet18(num_classes=10), cifar10, 10_000, 15, 0.05,
        {"group-lasso": (3e-2, 5.6e-2, 1e-1), "slimming": (3e-3, 1e-2, 3e-2, 1e-1)}, normalized=True,
    ),
}  # fmt: skip


def run(case: Case, method: str, strength: float | None, seed: int, guess: float = 1.0) -> dict[str, Any]:
    """Train once, at a strength or toward the size, and return what the record holds."""
    torch.manual_seed(seed)
    feedback = FEEDBACK.get(method)
    first = guess * feedback.guess if feedback else 0.0
    threshold = feedback.threshold if feedback else 0.0
    train, model, units, optimizer, reg = _prepared(case, method, strength or first)
    size = TargetSize(model, reg, optimizer, units, units_left=TARGET, threshold=threshold)
    steering: list[Callback] = [size] if strength is None else []
    history = fit(
        model, train, case.load().val, epochs=case.epochs, optimizer=optimizer, regularizer=reg, callbacks=steering,
        batch_size=100, schedule=cosine, autocast=torch.bfloat16, seed=seed, progress=False,
    )  # fmt: skip
    widths = shrink(model, train.inputs[:1]).widths
    return {
        "left": round(size.left, 4),
        "removed": 1 - sum(after for _, after in widths.values()) / sum(before for before, _ in widths.values()),
        "val_error": round(100 * (1 - history["val_accuracy"][-1]), 2),
        "log": [_rounded(entry) for entry in size.log] if steering else [],
        "seconds": round(sum(history["seconds"]), 1),
    }


def dense(network: str, method: str) -> str:
    """Return the name of the training without a penalty that belongs to a method's, but for the seed."""
    return f"{network} {'group-lasso' if CASES[network].normalized else method} {0.0}"


def _rounded(entry: dict[str, float]) -> list[float]:
    """Return what an epoch was given and had: strength, share left before it, share expected after it."""
    return [round(entry[key], 5) for key in ("strength", "left", "expected")]


def _write(path: Path, held: dict[str, dict[str, Any]]) -> None:
    """Write a record, a line a run."""
    lines = ",\n".join(f" {json.dumps(name)}: {json.dumps(run)}" for name, run in held.items())
    records.write_text(path, f"{{\n{lines}\n}}\n")


def _prepared(
    case: Case, method: str, strength: float
) -> tuple[TensorPair, nn.Module, Units, torch.optim.Optimizer, Regularizer]:
    train = TensorPair(*(part[: case.examples] for part in case.load().train))
    normalized = FEEDBACK[method].normalized if method in FEEDBACK else method == "slimming"
    model = case.build(normalized).to(memory_format=torch.channels_last)
    optimizer = optimizer_of(method, model, case.rate)
    units = find_units(model, train.inputs[:1])
    return train, model, units, optimizer, _regularizer(model, method, strength, units)


def cost(case: Case, method: str, rounds: int) -> tuple[float, float, float]:
    """Return what three steered epochs take, as a multiple of the same at a fixed strength: median and quartiles.

    The fixed strength removes next to nothing, so that the penalty has the same work in both: at 0 it would have none.
    A quarter of the units is zero from the start, and held there where the size is steered.
    """
    seconds: dict[str, list[float]] = {"fixed": [], "steered": []}
    for _ in range(rounds):
        for name, times in seconds.items():
            torch.manual_seed(0)
            train, model, units, optimizer, reg = _prepared(case, method, WEAK)
            zero(model, {group: torch.arange(each.size) < each.size // 4 for group, each in units.items()}, units)
            few = TensorPair(*(part[:FEW] for part in train))
            steering = [TargetSize(model, reg, optimizer, units, units_left=TARGET)] if name == "steered" else []
            start = time.perf_counter()
            fit(
                model, few, few, epochs=3, optimizer=optimizer, regularizer=reg, callbacks=steering, batch_size=100,
                progress=False,
            )  # fmt: skip
            times.append(time.perf_counter() - start)
    return ratios(seconds, "fixed")["steered"]


def _regularizer(model: nn.Module, method: str, strength: float, units: Units) -> Regularizer:
    if method in FEEDBACK:
        return FEEDBACK[method].build(model, strength, units)
    if method == "slimming":
        return NetworkSlimming(model, strength, apply="prox", units=units)
    normalized = any(isinstance(module, BatchNorm) for module in model.modules())
    return GroupLasso(model, strength, over="coupled" if normalized else "rows", units=units)


def table(runs: dict[str, dict[str, Any]]) -> str:
    """Return what was held as a table in Markdown, a row a network, method and seed."""
    lines = [
        "| network | method | seed | units left, steered | validation error | best λ | its units | its error | dense |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, steered in runs.items():
        network, method, strength, seed = name.split()
        if strength != "steered":
            continue
        grid = {n.split()[2]: r for n, r in runs.items() if n.startswith(f"{network} {method} ") and n.endswith(seed)}
        small = {n: r for n, r in grid.items() if n != "steered" and r["left"] <= TARGET + 0.05}
        best = min(small, key=lambda n: small[n]["val_error"]) if small else None
        cells = [best, f"{small[best]['left']:.1%}", f"{small[best]['val_error']:.2f}"] if best else ["none", "", ""]
        own = [network, method, seed, f"{steered['left']:.1%}", f"{steered['val_error']:.2f}"]
        without = runs.get(f"{dense(network, method)} {seed}")
        cells.append(f"{without['val_error']:.2f}" if without else "")
        lines.append(f"| {' | '.join([*own, *cells])} |")
    return "\n".join(lines)


def feedback_table(runs: dict[str, dict[str, Any]], others: dict[str, dict[str, Any]]) -> str:
    """Return what the methods of `benchmarks.feedback` reached, a row a run, beside the dense network."""
    lines = [
        "| method | first guess | seed | units left | removed by `shrink` | epoch | validation error | dense |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, steered in runs.items():
        network, method, times, seed = name.split()
        guess = FEEDBACK[method].guess * float(times.removeprefix("steered").removeprefix("×") or 1)
        there = next((epoch for epoch, (_, left, _) in enumerate(steered["log"]) if left <= TARGET + 0.01), "–")
        without = others.get(f"{dense(network, 'slimming' if FEEDBACK[method].normalized else 'group-lasso')} {seed}")
        cells = [method, f"{guess:g}", seed, f"{steered['left']:.1%}", f"{steered['removed']:.1%}", f"{there}"]
        cells += [f"{steered['val_error']:.2f}", f"{without['val_error']:.2f}" if without else ""]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--methods", nargs="+", choices=(*METHODS, *FEEDBACK), default=METHODS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--strengths", nargs="*", type=float, help="of the grid, where not all of it is wanted")
    parser.add_argument("--guesses", nargs="+", type=float, default=[1.0], help="times the first guess of a method")
    parser.add_argument("--record", type=Path, help="where the runs are held, if not in the package")
    parser.add_argument("--table", action="store_true", help="only print what the record holds")
    parser.add_argument("--cost", type=int, metavar="ROUNDS", help="time steered training and that at a fixed strength")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.cost:
        print("three epochs steered, at a fixed strength = 1   median  quartiles")
        for network in options.networks:
            for method in CASES[network].grids:
                median, lower, upper = cost(CASES[network], method, options.cost)
                print(f"{network:<16} {method:<24} {median:6.3f}  {lower:.3f}–{upper:.3f}")
        return
    steered = [method for method in options.methods if method in FEEDBACK]
    if steered and (len(steered) < len(options.methods) or options.networks != ["lenet300"]):
        parser.error(f"{', '.join(steered)}: run these apart from {', '.join(METHODS)}, with --networks lenet300")
    path: Path = options.record or (MEASURED if steered else RECORD)
    runs = _guessed(steered, options) if steered else _grid(options)
    held = _read(path)
    for name, train in [] if options.table else runs.items():
        if name not in held:
            held[name] = train()
            sys.stderr.write(f"{name}: {held[name]}\n")
            _write(path, held)
    print(feedback_table(held, _read(RECORD)) if steered else table(held))


def _guessed(methods: list[str], options: argparse.Namespace) -> dict[str, Train]:
    """Return the runs of methods that are steered from a guess, by their names in the record."""
    return {
        f"lenet300 {method} steered{'' if times == 1 else f'×{times:g}'} {seed}": partial(
            run, CASES["lenet300"], method, None, seed, times
        )
        for seed in options.seeds
        for times in options.guesses
        for method in methods
    }


def _grid(options: argparse.Namespace) -> dict[str, Train]:
    """Return the runs toward a size, then those without a penalty, then those of the grids, by their names."""
    wanted = [
        (network, method, strength, seed)
        for seed in options.seeds
        for network in options.networks
        for method in options.methods
        for strength in (None, 0.0, *CASES[network].grids[method])
        if strength is None or options.strengths is None or strength in options.strengths
        if strength != 0 or dense(network, method).split()[1] == method
    ]
    wanted.sort(key=lambda each: (each[2] is not None, each[2] != 0))
    return {
        f"{network} {method} {'steered' if strength is None else strength} {seed}": partial(
            run, CASES[network], method, strength, seed
        )
        for network, method, strength, seed in wanted
    }


def _read(path: Path) -> dict[str, dict[str, Any]]:
    held: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return held


if __name__ == "__main__":
    main()
