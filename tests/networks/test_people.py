"""Networks that people have: shrunk, and held against the zeroed network at other batches, lengths and sides."""

from __future__ import annotations

import pytest

from benchmarks import zoo
from benchmarks.networks import networks
from pruning_lib.companion import records

RECORD = records.measured("networks")["nets"]
FAST = """
transformers/bert transformers/albert transformers/gpt2 transformers/falcon transformers/llama transformers/phi3
transformers/t5 transformers/whisper transformers/mixtral transformers/segformer timm/vit_tiny_patch16_224
timm/mobilenetv3_small_050
"""


def names(fast: bool) -> list[str]:
    """Return the fast ones, or every tenth of the others: all of them are tried by ``python -m benchmarks.zoo``."""
    names = [name for name in RECORD if (name in FAST.split()) == fast and RECORD[name]["verdict"] != "refused"]
    return names if fast else names[::10]


def check(name: str) -> None:
    result = zoo.run(networks()[name], seed=1)
    assert result["verdict"] == "exact"
    assert result["inputs"] > 1
    assert (result["removed"] > 0) == (RECORD[name]["removed"] > 0)


@pytest.mark.parametrize("name", names(fast=True))
def test_a_network_keeps_its_outputs_at_other_sizes(name: str) -> None:
    check(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", names(fast=False))
def test_a_slower_network_keeps_its_outputs_at_other_sizes(name: str) -> None:
    check(name)


def test_the_record_says_exact_or_why_not() -> None:
    assert len(RECORD) >= 100
    assert {net["verdict"] for net in RECORD.values()} <= {"exact", "refused"}
    for net in RECORD.values():
        if net["verdict"] == "refused":
            assert "`find_units` could not trace" in net["why"]
        else:
            assert net["error"] < 1e-6 < 1e-2 * net["signal"]
            # What carried nothing and stayed is accounted for.
            assert net["removed"] >= net["zeroed"] or any("unit" in why or "row" in why for why in net["stays"])


WHOLE = {
    "a weight that forward computes": ("mamba", "rwkv", "bit"),
    "the weights of all experts in one tensor": ("mixtral", "olmoe"),
    "a mean over all channels": ("convnextv2",),
}


def test_hidden_units_of_every_transformer_go() -> None:
    whole = {name for name, net in RECORD.items() if net["verdict"] == "exact" and not net["removed"]}
    excused = {f"transformers/{name}" for names in WHOLE.values() for name in names}
    assert {name for name in whole if name.startswith("transformers/")} <= excused
