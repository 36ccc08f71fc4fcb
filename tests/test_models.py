"""LeNet-300 and LeNet-5: sizes from arithmetic on paper, twins with BatchNorm, misuse in words."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pruning_lib.models import LeNet5, LeNet300


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_lenet300_has_the_published_size() -> None:
    assert parameters(LeNet300()) == (784 + 1) * 300 + (300 + 1) * 100 + (100 + 1) * 10 == 266_610


def test_lenet5_has_the_published_size() -> None:
    assert parameters(LeNet5()) == (25 + 1) * 20 + (20 * 25 + 1) * 50 + (50 * 16 + 1) * 500 + 501 * 10 == 431_080


def test_lenet300_computes_what_its_formula_says() -> None:
    model = LeNet300(classes=3, inputs=(2, 3, 3), widths=(5, 4))
    x = torch.randn(7, 2, 3, 3)
    w = model.state_dict()
    hidden = (x.reshape(7, 18) @ w["fc1.weight"].T + w["fc1.bias"]).clamp(min=0)
    hidden = (hidden @ w["fc2.weight"].T + w["fc2.bias"]).clamp(min=0)
    torch.testing.assert_close(model(x), hidden @ w["fc3.weight"].T + w["fc3.bias"])


@pytest.mark.parametrize("bn", [False, True])
def test_networks_fit_digits(bn: bool) -> None:
    x = torch.randn(4, 1, 8, 8)
    assert LeNet300(inputs=(1, 8, 8), widths=(32, 16), bn=bn)(x).shape == (4, 10)
    assert LeNet5(inputs=(1, 8, 8), widths=(4, 8, 16), kernel=3, padding=1, bn=bn)(x).shape == (4, 10)


def test_twins_have_one_batchnorm_for_each_hidden_layer_and_no_bias_before_it() -> None:
    for model, hidden in ((LeNet300(bn=True), ["fc1", "fc2"]), (LeNet5(bn=True), ["conv1", "conv2", "fc1"])):
        norms = [m for m in model if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d))]
        assert len(norms) == len(hidden)
        assert all(model.get_submodule(name).bias is None for name in hidden)


def test_a_kernel_that_leaves_nothing_is_named() -> None:
    with pytest.raises(ValueError, match="8 × 8 pixels, of which kernel=5, padding=0"):
        LeNet5(inputs=(1, 8, 8))


def test_a_width_below_one_is_named() -> None:
    with pytest.raises(ValueError, match="widths must be at least 1"):
        LeNet300(widths=(300, 0))
    with pytest.raises(ValueError, match="classes must be at least 1"):
        LeNet5(classes=0)
