"""Held zeros stay, whatever the optimizer does."""

import copy

import pytest
import torch
from torch import nn

from pruning_lib.selection import hold, zero
from tests.selection.chain import CHOSEN, chain, groups_of_chain


def train_a_little(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 5) -> None:
    for _ in range(steps):
        loss = model(torch.randn(8, 1, 4, 4)).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@pytest.mark.parametrize("make", [
    lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, weight_decay=1e-2),
    lambda p: torch.optim.AdamW(p, lr=0.01),
])  # fmt: skip
def test_held_zeros_stay_through_training_even_with_old_momentum(make):
    model, units = chain().train(), groups_of_chain()
    optimizer = make(model.parameters())
    train_a_little(model, optimizer)
    zero(model, CHOSEN, units)  # momentum left as it is
    held = hold(model, optimizer)
    before = copy.deepcopy(model)
    train_a_little(model, optimizer)
    assert (model[0].weight[CHOSEN["0"]] == 0).all()
    assert (model[1].weight[CHOSEN["0"]] == 0).all()
    assert (model[5].weight[1] == 0).all()
    assert not torch.equal(model[0].weight[~CHOSEN["0"]], before[0].weight[~CHOSEN["0"]])
    assert not torch.equal(model[1].bias, before[1].bias)
    held.remove()
    train_a_little(model, optimizer)
    assert (model[1].weight[CHOSEN["0"]] != 0).any(), "released zeros move again"


def test_an_optimizer_that_is_none_is_named():
    model = chain()
    with pytest.raises(TypeError, match="hold got optimizer=.*; it needs a torch.optim.Optimizer"):
        hold(model, "sgd")
    assert not any(parameter._backward_hooks for parameter in model.parameters())


class Sum(nn.Module):
    """Two tables whose gradients are views of one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = (nn.Parameter(torch.ones(2, 2)) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.a.unsqueeze(0) + self.b.unsqueeze(0)) * x


def test_a_mask_leaves_the_gradients_of_others_alone() -> None:
    model = Sum()
    with torch.no_grad():
        model.a[0, 0] = model.b[1, 1] = 0
    held = hold(model)
    given = torch.ones(1, 2, 2)
    model(torch.ones(1, 2, 2)).backward(given)
    assert model.a.grad is not None
    assert model.b.grad is not None
    assert model.a.grad.tolist() == [[0, 1], [1, 1]]
    assert model.b.grad.tolist() == [[1, 1], [1, 0]]
    assert bool((given == 1).all())
    held.remove()
