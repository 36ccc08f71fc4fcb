"""Examples and data of every kind: one reader for all rooms."""

from __future__ import annotations

from collections import UserDict, namedtuple
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import pruning_lib as prl
from pruning_lib._inputs import batches, begun, joined, paired, read, tensors_in


class Net(nn.Module):
    """Takes x and options, and returns what `returns` makes of the logits."""

    def __init__(self, returns=lambda y: y, take=lambda x: x):
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)
        self.returns, self.take = returns, take
        with torch.no_grad():
            self.a.weight[:3] = 0

    def forward(self, x, mask=None, scale=1):
        y = self.b(F.relu(self.a(self.take(x)))) * scale
        return self.returns(y if mask is None else y * mask[..., None])


X, MASK = torch.randn(2, 5, 4), torch.ones(2, 5)
Pair = namedtuple("Pair", "x mask")
EXAMPLES = {
    "tensor": (X, Net()),
    "tuple": ((X, MASK), Net()),
    "named tuple": (Pair(X, MASK), Net()),
    "None inside": ((X, None, 2), Net()),
    "mapping": ({"x": X, "mask": MASK}, Net()),
    "mapping of another type": (UserDict(x=X, mask=None), Net()),
    "mixed": (prl.inputs(X, mask=MASK), Net()),
    "a dict as the one argument": (({"features": X, "id": 3},), Net(take=lambda x: x["features"])),
    "a list is one argument": ([X, X], Net(take=lambda x: x[0] + x[1])),
    "nested": (({"a": [X, (X, None)]},), Net(take=lambda x: x["a"][0] - 2 * x["a"][1][0])),
    "a mask without a batch axis": (prl.inputs(X[:1], mask=torch.ones(5)), Net()),
    "a scalar": ((X, None, torch.tensor(2.0)), Net()),
    "a batch of one beside a mask": ((X[:1], MASK[:1]), Net()),
}


@pytest.mark.parametrize("kind", EXAMPLES)
def test_every_room_reads_the_example(kind):
    example, model = EXAMPLES[kind]
    assert list(prl.find_units(model, example)) == ["a"]
    shrunk = prl.shrink(model, example)
    assert shrunk.removed == {"a": 3}
    call = read(example)
    torch.testing.assert_close(call.call(shrunk.model), call.call(model))
    macs = 4 * 3 + 3 * 2
    assert prl.measure(shrunk.model, example, latency=True, repeats=1).macs == 5 * macs


@dataclass
class Result:
    logits: torch.Tensor
    loss: float | None = None


class KeyValueCache:
    """What a decoder keeps for its next step, and nobody compares."""

    def __init__(self, keys: torch.Tensor) -> None:
        self.keys = keys


class Record(dict):
    """A mapping that torch does not know."""


RETURNS = {
    "dict": lambda y: {"y": y, "n": 3, "none": None},
    "tuple": lambda y: (y, None, [y.mean(), "name"]),
    "data class": Result,
    "cache": lambda y: {"y": y, "past": KeyValueCache(y)},
    "mapping": lambda y: Record(y=y, n=1),
    "distribution": lambda y: torch.distributions.Normal(y, 1.0, validate_args=False),
}


@pytest.mark.parametrize("kind", RETURNS)
def test_outputs_may_be_in_any_container(kind):
    model = Net(RETURNS[kind])
    shrunk = prl.shrink(model, X)
    assert shrunk.removed == {"a": 3}
    assert len(tensors_in(model(X))) >= 1
    with torch.no_grad():
        shrunk.model.b.weight.add_(1.0)
    assert not torch.equal(tensors_in(model(X))[0], tensors_in(shrunk.model(X))[0])


def test_outputs_that_cannot_be_compared_are_refused():
    with pytest.raises(RuntimeError, match=r"found no tensor in what Net.forward"):
        prl.shrink(Net(lambda y: {"n": 3}), X)


@pytest.mark.parametrize(
    ("example", "error", "sentence"),
    [
        (3.0, TypeError, "must hold a tensor.*got float"),
        (None, TypeError, "must hold a tensor.*got NoneType"),
        ((), TypeError, "must hold a tensor"),
        ({"x": None}, TypeError, "must hold a tensor"),
        (torch.ones(0, 5, 4), ValueError, "at least one sample"),
        (torch.tensor(1.0), ValueError, "no batch axis"),
        ((X, torch.ones(0)), ValueError, "at least one sample"),
    ],
)
@pytest.mark.parametrize("function", [prl.find_units, prl.shrink, prl.measure])
def test_what_is_no_example_gets_one_sentence(function, example, error, sentence):
    with pytest.raises(error, match=sentence) as caught:
        function(Net(), example)
    assert "\n" not in str(caught.value)


def test_a_batch_of_one_is_repeated_where_it_counts_samples():
    double = paired(prl.inputs(torch.ones(1, 3), None, mask=torch.ones(3, 3), ids=torch.ones(1, 3).long()))
    assert [tuple(x.shape) for x in double.tensors] == [(2, 3), (3, 3), (2, 3)]
    assert paired(double) is double


LABELLED = TensorDataset(torch.randn(5, 4), torch.arange(5))
PASSES = {
    "tensor": lambda: torch.randn(5, 4),
    "pair": lambda: (torch.randn(5, 4), torch.arange(5)),
    "loader": lambda: DataLoader(LABELLED, batch_size=2),
    "generator": lambda: (torch.randn(n, 4) for n in (2, 3)),
    "list of pairs": lambda: [(torch.randn(2, 4), torch.arange(2)), (torch.randn(3, 4), torch.arange(3))],
    "mappings": lambda: [{"x": torch.randn(n, 4), "labels": torch.arange(n)} for n in (2, 3)],
    "one mapping": lambda: {"x": torch.randn(5, 4), "labels": torch.arange(5)},
    "a pair of a mapping": lambda: ({"x": torch.randn(5, 4), "mask": None}, torch.arange(5)),
    "a pair of inputs": lambda: (prl.inputs(torch.randn(5, 4), scale=1), torch.arange(5)),
    "pairs of examples": lambda: [((torch.randn(5, 4), None), torch.arange(5))],
    "inputs": lambda: [prl.inputs(torch.randn(5, 4), scale=1)],
}


@pytest.mark.parametrize("kind", PASSES)
def test_data_of_every_kind_give_batches(kind):
    read_all = list(batches(PASSES[kind](), 2))
    assert [batch.inputs.batch for batch in read_all] in ([2, 2, 1], [2, 3], [5])
    assert all(tuple(batch.inputs.call(Net()).shape) == (batch.inputs.batch, 2) for batch in read_all)
    with_targets = kind not in ("tensor", "generator", "inputs")
    assert all((batch.targets is not None) == with_targets for batch in read_all)
    if with_targets:
        assert sum(len(batch.targets) for batch in read_all) == 5


def test_a_pair_in_one_piece_is_split_and_a_tuple_of_batches_is_not():
    data = ({"x": torch.arange(5.0), "scale": torch.ones(3)}, torch.arange(5))
    parts = [(tuple(batch.inputs.kwargs["x"]), tuple(batch.targets.tolist())) for batch in batches(data, 2)]
    assert parts == [((0, 1), (0, 1)), ((2, 3), (2, 3)), ((4,), (4,))]
    assert all(len(batch.inputs.kwargs["scale"]) == 3 for batch in batches(data, 2))
    mapping = {"x": torch.randn(3, 4), "labels": torch.arange(3)}
    assert [batch.targets.tolist() for batch in batches((mapping, mapping))] == [[0, 1, 2]] * 2


def test_two_calls_are_joined_only_where_nothing_but_the_samples_differs():
    scale = torch.ones(3)
    several, one = ({"x": torch.randn(n, 4), "scale": scale.clone(), "mode": "a", "none": None} for n in (8, 1))
    whole = joined(read(several), read(one))
    torch.testing.assert_close(whole.kwargs["x"], torch.cat([several["x"], one["x"]]))
    assert torch.equal(whole.kwargs["scale"], scale)
    assert (whole.batch, whole.kwargs["mode"], whole.kwargs["none"]) == (9, "a", None)
    others = [{"x": torch.randn(1, 5)}, {"x": one["x"].double()}, {"scale": scale + 1}, {"mode": "b"}, {"none": 1}]
    assert all(joined(read(several), read({**one, **other})) is None for other in others)
    assert joined(read(several), read({"x": one["x"]})) is None


def test_data_that_were_begun_have_lost_nothing():
    for kind, make in PASSES.items():
        first, data = begun(make(), 2)
        counts = [batch.inputs.batch for batch in batches(data, 2)]
        assert (sum(counts), counts[0]) == (5, first.inputs.batch), kind
    for wrong in ([], 3, "text"):
        with pytest.raises((TypeError, ValueError), match="Data must be a tensor of samples"):
            begun(wrong)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (3, TypeError),
        ("text", TypeError),
        (LABELLED[0:0], ValueError),
        (["text"], TypeError),
        ([(X, X, X)], TypeError),
        ([], ValueError),
        (torch.zeros(0, 3), ValueError),
        ((torch.zeros(3, 2), torch.zeros(4)), ValueError),
        ([{"labels": torch.zeros(3)}], TypeError),
    ],
)
def test_other_data_get_the_shared_sentence(data, error):
    with pytest.raises(error, match="Data must be a tensor of samples"):
        list(batches(data))


def test_sparse_targets_are_not_split():
    with pytest.raises(TypeError, match="a sparse tensor cannot be split, so pass batches"):
        list(batches((torch.zeros(3, 2), torch.eye(3).to_sparse())))


def test_a_dataset_is_not_taken_for_its_batches():
    samples = TensorDataset(torch.zeros(4, 2), torch.zeros(4))
    with pytest.raises(TypeError, match="got TensorDataset, which gives single samples: wrap it in a DataLoader"):
        list(batches(samples))
