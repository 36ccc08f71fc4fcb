"""What removal buys in time: ``python -m benchmarks.latency [--rounds 15] [--table]``.

Images of 32 × 32 pixels, batch 32, two threads, random weights; all networks of a table in turn, so that each turn's
ratio to the network with zeros is of one moment. Median and quartiles of these ratios; run it on a quiet machine.

**VGG-16 cut to half its width**, in PyTorch as it is (eager) and in ONNX Runtime. Units zeroed at random:

    half                 50 % of each layer, so that Torch-Pruning and `shrink` leave the same widths: 32, 64, 128, 256
    half, constants      the same with every shift kept: `shrink` keeps one constant channel a layer, 33 for 32
    half + 1, constants  one more unit of each layer zeroed, shifts kept: 31 units and a constant channel, 32
    45 %                 widths as they come: 36, 71, 141, 282
    45 %, round_to=8     `select(round_to=8)`: 40, 72, 144, 288, more units and better widths

**Residual streams**: half of everything a way can reach, shifts 0, of ResNet-56 with padded shortcuts and of ResNet-50.

    inner units          between a block's convolutions; streams stay (Receding Neuron Importances)
    whole stream         inner units, and the same stream units in all writers, where the shortcut lets them go
    gather and scatter   inner units, and each block reads and writes its own half of a stream that stays as wide as it
                         was: `index_select` before the block, `index_add` behind it (as Simplify and Polarization do)
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from benchmarks import peers
from benchmarks.exported import session
from benchmarks.timing import Step, interleaved, ratios
from pruning_lib import find_units, measure, shrink, zero
from pruning_lib.companion import records
from pruning_lib.companion.models import VGG16, ResNet
from pruning_lib.units import BatchNorm

RECORD = records.SHIPPED / f"{records.MEASURED}latency.json"
BATCH, THREADS = 32, 2
Row = dict[str, Any]
Network = tuple[str, str, nn.Module]
"""What was zeroed, how it was removed, the result."""


# VGG-16


def vgg_networks(example: Tensor) -> list[Network]:
    """Return the networks with zeros and what became of them, checked; each first of its case is the base."""
    found: list[Network] = []
    dense = peers.randomized(VGG16).float()
    units = find_units(dense, example)
    for case, fraction, round_to, shift in (
        ("half", 0.5, 1, "drop"),
        ("half, constants", 0.5, 1, "keep"),
        ("half + 1, constants", 0.5, 1, "keep"),
        ("45 %", 0.45, 1, "drop"),
        ("45 %, round_to=8", 0.45, 8, "drop"),
    ):
        model = copy.deepcopy(dense)
        chosen = peers.drawn(units, fraction=fraction, round_to=round_to)
        if "+ 1" in case:
            for gone in chosen.values():
                gone[(~gone).nonzero()[0]] = True
        zero(model, chosen, units, shift=shift)  # type: ignore[arg-type]
        small = shrink(model, example).model
        if case == "half":
            found.append((case, "zeros stay", model))
            theirs = peers.torch_pruned(model, copy.deepcopy(model), chosen, units, example)
            found.append((case, "Torch-Pruning", checked(theirs, model, example)))
        found.append((case, "shrink", checked(small, model, example)))
    return found


@torch.no_grad()
def checked(small: nn.Module, model: nn.Module, example: Tensor) -> nn.Module:
    """Return `small`, which answers as `model` does."""
    expected = model(example)
    error = float((small(example) - expected).abs().max() / expected.abs().max())
    assert error < 1e-5, f"the outputs differ by {error:.0e}"
    return small


# Streams


class GatherScatter(nn.Module):
    """A residual block that reads and writes a part of its stream: relu(shortcut(x) + scatter(branch(gather(x)))).

    Parameters
    ----------
    block : nn.Module
        With conv1, bn1, … and either `downsample` or a padded shortcut; taken apart and cut.
    inner : list of Tensor
        bool (channels,) for each convolution but the last: the units that stay.
    read, write : Tensor
        bool (channels,): the stream's channels that the block reads and writes.
    """

    read: Tensor
    write: Tensor

    def __init__(self, block: nn.Module, inner: list[Tensor], read: Tensor, write: Tensor) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        kept = [read, *inner, write]
        for i, (before, after) in enumerate(itertools.pairwise(kept), 1):
            conv, bn = block.get_submodule(f"conv{i}"), block.get_submodule(f"bn{i}")
            peers.cut(conv, before, outputs=False)
            peers.cut(conv, after, outputs=True)
            peers.cut(bn, after, outputs=True)
            layers += [conv, bn, nn.ReLU()]
        self.branch = nn.Sequential(*layers[:-1])
        self.downsample = getattr(block, "downsample", None)
        self.pad, self.stride = getattr(block, "pad", 0), int(block.stride) if self.downsample is None else 1  # type: ignore[arg-type]
        self.register_buffer("read", read.nonzero().flatten())
        self.register_buffer("write", write.nonzero().flatten())

    def forward(self, x: Tensor) -> Tensor:
        """Return the stream behind the block."""
        branch = self.branch(x.index_select(1, self.read))
        if self.downsample is not None:
            x = self.downsample(x)
        elif self.stride > 1:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.pad, self.pad))
        return x.index_add(1, self.write, branch).relu_()


def blocks(model: nn.Module) -> list[str]:
    """Return the names of the residual blocks."""
    return [name for name, module in model.named_modules() if name and "conv2" in dict(module.named_children())]


@torch.no_grad()
def gathered(model: nn.Module) -> tuple[nn.Module, nn.Module]:
    """Return the network with zeros, and as gathers and scatters; half of all channels that a block touches go."""
    small = copy.deepcopy(model)
    for name in blocks(model):
        block = model.get_submodule(name)
        # Direct children only: a projection in the shortcut reads and writes the whole stream.
        convs = [module for module in block.children() if isinstance(module, nn.Conv2d)]
        norms = [module for module in block.children() if isinstance(module, BatchNorm)]
        read, *written = [_half(convs[0].in_channels), *(_half(conv.out_channels) for conv in convs)]
        convs[0].weight[:, ~read] = 0
        for conv, norm, kept in zip(convs, norms, written, strict=True):
            for tensor in (conv.weight, norm.weight, norm.bias, norm.running_mean):
                assert tensor is not None
                tensor[~kept] = 0
        *inner, write = written
        parent, _, last = name.rpartition(".")
        cut = GatherScatter(copy.deepcopy(block), inner, read, write).eval()
        setattr(small.get_submodule(parent), last, cut)
    return model, small


def _half(channels: int) -> Tensor:
    return torch.randperm(channels) < channels // 2


def stream_networks(build: Callable[[], nn.Module], example: Tensor) -> list[Network]:
    """Return the dense network, and what each way leaves of it, checked."""
    dense = peers.randomized(build).float()
    found: list[Network] = [("", "dense", dense)]
    for how, kind in (("inner units", "inner"), ("whole stream", "all")):
        model = copy.deepcopy(dense)
        units = find_units(model, example)
        zero(model, chosen := peers.drawn(units, peers.KINDS[kind]), units, shift="drop")
        assert any(gone.any() for gone in chosen.values())
        found.append(("", how, checked(shrink(model, example).model, model, example)))
    zeroed, small = gathered(copy.deepcopy(dense))
    return [*found, ("", "gather and scatter", checked(small, zeroed, example))]


STREAMS: dict[str, Callable[[], nn.Module]] = {
    "ResNet-56, padded shortcuts": ResNet,
    "ResNet-50, bottlenecks": lambda: torchvision.models.resnet50(num_classes=10),
}


# Timing


def timed(steps: dict[str, Step], rounds: int, base: str) -> dict[str, tuple[float, dict[str, float]]]:
    """Return {name: (median milliseconds, quartiles of the time over the base's)}."""
    torch.set_num_threads(THREADS)
    with torch.inference_mode():
        seconds = interleaved(steps, rounds)
    torch.set_num_threads(1)
    found = {}
    for name, (median, lower, upper) in ratios(seconds, base).items():
        left = {"lower": round(lower, 4), "median": round(median, 4), "upper": round(upper, 4)}
        found[name] = (round(1000 * sorted(seconds[name])[rounds // 2], 2), left)
    return found


def eager(model: nn.Module, batch: Tensor) -> Step:
    return lambda: model(batch)


def vgg(rounds: int) -> list[Row]:
    """Return one row for each network and engine."""
    batch = torch.randn(BATCH, 3, 32, 32)
    networks = vgg_networks(batch[:2])
    base, rows = measure(networks[0][2], batch[:1]), []
    for engine, prepare in (("eager", eager), ("ONNX Runtime", partial(session, threads=THREADS))):
        steps = {f"{case}/{how}": prepare(model, batch) for case, how, model in networks}
        times = timed(steps, rounds, next(iter(steps)))
        for case, how, model in networks:
            after, (ms, left) = measure(model, batch[:1]), times[f"{case}/{how}"]
            row = {"engine": engine, "zeroed": case, "how": how, "macs": after.macs, "ms": ms, "time_left": left}
            rows.append({**row, "macs_left": round(after.macs / base.macs, 4)})
    return rows


def coupling(rounds: int) -> list[Row]:
    """Return one row for each network and way."""
    batch, rows = torch.randn(BATCH, 3, 32, 32), []
    for network, build in STREAMS.items():
        networks = stream_networks(build, batch[:2])
        base = measure(networks[0][2], batch[:1])
        times = timed({how: eager(model, batch) for _, how, model in networks}, rounds, "dense")
        for _, how, model in networks[1:]:
            after, (ms, left) = measure(model, batch[:1]), times[how]
            row = {"network": network, "how": how, "macs_left": round(after.macs / base.macs, 4)}
            parameters = round(after.parameters / base.parameters, 4)
            rows.append(
                {**row, "parameters_left": parameters, "ms": ms, "dense_ms": times["dense"][0], "time_left": left}
            )
    return rows


def table(record: dict[str, Any]) -> str:
    """Return the record as Markdown."""
    lines = [
        "| VGG-16 | zeroed | how | MACs | ms | times as fast (quartiles) |",
        "|---|---|---|---:|---:|---:|",
    ]
    for row in record["vgg"]:
        fast = " ".join(f"{1 / row['time_left'][key]:.2f}" for key in ("median", "upper", "lower"))
        macs = f"{row['macs'] / 1e6:.1f} M"
        lines.append(f"| {row['engine']} | {row['zeroed']} | {row['how']} | {macs} | {row['ms']:.1f} | {fast} |")
    lines += ["", "| network | how | MACs left | time left (quartiles) |", "|---|---|---:|---:|"]
    for row in record["coupling"]:
        low, middle, high = (100 * row["time_left"][key] for key in ("lower", "median", "upper"))
        left = f"{100 * row['macs_left']:.0f} % | {middle:.0f} % ({low:.0f}–{high:.0f})"
        lines.append(f"| {row['network']} | {row['how']} | {left} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--table", action="store_true", help="print the record as Markdown")
    options = parser.parse_args()
    if not options.table:
        torch.set_num_threads(1)  # until the clock runs
        packages = ("torch", "torchvision", "onnxruntime", "torch-pruning")
        provenance = {**{name: version(name) for name in packages}, "threads": THREADS, "batch": BATCH}
        record = {"vgg": vgg(options.rounds), "coupling": coupling(options.rounds)}
        parts = [
            f'"{part}": [\n' + ",\n".join(json.dumps(row) for row in rows) + "\n]" for part, rows in record.items()
        ]
        head = json.dumps({**provenance, "rounds": options.rounds})
        records.write_text(RECORD, f'{{"provenance": {head},\n' + ",\n".join(parts) + "}\n")
    print(table(records.measured("latency")))


if __name__ == "__main__":
    main()
