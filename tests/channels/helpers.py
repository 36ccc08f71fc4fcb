"""What tests of removal share: networks under a seed, dead rows, and comparisons."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pruning_lib.channels import shrink


def seeded(build, seed=0):
    torch.manual_seed(seed)
    return build()


@torch.no_grad()
def kill(layer: nn.Module, index: list[int], bias: float | None = None) -> None:
    """Zero whole rows; biases stay unless a number is given."""
    layer.weight[index] = 0
    if bias is not None and layer.bias is not None:
        layer.bias[index] = bias


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_equal(model: nn.Module, small: nn.Module, *shape: int, tolerance: float = 2e-5) -> None:
    model, small = copy.deepcopy(model).eval(), copy.deepcopy(small).eval()
    x = torch.randn(7, *shape).to(next(model.parameters()))
    with torch.no_grad():
        expected, found = model(x), small(x)
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) <= tolerance * float(expected.abs().max())


def rows_at_random(model: nn.Module, share: float = 0.5, seed: int = 0) -> nn.Module:
    """Zero rows of every layer at random, in float64; biases, shifts and statistics are anything."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            for name, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
                if name in ("bias", "running_mean"):
                    tensor.copy_(torch.randn(tensor.shape, generator=generator))
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.weight[torch.rand(len(module.weight), generator=generator) < share] = 0
            elif isinstance(module, nn.ConvTranspose2d):
                gone = torch.rand(module.weight.shape[1], generator=generator) < share
                module.weight[:, gone] = 0
    return model.double().eval()


def shrunk_and_compared(model: nn.Module, *shape: int, sizes: tuple[int, ...] = (3, 5)) -> object:
    """Shrink, compare at another batch and size, and check that a second time removes nothing."""
    shrunk = shrink(model, torch.randn(2, *shape).double())
    for grow in sizes:
        assert_equal(model, shrunk.model, shape[0], *(size + grow for size in shape[1:]), tolerance=1e-11)
    again = shrink(shrunk.model, torch.randn(2, *shape).double())
    assert again.plan.kept == {}
    assert again.plan.blocks == {}
    return shrunk


class Branch(nn.Module):
    """A stem, and a branch of two layers that joins it again."""

    def __init__(self, norm=True):
        super().__init__()
        self.stem, self.out = nn.Conv2d(1, 6, 3), nn.Conv2d(6, 2, 1)
        self.conv1, self.conv2 = nn.Conv2d(6, 5, 3, stride=2, padding=1), nn.Conv2d(5, 6, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(6) if norm else nn.Identity()

    def forward(self, x):
        x = self.stem(x)
        out = self.bn2(self.conv2(F.relu(self.conv1(x))))
        out += F.avg_pool2d(x, 2, ceil_mode=True)
        return self.out(out)
