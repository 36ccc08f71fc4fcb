"""Half of the heads and hidden units of Transformers, by two libraries: ``python -m benchmarks.heads [--table]``.

Networks from small configurations, with random weights. Half of the heads, and half of the hidden units of every MLP,
are set to zero with their shifts (`pruning_lib.zero`, shift="drop"), so that they emit 0. Both ways should reproduce
the network with these zeros, in eval mode and float64, on other inputs.

    shrink          ours
    Torch-Pruning   `DependencyGraph.get_pruning_group(layer, …, idxs)` and `.prune()` with the same rows; then the
                    numbers of heads that modules hold in attributes are set by hand

    error   largest difference of the outputs over the largest output
    left    parameters of the result over those of the dense network

A way that raises, or takes more than a minute, has no error and no count; the record says what happened instead.
"""

from __future__ import annotations

import argparse
import copy
import json
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.networks import networks
from benchmarks.peers import prune_rows
from benchmarks.zoo import cast, limit, outputs, randomize
from pruning_lib import find_units, shrink, zero
from pruning_lib._inputs import Inputs
from pruning_lib.companion import records
from pruning_lib.units import Chosen, Units

RECORD = records.SHIPPED / f"{records.MEASURED}heads.json"
NAMES = ("bert-classifier", "distilbert", "vit", "deit", "llama", "qwen2", "gpt2")
LIMIT_S = 60
COUNTS = ("num_attention_heads", "num_heads", "n_heads")


def half(units: Units) -> Chosen:
    """Return a random half of the heads, and of the hidden units of each MLP."""
    chosen = {}
    for name, group in units.items():
        if group.kind in ("heads", "inner"):
            chosen[name] = torch.zeros(group.size, dtype=torch.bool)
            chosen[name][torch.randperm(group.size)[: group.size // 2]] = True
    return chosen


def torch_pruned(model: nn.Module, example: Inputs, chosen: Chosen, units: Units) -> nn.Module:
    """Let Torch-Pruning find what hangs together with the chosen rows of each group's first writer, and cut it."""
    import torch_pruning

    graph = torch_pruning.DependencyGraph().build_dependency(
        model, example.kwargs or example.args[0], output_transform=lambda found: outputs_in(found).sum()
    )
    prune_rows(graph, model, chosen, units)
    for name, gone in chosen.items():
        layer = units[name].writers[0].layer
        owner = model.get_submodule(layer.rpartition(".")[0])
        for count in COUNTS if units[name].kind == "heads" else ():
            if hasattr(owner, count):
                setattr(owner, count, getattr(owner, count) * int((~gone).sum()) // len(gone))
        if hasattr(owner, "all_head_size"):
            owner.all_head_size = model.get_submodule(layer).out_features
    return model


def outputs_in(found: Any) -> Tensor:
    """Return the first tensor in what a network returns."""
    return found if isinstance(found, Tensor) else next(iter(found.values()))


def compare(name: str) -> list[dict[str, Any]]:
    """Return a row for each way."""
    torch.manual_seed(0)
    network = networks()[f"transformers/{name}"]
    dense = network.build().double().eval()
    example = cast(network.example(), torch.float64)
    randomize(dense, cast(network.example(4), torch.float64))
    units = find_units(dense, example)
    zeroed = copy.deepcopy(dense)
    chosen = half(units)
    zero(zeroed, chosen, units, shift="drop")
    others = [cast(network.example(batch), torch.float64) for batch in (3, 1)]
    whole = sum(parameter.numel() for parameter in dense.parameters())
    rows = []
    for how in ("shrink", "Torch-Pruning"):
        row: dict[str, Any] = {"network": name, "how": how, "error": None, "left": None, "fails": None}
        try:
            model = copy.deepcopy(zeroed)
            with limit(LIMIT_S):
                small = shrink(model, example).model if how == "shrink" else torch_pruned(model, example, chosen, units)
            row["error"] = max(_error(zeroed, small, other) for other in others)
            row["left"] = round(sum(parameter.numel() for parameter in small.parameters()) / whole, 4)
        except Exception as error:
            row["fails"] = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"[:160]
        rows.append(row)
    return rows


def _error(zeroed: nn.Module, small: nn.Module, example: Inputs) -> float:
    expected, found = outputs(zeroed, example), outputs(small.eval(), example)
    if [leaf.shape for leaf in expected] != [leaf.shape for leaf in found]:
        raise ValueError("the outputs have another shape")
    return max(float(f"{float((a - b).abs().max() / a.abs().max()):.1e}") for a, b in zip(expected, found, strict=True))


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as Markdown."""
    lines = ["| network | how | error | parameters left |", "|---|---|---:|---:|"]
    for row in rows:
        cells = [row["fails"], ""] if row["fails"] else [f"{row['error']:.0e}", f"{100 * row['left']:.1f} %"]
        lines.append(f"| {row['network']} | {row['how']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="print the record as Markdown")
    if not parser.parse_args().table:
        torch.set_num_threads(1)
        rows = [row for name in NAMES for row in compare(name)]
        packages = ("torch", "transformers", "torch-pruning")
        lines = ",\n".join(json.dumps(row) for row in rows)
        provenance = json.dumps({name: version(name) for name in packages})
        records.write_text(RECORD, f'{{"provenance": {provenance},\n"rows": [\n{lines}\n]}}\n')
    print(table(records.measured("heads")["rows"]))


if __name__ == "__main__":
    main()
