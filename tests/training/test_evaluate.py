"""Evaluation: means over examples, pixels, targets that are not classes, and misuse in words."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pruning_lib.training import TensorPair, evaluate
from tests.training.runs import VAL, network


def test_evaluate_is_the_mean_over_examples_whatever_the_batches() -> None:
    model = network(bn=True)
    model[2].eval()
    loss, accuracy = evaluate(model, VAL, batch_size=7)
    assert [m.training for m in model] == [True, True, False, *[True] * 5]
    outputs = model.eval()(VAL.inputs)
    assert loss == pytest.approx(-outputs.log_softmax(1)[range(40), VAL.targets].mean().item(), rel=1e-5)
    assert accuracy == int((outputs.argmax(1) == VAL.targets).sum()) / 40


def test_accuracy_counts_pixels_and_is_nan_where_targets_are_not_classes() -> None:
    torch.manual_seed(0)
    x = torch.randn(6, 1, 3, 2)
    maps = nn.Conv2d(1, 4, 1)
    classes = torch.randint(4, (6, 3, 2))
    right = sum(int(maps(image[None])[0, :, i, j].argmax() == target[i, j])
                for image, target in zip(x, classes, strict=True) for i in range(3) for j in range(2))  # fmt: skip
    assert evaluate(maps, TensorPair(x, classes), batch_size=4).accuracy == right / 36
    line = nn.Sequential(nn.Flatten(), nn.Linear(6, 1))
    flat = nn.Sequential(*line, nn.Flatten(0))
    binary = nn.Conv2d(1, 1, 1)
    for model, targets in ((line, torch.randn(6, 1)), (flat, torch.randn(6)), (binary, torch.rand(6, 1, 3, 2))):
        loss, accuracy = evaluate(model, TensorPair(x, targets), batch_size=4, loss_fn=F.mse_loss)
        assert math.isnan(accuracy)
        assert loss == pytest.approx((model(x) - targets).square().mean().item(), rel=1e-5)


def test_no_examples_to_evaluate_on_is_named() -> None:
    for inputs, targets, sentence in ((0, 0, "these hold no sample"), (5, 3, "these are 5 inputs and 3 targets")):
        with pytest.raises(ValueError, match=sentence):
            evaluate(network(), TensorPair(VAL.inputs[:inputs], VAL.targets[:targets]))
    with pytest.raises(ValueError, match="evaluate needs targets"):
        evaluate(network(), VAL.inputs)


def test_batches_of_any_kind_are_evaluated_like_the_whole() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network()

        def forward(self, x: Tensor) -> SimpleNamespace:
            return SimpleNamespace(logits=self.inner(x))

    model = Named()
    whole = evaluate(model.inner, VAL)
    pairs = list(zip(VAL.inputs.split(7), VAL.targets.split(7), strict=True))
    for data in (pairs, iter(pairs), [{"x": x, "labels": y} for x, y in pairs]):
        found = evaluate(model, data)
        assert found.accuracy == pytest.approx(whole.accuracy)
        assert found.loss == pytest.approx(whole.loss, rel=1e-5)


def test_targets_that_are_no_class_count_nowhere_whatever_the_batches() -> None:
    torch.manual_seed(0)
    model, x, y = nn.Linear(4, 3), torch.randn(12, 4), torch.randint(3, (12,))
    y[[0, 1, 2, 5, 9]] = -100
    known = y >= 0
    outputs = model(x)
    for size in (12, 5, 3, 1):
        loss, accuracy = evaluate(model, TensorPair(x, y), batch_size=size)
        assert loss == pytest.approx(F.cross_entropy(outputs[known], y[known]).item(), rel=1e-6)
        assert accuracy == int((outputs.argmax(1) == y)[known].sum()) / 7
    pixels = torch.full((2, 2, 2), 255)
    pixels[0, 0, 0] = 1
    right = F.one_hot(torch.ones(2, 2, 2, dtype=torch.int64), 3).movedim(-1, 1).float()
    ignoring = nn.CrossEntropyLoss(ignore_index=255)
    assert evaluate(nn.Identity(), TensorPair(right, pixels), loss_fn=ignoring).accuracy == 1


def test_a_single_output_is_no_choice_between_classes() -> None:
    logits = torch.tensor([[3.0], [-3.0]])

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(outputs[:, 0], targets.float())

    assert math.isnan(evaluate(nn.Identity(), TensorPair(logits, torch.tensor([1, 0])), loss_fn=loss).accuracy)


def test_whole_numbers_that_are_counts_are_no_classes() -> None:
    outputs, counts = torch.tensor([[4.0, 1.0], [6.0, 1.0], [0.5, 1.0], [1.0, 1.0]]), torch.tensor([5, 7, 0, 1])

    def loss(means: Tensor, targets: Tensor) -> Tensor:
        return (means[:, 0] - targets).square().mean()

    for size in (4, 2, 1):
        found = evaluate(nn.Identity(), TensorPair(outputs, counts), batch_size=size, loss_fn=loss)
        assert found.loss == pytest.approx((1 + 1 + 0.25 + 0) / 4)
        assert math.isnan(found.accuracy)
    many = torch.eye(256)[:4]
    assert evaluate(nn.Identity(), TensorPair(many, torch.tensor([0, 1, 2, 255], dtype=torch.uint8))).accuracy == 0.75
