"""The optimizer's state is cut with the weights."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from pruning_lib.channels import shrink
from pruning_lib.companion.models import LeNet300
from tests.channels.helpers import Branch, kill, seeded, snapshot


def train_step(model, optimizer, x, y, masks=None):
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()
    for parameter, mask in masks or []:
        parameter.grad.mul_(mask)
    optimizer.step()
    with torch.no_grad():
        for parameter, mask in masks or []:
            parameter.mul_(mask)


OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.01, centered=True),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_goes_on_as_in_the_dense_network_held_at_zero(name):
    model = seeded(lambda: LeNet300(inputs=(1, 4, 4), widths=(9, 7), classes=4)).double()
    x, y = torch.randn(8, 1, 4, 4).double(), torch.randint(4, (8,))
    hidden = [{"params": [*model.fc1.parameters(), *model.fc2.parameters()], "lr": 0.02}]
    optimizer = OPTIMIZERS[name]([*hidden, {"params": model.fc3.parameters()}])
    masks = []
    for layer, reader, gone in ((model.fc1, model.fc2, [0, 3, 4]), (model.fc2, model.fc3, [1, 6])):
        row = torch.ones(len(layer.weight)).double()
        row[gone] = 0
        masks += [(layer.weight, row[:, None]), (layer.bias, row), (reader.weight, row[None, :])]
    for _ in range(3):
        train_step(model, optimizer, x, y, masks)
    before = copy.deepcopy(optimizer.state_dict())
    shrunk = shrink(model, x, optimizer=optimizer)
    assert shrunk.removed == {"fc1": 3, "fc2": 2}
    assert type(shrunk.optimizer) is type(optimizer)
    assert [group["lr"] for group in shrunk.optimizer.param_groups] == [group["lr"] for group in optimizer.param_groups]
    torch.testing.assert_close(optimizer.state_dict(), before, rtol=0, atol=0)
    start = snapshot(shrunk.model)
    for _ in range(3):
        train_step(model, optimizer, x, y, masks)
        train_step(shrunk.model, shrunk.optimizer, x, y)
    for full, tensor in shrunk.model.named_parameters():
        expected = model.get_parameter(full)
        for axis, index in shrunk.plan.kept.get(full, {}).items():
            expected = expected.index_select(int(axis), torch.tensor(index))
        torch.testing.assert_close(tensor, expected, rtol=0, atol=1e-14)
    assert not torch.equal(shrunk.model.fc3.weight, start["fc3.weight"])
    assert not torch.equal(shrunk.model.fc2.bias, start["fc2.bias"])


def test_optimizers_that_mix_weights_are_refused():
    model = seeded(lambda: LeNet300(inputs=(1, 4, 4), widths=(4, 3)))
    refused = [torch.optim.Adafactor(model.parameters()), torch.optim.LBFGS(model.parameters())]
    if hasattr(torch.optim, "Muon"):
        refused.append(torch.optim.Muon([model.fc1.weight]))
    for optimizer in refused:
        with pytest.raises(ValueError, match=f"{type(optimizer).__name__} keeps state that cannot be cut"):
            shrink(model, torch.randn(1, 1, 4, 4), optimizer=optimizer)
    with pytest.raises(TypeError, match=r"must be a torch.optim.Optimizer; got str"):
        shrink(model, torch.randn(1, 1, 4, 4), optimizer="SGD")


def test_an_optimizer_of_another_model_is_refused():
    model = seeded(lambda: LeNet300(inputs=(1, 4, 4), widths=(9, 7)))
    other = torch.optim.SGD(copy.deepcopy(model).parameters(), 0.1)
    with pytest.raises(ValueError, match="shrink got the optimizer of another model"):
        shrink(model, torch.randn(2, 1, 4, 4), optimizer=other)


@pytest.mark.parametrize("bias", [0.0, 1.0])
def test_the_new_optimizer_holds_parameters_alone(bias):
    """Where a constant stands in for a layer, its bias is a parameter, or, if it is 0, a buffer."""
    model = seeded(Branch)
    kill(model.conv2, list(range(6)), bias=0.0)
    torch.nn.init.constant_(model.bn2.bias, bias)
    small = shrink(model, torch.randn(2, 1, 9, 9), optimizer=torch.optim.SGD(model.parameters(), 0.1))
    mine = {id(parameter) for parameter in small.model.parameters()}
    held = {id(each) for group in small.optimizer.param_groups for each in group["params"]}
    assert held == mine
