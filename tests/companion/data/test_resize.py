"""Means over areas against a loop."""

from __future__ import annotations

import numpy as np
import pytest

from pruning_lib.companion.data._resize import averaged


def test_area_means_are_those_of_a_loop() -> None:
    pixels = np.random.default_rng(0).random((200, 300, 3))
    out = averaged(pixels)
    for y, x in ((0, 0), (17, 90), (127, 127)):
        total, area = np.zeros(3), 0.0
        for i in range(200):  # in units in which an old pixel measures 128 × 128 and a new one 200 × 300
            height = max(0, min(128 * (i + 1), 200 * (y + 1)) - max(128 * i, 200 * y))
            for j in range(300) if height else ():
                share = height * max(0, min(128 * (j + 1), 300 * (x + 1)) - max(128 * j, 300 * x))
                total, area = total + share * pixels[i, j], area + share
        assert area == 200 * 300
        np.testing.assert_allclose(out[y, x], total / area, rtol=1e-9)
    assert out.mean() == pytest.approx(pixels.mean())
