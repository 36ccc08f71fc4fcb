"""The code of the README on a real network: ``python -m benchmarks.readme [--seeds 0 1 2] [--penalty] [--table]``

torchvision's ResNet-18 on 25,000 images of CIFAR-10 (`PRUNING_LIB_DATA`), trained by SGD along half a cosine; then

    pruned      the README's first block, to half of the multiply-adds, and its last one, which fine-tunes
    dense       the last block on a copy of the network as it was: as many epochs in all

With ``--penalty``, the block in between: a ResNet-18 that is trained by it for 15 epochs on 10,000 images. Written down
are the share of multiply-adds left and the accuracy after `shrink`; no target.

The blocks run as they stand there. Target: the pruned network within 3 points of the dense one, mean of three seeds,
which is above 55 %. Accuracies are those of the 5,000 validation images; the test set is not read. A seed takes about
14 minutes on one core; trainings go on from their checkpoints, and seeds that the record holds are not repeated.
"""

from __future__ import annotations

import argparse
import copy
import json
import re
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

import pruning_lib as prl
from pruning_lib import cosine, evaluate, fit, measure
from pruning_lib.companion import records
from pruning_lib.companion.data import TensorPair, cifar10

ROOT = Path(__file__).parents[1]
RECORD = records.SHIPPED / f"{records.MEASURED}readme.json"
NAMES = ("trained", "cut", "pruned", "dense", "macs_left", "seconds")
IMAGES, BATCH = 25_000, 128
EPOCHS, FINETUNING = 5, 1
FEW, LONG = 10_000, 15  # images and epochs of a training with a penalty
PENALTY = records.SHIPPED / f"{records.MEASURED}readme-penalty.json"


def blocks() -> list[str]:
    """Return the blocks of Python in the README: the one call, the penalty, the fine-tuning."""
    return re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)


class Loader:
    """Shuffled batches, anew at every pass."""

    def __init__(self, data: TensorPair, seed: int) -> None:
        self.data, self.generator = data, torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return -(-len(self.data.targets) // BATCH)

    def __iter__(self) -> Any:
        order = torch.randperm(len(self.data.targets), generator=self.generator)
        return ((self.data.inputs[places], self.data.targets[places]) for places in torch.split(order, BATCH))


def run(seed: int, work: Path) -> dict[str, Any]:
    """Train, prune and fine-tune once, and return what the record holds."""
    start = time.perf_counter()
    torch.manual_seed(seed)
    split = cifar10(seed=seed)
    train = TensorPair(*(part[:IMAGES] for part in split.train))
    model = torchvision.models.resnet18(num_classes=10).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4, nesterov=True)
    fit(
        model, train, split.val, epochs=EPOCHS, optimizer=optimizer, batch_size=BATCH, schedule=cosine,
        autocast=torch.bfloat16, seed=seed, progress=False, checkpoint=work / f"readme-{seed}.pt",
    )  # fmt: skip
    example, said = train.inputs[:1], []
    call, _, finetuning = blocks()
    room: dict[str, Any] = {
        **{"model": model, "example": example, "loader": Loader(train, seed), "epochs": FINETUNING},
        **{"torch": torch, "F": nn.functional, "print": lambda each: said.append(str(each))},
    }
    exec(call, room)
    found: dict[str, Any] = {"trained": _accuracy(model, split.val), "cut": _accuracy(room["small"], split.val)}
    found["macs_left"] = round(measure(room["small"], example).macs / measure(model, example).macs, 4)
    found["fewest_left"] = round(min(after / before for before, after in room["pruned"].widths.values()), 3)
    exec(finetuning.partition("\nprint(")[0], room)
    found["pruned"] = _accuracy(room["small"], split.val)
    room |= {"small": copy.deepcopy(model), "loader": Loader(train, seed)}
    exec(finetuning.partition("\nprint(")[0], room)
    found["dense"] = _accuracy(room["small"], split.val)
    return found | {"said": said, "seconds": round(time.perf_counter() - start)}


def steered(seed: int) -> dict[str, Any]:
    """Train by the README's loop with a penalty, from the first step, and return what the record holds."""
    start = time.perf_counter()
    torch.manual_seed(seed)
    split = cifar10(seed=seed)
    train = TensorPair(*(part[:FEW] for part in split.train))
    model = torchvision.models.resnet18(num_classes=10).to(memory_format=torch.channels_last)
    room: dict[str, Any] = {
        **{"model": model, "example": train.inputs[:1], "loader": Loader(train, seed), "epochs": LONG},
        **{"optimizer": torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9), "F": nn.functional, "prl": prl},
    }
    _, penalty, _ = blocks()
    exec(penalty, room)
    small, whole = room["small"], measure(model, train.inputs[:1]).macs
    found = {
        "macs_left": round(measure(small, train.inputs[:1]).macs / whole, 4),
        "shrunk": _accuracy(small, split.val),
    }
    return found | {"log": room["size"].log, "seconds": round(time.perf_counter() - start)}


def _accuracy(model: nn.Module, data: tuple[Tensor, Tensor]) -> float:
    return round(100 * evaluate(model, data).accuracy, 2)


def table(held: dict[str, dict[str, Any]], names: Sequence[str] = NAMES) -> str:
    """Return accuracies in percent as a table in Markdown, a row a seed, and their means."""
    lines = [f"| seed | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    lines += [f"| {seed} | {' | '.join(str(row[name]) for name in names)} |" for seed, row in held.items()]
    if held:
        means = (f"{statistics.fmean(row[name] for row in held.values()):.4g}" for name in names)
        lines.append(f"| mean | {' | '.join(means)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--work", type=Path, default=ROOT / "experiments" / "work", help="folder of checkpoints")
    parser.add_argument("--penalty", action="store_true", help="train with the block of the penalty instead")
    parser.add_argument("--table", action="store_true", help="only print what the record holds")
    options = parser.parse_args()
    torch.set_num_threads(1)
    path, names = (PENALTY, ("macs_left", "shrunk", "seconds")) if options.penalty else (RECORD, NAMES)
    held: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for seed in [] if options.table else options.seeds:
        if str(seed) not in held:
            held[str(seed)] = steered(seed) if options.penalty else run(seed, options.work)
            sys.stderr.write(f"seed {seed}: {held[str(seed)]}\n")
            records.write_text(path, json.dumps(held, indent=1) + "\n")
    print(table(held, names))


if __name__ == "__main__":
    main()
