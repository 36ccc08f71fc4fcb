"""Torchvision at full size, every classifier and segmentation network: ``python -m benchmarks.full_size``.

    python -m benchmarks.full_size [--only NAME …] [--redo]    run what the record lacks, or these, or all again
    python -m benchmarks.full_size --table                     print the record as Markdown

Weights are drawn at random, no file is loaded. Every bias, BatchNorm shift and running statistic is random, and half
of the rows of every layer but the last are zero. `shrink` runs in float64 and checks itself; then dense and shrunk are
compared anew, in float64 and in float32, on three other images and, where the network allows it, 32 pixels larger.

    left       parameters and MACs of the shrunk network, in % of the dense one
    planted    units that one layer writes and all of whose rows (depthwise ones too) were zeroed
    removed    those of them that went
    stayed     units that carry nothing and stayed, and rows of zeros in streams, counted by reason
    error      largest difference of the outputs over the largest output
    signal     largest difference of one output between images over the largest output: what an error must be below

Seconds are those of `shrink` with its checks, one thread; others may have worked on the machine.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from benchmarks.zoo import limit
from pruning_lib import find_units, measure, shrink
from pruning_lib.companion import records
from pruning_lib.units import Units, rows, weighted

RECORD = records.SHIPPED / f"{records.MEASURED}zoo.json"
LIMIT_S = 900
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}


@dataclass(frozen=True)
class Net:
    """How a network is built, and the shape of an image for it."""

    build: Callable[..., nn.Module]
    shape: tuple[int, ...] = (3, 64, 64)
    options: tuple[tuple[str, Any], ...] = ()

    def __call__(self) -> nn.Module:
        return self.build(weights=None, **dict(self.options))


SKIPPED = dict.fromkeys(
    ("regnet_y_128gf", "vit_h_14", "vit_l_16", "vit_l_32"), "more than 200 million parameters; smaller kin are here"
)
SHAPES = {"maxvit_t": (3, 224, 224), **dict.fromkeys(("inception_v3", "vit_b_16", "vit_b_32"), (3, 96, 96))}
OPTIONS: dict[str, dict[str, Any]] = {
    # The heads that only training runs are left out: a trace in eval mode does not see them.
    "googlenet": {"aux_logits": False, "init_weights": False},
    "inception_v3": {"aux_logits": False, "init_weights": False},
    **{name: {"image_size": 96} for name in ("vit_b_16", "vit_b_32")},
}


def zoo() -> dict[str, Net]:
    """Return the networks by name: classifiers, then segmentation, then clips."""
    kinds = torchvision.models, torchvision.models.segmentation, torchvision.models.video
    found: dict[str, Net] = {}
    for kind in kinds:
        for name in torchvision.models.list_models(module=kind):
            options = dict(OPTIONS.get(name, {}))
            shape: tuple[int, ...] = SHAPES.get(name, (3, 64, 64))
            if kind is kinds[1]:
                options["weights_backbone"] = None
            if kind is kinds[2]:
                if name not in ("mc3_18", "r2plus1d_18", "r3d_18", "s3d"):
                    continue
                shape = (3, 14, 224, 224) if name == "s3d" else (3, 8, 64, 64)
            if name not in SKIPPED:
                found[name] = Net(torchvision.models.get_model_builder(name), shape, tuple(options.items()))
    return found


# Zeros


@torch.no_grad()
def randomize(model: nn.Module, example: Tensor) -> None:
    """Draw every bias, scale and running statistic, so that no constant is 0 by habit; leave no weight at 0."""
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if name == "weight" and parameter.ndim == 1:
                nn.init.uniform_(parameter, 0.5, 1.5)
            elif parameter.ndim == 1 or "bias" in name:
                nn.init.normal_(parameter, std=0.1)
            elif not parameter.any():
                nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    # Statistics that fit the activations, so that signals neither fade nor explode, then away from them.
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    model.train()(example)
    model.eval()
    for norm in norms:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean += 0.3 * torch.randn_like(norm.running_mean) * norm.running_var.sqrt()
        norm.running_var *= torch.empty_like(norm.running_var).uniform_(0.5, 1.5)


@torch.no_grad()
def plant(model: nn.Module, found: Units, fraction: float = 0.5) -> dict[str, Tensor]:
    """Zero rows of every layer but those that write the output; return which, (rows,) for each layer."""
    dead: dict[str, Tensor] = {}
    for name, layer in weighted(model).items():
        if found.fixed.get(name) in ("writes the model's output", "is not called by forward"):
            continue
        weight = rows(layer)
        index = torch.randperm(len(weight))[: int(len(weight) * fraction)]
        weight[index] = 0
        dead[name] = torch.zeros(len(weight), dtype=torch.bool).index_fill_(0, index, True)
    return dead


def planted(found: Units, dead: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the units of each inner group all of whose rows are zero, (units,)."""
    gone: dict[str, Tensor] = {}
    for name, group in found.items():
        if group.kind == "inner":
            mask = torch.ones(group.size, dtype=torch.bool)
            for member in group.writers:
                spared = member.index[
                    (member.index >= 0) & ~dead.get(member.layer, torch.zeros(len(member.index))).bool()
                ]
                mask[spared] = False
            gone[name] = mask
    return gone


# One network


def run(net: Net, seed: int = 0) -> dict[str, Any]:
    """Build, zero, shrink and compare one network."""
    torch.manual_seed(seed)
    model = net().double()
    example = torch.randn(2, *net.shape, dtype=torch.float64)
    randomize(model, torch.randn(4, *net.shape, dtype=torch.float64))
    found = find_units(model, example)
    mine = planted(found, plant(model, found))
    start = time.perf_counter()
    small = shrink(model, example)
    seconds = time.perf_counter() - start
    removed = sum(int(mask.sum() - mask[small.plan.units[name]].sum()) for name, mask in mine.items())
    before, after = measure(model, example), measure(small.model, example)
    shape = torch.Size([3, *net.shape])
    larger = torch.Size([*shape[:-2], shape[-2] + 32, shape[-1] + 32])
    result: dict[str, Any] = {
        "parameters": before.parameters,
        "parameters_left": round(100 * after.parameters / before.parameters, 2),
        "macs_left": round(100 * after.macs / before.macs, 2),
        "planted": sum(int(mask.sum()) for mask in mine.values()),
        "removed": removed,
        "stayed": reasons(small.plan.notes),
        "seconds": round(seconds, 1),
    }
    for dtype, key in ((torch.float64, "error_f64"), (torch.float32, "error_f32")):
        dense, cut = model.to(dtype), small.model.to(dtype)
        errors = [compare(dense, cut, torch.randn(shape).to(dtype))]
        with contextlib.suppress(RefusedError):
            errors.append(compare(dense, cut, torch.randn(larger).to(dtype)))
        result[key] = float(f"{max(error for error, _ in errors):.1e}")
        result["signal"] = float(f"{min(signal for _, signal in errors):.1e}")
        result["sizes"] = len(errors)
    wrong = result["error_f64"] > TOLERANCE[torch.float64] or result["error_f32"] > TOLERANCE[torch.float32]
    return {"verdict": "wrong" if wrong else "exact", **result}


class RefusedError(Exception):
    """The dense network itself does not accept this size."""


@torch.no_grad()
def compare(dense: nn.Module, small: nn.Module, images: Tensor) -> tuple[float, float]:
    """Return the largest error and the largest difference between images, over the largest output."""
    try:
        expected = leaves(dense.eval()(images))
    except (AssertionError, RuntimeError) as error:
        raise RefusedError from error
    found = leaves(small.eval()(images))
    worst, least = 0.0, float("inf")
    for a, b in zip(expected, found, strict=True):
        scale = float(a.abs().max())
        worst = max(worst, float((a - b).abs().max()) / scale)
        least = min(least, float((a - a.mean(0)).abs().max()) / scale)
    return worst, least


def leaves(outputs: Any) -> list[Tensor]:
    """Return the tensors in what a network returned."""
    return [outputs] if isinstance(outputs, Tensor) else [leaf for part in outputs.values() for leaf in leaves(part)]


NOTE = re.compile(
    r"^(?P<layer>\S+): (?P<count>\d+) (?:dead )?(?P<what>units?|rows) .*?stays?(?: in a stream)?: (?P<why>.*)$"
)


def reasons(notes: list[str]) -> dict[str, int]:
    """Count what stayed by reason, without the names of layers, files and lines."""
    counts: Counter[str] = Counter()
    for note in notes:
        if match := NOTE.match(note):
            stream = match["what"] == "rows"
            counts["rows of zeros in a stream" if stream else re.sub(r" \(.*?\)", "", match["why"])] += int(
                match["count"]
            )
        else:
            counts[note.partition(": ")[2]] += 1
    return dict(counts.most_common())


# Record


def read() -> dict[str, Any]:
    """Return the record, or an empty one."""
    empty = {"torch": torch.__version__, "torchvision": torchvision.__version__, "nets": {}, "skipped": SKIPPED}
    return json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.is_file() else empty


def write(record: dict[str, Any]) -> None:
    """Write the record whole or not at all, a line a network."""
    order = [name for name in zoo() if name in record["nets"]]
    nets = ",\n".join(f"{json.dumps(name)}: {json.dumps(record['nets'][name])}" for name in order)
    head = ",\n".join(f"{json.dumps(key)}: {json.dumps(record[key])}" for key in ("torch", "torchvision", "skipped"))
    records.write_text(RECORD, f'{{{head},\n"nets": {{\n{nets}\n}}}}\n')


def table(record: dict[str, Any]) -> str:
    """Return the record as Markdown."""
    lines = [
        "| network | parameters | left | MACs left | planted | removed | error, float64 | float32 | seconds |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, net in record["nets"].items():
        if "error" in net:
            lines.append(f"| {name} | {net['verdict']}: {net['error']} | | | | | | | |")
            continue
        share = f"{100 * net['removed'] / net['planted']:.0f} %" if net["planted"] else ""
        lines.append(
            f"| {name} | {net['parameters'] / 1e6:.1f} M | {net['parameters_left']:.0f} % | {net['macs_left']:.0f} % | "
            f"{net['planted']:,} | {share} | {net['error_f64']:.0e} | {net['error_f32']:.0e} | {net['seconds']:.1f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="run these again")
    parser.add_argument("--redo", action="store_true", help="run all again")
    parser.add_argument("--table", action="store_true", help="print the record as Markdown")
    options = parser.parse_args()
    if options.table:
        print(table(read()))
        return
    torch.set_num_threads(1)
    nets = zoo()
    if unknown := set(options.only) - set(nets):
        parser.error(f"there is no network called {', '.join(sorted(unknown))}; there are {', '.join(nets)}")
    for name in options.only or nets:
        if not (options.only or options.redo) and name in read()["nets"]:
            continue
        try:
            with limit(LIMIT_S):
                result = run(nets[name])
        except Exception as error:
            result = {
                "verdict": "refused",
                "error": f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"[:300],
            }
        record = copy.deepcopy(read())
        record["nets"][name] = result
        write(record)
        print(name, json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
