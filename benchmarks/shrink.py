"""Time `shrink` on LeNet-5, warm, self-check included: ``python benchmarks/shrink.py [--repeats 15]``.

Half of the units of each hidden layer are zeroed, biases kept. Target: 0.5 s. Three neighbours stand beside it in the
same interleaved run: `units` alone, one export, and one forward pass.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from pruning_lib.channels import shrink, units
from pruning_lib.models import LeNet5


def zeroed(bn: bool) -> LeNet5:
    torch.manual_seed(0)
    model = LeNet5(bn=bn).eval()
    with torch.no_grad():
        for name in ("conv1", "conv2", "fc1"):
            layer = model.get_submodule(name)
            assert isinstance(layer.weight, torch.Tensor)
            layer.weight[: len(layer.weight) // 2] = 0
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    plain, normed, example = zeroed(False), zeroed(True), torch.randn(1, 1, 28, 28)
    jobs: dict[str, Callable[[], object]] = {
        "shrink LeNet-5": lambda: shrink(plain, example),
        "shrink LeNet-5 with BatchNorm": lambda: shrink(normed, example),
        "units LeNet-5": lambda: units(plain, example),
        "torch.export LeNet-5": lambda: torch.export.export(plain, (example,)),
        "forward LeNet-5": lambda: plain(example),
    }
    wall: dict[str, list[float]] = {name: [] for name in jobs}
    work: dict[str, list[float]] = {name: [] for name in jobs}
    for i in range(options.repeats + 1):
        for name, job in jobs.items():
            start, used = time.perf_counter(), time.process_time()
            job()
            if i:  # the first round warms up
                wall[name].append(time.perf_counter() - start)
                work[name].append(time.process_time() - used)
    print(f"{'seconds':<30}  median     min     max   CPU median")
    for name in jobs:
        times = wall[name]
        row = f"{statistics.median(times):>7.3f} {min(times):>7.3f} {max(times):>7.3f}"
        print(f"{name:<30} {row} {statistics.median(work[name]):>12.3f}")


if __name__ == "__main__":
    main()
