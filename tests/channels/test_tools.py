"""What people do with a small network next: quantize it, take features out of it, compile it."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn

from pruning_lib.channels import find_units, shrink
from pruning_lib.channels._constants import Constant
from pruning_lib.selection import zero
from tests.channels.helpers import Branch, seeded

quantization = pytest.importorskip("torch.ao.quantization")
extraction = pytest.importorskip("torchvision.models.feature_extraction")


def network():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 4),
    ).eval()  # fmt: skip


class Quantized(nn.Module):
    def __init__(self):
        super().__init__()
        self.enter, self.body, self.leave = quantization.QuantStub(), network(), quantization.DeQuantStub()

    def forward(self, x):
        return self.leave(self.body(self.enter(x)))


def halved(model, x):
    units = find_units(model, x)
    zero(model, {name: torch.arange(group.size) % 2 == 0 for name, group in units.items()}, units)
    shrunk = shrink(model, x)
    assert sum(shrunk.removed.values()) == 10
    return shrunk.model


IMAGES = torch.randn(4, 3, 9, 9)


def test_a_small_network_can_be_quantized_in_eager_mode():
    engines = [
        engine for engine in ("fbgemm", "x86", "qnnpack") if engine in torch.backends.quantized.supported_engines
    ]
    if not engines:
        pytest.skip("this build of torch has no quantized operators")
    small = halved(seeded(Quantized).eval(), IMAGES)
    expected = small(IMAGES)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.backends.quantized.engine = engines[0]
        small.qconfig = quantization.get_default_qconfig(engines[0])
        fused = quantization.fuse_modules(small, [["body.0", "body.1", "body.2"], ["body.3", "body.4"]])
        prepared = quantization.prepare(fused)
        prepared(IMAGES)
        found = quantization.convert(prepared)(IMAGES)
    assert float((found - expected).abs().max()) < 0.1 * float(expected.abs().max())


@pytest.mark.parametrize("dead", [False, True])
def test_features_can_be_extracted_also_past_a_constant(dead):
    if dead:
        model = seeded(lambda: Branch(norm=True)).eval()
        with torch.no_grad():
            model.conv2.weight.zero_()
        small, x, nodes = shrink(model, torch.randn(2, 1, 9, 9)).model, torch.randn(3, 1, 11, 8), {"out": "out"}
        assert any(isinstance(module, Constant) for module in small.modules())
    else:
        small, x, nodes = halved(seeded(network), IMAGES), IMAGES, {"2": "map", "7": "out"}
    features = extraction.create_feature_extractor(copy.deepcopy(small), nodes).eval()(x)
    torch.testing.assert_close(features["out"], small.eval()(x))


def test_a_small_network_compiles():
    model = seeded(lambda: Branch(norm=True)).eval()
    with torch.no_grad():
        model.conv1.weight[:3] = 0
        model.conv2.weight.zero_()
    small = shrink(model, torch.randn(2, 1, 9, 9)).model.eval()
    compiled = torch.compile(small, backend="aot_eager")
    for shape in ((2, 1, 9, 9), (5, 1, 9, 12)):
        x = torch.randn(shape)
        torch.testing.assert_close(compiled(x), small(x))
        torch.testing.assert_close(small(x), model(x))
