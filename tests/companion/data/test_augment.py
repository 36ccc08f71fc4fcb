"""Crops and flips against a loop."""

from __future__ import annotations

import torch

from pruning_lib.companion.data import crop_and_flip


def test_crops_and_flips_are_those_of_a_loop() -> None:
    inputs = torch.randn(50, 3, 6, 5)
    out = crop_and_flip(inputs, torch.Generator().manual_seed(3), padding=2)
    g = torch.Generator().manual_seed(3)
    down, right = torch.randint(0, 5, (2, 50), generator=g)
    flip = torch.rand(50, generator=g) < 0.5
    assert 5 < flip.sum() < 45
    for i in range(50):
        large = torch.zeros(3, 10, 9)
        large[:, 2:8, 2:7] = inputs[i]
        part = large[:, down[i] : down[i] + 6, right[i] : right[i] + 5]
        assert torch.equal(out[i], part.flip(2) if flip[i] else part)
