"""Schedules, and what is said of those that leave the training."""

from __future__ import annotations

import pytest
from torch import nn

from pruning_lib.training import ramp, steps
from pruning_lib.training._schedules import check_schedules


def test_milestones_and_ramps_outside_the_training_are_named() -> None:
    with pytest.raises(ValueError, match="ramp got share=5"):
        ramp(5)
    with pytest.raises(ValueError, match=r"needs a share of the training in \[0, 1\]"):
        steps(30, 60)


def test_a_module_is_no_schedule():
    with pytest.raises(TypeError, match="got a schedule that is a ModuleList; it needs a function of progress"):
        check_schedules("fit", schedule=nn.ModuleList())
