"""Multiply-adds asked for, promised and left: ``python -m benchmarks.budgets``, a Markdown table.

    python -m benchmarks.budgets [--share 0.5] [--scope local global] [--only WORD …]

The networks of `benchmarks.zoo`; weights, shifts and statistics are drawn at random, no file is loaded. Importance is
the length of a row, folded with its BatchNorm. `select` gets a share of the multiply-adds that is to stay, `zero` drops
what the chosen units emit, and `shrink` removes them and checks itself.

    promised   what `select` counts for the choice, in % of the dense network
    left       what `measure` counts in the shrunk network
    said       why less is left than was asked for, or why nothing can meet it, in the words of `select`

A row is broken if what is left differs from what was promised by more than 0.1 points, or from what was asked for by
more than two without a word.
"""

from __future__ import annotations

import argparse
import gc
import warnings

import torch
from torch import nn

from benchmarks.networks import Network, networks
from benchmarks.zoo import randomize
from pruning_lib import find_units, measure, select, shrink, zero
from pruning_lib._inputs import read
from pruning_lib.selection import expected_cost, importance

KEPT, POINTS = 0.001, 0.02
SAID = ("cannot be met", "no units to choose from")


def row(network: Network, share: float, scope: str) -> tuple[str, bool]:
    """Return the cells of one network's row, and whether it keeps what it promises."""
    torch.manual_seed(0)
    model: nn.Module = network.build().eval()
    example = network.example()
    randomize(model, read(network.example(4)))
    units = find_units(model, example)
    dense = measure(model, example).macs
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            scores = importance.magnitude(model, units, of="folded")
            chosen = select(scores, units, macs_left=share, scope=scope)  # type: ignore[arg-type]
        except ValueError as refused:
            return f"| – | – | {refused} |", any(words in str(refused) for words in SAID)
    words = [str(each.message) for each in said if "multiply-adds" in str(each.message)]
    promised = expected_cost(chosen, units) / dense
    zero(model, chosen, units, shift="drop")
    left = measure(shrink(model, example).model, example).macs / dense
    kept = abs(promised - left) <= KEPT and (abs(left - share) <= POINTS or bool(words))
    return f"| {100 * promised:.2f} | {100 * left:.2f} | {' '.join(words)}{'' if kept else ' **broken**'} |", kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=0.5, help="of the multiply-adds that stay")
    parser.add_argument("--scope", nargs="+", default=["local", "global"])
    parser.add_argument(
        "--only", nargs="+", metavar="WORD", default=[""], help="networks whose names hold one of these"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    print("| network | scope | promised, % | left, % | said |\n|---|---|---|---|---|")
    broken: list[str] = []
    rows = [
        (name, network, scope)
        for name, network in networks().items()
        for scope in arguments.scope
        if any(word in name for word in arguments.only)
    ]
    for name, network, scope in rows:
        try:
            cells, kept = row(network, arguments.share, scope)
        except Exception as error:
            cells, kept = f"| – | – | {type(error).__name__}: {str(error).splitlines()[0][:200]} |", False
        print(f"| {name} | {scope} {cells}", flush=True)
        broken += [] if kept else [f"{name} {scope}"]
        gc.collect()
    print(f"\n{len(rows)} rows, {len(broken)} broken{': ' if broken else ''}{', '.join(broken)}")


if __name__ == "__main__":
    main()
