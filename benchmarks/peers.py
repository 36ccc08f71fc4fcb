"""The same units removed in four ways, biases and shifts kept: ``python -m benchmarks.peers [--table]``.

Half of the units of every group are set to zero (`pruning_lib.zero`, shift="keep"), so that each emits a constant. The
network with those zeros is what every way should reproduce, in eval mode and float64, on other images.

    masks           torch.nn.utils.prune: the weights are multiplied by 0 and 1
    slices          rows and columns are cut, and constants forgotten: what most tutorials do, with our indices
    Torch-Pruning   `DependencyGraph.get_pruning_group(layer, …, idxs)` and `.prune()` for every group
    shrink          ours

    error           largest difference of the outputs over the largest output
    no constants    the same with every zeroed unit's shift at 0 as well, which is what Torch-Pruning asks for
    left            parameters and MACs of the result over those of the dense network

A way that raises, or returns another shape, has no error and no count; the record says what happened instead.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from pruning_lib import find_units, measure, select, shrink, zero
from pruning_lib.companion import records
from pruning_lib.companion.models import ResNet, UNet
from pruning_lib.units import BatchNorm, Chosen, Kind, Member, Units, Weighted, unit_axis

RECORD = records.SHIPPED / f"{records.MEASURED}peers.json"
KINDS: dict[str, tuple[Kind, ...]] = {"inner": ("inner",), "all": ("inner", "stream")}


def chain() -> nn.Sequential:
    """Return three times conv → BatchNorm → ReLU, mean, linear."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 16), (16, 32), (32, 32)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


Build = Callable[[], nn.Module]
NETWORKS: dict[str, tuple[Build, str]] = {
    "three convolutions": (chain, "all"),
    "ResNet-20, inner units": (lambda: ResNet(20), "inner"),
    "ResNet-20, inner units and stream": (lambda: ResNet(20), "all"),
    "U-Net (concatenations)": (lambda: UNet(channels=8, depth=2), "all"),
}


@torch.no_grad()
def randomized(build: Build, shape: tuple[int, ...] = (3, 32, 32), seed: int = 0) -> nn.Module:
    """Build a float64 network in eval mode with no shift at 0 by habit, and statistics that keep its signal alive."""
    torch.manual_seed(seed)
    model = build().double()
    norms = [module for module in model.modules() if isinstance(module, BatchNorm)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.uniform_(norm.bias, -0.5, 0.5)
        norm.momentum = None  # an average over all batches, here one
    model.train()(torch.randn(16, *shape, dtype=torch.float64))
    for norm in norms:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean += 0.3 * torch.randn_like(norm.running_mean) * norm.running_var.sqrt()
    return model.eval()


def drawn(units: Units, kinds: tuple[Kind, ...] = KINDS["all"], fraction: float = 0.5, round_to: int = 1) -> Chosen:
    """Choose a share of every group at random."""
    scores = {name: torch.rand(group.size) for name, group in units.items()}
    return select(scores, units, fraction=fraction, scope="local", kinds=kinds, round_to=round_to)


# The ways. Each takes a network before anything is zeroed and one after, and may change either.


def masked(dense: nn.Module, zeroed: nn.Module, chosen: Chosen, units: Units, example: Tensor) -> nn.Module:
    """Multiply weights by masks; the shift of a BatchNorm, or a bias where there is none, stays as it is."""
    for name, gone in chosen.items():
        group = units[name]
        for member in (*group.writers, *group.norms):
            layer, kept = dense.get_submodule(member.layer), ~_gone(member, gone)
            assert isinstance(layer, Weighted | BatchNorm)
            shape = [1] * layer.weight.ndim
            shape[unit_axis(layer) if isinstance(layer, Weighted) else 0] = -1
            prune.custom_from_mask(layer, "weight", kept.view(shape).expand_as(layer.weight))  # type: ignore[no-untyped-call]
            if isinstance(layer, Weighted) and group.norms and layer.bias is not None:
                prune.custom_from_mask(layer, "bias", kept)  # type: ignore[no-untyped-call]
    return dense


def sliced(dense: nn.Module, zeroed: nn.Module, chosen: Chosen, units: Units, example: Tensor) -> nn.Module:
    """Cut rows and columns, and forget what the units emitted."""
    for name, gone in chosen.items():
        for member in (*units[name].writers, *units[name].norms):
            cut(zeroed.get_submodule(member.layer), ~_gone(member, gone), outputs=True)
    for layer, kept in _columns(chosen, units).items():
        cut(zeroed.get_submodule(layer), kept, outputs=False)
    return zeroed


def torch_pruned(dense: nn.Module, zeroed: nn.Module, chosen: Chosen, units: Units, example: Tensor) -> nn.Module:
    """Let Torch-Pruning find what hangs together and cut it."""
    import torch_pruning

    graph = torch_pruning.DependencyGraph().build_dependency(zeroed, example_inputs=example)
    prune_rows(graph, zeroed, chosen, units)
    return zeroed


def prune_rows(graph: Any, model: nn.Module, chosen: Chosen, units: Units) -> None:
    """Let Torch-Pruning cut the chosen rows of each group's first writer, and what hangs together with them."""
    for name, gone in chosen.items():
        if gone.any():
            first = units[name].writers[0]
            index = _gone(first, gone).nonzero().flatten().tolist()
            layer = model.get_submodule(first.layer)
            how = graph.get_pruner_of_module(layer).prune_out_channels
            graph.get_pruning_group(layer, how, idxs=index).prune()


def ours(dense: nn.Module, zeroed: nn.Module, chosen: Chosen, units: Units, example: Tensor) -> nn.Module:
    """Shrink."""
    return shrink(zeroed, example).model


WAYS = {"masks": masked, "slices": sliced, "Torch-Pruning": torch_pruned, "shrink": ours}


def _gone(member: Member, gone: Tensor) -> Tensor:
    """Return which channels of a layer belong to units that go."""
    return (member.index >= 0) & gone[member.index.clamp(min=0)]


def _columns(chosen: Chosen, units: Units) -> dict[str, Tensor]:
    """Return the input channels that stay; one layer may read several groups."""
    kept: dict[str, Tensor] = {}
    for name, gone in chosen.items():
        for member in units[name].readers:
            stays = ~_gone(member, gone)
            kept[member.layer] = kept.get(member.layer, torch.ones_like(stays)) & stays
    return kept


@torch.no_grad()
def cut(layer: nn.Module, kept: Tensor, *, outputs: bool) -> None:
    """Keep these output or input channels of one layer."""
    assert isinstance(layer, Weighted | BatchNorm)
    axis = 0 if isinstance(layer, BatchNorm) else unit_axis(layer) if outputs else 1 - unit_axis(layer)
    layer.weight = nn.Parameter(layer.weight.index_select(axis, kept.nonzero().flatten()))
    if outputs and layer.bias is not None:
        layer.bias = nn.Parameter(layer.bias[kept])
    if isinstance(layer, BatchNorm):
        assert layer.running_mean is not None
        assert layer.running_var is not None
        layer.running_mean, layer.running_var = layer.running_mean[kept], layer.running_var[kept]
        layer.num_features = int(kept.sum())
    elif isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = layer.weight.shape
    else:
        layer.out_channels, layer.in_channels = (
            layer.weight.shape[a] for a in (unit_axis(layer), 1 - unit_axis(layer))
        )


# What they do


def compare(network: str, seed: int = 0) -> list[dict[str, Any]]:
    """Return one row for each way."""
    build, kind = NETWORKS[network]
    dense = randomized(build, seed=seed)
    example = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    units = find_units(dense, example)
    chosen = drawn(units, KINDS[kind])
    rows = []
    for how in WAYS:
        row: dict[str, Any] = {"network": network, "how": how}
        row |= _result(dense, chosen, units, example, how, "keep")
        row["error_no_constants"] = _result(dense, chosen, units, example, how, "drop")["error"]
        rows.append(row)
    return rows


def _result(
    dense: nn.Module, chosen: Chosen, units: Units, example: Tensor, how: str, shift: Any
) -> dict[str, float | str | None]:
    if shift == "drop":
        # Masks leave shifts as they are, so the network that they start from has lost them already.
        dense = copy.deepcopy(dense)
        zero(dense, chosen, units, shift=shift)
    zeroed = copy.deepcopy(dense)
    zero(zeroed, chosen, units, shift=shift)
    images = torch.randn(4, *example.shape[1:], dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    before = measure(dense, example)
    with torch.no_grad():
        expected = zeroed(images)
    assert expected.std(0).max() > 1e-2 * expected.abs().max(), "the outputs hardly depend on the image"
    failed: dict[str, float | str | None] = {"error": None, "parameters_left": None, "macs_left": None}
    try:
        small = WAYS[how](copy.deepcopy(dense), copy.deepcopy(zeroed), chosen, units, example).eval()
        with torch.no_grad():
            found = small(images)
    except Exception as error:
        return {**failed, "fails": f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"[:160]}
    if found.shape != expected.shape:
        return {**failed, "fails": f"returns {tuple(found.shape)} for {tuple(expected.shape)}"}
    after = measure(small, example)
    return {
        "error": float(f"{float((found - expected).abs().max() / expected.abs().max()):.1e}"),
        "parameters_left": round(after.parameters / before.parameters, 4),
        "macs_left": round(after.macs / before.macs, 4),
        "fails": None,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as Markdown."""
    lines = [
        "| network | how | error | no constants | parameters left | MACs left |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for row in rows:
        numbers = [row["fails"] or f"{row['error']:.0e}"]
        numbers.append("fails" if row["error_no_constants"] is None else f"{row['error_no_constants']:.0e}")
        numbers += ["" if row[k] is None else f"{100 * row[k]:.0f} %" for k in ("parameters_left", "macs_left")]
        lines.append(f"| {row['network']} | {row['how']} | {' | '.join(numbers)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="print the record as Markdown")
    if not parser.parse_args().table:
        torch.set_num_threads(1)
        rows = [row for network in NETWORKS for row in compare(network)]
        provenance = {"torch": torch.__version__, "torch-pruning": version("torch-pruning"), "threads": 1}
        lines = ",\n".join(json.dumps(row) for row in rows)
        records.write_text(RECORD, f'{{"provenance": {json.dumps(provenance)},\n"rows": [\n{lines}\n]}}\n')
    print(table(records.measured("peers")["rows"]))


if __name__ == "__main__":
    main()
