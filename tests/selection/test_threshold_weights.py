"""Thresholding: the smallest weights that a loss can spare, by hand, and that a failure changes nothing."""

import copy

import pytest
import torch
from torch import nn

from pruning_lib.selection import threshold_weights
from tests.selection.chain import chain


def test_threshold_zeroes_the_smallest_weights_the_loss_can_spare():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[0.1, -0.2], [0.3, -0.4]]))
        model[0].bias.copy_(torch.tensor([0.05, 0.6]))
        model[1].weight.copy_(torch.tensor([[-0.25, 0.7]]))

    def loss(m: nn.Module) -> float:
        return 1.0 + sum((p == 0).sum().item() for p in m.parameters())

    threshold = threshold_weights(model, loss, tolerance=3.5)  # three zeros are spared: 0.05, 0.1, 0.2
    assert threshold == pytest.approx(0.25)
    assert torch.equal(model[0].weight, torch.tensor([[0.0, 0.0], [0.3, -0.4]]))
    assert torch.equal(model[0].bias, torch.tensor([0.0, 0.6]))
    assert torch.equal(model[1].weight, torch.tensor([[-0.25, 0.7]]))
    assert threshold_weights(model, loss, tolerance=0.0) == 0.0


def test_threshold_leaves_everything_as_it_was_when_the_loss_fails():
    model = chain()
    before = copy.deepcopy(model.state_dict())
    calls = []

    def loss(m: nn.Module) -> float:
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("disk full")
        return 1.0

    with pytest.raises(RuntimeError, match="disk full"):
        threshold_weights(model, loss, 0.1)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    with pytest.raises(ValueError, match="loss_fn returned nan"):
        threshold_weights(model, lambda m: float("nan"), 0.1)


def test_frozen_layers_are_not_thresholded():
    model = chain()
    model[0].requires_grad_(False)
    before = copy.deepcopy(model[0].weight)
    threshold_weights(model, lambda m: 1.0, 0.0)
    assert torch.equal(model[0].weight, before)
    assert (model[5].weight == 0).all()


def test_a_loss_that_fails_at_once_is_said_and_a_criterion_is_no_function_of_a_model():
    model = nn.Sequential(nn.Linear(4, 0), nn.BatchNorm1d(0), nn.Linear(0, 3))
    with pytest.raises(ValueError, match="loss_fn cannot compute the model's loss"):
        threshold_weights(model, lambda m: m(torch.randn(5, 4))[:, 7].sum(), 0.1)
    assert model[1].num_batches_tracked == 0
    with pytest.raises(TypeError, match="CrossEntropyLoss.*; it needs a function of the model"):
        threshold_weights(chain(), nn.CrossEntropyLoss(), 0.1)
