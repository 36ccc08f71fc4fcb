"""A plan as data, and what it does to a model."""

from __future__ import annotations

import json

import pytest
import torch

from pruning_lib.channels import Plan, shrink
from pruning_lib.companion.models import LeNet5


@pytest.fixture
def shrunk():
    torch.manual_seed(0)
    model = LeNet5(widths=(4, 6, 8), bn=True)
    with torch.no_grad():
        for layer in (model.conv1, model.conv2, model.fc1):
            layer.weight[[0, 2]] = 0
        model.bn1.bias.normal_()
        model.bn1.running_mean.normal_()
    return shrink(model, torch.randn(2, 1, 28, 28))


@pytest.mark.parametrize("index", [[], [0, 0], [1, 0], [-1, 2], [0, 4], "01"])
def test_indices_are_checked(shrunk, index):
    data = json.loads(shrunk.plan.to_json())
    data["kept"]["conv1.weight"]["0"] = index
    with pytest.raises(ValueError, match=r"indices kept of 'conv1.weight'|the plan is not what"):
        Plan.from_json(json.dumps(data))
