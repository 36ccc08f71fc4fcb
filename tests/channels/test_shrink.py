"""`shrink` as a whole: what it leaves alone, what it returns, what it refuses."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn

from pruning_lib import measure
from pruning_lib.channels import find_units, shrink
from pruning_lib.companion.models import LeNet5, LeNet300
from pruning_lib.regularizers import SeReNe
from tests.channels.helpers import kill, seeded, snapshot


def test_the_model_that_came_in_is_untouched():
    model = seeded(lambda: LeNet5(widths=(4, 5, 6), bn=True)).train()
    kill(model.conv1, [0, 1])
    model.fc1.eval()
    model.conv2.weight.requires_grad_(False)
    before, modes = snapshot(model), [module.training for module in model.modules()]
    tensors = {name: id(parameter) for name, parameter in model.named_parameters()}
    example = torch.randn(3, 1, 28, 28)
    kept = example.clone()
    shrunk = shrink(model, example)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert modes == [module.training for module in model.modules()]
    assert modes == [module.training for module in shrunk.model.modules()]
    assert tensors == {name: id(parameter) for name, parameter in model.named_parameters()}
    assert torch.equal(example, kept)
    assert not shrunk.model.conv2.weight.requires_grad
    assert shrunk.model.conv1.weight.requires_grad
    assert type(shrunk.model) is LeNet5
    assert shrunk.removed["conv1"] == 2


def test_random_state_and_log_are_left_alone(caplog, capfd):
    model = seeded(LeNet300)
    state, level = torch.random.get_rng_state(), logging.root.manager.disable
    with caplog.at_level(logging.INFO):
        shrink(model, torch.zeros(1, 1, 28, 28))
    assert torch.equal(state, torch.random.get_rng_state())
    assert logging.root.manager.disable == level
    assert caplog.records == []
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_dtype_is_kept(dtype):
    model = seeded(lambda: LeNet5(widths=(4, 5, 6), padding=1)).to(dtype)
    kill(model.conv1, [0, 3])
    shrunk = shrink(model, torch.randn(2, 1, 28, 28, dtype=dtype))
    assert {parameter.dtype for parameter in shrunk.model.parameters()} == {dtype}
    assert shrunk.removed["conv1"] >= 1
    assert shrunk.max_error < 1e-9


def test_layers_of_complex_numbers_lose_nothing():
    model = seeded(lambda: nn.Sequential(*(nn.Linear(6, 6, dtype=torch.complex64) for _ in range(2))))
    kill(model[0], [0, 3])
    shrunk = shrink(model, torch.randn(2, 6, dtype=torch.complex64))
    assert shrunk.removed == {"0": 0}
    x = torch.randn(5, 6, dtype=torch.complex64)
    assert torch.equal(shrunk.model(x), model(x))


def test_shrinking_twice_removes_nothing_more():
    model = seeded(lambda: LeNet5(bn=True, padding=2, widths=(6, 8, 20)))
    for layer, count in ((model.conv1, 3), (model.conv2, 4), (model.fc1, 11)):
        kill(layer, list(range(count)))
    nn.init.uniform_(model.bn1.bias)
    first = shrink(model, torch.randn(2, 1, 28, 28))
    second = shrink(first.model, torch.randn(2, 1, 28, 28))
    assert sum(first.removed.values()) > 10
    assert sum(second.removed.values()) == 0
    assert second.plan.kept == {}
    state = first.model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in second.model.state_dict().items())


def test_hooks_of_an_observing_regularizer_are_not_copied():
    model = seeded(lambda: LeNet300(inputs=(1, 4, 4), widths=(6, 5)))
    kill(model.fc1, [0, 1])
    regularizer = SeReNe(model, strength=1e-4)
    x = torch.randn(3, 1, 4, 4)
    logits = model(x)
    shrunk = shrink(model, x)
    assert not any(module._forward_hooks for module in shrunk.model.modules())
    regularizer.penalty(logits)  # the original is still observed
    assert shrunk.removed["fc1"] == 2


@pytest.mark.slow
def test_what_comes_back_compiles_and_exports(tmp_path):
    model = seeded(lambda: LeNet5(widths=(6, 8, 20), bn=True, padding=2)).eval()
    kill(model.conv1, [0, 3])
    kill(model.conv2, [1, 2, 5])
    shrunk = shrink(model, torch.randn(2, 1, 28, 28)).model
    x = torch.randn(3, 1, 28, 28)
    torch.testing.assert_close(torch.compile(shrunk, backend="aot_eager")(x), shrunk(x))
    onnxruntime = pytest.importorskip("onnxruntime")
    path = tmp_path / "a.onnx"
    torch.onnx.export(shrunk, (x,), path, dynamo=True, verbose=False, dynamic_shapes=({0: "batch"},))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: x[:2].numpy()})
    torch.testing.assert_close(torch.from_numpy(found), shrunk(x[:2]).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("model", "example", "error", "sentence"),
    [
        (nn.Sequential(nn.ReLU()), torch.ones(1, 2), ValueError, "has no prunable layer"),
        (LeNet300(), torch.ones(1, 1, 28, 28, dtype=torch.float64), ValueError, "The example is torch.float64"),
        (LeNet300(), torch.ones(1, 1, 28, 28, device="meta"), ValueError, "The example is on meta, the model on cpu"),
        (LeNet300(), [[1.0]], TypeError, "must hold a tensor"),
        (LeNet300(), torch.ones(0, 1, 28, 28), ValueError, "at least one sample"),
        (LeNet300(), torch.ones(2, 3, 9, 9), RuntimeError, "could not run LeNet300.forward on the example of shape"),
        (nn.Sequential(nn.LazyLinear(3)), torch.ones(1, 2), ValueError, "has no shape yet"),
        ("LeNet300", torch.ones(1, 2), TypeError, "must be a torch.nn.Module; got str"),
    ],
)
@pytest.mark.parametrize("function", [find_units, shrink])
def test_bad_input_gets_its_own_sentence(function, model, example, error, sentence):
    with pytest.raises(error, match=sentence) as caught:
        function(model, example)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda model: torch.compile(model, backend="eager")])
def test_wrappers_are_looked_through(wrap):
    model = seeded(lambda: LeNet300(inputs=(1, 4, 4), widths=(6, 5)))
    kill(model.fc1, [0, 1])
    x, wrapped = torch.randn(3, 1, 4, 4), wrap(model)
    assert list(find_units(wrapped, x)) == ["fc1", "fc2"]
    shrunk = shrink(wrapped, x, optimizer=torch.optim.SGD(wrapped.parameters(), 0.1))
    assert type(shrunk.model) is LeNet300
    assert shrunk.removed["fc1"] == 2
    assert shrunk.plan.model == "LeNet300"


def test_a_network_of_constants_is_a_network():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 2), nn.Linear(4, 2)

        def forward(self, x):
            return self.a(x), self.b(x)

    model = Two()
    kill(model.a, [0, 1])
    kill(model.b, [0, 1])
    x = torch.randn(2, 4)
    small = shrink(model, x).model
    assert list(small.children()) == [small.a, small.b]
    assert not find_units(small, x)
    assert shrink(small, x).plan.kept == {}
    assert measure(small, x).macs == 0
