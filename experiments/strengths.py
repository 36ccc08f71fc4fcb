"""The page *Strengths that were tried*: by network, optimizer and method, the strength that validation data chose."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from experiments import tables
from experiments.suites import PAGES, SUITES, Suite
from pruning_lib.companion.records import Row, choose, load, measured, read

SHOWN = ("mnist", "lenet5", "cifar10", "medical")  # the pages whose suites compare methods
ABOUT = """Where to begin, by network. All were trained by SGD with momentum 0.9.

- *Tried* are the strengths λ that were trained. The other columns hold, for each size, the strength with the lowest
  validation error, and in brackets this error in percent (of the nuclei: the share of wrong pixels), mean over seeds.
- Units were ranked by the method's own importance, removed, and the network was fine-tuned. Compare with the first row,
  *no penalty*: a strength with a higher error did not help.
- A strength in *italics* is at an end of what was tried, so a better one may lie beyond. Where only one was tried, it
  was not searched: it came from LeNet-300, or from a rule (see the suite).
- All of them trained with SGD. No strength was tried with Adam.
- For another learning rate or number of steps, choose λ so that λ times the sum of the learning rates over all steps
  stays the same.
- Units that training alone brings to zero, without a ranking, need larger strengths: `TargetSize` finds them (see
  *Steered toward a size*).

The [reference](../api.rst) has the methods as classes. Seeds, weight decays and test errors are in the tables of the
suites: [MNIST](mnist.md), [LeNet-5](lenet5.md), [CIFAR-10](cifar10.md), [medical images](medical.md)."""
STEERED = (
    "Strengths that `TargetSize` took, with half of the units as the target: SGD with momentum 0.9, a learning rate of "
    "0.1 (LeNet-300) or 0.05 along a cosine, weight decay 0.0005, 15 epochs, nothing after them. Values are in "
    "percent, one a seed. Networks under slimming have a BatchNorm behind every layer. *Units left* counts units that "
    "training itself made removable. *Best of a grid* is the fixed strength with the lowest validation error among "
    "those that leave at most 55 %; the strengths of a grid lie a factor of √10 apart, or half of that where one keeps "
    "nearly all units and the next nearly none. *Dense* is the same training without a penalty. "
    "`python -m benchmarks.target_size` repeats the runs."
)
FOLLOWED = (
    "Of these methods `TargetSize` does not know how far a strength moves a unit, and follows how fast units become "
    "shorter. So it needs a `threshold`, the length within which a unit has gone (here 0.05), and a first guess of the "
    "strength, the same for all seeds. LeNet-300 as above, half of the units as the target; *with BatchNorm* behind "
    "every hidden layer. *Guess × 10* and *× 0.1* are wrong on purpose, seed 0: after a low guess the size comes late, "
    "and the error is higher. Guesses and constants were chosen on seeds 0 and 1. Guided group lasso needs no guess. "
    "`python -m benchmarks.target_size --networks lenet300 --methods l2 serene …` repeats the runs."
)
FOLLOWING = {
    "l2": "L2",
    "serene": "SeReNe",
    "stochastic-l2": "stochastic pruning with L2",
    "group-hoyer": "group Hoyer",
    "group-sl": "Group-SL",
    "guided-group-lasso": "guided group lasso",
    "guided-l2": "guided L2",
    "polarization": "polarization, with BatchNorm",
    "receding": "receding importances, with BatchNorm",
    "group-sl-bn": "Group-SL, with BatchNorm",
}
NETWORKS = {
    "lenet300": "LeNet-300",
    "lenet5": "LeNet-5",
    "vgg16-quarter": "VGG-16, quarter width",
    "resnet18": "ResNet-18",
}
METHODS = {"group-lasso": "group lasso", "slimming": "slimming"}


def parts(records: Path) -> list[str]:
    """Return the parts of the page: what it says, a table a suite, the strengths that were steered."""
    found = [ABOUT]
    for page in SHOWN:
        found += [part for name in PAGES[page][1] if (part := _suite(SUITES[name], records))]
    found += ["## Steered toward a size", STEERED, _steered(measured("target-size"))]
    return [*found, "## Steered by what is measured", FOLLOWED, _followed(measured("target-size-feedback"))]


def _suite(suite: Suite, records: Path) -> str:
    """Return the part on one suite, "" if no strengths were chosen there."""
    if not read(suite.name, records):
        return ""
    rows = [row for row in load(suite.name, folder=records) if row["recipe"] == "prune" and row["criterion"] == "own"]
    tried: dict[str, set[float]] = {}
    for row in rows:
        tried.setdefault(row["method"], set()).add(row["strength"])
    if len(tried) < 3:
        return ""
    aims = list(dict.fromkeys(row["target"] for row in rows))
    chosen: dict[tuple[str, str], list[Row]] = {}
    for row in choose(rows):
        chosen.setdefault((row["method"], row["target"]), []).append(row)
    head = suite.head()
    lines = [_line(["method", "tried", *(tables.called(head, aim) for aim in aims)]), "| --- " * (2 + len(aims)) + "|"]
    for method, strengths in tried.items():
        cells = [_chosen(chosen.get((method, aim), []), strengths) for aim in aims]
        lines.append(_line([tables.called(head, method), ", ".join(map(_number, sorted(strengths - {0.0}))), *cells]))
    return "\n\n".join([f"## {suite.title}", _optimizer(suite), "\n".join(lines)])


def _optimizer(suite: Suite) -> str:
    """Return in a sentence how the networks of a suite were trained."""
    config: dict[str, Any] = next(config for config in suite.configs() if config["recipe"] == "prune")
    schedule = config.get("schedule", "cosine")
    along = {"cosine": "along a cosine", "steps": "divided by ten after a half and three quarters of the epochs"}[
        schedule
    ]
    return (
        f"SGD with momentum {config['momentum']:g}, a learning rate of {config['lr']:g} {along}, batches of "
        f"{config['batch_size']}, {config['epochs']} epochs."
    )


def _chosen(rows: list[Row], tried: set[float]) -> str:
    if not rows:
        return ""
    error = f"({statistics.fmean(row['val_error'] for row in rows):.2f})"
    if tried == {0.0}:
        return error
    strength = _number(rows[0]["strength"])
    at_an_end = len(tried) > 1 and rows[0]["strength"] in (min(tried), max(tried))
    return f"{f'*{strength}*' if at_an_end else strength} {error}"


def _steered(runs: dict[str, dict[str, Any]]) -> str:
    """Return what `TargetSize` took, a row a network and method, seeds in order, beside the best of the grid."""
    lines = [
        _line(
            [
                *("network", "method", "units left", "λ, least to most", "validation error"),
                *("best of a grid", "its error", "dense"),
            ]
        )
    ]
    lines.append("| --- " * 8 + "|")
    for network, title in NETWORKS.items():
        for method, name in METHODS.items():
            own = {n.split()[3]: run for n, run in runs.items() if n.startswith(f"{network} {method} steered ")}
            if not own:
                continue
            taken = [strength for run in own.values() for strength, _, _ in run["log"] if strength]
            lines.append(
                _line(
                    [
                        *(title, name, ", ".join(f"{run['left']:.0%}" for run in own.values())),
                        f"{_number(min(taken))} to {_number(max(taken))}",
                        ", ".join(f"{run['val_error']:.2f}" for run in own.values()),
                        *_grid(runs, network, method, list(own)),
                        ", ".join(_dense(runs, network, method, seed) for seed in own),
                    ]
                )
            )
    return "\n".join(lines)


def _followed(runs: dict[str, dict[str, Any]]) -> str:
    """Return what was left by the methods whose pull is measured, a row a method, seeds in order."""
    guesses = {"steered": "", "steered×10": "guess × 10", "steered×0.1": "guess × 0.1"}
    columns = ["method", "units left", "validation error"]
    columns += [f"{words}: {what}" for words in list(guesses.values())[1:] for what in ("left", "error")]
    lines = [_line(columns), "| --- " * len(columns) + "|"]
    for method, name in FOLLOWING.items():
        cells = [name]
        for guess in guesses:
            its = [run for n, run in runs.items() if n.startswith(f"lenet300 {method} {guess} ")]
            cells += [
                ", ".join(f"{run['left']:.0%}" for run in its),
                ", ".join(f"{run['val_error']:.2f}" for run in its),
            ]
        lines.append(_line(cells))
    return "\n".join(lines)


def _dense(runs: dict[str, dict[str, Any]], network: str, method: str, seed: str) -> str:
    """Return the validation error without a penalty; a network with BatchNorm in either case was trained once."""
    found = [runs.get(f"{network} {its} 0.0 {seed}") for its in (method, "group-lasso")]
    run = next(filter(None, found if network in ("vgg16-quarter", "resnet18") else found[:1]), None)
    return f"{run['val_error']:.2f}" if run else "not run"


def _grid(runs: dict[str, dict[str, Any]], network: str, method: str, seeds: list[str]) -> tuple[str, str]:
    """Return the best fixed strength of each seed and its validation error, or a word where there is none."""
    best, errors = [], []
    for seed in seeds:
        grid = {
            name.split()[2]: run
            for name, run in runs.items()
            if name.startswith(f"{network} {method} ") and name.endswith(f" {seed}") and "steered" not in name
        }
        small = [name for name, run in grid.items() if run["left"] <= 0.55]
        found = min(small, key=lambda name: grid[name]["val_error"]) if small else None
        best.append(_number(float(found)) if found else "none" if grid.keys() - {"0.0"} else "not run")
        errors.append(f"{grid[found]['val_error']:.2f}" if found else "–")
    return ", ".join(best), ", ".join(errors)


def _number(strength: float) -> str:
    return f"{strength:.2g}"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
