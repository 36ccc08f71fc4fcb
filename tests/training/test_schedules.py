"""Schedules, and what is said of those that leave the training."""

from __future__ import annotations

import pytest

from pruning_lib.training import ramp, steps


def test_milestones_and_ramps_outside_the_training_are_named() -> None:
    with pytest.raises(ValueError, match="ramp got share=5"):
        ramp(5)
    with pytest.raises(ValueError, match=r"needs a share of the training in \[0, 1\]"):
        steps(30, 60)
