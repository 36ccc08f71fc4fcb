"""Counting by hand, and BatchNorm statistics by their definition."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from pruning_lib._measure import measure, recalibrate
from pruning_lib.channels import shrink
from pruning_lib.companion.models import LeNet5, LeNet300


@pytest.mark.parametrize("batch", [1, 7])
def test_lenets_by_hand(batch):
    found = measure(LeNet5(), torch.randn(batch, 1, 28, 28))
    assert found.macs == 24 * 24 * 20 * 25 + 8 * 8 * 50 * 20 * 25 + 800 * 500 + 500 * 10 == 2_293_000
    assert found.parameters == 431_080
    assert found.bytes == 4 * 431_080
    assert found.latency_ms is None
    assert measure(LeNet300(), torch.randn(batch, 1, 28, 28)).macs == 266_200


def test_zeros_are_counted_and_removal_is_no_zero():
    model = LeNet300()
    with torch.no_grad():
        model.fc1.weight[:100] = 0
        model.fc1.bias[:100] = 0
        model.fc2.weight[:, :100] = 0
    dense = measure(model, torch.randn(2, 1, 28, 28))
    assert dense.parameters - dense.nonzero == 100 * 785 + 100 * 100
    small = measure(shrink(model, torch.randn(2, 1, 28, 28)).model, torch.randn(2, 1, 28, 28))
    assert small.parameters == small.nonzero == dense.nonzero
    assert small.macs == 784 * 200 + 200 * 100 + 100 * 10


def test_shared_weights_and_buffers_count_once():
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.BatchNorm1d(3), nn.Linear(3, 3, bias=False)).double()
    model[2].weight = model[0].weight
    found = measure(model, torch.randn(2, 3).double())
    assert found.parameters == 9 + 6
    assert found.bytes == 8 * (9 + 6 + 6) + 8  # num_batches_tracked is an int64
    assert found.macs == 18


def test_latency_is_measured_and_threads_come_back():
    before = torch.get_num_threads()
    model = LeNet300().train()
    found = measure(model, torch.randn(2, 1, 28, 28), latency=True, repeats=3)
    assert 0 < found.latency_ms < 1000
    assert torch.get_num_threads() == before
    assert model.training
    assert "ms" in str(found)
    assert str(found).splitlines()[0].split() == ["parameters", "266,610"]


def test_bad_input_of_measure():
    with pytest.raises(ValueError, match=r"The example is torch.float64"):
        measure(LeNet300(), torch.randn(1, 1, 28, 28).double())
    with pytest.raises(ValueError, match="repeats=0; it needs a whole number, 1 or more"):
        measure(LeNet300(), torch.randn(1, 1, 28, 28), latency=True, repeats=0)
    with pytest.raises(RuntimeError, match=r"could not run LeNet300.forward on inputs of shape"):
        measure(LeNet300(), torch.randn(1, 1, 9, 9))


@pytest.mark.parametrize("batch_size", [4, 5, 12])
def test_recalibrate_computes_the_mean_of_the_data(batch_size):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.ReLU(), nn.Linear(4, 2)).double()
    model.train()
    model[1].momentum = 0.3
    inputs = torch.randn(13, 3).double()
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    recalibrate(model, inputs, batch_size=batch_size)
    values = inputs @ model[0].weight.T + model[0].bias
    torch.testing.assert_close(model[1].running_mean, values.mean(0).detach())
    ends = {4: [4, 8, 13], 5: [5, 10, 13], 12: [13]}[batch_size]
    parts = [values[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    variance = sum(len(part) * part.var(0) for part in parts) / 13
    torch.testing.assert_close(model[1].running_var, variance.detach())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.named_parameters())
    assert model[1].momentum == 0.3
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("sizes", [[8, 1], [1, 8], [4, 4, 1], [4, 1, 4]])
def test_a_batch_of_one_sample_counts_in_the_batch_beside_it(sizes):
    torch.manual_seed(0)
    model, inputs = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8)).double(), torch.randn(9, 4).double()
    parts = inputs.split(sizes)
    recalibrate(model, [(part, ["a name"] * len(part)) for part in parts])  # what stands beside is not looked at
    ends = {(8, 1): [9], (1, 8): [9], (4, 4, 1): [4, 9], (4, 1, 4): [5, 9]}[tuple(sizes)]
    values = model[0](inputs).detach()
    seen = [values[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    torch.testing.assert_close(model[1].running_mean, values.mean(0))
    torch.testing.assert_close(model[1].running_var, sum(len(part) * part.var(0) for part in seen) / 9)


def test_recalibrate_by_a_loader_is_that_by_tensors_and_lone_samples_are_refused_in_words():
    torch.manual_seed(0)
    model, inputs = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8)), torch.randn(9, 4)
    found = []
    for data in (DataLoader(TensorDataset(inputs, torch.arange(9)), batch_size=4), inputs):
        recalibrate(model, data, batch_size=4)
        found.append((model[1].running_mean.clone(), model[1].running_var.clone()))
    torch.testing.assert_close(*found, rtol=0, atol=0)
    for few in ([inputs[:1]], (inputs[:1], torch.arange(1)), inputs[:1]):
        with pytest.raises(ValueError, match="needs at least two samples, since one has no variance: pass more data"):
            recalibrate(model, few)
    with pytest.raises(RuntimeError, match=r"more than 1 value .* pass batches of two or more, by a larger batch_size"):
        recalibrate(model, DataLoader(inputs, batch_size=1))
    torch.testing.assert_close((model[1].running_mean, model[1].running_var), found[1], rtol=0, atol=0)


def test_recalibrate_leaves_everything_as_it_was_when_it_fails():
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(3, 2))
    model[0].running_mean.fill_(5)
    with pytest.raises(RuntimeError):
        recalibrate(model, torch.randn(8, 4))
    assert torch.equal(model[0].running_mean, torch.full((4,), 5.0))
    assert model[0].num_batches_tracked == 0
    with pytest.raises(ValueError, match="at least two samples"):
        recalibrate(model, torch.randn(1, 4))
    recalibrate(nn.Linear(3, 2), torch.randn(4, 3))


def test_attention_and_lstms_are_counted_although_eval_mode_fuses_them():
    torch.manual_seed(0)
    model = nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), nn.Linear(8, 2)).eval()
    # 5 tokens: queries, keys, values and their output; scores and their mean; the two layers behind; the head.
    by_hand = 5 * 4 * 8 * 8 + 2 * 5 * 5 * 8 + 5 * 2 * 8 * 16 + 5 * 8 * 2
    assert measure(model, torch.randn(2, 5, 8)).macs == by_hand == 3040

    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.head = nn.LSTM(8, 16, batch_first=True), nn.Linear(16, 2)

        def forward(self, x):
            return self.head(self.cell(x)[0][:, -1])

    assert measure(Last(), torch.randn(3, 5, 8)).macs == 5 * 4 * 16 * (8 + 16) + 32
    assert torch.backends.mha.get_fastpath_enabled()
    assert torch.backends.mkldnn.is_available() == torch._C._get_mkldnn_enabled()


def test_a_token_that_is_expanded_and_handed_on_is_measured():
    class Tokens(nn.Module):
        """Hands a view of a parameter to a module, as networks with a class token do."""

        def __init__(self):
            super().__init__()
            self.token, self.layer = nn.Parameter(torch.zeros(1, 1, 8)), nn.Linear(8, 4)

        def forward(self, x):
            return self.layer(self.token.expand(len(x), -1, -1)) + self.layer(x)

    model = Tokens()
    assert measure(model, torch.zeros(2, 3, 8, requires_grad=True)).macs == 8 * 4 * (1 + 3)
    assert model.token.requires_grad


def test_recalibrate_averages_over_all_calls_of_a_batchnorm():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.head = nn.BatchNorm1d(3), nn.Linear(3, 2)

        def forward(self, x):
            return self.head(self.norm(x) + self.norm(x + 10))

    model, inputs = Twice(), torch.randn(64, 3)
    recalibrate(model, inputs, batch_size=16)
    torch.testing.assert_close(model.norm.running_mean, inputs.mean(0) + 5)
    assert (model.norm.momentum, len(model.norm._forward_pre_hooks)) == (0.1, 0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_recalibrate_refuses_statistics_that_are_no_numbers(value):
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    model[1].running_mean.fill_(5)
    inputs = torch.randn(8, 3)
    inputs[2, 1] = value
    with pytest.raises(ValueError, match="NaN or infinite"):
        recalibrate(model, inputs)
    assert torch.equal(model[1].running_mean, torch.full((4,), 5.0))
    assert model[1].num_batches_tracked == 0


def test_recalibrate_takes_batches_and_leaves_idle_layers_alone():
    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.head = nn.BatchNorm1d(3), nn.BatchNorm1d(3)

        def forward(self, x):
            return self.head(self.norm(x)) if self.training else self.norm(x)

    model, inputs = Idle(), torch.randn(60, 3)
    model.head.running_mean.fill_(5)
    recalibrate(nn.DataParallel(model), [(part, torch.zeros(20)) for part in inputs.split(20)])
    torch.testing.assert_close(model.norm.running_mean, inputs.mean(0))
    assert torch.equal(model.head.running_mean, torch.full((3,), 5.0))
    with pytest.raises(TypeError, match="Data must be a tensor of samples"):
        recalibrate(model, 3)


def test_a_network_of_constants_is_measured():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    with torch.no_grad():
        model[0].weight.zero_()
    assert measure(nn.ReLU(), torch.ones(2, 3)).parameters == 0
    with pytest.raises(ValueError, match="has no batch axis"):
        measure(model, torch.ones(3))


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda model: torch.compile(model, backend="eager")])
def test_wrappers_are_looked_through(wrap):
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    assert measure(wrap(model), torch.ones(2, 3)) == measure(model, torch.ones(2, 3))


class OneMemory:
    """A loader that fills the same tensor for every batch, as those do that prefetch into pinned memory."""

    def __init__(self, data: torch.Tensor, size: int) -> None:
        self.data, self.batch = data, torch.empty(size, *data.shape[1:])

    def __iter__(self):
        for rows in torch.split(self.data, len(self.batch)):
            yield self.batch.copy_(rows)


def test_recalibrate_by_a_loader_that_fills_one_tensor_again_and_again():
    data = torch.randn(64, 3) + torch.arange(64.0)[:, None]
    norm = nn.BatchNorm1d(3)
    recalibrate(nn.Sequential(norm), OneMemory(data, 16))
    torch.testing.assert_close(norm.running_mean, data.mean(0))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_statistics_of_a_network_in_half_precision_are_those_of_all_batches(dtype):
    data = (
        torch.randn(4096, 3, generator=torch.Generator().manual_seed(0)) * 2 + 5 + torch.linspace(-3, 3, 4096)[:, None]
    )
    data = data.to(dtype)
    norm, exact = nn.BatchNorm1d(3).to(dtype), nn.BatchNorm1d(3)
    recalibrate(nn.Sequential(norm), data, batch_size=4)
    recalibrate(nn.Sequential(exact), data.float(), batch_size=4)
    resolution = torch.finfo(dtype).eps
    torch.testing.assert_close(norm.running_mean.float(), exact.running_mean, rtol=resolution, atol=0)
    torch.testing.assert_close(norm.running_var.float(), exact.running_var, rtol=4 * resolution, atol=0)


def test_recalibrate_sees_what_a_layer_is_called_with_by_name():
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(2)

        def forward(self, x):
            return self.norm(input=x)

    model, data = Named(), torch.randn(10, 2)
    recalibrate(model, data)
    torch.testing.assert_close(model.norm.running_mean, data.mean(0))
