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
    assert not any(
        parameter._backward_hooks or parameter._post_accumulate_grad_hooks for parameter in model.parameters()
    )


def test_gradients_that_are_sparse_or_have_a_graph_are_masked_too() -> None:
    table = nn.Embedding(3, 2, sparse=True)
    with torch.no_grad():
        table.weight.fill_(1.0)[1, 0] = 0
    held = hold(table)
    table(torch.tensor([1, 2])).sum().backward()
    assert table.weight.grad is not None
    assert table.weight.grad.is_sparse
    assert table.weight.grad.to_dense().tolist() == [[0, 0], [0, 1], [1, 1]]
    held.remove()

    layer = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.0, 2.0]]))
    held = hold(layer)
    layer(torch.ones(1, 2)).square().sum().backward(create_graph=True)
    assert layer.weight.grad is not None
    assert layer.weight.grad.tolist() == [[0.0, 4.0]]
    held.remove()
