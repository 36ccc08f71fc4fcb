"""Multiply-adds asked for, promised and left: ``python -m benchmarks.budgets``, a Markdown table.

    python -m benchmarks.budgets [--share 0.5] [--scope local global] [--only NAME …]

Every classifier of torchvision up to 100 million parameters, and more than thirty networks of timm. All weights, shifts
and statistics are drawn at random, no file is loaded; importance is the length of a row folded with its BatchNorm.
`select` gets a share of the multiply-adds that is to stay, `zero` drops what the chosen units emit, and `shrink` removes
them and checks itself.

    promised   what `cost` counts for the choice, in % of the dense network
    left       what `measure` counts in the shrunk network
    said       why less is left than was asked for, in the words of `select`

A row fails if what is left differs from what was promised, or from what was asked for by more than two points without a
word.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import warnings
from collections.abc import Callable, Iterator

import timm
import torch
import torchvision
from torch import Tensor, nn

from benchmarks.zoo import OPTIONS, randomize
from pruning_lib import find_units, measure, select, shrink, zero
from pruning_lib.selection import cost, importance

LARGEST = 100e6
POINTS = 0.02
# One of each kind, at the sizes that people start with.
TIMM = (
    "bat_resnext26ts", "botnet26t_256", "coat_lite_tiny", "convmixer_768_32", "convnext_atto", "convnextv2_atto",
    "cspdarknet53", "cspresnet50", "deit_tiny_patch16_224", "densenet121", "dla34", "dpn68", "ecaresnet26t",
    "edgenext_xx_small", "efficientnet_lite0", "fbnetc_100", "gernet_s", "ghostnet_050", "hrnet_w18_small",
    "inception_v4", "lcnet_050", "mixer_s32_224", "mixnet_s", "mobilenetv2_050", "mobilenetv3_small_050", "nfnet_l0", "regnetx_002",
    "repvgg_a0", "res2net50_14w_8s", "resnest14d", "resnet26d", "resnetv2_50", "rexnet_100", "selecsls42b",
    "seresnext26d_32x4d", "skresnet18", "tf_efficientnetv2_b0", "tresnet_m", "vgg11_bn", "vovnet39a", "xception41",
)  # fmt: skip
LARGER = {"inception_v3": 96, "inception_v4": 96, "vgg11_bn": 32}


def networks() -> Iterator[tuple[str, Callable[[], nn.Module], int | None]]:
    """Yield name, how it is built, and the side of an image if it is given."""
    for name in torchvision.models.list_models(module=torchvision.models):
        weights = torchvision.models.get_model_weights(name)
        if min(weight.meta["num_params"] for weight in weights) <= LARGEST:
            options = {**OPTIONS.get(name, {}), "num_classes": 10}
            build = torchvision.models.get_model_builder(name)
            side = 224 if name == "maxvit_t" else options.get("image_size", LARGER.get(name, 64))
            yield name, lambda build=build, options=options: build(weights=None, **options), side
    for name in TIMM:
        yield f"timm {name}", lambda name=name: timm.create_model(name, num_classes=10), LARGER.get(name)


def image(model: nn.Module, side: int | None) -> Tensor:
    """Return an example: 64 pixels where the network is not made for one size."""
    config = getattr(model, "default_cfg", {})
    fixed = config.get("fixed_input_size") or config.get("min_input_size")
    return torch.randn(1, 3, *([side or (config["input_size"][-1] if fixed else 64)] * 2))


def row(build: Callable[[], nn.Module], side: int | None, share: float, scope: str) -> tuple[str, bool]:
    """Return the cells of one network's row, and whether it keeps what it promises."""
    torch.manual_seed(0)
    model = build().eval()
    example = image(model, side)
    with contextlib.suppress(ValueError, RuntimeError):  # a map of one pixel has no variance in training mode
        randomize(model, torch.cat([example, torch.randn(3, *example.shape[1:])]))
    model.eval()
    units = find_units(model, example)
    dense = measure(model, example).macs
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            scores = importance.magnitude(model, units, of="folded")
            chosen = select(scores, units, macs_left=share, scope=scope)  # type: ignore[arg-type]
        except ValueError as refused:
            return f"| – | – | {refused} |", "cannot be met" in str(refused)
    words = [str(each.message) for each in said if "multiply-adds" in str(each.message)]
    promised = cost(chosen, units) / dense
    zero(model, chosen, units, shift="drop")
    left = measure(shrink(model, example).model, example).macs / dense
    kept = abs(promised - left) < 1e-6 and (abs(left - share) <= POINTS or bool(words))
    return f"| {100 * promised:.2f} | {100 * left:.2f} | {' '.join(words)}{'' if kept else ' **broken**'} |", kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=0.5, help="of the multiply-adds that stay")
    parser.add_argument("--scope", nargs="+", default=["local", "global"])
    parser.add_argument("--only", nargs="+", metavar="NAME")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("| network | scope | promised, % | left, % | said |\n|---|---|---|---|---|")
    broken: list[str] = []
    for name, build, side in networks():
        for scope in arguments.scope if not arguments.only or name in arguments.only else ():
            try:
                cells, kept = row(build, side, arguments.share, scope)
            except Exception as error:
                cells, kept = f"| – | – | {type(error).__name__}: {str(error).splitlines()[0][:200]} |", False
            print(f"| {name} | {scope} {cells}", flush=True)
            broken += [] if kept else [f"{name} {scope}"]
            gc.collect()
    print(f"\n{len(broken)} broken{': ' if broken else ''}{', '.join(broken)}")


if __name__ == "__main__":
    main()
