"""What `shrink` costs, self-check included: ``python -m benchmarks.shrink [--rounds 3] [--table]`` (one thread).

    python -m benchmarks.shrink --seconds [NAME …]    the seconds alone, of these networks or of all; nothing is written
    python -m benchmarks.shrink --prune               seconds of `prune` of ResNet-18, without data; target 3 s

Half of the rows of every layer but the last are zero, biases and shifts stay.

    seconds     all networks in turn, after one round that warms up; CPU seconds beside them, for a busy machine.
                Targets: LeNet-5 0.5 s, ResNet-56 1.5 s, ResNet-50, MobileNetV2, EfficientNet and ConvNeXt 3 s,
                Swin 6 s, 1,000 operators 10 s and linear in them
    memory      torchvision's VGG-16 at 224 pixels in processes of their own: peak beyond what is there before `shrink`
                and beyond the activations of the self-check's passes, in copies of the model; target 3
    accuracy    a small ResNet, trained for two epochs on 20,000 digits of MNIST (`PRUNING_LIB_DATA`): its 10,000 test
                images with 40 % of the inner units zeroed, shifts kept and statistics recalibrated; after `shrink`; and
                after Torch-Pruning removed the same units
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from benchmarks import peers
from pruning_lib import GroupLasso, evaluate, find_units, fit, measure, prune, recalibrate, select, shrink, zero
from pruning_lib._inputs import inputs
from pruning_lib.channels._probes import probes
from pruning_lib.companion import records
from pruning_lib.companion.data import TensorPair, mnist
from pruning_lib.companion.models import LeNet5, ResNet
from pruning_lib.units import rows, weighted

RECORD = records.SHIPPED / f"{records.MEASURED}shrink.json"
MB = 2**20


@torch.no_grad()
def zeroed(model: nn.Module) -> nn.Module:
    """Set half of the rows of every layer but the last to zero."""
    for layer in list(weighted(model).values())[:-1]:
        weight = rows(layer)
        weight[torch.randperm(len(weight))[: len(weight) // 2]] = 0
    return model.eval()


def chain(operators: int) -> nn.Module:
    """Return linear and ReLU in turn."""
    return nn.Sequential(*(layer for _ in range(operators // 2) for layer in (nn.Linear(16, 16), nn.ReLU())))


def vgg16() -> nn.Module:
    return zeroed(torchvision.models.vgg16())  # type: ignore[no-any-return, unused-ignore]


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "LeNet-5": (LeNet5, (1, 28, 28)),
    "LeNet-5 with BatchNorm": (lambda: LeNet5(bn=True), (1, 28, 28)),
    "ResNet-56": (ResNet, (3, 32, 32)),
    "ResNet-50": (torchvision.models.resnet50, (3, 224, 224)),
    "MobileNetV2": (torchvision.models.mobilenet_v2, (3, 224, 224)),
    "EfficientNet-B0": (torchvision.models.efficientnet_b0, (3, 224, 224)),
    "ConvNeXt-T": (torchvision.models.convnext_tiny, (3, 96, 96)),
    "Swin-T": (torchvision.models.swin_t, (3, 224, 224)),
    "250 operators": (lambda: chain(250), (16,)),
    "1,000 operators": (lambda: chain(1000), (16,)),
}


# Seconds


def seconds(rounds: int, names: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Return one row for each network: median, least and most, and the median of CPU seconds; forward passes aside."""
    torch.manual_seed(0)
    jobs: dict[str, tuple[nn.Module, Tensor]] = {}
    for name, (build, shape) in NETWORKS.items():
        if names and name not in names:
            continue
        jobs[name] = zeroed(build()), torch.randn(1, *shape)
    wall: dict[str, list[float]] = {name: [] for name in jobs}
    work: dict[str, list[float]] = {name: [] for name in jobs}
    left = {}
    for i in range(rounds + 1):
        for name, (model, example) in jobs.items():
            start, used = time.perf_counter(), time.process_time()
            small = shrink(model, example).model
            if i:
                wall[name].append(time.perf_counter() - start)
                work[name].append(time.process_time() - used)
            else:
                left[name] = measure(small, example).parameters / measure(model, example).parameters
    found = []
    for name, times in wall.items():
        row = {"network": name, "shape": list(NETWORKS[name][1]), "median": statistics.median(times)}
        row |= {"least": min(times), "most": max(times), "cpu": statistics.median(work[name])}
        row = {key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()}
        found.append({**row, "parameters_left": round(left[name], 4)})
    return found


def pruning(rounds: int) -> list[str]:
    """Return seconds that `prune` of ResNet-18 takes without data, a line a size of images; one more warms up."""
    lines = []
    for pixels in (32, 224):
        model, example = torchvision.models.resnet18(num_classes=10).eval(), torch.randn(1, 3, pixels, pixels)
        times = []
        for _ in range(rounds + 1):
            start = time.perf_counter()
            prune(model, example, macs_left=0.5)
            times.append(time.perf_counter() - start)
        median, least, most = statistics.median(times[1:]), min(times[1:]), max(times[1:])
        lines.append(f"ResNet-18, {pixels} pixels: {median:.2f} s ({least:.2f} to {most:.2f})")
    return lines


# Memory


def grown(work: Callable[[], object]) -> int:
    """Return by how many bytes this process grew at most during `work` (Linux)."""

    def resident(key: str) -> int:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith(key))

    # Not `ru_maxrss`, which a process inherits from the one that started it.
    before, most = resident("VmRSS"), resident("VmHWM")
    work()
    after = resident("VmHWM")
    assert after > most, "an older peak hides this one"
    return after - before


def activations() -> int:
    """Return the bytes that the largest of the self-check's passes takes, in float64, without gradients."""
    torch.set_default_dtype(torch.float64)  # a model that is converted leaves a peak behind
    model, example = vgg16(), torch.randn(1, 3, 224, 224)
    batches = [next(iter(choices)) for choices in probes(inputs(example))]
    with torch.no_grad():
        return grown(lambda: [batch.call(model) for batch in batches])


def peak() -> int:
    """Return the bytes that `shrink` takes at most beyond what was there."""
    model, example = vgg16(), torch.randn(1, 3, 224, 224)
    return grown(lambda: shrink(model, example))


CHILDREN = {"activations": activations, "peak": peak}


def memory() -> dict[str, float]:
    """Return megabytes of the model, of its activations and of `shrink`, and how many models lie beyond."""
    found = {"model": float(4 * sum(p.numel() for p in torchvision.models.vgg16().parameters()))}
    for child in CHILDREN:
        command = [sys.executable, "-m", "benchmarks.shrink", "--child", child]
        found[child] = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])
    times = (found["peak"] - found["activations"]) / found["model"]
    return {**{key: round(value / MB, 1) for key, value in found.items()}, "times_the_model": round(times, 2)}


# Accuracy


def accuracy() -> dict[str, Any]:
    """Train, zero, remove, and count right answers at every stage."""
    split = mnist()
    torch.manual_seed(0)
    model = ResNet(8, width=8, inputs=1)
    units = find_units(model, split.train.inputs[:2])
    reg = GroupLasso(model, 3e-4, units=units)
    some = TensorPair(split.train.inputs[:20_000], split.train.targets[:20_000])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    fit(model, some, split.val, epochs=2, optimizer=optimizer, regularizer=reg, progress=False)
    example = split.test.inputs[:2]
    stages: dict[str, nn.Module] = {"trained": copy.deepcopy(model.eval())}
    chosen = select(reg.importance(), units, fraction=0.4, kinds=("inner",), scope="local")
    zero(model, chosen, units)
    recalibrate(model, some.inputs[:2000])
    stages["zeroed"] = model
    stages["shrink"] = shrink(model, example).model
    stages["Torch-Pruning"] = peers.torch_pruned(model, copy.deepcopy(model), chosen, units, example)
    found: dict[str, Any] = {stage: round(evaluate(net, split.test).accuracy, 6) for stage, net in stages.items()}
    with torch.no_grad():
        answers = {stage: net(split.test.inputs).argmax(1) for stage, net in stages.items()}
    for how in ("shrink", "Torch-Pruning"):
        found[f"answers changed by {how}"] = int((answers[how] != answers["zeroed"]).sum())
    sizes = [measure(stages[stage], example).parameters for stage in ("zeroed", "shrink", "Torch-Pruning")]
    return {**found, "parameters_left": [round(size / sizes[0], 4) for size in sizes]}


def times_of(rows: list[dict[str, Any]]) -> list[str]:
    """Return the seconds as the lines of a table in Markdown."""
    lines = [
        "| shrink | shape | s, median | least | most | CPU s | parameters left |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        times = " | ".join(f"{row[key]:.2f}" for key in ("median", "least", "most", "cpu"))
        shape = " × ".join(map(str, row["shape"]))
        lines.append(f"| {row['network']} | {shape} | {times} | {100 * row['parameters_left']:.0f} % |")
    return lines


def table(record: dict[str, Any]) -> str:
    """Return the record as Markdown."""
    few, many = (row["median"] for row in record["seconds"][-2:])
    room = record["memory"]
    lines = [*times_of(record["seconds"]), "", f"Four times the operators take {many / few:.1f} times as long.", ""]
    lines += [
        f"VGG-16, MB: model {room['model']:.0f}, activations {room['activations']:.0f}, shrink {room['peak']:.0f}: "
        f"{room['times_the_model']:.2f} models beyond the activations.",
        "",
        "MNIST: " + ", ".join(f"{key} {value}" for key, value in record["accuracy"].items()),
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--table", action="store_true", help="print the record as Markdown")
    parser.add_argument("--seconds", nargs="*", choices=NETWORKS, metavar="NAME", help="the seconds alone")
    parser.add_argument("--prune", action="store_true", help="seconds of `prune` of ResNet-18 alone")
    parser.add_argument("--child", choices=CHILDREN, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.child:
        print(CHILDREN[options.child]())
        return
    if options.prune:
        print("\n".join(pruning(options.rounds)))
        return
    if options.seconds is not None:
        print("\n".join(times_of(seconds(options.rounds, options.seconds))))
        return
    if not options.table:
        packages = ("torch", "torchvision", "torch-pruning")
        provenance = {**{name: version(name) for name in packages}, "threads": 1, "rounds": options.rounds}
        # The accuracy first: without its data nothing else needs to be waited for.
        found: dict[str, Any] = {"accuracy": accuracy(), "memory": memory(), "seconds": seconds(options.rounds)}
        parts = [
            f"{json.dumps(key)}: {json.dumps(value)}" for key, value in {"provenance": provenance, **found}.items()
        ]
        records.write_text(RECORD, "{" + ",\n".join(parts) + "}\n")
    print(table(records.measured("shrink")))


if __name__ == "__main__":
    main()
