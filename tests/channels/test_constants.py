"""Dead branches: what no input changes becomes a `Constant`."""

from __future__ import annotations

import pytest
import torch

from pruning_lib._measure import measure
from pruning_lib.channels import Constant, load, save, shrink
from pruning_lib.companion.models import UNet
from pruning_lib.regularizers import bound_batchnorm
from tests.channels.helpers import Branch, assert_equal, kill, seeded


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("zero", [True, False])
def test_a_dead_branch_becomes_a_constant(norm, zero, tmp_path):
    model = seeded(lambda: Branch(norm)).double().eval()
    with torch.no_grad():
        model.conv2.weight.zero_()
        model.conv2.bias.normal_(std=0.0 if zero else 1.0)
        if norm:
            model.bn2.running_mean.copy_(model.conv2.bias)
            model.bn2.bias.normal_(std=0.0 if zero else 1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    x = torch.randn(2, 1, 12, 12).double()
    model(x).sum().backward()
    optimizer.step()
    with torch.no_grad():
        model.conv2.weight.zero_()
        if zero:
            model.conv2.bias.zero_()
            if norm:
                model.bn2.bias.zero_()
                model.bn2.running_mean.zero_()
    shrunk = shrink(model, x, optimizer=optimizer)
    for size in (9, 12, 17):
        assert_equal(model, shrunk.model, 1, size, size, tolerance=1e-12)
    assert measure(shrunk.model, x).macs == 6 * 9 * 10 * 10 + 2 * 6 * 5 * 5  # stem and out alone
    last = shrunk.model.bn2 if norm else shrunk.model.conv2
    assert type(last) is Constant
    assert sum(p.numel() for p in last.parameters()) == (0 if zero else 6)
    assert shrunk.removed["conv1"] == 4
    assert "conv1: no input changes it, so it became a constant" in shrunk.plan.notes
    save(shrunk, tmp_path / "a.safetensors")
    assert torch.equal(load(model, tmp_path / "a.safetensors")(x), shrunk.model(x))
    assert shrink(shrunk.model, x).plan.kept == {}
    before = [parameter.clone() for parameter in shrunk.model.parameters()]
    shrunk.model.train()(x).square().sum().backward()
    shrunk.optimizer.step()
    assert all(not torch.equal(old, new) for old, new in zip(before, shrunk.model.parameters(), strict=True))


def test_a_dead_branch_takes_its_bounded_scales_along():
    model = seeded(Branch)
    bound_batchnorm(model)
    model.double().eval()
    kill(model.conv2, list(range(6)), bias=0.3)
    shrunk = shrink(model, torch.randn(2, 1, 12, 12).double())
    assert type(shrunk.model.bn2) is Constant
    assert_equal(model, shrunk.model, 1, 9, 14, tolerance=1e-12)


def test_a_dead_bottom_is_upsampled_to_the_size_that_the_network_asks_for():
    model = seeded(lambda: UNet(channels=4, depth=2)).double().eval()
    with torch.no_grad():
        model.down[-1].bn2.weight.zero_()
        model.down[-1].bn2.bias.zero_()
        model.up[0].bias.normal_()
    shrunk = shrink(model, torch.randn(2, 3, 13, 18).double())
    assert type(shrunk.model.up[0]) is Constant
    for size in ((13, 18), (9, 11), (16, 16)):
        assert_equal(model, shrunk.model, 3, *size, tolerance=1e-12)


def test_constants_shrink_with_their_stream():
    model = seeded(lambda: Branch(norm=False)).double()
    kill(model.conv2, list(range(6)))
    first = shrink(model, torch.randn(2, 1, 12, 12).double())
    kill(first.model.stem, [0, 3], bias=0.0)  # anything else would vary where the pooling's window is cut
    second = shrink(first.model, torch.randn(2, 1, 12, 12).double())
    assert len(second.model.conv2.bias) == second.model.out.in_channels == 4
    assert_equal(first.model, second.model, 1, 15, 9, tolerance=1e-12)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_the_older_onnx_exporter_takes_a_constant_of_any_size(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    model = seeded(Branch).eval()
    with torch.no_grad():
        model.bn2.weight.zero_()
    shrunk, path = shrink(model, torch.randn(2, 1, 12, 12)).model, tmp_path / "small.onnx"
    assert any(isinstance(module, Constant) for module in shrunk.modules())
    axes = {"x": {0: "batch", 2: "height", 3: "width"}}
    torch.onnx.export(
        shrunk, (torch.randn(2, 1, 12, 12),), path, input_names=["x"], dynamic_axes=axes, dynamo=False, verbose=False
    )
    session, x = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]), torch.randn(3, 1, 15, 9)
    torch.testing.assert_close(torch.from_numpy(session.run(None, {"x": x.numpy()})[0]), model(x), rtol=1e-4, atol=1e-5)
