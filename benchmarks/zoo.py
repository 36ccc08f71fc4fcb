"""Networks that people have, shrunk and compared: ``python -m benchmarks.zoo``.

    python -m benchmarks.zoo [--only WORD …] [--redo]    run what the record lacks, or names that hold a word, or all
    python -m benchmarks.zoo --table                     print the record as Markdown

Weights, biases, shifts and statistics are random, and no file is loaded; Transformers do without caches. A random third
of the units of every group is zeroed, shifts are kept, and `shrink` removes what it can. Then the zeroed and the
shrunk network are compared in float64 (in float32 what runs in no other type), on the example and on every other batch,
length and side of an image that the zeroed network accepts.

    zeroed, removed   units, those of streams among them
    parameters        of the dense network, and what is left in %
    error             largest difference of the outputs over the largest output
    signal            largest difference that another input makes, over the largest output: what an error must be below
    inputs            on how many inputs they were compared
    seconds           of `shrink` with its checks, of this process on one thread
    stays             layers whose units are in no group, and units that carry nothing and stayed, counted by reason
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import signal
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.networks import Network, networks
from pruning_lib import find_units, shrink, zero
from pruning_lib._inputs import Inputs, read, tensors_in
from pruning_lib.companion import records
from pruning_lib.units import Chosen, Units

RECORD = records.SHIPPED / f"{records.MEASURED}networks.json"
PACKAGES = ("torch", "torchvision", "timm", "transformers")
LIMIT_S = 600
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
SHARE = 1 / 3


# Zeros


@torch.no_grad()
def randomize(model: nn.Module, example: Inputs) -> None:
    """Draw every bias, scale and running statistic, so that no constant is 0 by habit; leave no weight at 0."""
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if name in ("weight", "scale") and parameter.ndim == 1:  # near 1, or streams fade from block to block
                nn.init.uniform_(parameter, 0.5, 1.5)
            elif parameter.ndim == 1 or "bias" in name:
                nn.init.normal_(parameter, std=0.1)
            elif not parameter.any():
                nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    # Statistics that fit the activations, so that signals neither fade nor explode, then away from them.
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    if norms:
        example.call(model.train())
    model.eval()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean += 0.3 * torch.randn_like(norm.running_mean) * norm.running_var.sqrt()
        norm.running_var *= torch.empty_like(norm.running_var).uniform_(0.5, 1.5)


def third(units: Units) -> Chosen:
    """Return a random third of every group, at least one unit and never all."""
    chosen = {}
    for name, group in units.items():
        chosen[name] = torch.zeros(group.size, dtype=torch.bool)
        count = min(max(round(group.size * SHARE), 1), group.size - 1)
        chosen[name][torch.randperm(group.size)[:count]] = True
    return chosen


# One network


def run(network: Network, seed: int = 0) -> dict[str, Any]:
    """Build, zero, shrink and compare one network."""
    torch.manual_seed(seed)
    model, dtype = network.build().double().eval(), torch.float64
    try:
        outputs(model, cast(network.example(), dtype))
    except RuntimeError:  # a product of experts, or a mask, that is written for float32
        dtype = torch.float32
        model.to(dtype)
    example = cast(network.example(), dtype)
    randomize(model, cast(network.example(4), dtype))
    units = find_units(model, example)
    chosen = third(units)
    zero(model, chosen, units)
    start = time.process_time()
    small = shrink(model, example)
    seconds = time.process_time() - start
    others = [cast(other, dtype) for other in network.others()]
    error, signal, inputs = compare(model, small.model, example, others)
    before, after = (sum(parameter.numel() for parameter in each.parameters()) for each in (model, small.model))
    streams = [name for name, group in units.items() if group.kind == "stream"]
    zeroed = {name: int(mask.sum()) for name, mask in chosen.items()}
    return {
        "verdict": "exact" if error <= TOLERANCE[dtype] < 1e-2 * signal else "wrong",
        "zeroed": sum(zeroed.values()),
        "removed": sum(small.removed.values()),
        "streams": [sum(each[name] for name in streams) for each in (zeroed, small.removed)],
        "whole": [name for name, count in zeroed.items() if count and not small.removed[name]],
        "parameters": before,
        "left": round(100 * after / before, 1),
        "error": float(f"{error:.1e}"),
        "signal": float(f"{signal:.1e}"),
        "inputs": inputs,
        "seconds": round(seconds, 1),
        "stays": reasons(units, small.plan.notes),
    }


def cast(example: Any, dtype: torch.dtype) -> Inputs:
    """Return inputs in a floating-point type."""
    return read(example).map(lambda x: x.to(dtype) if x.is_floating_point() else x)


@torch.no_grad()
def compare(dense: nn.Module, small: nn.Module, example: Inputs, others: list[Inputs]) -> tuple[float, float, int]:
    """Return the largest error, the largest difference between inputs, and on how many inputs both were compared."""
    dense, small = dense.eval(), small.eval()
    worst, signal, count = 0.0, 0.0, 0
    for inputs in (example, *others):
        try:
            expected = outputs(dense, inputs)
        except Exception:  # the dense network does not take this size
            if inputs is example:
                raise
            continue
        count += 1
        for a, b in zip(expected, outputs(small, inputs), strict=True):
            scale = float(a.abs().max()) or 1.0
            worst = max(worst, float((a - b).abs().max()) / scale if a.shape == b.shape else float("inf"))
            if a.ndim and len(a) > 1:
                signal = max(signal, float((a - a[:1]).abs().max()) / scale)
    return worst, signal, count


@torch.no_grad()
def outputs(model: nn.Module, inputs: Inputs) -> list[Tensor]:
    """Return the floating-point tensors in what a network returns."""
    torch.manual_seed(0)
    found = tensors_in(inputs.map(Tensor.clone).call(model))
    return [each for each in found if each.is_floating_point() and each.numel()]


NOTE = re.compile(r"^(?P<layer>\S*): (?P<count>\d+) (?:dead )?(?P<what>units?|rows?) .*?stays?: (?P<why>.*)$")


def reasons(units: Units, notes: list[str]) -> dict[str, int]:
    """Count layers that stay and units that stayed by reason, without the names of layers, files and lines."""
    counts: Counter[str] = Counter()
    for why in units.fixed.values():
        counts[f"layers: it {_bare(why)}"] += 1
    for note in notes:
        if match := NOTE.match(note):
            counts[f"{match['what'].rstrip('s')}s: {_bare(match['why'])}"] += int(match["count"])
        elif "its units stay" not in note:
            counts[_bare(note.partition(": ")[2])] += 1
    return dict(counts.most_common())


def _bare(why: str) -> str:
    return re.sub(r"\S+ writes the same", "another writes the same", re.sub(r" \([^)]*, line \d+\)", "", why))


# Record


def load() -> dict[str, Any]:
    """Return the record, or an empty one."""
    return json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.is_file() else {"nets": {}}


def write(nets: dict[str, Any]) -> None:
    """Write the record whole or not at all, a line a network."""
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(nets[name])}" for name in networks() if name in nets)
    head = json.dumps({package: version(package) for package in PACKAGES})
    records.write_text(RECORD, f'{{"versions": {head},\n"nets": {{\n{lines}\n}}}}\n')


@contextlib.contextmanager
def limit(seconds: int) -> Iterator[None]:
    """Raise TimeoutError after some seconds of computing, whatever else the machine does."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"more than {seconds} s")

    signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def table(nets: dict[str, Any]) -> str:
    """Return the record as Markdown."""
    lines = [
        "| network | zeroed | removed | in streams | parameters | left | error | inputs | seconds | stays |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    for name, net in nets.items():
        if net["verdict"] == "refused":
            lines.append(f"| {name} | | | | | | | | | {net['why']} |")
            continue
        stays = "; ".join(f"{why.replace('|', '')} ×{count}" for why, count in net["stays"].items())
        lines.append(
            f"| {name} | {net['zeroed']} | {net['removed']} | {net['streams'][1]} of {net['streams'][0]} | "
            f"{net['parameters'] / 1e6:.2f} M | {net['left']:.0f} % | {net['error']:.0e} | {net['inputs']} | "
            f"{net['seconds']:.1f} | {stays} |"
        )
    counts = Counter(net["verdict"] for net in nets.values())
    return "\n".join([*lines, "", ", ".join(f"{count} {verdict}" for verdict, count in counts.items())])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD", help="run these again")
    parser.add_argument("--redo", action="store_true", help="run all again")
    parser.add_argument("--table", action="store_true", help="print the record as Markdown")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for name, network in {} if options.table else networks().items():
        if options.only and not any(word in name for word in options.only):
            continue
        if not (options.only or options.redo) and name in load()["nets"]:
            continue
        try:
            with limit(LIMIT_S):
                result = run(network)
        except Exception as error:
            result = {"verdict": "refused", "why": f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"[:400]}
        write({**load()["nets"], name: result})
        print(name, json.dumps(result), flush=True)
    if options.table:
        print(table(load()["nets"]))


if __name__ == "__main__":
    main()
