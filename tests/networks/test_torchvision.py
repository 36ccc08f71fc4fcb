"""Torchvision's networks, zeroed and shrunk: the record of all of them, and a sample that is run again."""

from __future__ import annotations

import pytest

from benchmarks import full_size
from pruning_lib.companion import records

TOLERANCE = 1e-9
LEFT = {"resnet18": 47.5, "densenet121": 29.5, "mobilenet_v2": 38, "vgg11_bn": 26.5, "vit_b_16": 67.5}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["resnet18", "squeezenet1_1", "mobilenet_v3_small", "shufflenet_v2_x0_5", "lraspp_mobilenet_v3_large"]
)
def test_a_sample_of_torchvision(name: str) -> None:
    result = full_size.run(full_size.zoo()[name], seed=1)
    assert result["verdict"] == "exact"
    assert result["error_f64"] < TOLERANCE < 1e-2 * result["signal"]
    assert result["parameters_left"] < LEFT.get(name, 50)
    if "shufflenet" not in name:  # its halves are counted by `chunk`
        assert result["removed"] >= 0.95 * result["planted"] > 500


def test_the_record_of_torchvision_says_exact_and_small() -> None:
    nets = records.measured("zoo")["nets"]
    assert {name: net["verdict"] for name, net in nets.items()} == dict.fromkeys(full_size.zoo(), "exact")
    assert all(nets[name]["parameters_left"] <= left for name, left in LEFT.items())
    assert all(net["error_f64"] < TOLERANCE < 1e-2 * net["signal"] for net in nets.values())


def test_reasons_are_counted_without_names() -> None:
    notes = [
        "a.0: 3 dead units stay: it passes `view` with a literal size (net.py, line 4)",
        "b: 1 dead unit stays: it passes `view` with a literal size",
        "b: 7 rows without effect stay in a stream: c writes them too",
        "d: no input changes it, so it became a constant",
    ]
    assert full_size.reasons(notes) == {
        "rows of zeros in a stream": 7,
        "it passes `view` with a literal size": 4,
        "no input changes it, so it became a constant": 1,
    }
