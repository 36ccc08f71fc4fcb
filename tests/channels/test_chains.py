"""Exact removal as a property of random chains of layers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pruning_lib.channels import shrink
from tests.channels.helpers import snapshot

ACTIVATIONS = [nn.ReLU, nn.Tanh, nn.Sigmoid, nn.GELU, nn.LeakyReLU, nn.SiLU, nn.ELU, nn.Softplus, nn.Hardswish]


@st.composite
def chains(draw):
    """Draw a network, its input shape, and whether every planted dead unit has to go."""
    layers: list[nn.Module] = []
    exact = True
    width, size = draw(st.integers(1, 3)), draw(st.integers(7, 12))
    shape = (width, size, size)
    for _ in range(draw(st.integers(0, 3))):
        kernel, padding = draw(st.sampled_from([(1, 0), (3, 0), (3, 1), (5, 2)]))
        stride = draw(st.integers(1, 2)) if size >= 6 else 1
        if size + 2 * padding < kernel:
            break
        new, norm = draw(st.integers(2, 7)), draw(st.booleans())
        layers.append(nn.Conv2d(width, new, kernel, stride, padding, bias=draw(st.booleans())))
        size, width = (size + 2 * padding - kernel) // stride + 1, new
        layers += [nn.BatchNorm2d(width)] * norm + [draw(st.sampled_from(ACTIVATIONS))()]
        pool = draw(st.sampled_from(["", "max", "avg", "padded max", "padded avg", "dropout"]))
        if pool == "dropout":
            layers.append(nn.Dropout2d())
        elif pool and size >= 3:
            kind = nn.MaxPool2d if "max" in pool else nn.AvgPool2d
            padding = int("padded" in pool)
            layers.append(kind(3, 2, padding))
            size = (size + 2 * padding - 3) // 2 + 1
            exact &= pool != "padded avg"  # a constant varies near the border there
    if draw(st.booleans()):
        size = draw(st.integers(1, 2))
        layers.append(draw(st.sampled_from([nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d]))(size))
    layers.append(nn.Flatten())
    width = width * size * size
    for _ in range(draw(st.integers(0, 2))):
        new = draw(st.integers(2, 9))
        layers.append(nn.Linear(width, new, bias=draw(st.booleans())))
        layers += [nn.BatchNorm1d(new)] * draw(st.booleans())
        layers += [draw(st.sampled_from(ACTIVATIONS))(), nn.Dropout()]
        width = new
    layers.append(nn.Linear(width, 3))
    return nn.Sequential(*layers), shape, exact


@torch.no_grad()
def plant(model: nn.Sequential, seed: int) -> dict[str, int]:
    """Give every tensor random numbers and kill random rows; return the number of dead units by layer."""
    generator = torch.Generator().manual_seed(seed)
    dead: dict[str, int] = {}
    for name, layer in model.named_children():
        for tensor in (*layer.parameters(), *layer.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.5)
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            layer.running_var.abs_().add_(0.1)
        if isinstance(layer, nn.Linear | nn.Conv2d) and layer is not model[-1]:
            gone = torch.rand(len(layer.weight), generator=generator) < torch.rand(1, generator=generator)
            layer.weight[gone] = 0
            dead[name] = int(gone.sum())
    return dead


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(chain=chains(), seed=st.integers(0, 10**6))
def test_random_chains_keep_their_outputs_and_lose_their_dead_units(chain, seed):
    model, shape, exact = chain
    dead = plant(model, seed)
    before = snapshot(model)
    shrunk = shrink(model, torch.randn(2, *shape))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert shrunk.max_error < 1e-9
    x = torch.randn(4, *shape)
    with torch.no_grad():
        expected, found = model.eval()(x), shrunk.model.eval()(x)
    assert float((expected - found).abs().max()) <= 1e-4 * float(expected.abs().max())
    for name, count in dead.items():
        left = model.get_submodule(name).weight.shape[0] - shrunk.removed[name]
        assert left >= 1
        if exact:  # one constant may stay to stand for the others, or as the last unit of its layer
            assert shrunk.removed[name] >= count - 1


@settings(max_examples=15, deadline=None)
@given(chain=chains(), seed=st.integers(0, 10**6))
def test_random_chains_shrink_once(chain, seed):
    model, shape, _ = chain
    plant(model, seed)
    first = shrink(model, torch.randn(2, *shape))
    assert sum(shrink(first.model, torch.randn(2, *shape)).removed.values()) == 0
