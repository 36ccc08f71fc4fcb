"""What no layer writes stays whole: positions, masks, tables, ids; and small networks take what the dense ones take."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pruning_lib.channels import shrink
from tests.channels.helpers import seeded
from tests.networks.cases import Net


def stream(steps, **more):
    """Return a network of one residual block over (N, L, 6), whose block has five dead units of eight."""
    layers = {"stem": nn.Linear(6, 12), "up": nn.Linear(12, 8), "down": nn.Linear(8, 12), "out": nn.Linear(12, 3)}

    def run(net, x):
        y = steps(net, x)
        y = y + net.down(torch.relu(net.up(y)))
        return net.out(y)

    net = Net(run, **layers, **more)
    with torch.no_grad():
        net.up.weight[:5] = 0
        net.stem.weight[:4] = net.down.weight[:4] = 0
    return net


class Tables(nn.Module):
    def __init__(self, **tables):
        super().__init__()
        for name, table in tables.items():
            self.register_buffer(name, table)


def learned(net, x):
    return net.stem(x) + net.position[:, : x.shape[1]]


def cast(net, x):
    return net.stem(x) + net.tables.sines.to(x.dtype)[: x.size(1)]


def looked_up(net, x):
    return net.stem(x) + net.words(net.tables.ids[:, : x.size(1)])


def masked(net, x):
    y = net.stem(x)
    bias = net.tables.mask[: x.size(1), : x.size(1)]
    return y + ((y @ y.mT).masked_fill(bias == 0, -1e9).softmax(-1) @ y)


def rotated(net, x):
    y, length = net.stem(x), x.shape[1]
    first, second = y.chunk(2, -1)
    return y * net.tables.cosines[:length] + torch.cat([-second, first], -1) * net.tables.sines[:length]


def remembered(net, x):
    return net.stem(x) + net.tables.memory[: x.shape[0]]


def gated(net, x):
    return net.stem(x) * net.tables.gate[: x.shape[1]]


def upper(net, x):
    length = x.shape[1]
    return net.stem(x) + net.tables.strict[:length, :length] @ net.stem(x)


TABLES = {
    "sines": torch.randn(40, 12),
    "cosines": torch.randn(40, 12),
    "ids": torch.arange(40)[None],
    "mask": torch.ones(40, 40).tril(),
    "memory": torch.randn(40, 1, 12),
    "gate": torch.cat([torch.zeros(7, 1), torch.randn(33, 1)]),
    "strict": torch.ones(40, 40).triu(1),
}
STREAMS = [learned, cast, looked_up, masked, rotated, remembered, gated, upper]


def build(steps):
    tables = Tables(**{name: table.clone() for name, table in TABLES.items()})
    return stream(steps, position=nn.Parameter(torch.randn(1, 40, 12)), words=nn.Embedding(40, 12), tables=tables)


def untouched(model, small):
    """Return which tensors lost something along an axis that counts no channel."""
    lengths = {"position": 1, "words.weight": 0, **{f"tables.{name}": 0 for name in TABLES}}
    old, new = model.state_dict(), small.state_dict()
    return [name for name, axis in lengths.items() if old[name].shape[axis] != new[name].shape[axis]]


@torch.no_grad()
def distance(model, small, *inputs):
    model, small = copy.deepcopy(model).eval(), copy.deepcopy(small).eval()
    expected, found = model(*inputs), small(*inputs)
    return float((expected - found).abs().max() / expected.abs().max())


@pytest.mark.parametrize("length", [1, 7, 40])
@pytest.mark.parametrize("steps", STREAMS)
def test_a_length_is_no_channel(steps, length):
    model = seeded(lambda: build(steps)).double()
    shrunk = shrink(model, torch.randn(2, length, 6).double())
    assert untouched(model, shrunk.model) == []
    assert shrunk.removed["up"] == 5
    for batch, other in ((2, length), (5, 1), (1, 3), (3, 12), (40, 40)):
        assert distance(model, shrunk.model, torch.randn(batch, other, 6).double()) < 1e-12


@pytest.mark.parametrize("steps", [learned, cast, rotated, remembered])
def test_channels_of_a_sliced_table_go_with_their_class(steps):
    model = seeded(lambda: build(steps)).double()
    with torch.no_grad():  # nothing reads channels 2, 3, 8 and 9 of the stream
        model.up.weight[:, [2, 3, 8, 9]] = model.out.weight[:, [2, 3, 8, 9]] = 0
        if steps is rotated:
            model.stem.weight[[2, 3, 8, 9]] = 0
    small = shrink(model, torch.randn(2, 7, 6).double()).model
    assert small.stem.out_features == 8
    table = {learned: "position", cast: "tables.sines", rotated: "tables.cosines", remembered: "tables.memory"}[steps]
    assert small.state_dict()[table].shape[-1] == 8
    assert distance(model, small, torch.randn(3, 23, 6).double()) < 1e-12


@pytest.mark.parametrize("read", [lambda y: y[:, -1], lambda y: y[:, 0], lambda y: y[:, -2:].flatten(1)])
@pytest.mark.parametrize("length", [7, 40])
def test_a_position_is_no_constant(read, length):
    """The last of seven positions is another number than the last of forty, also where nothing else varies."""

    def run(net, x):
        return net.out(read(net.stem(x) + net.position[:, : x.shape[1]]))

    width = 24 if read(torch.zeros(1, 7, 12)).shape[1] == 24 else 12
    layers = {"stem": nn.Linear(6, 12), "out": nn.Linear(width, 3)}
    model = seeded(lambda: Net(run, **layers, position=nn.Parameter(torch.randn(1, 40, 12)))).double()
    with torch.no_grad():
        model.stem.weight[:6] = 0
    small = shrink(model, torch.randn(2, length, 6).double()).model
    for other in (2, 7, 12, 40):
        assert distance(model, small, torch.randn(3, other, 6).double()) < 1e-12


def test_maps_are_cropped_to_any_size():
    def run(net, x):
        y = F.relu(net.stem(x) + net.position[:, :, : x.shape[2], : x.shape[3]])
        return net.out(y * net.scale)

    layers = {"stem": nn.Conv2d(3, 8, 3, padding=1), "out": nn.Conv2d(8, 2, 1)}
    tables = {"position": nn.Parameter(torch.randn(1, 8, 32, 32)), "scale": nn.Parameter(torch.rand(8, 1, 1))}
    model = seeded(lambda: Net(run, **layers, **tables)).double()
    with torch.no_grad():
        model.out.weight[:, 2:5] = 0
    small = shrink(model, torch.randn(2, 3, 8, 8).double()).model
    assert small.stem.out_channels == 5
    assert tuple(small.position.shape) == (1, 5, 32, 32)
    assert tuple(small.scale.shape) == (5, 1, 1)
    for size in ((5, 7), (32, 32), (13, 11)):
        assert distance(model, small, torch.randn(3, 3, *size).double()) < 1e-12


def test_what_no_layer_writes_stays_whole():
    """Learned queries are read by a layer and written by none."""

    def run(net, x):
        return net.out(torch.relu(net.up(net.queries)) + net.stem(x).mean(1, keepdim=True))

    layers = {"stem": nn.Linear(6, 8), "up": nn.Linear(12, 8), "out": nn.Linear(8, 2)}
    model = seeded(lambda: Net(run, **layers, queries=nn.Parameter(torch.randn(1, 5, 12))))
    with torch.no_grad():
        model.up.weight[:, 3:] = 0
    assert tuple(shrink(model, torch.randn(2, 7, 6)).model.queries.shape) == (1, 5, 12)
