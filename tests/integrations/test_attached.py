"""The update follows steps that are taken, and a state is restored whole or not at all."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import pruning_lib as prl
from pruning_lib.integrations._attached import Attached, Plan, schedule_of
from tests.integrations.loops import METHODS, Raise, network, optimizer

PLAN = Plan(1, 5, prl.training.constant)


def attached(model: nn.Module, *callbacks: prl.Callback) -> Attached:
    return Attached(METHODS["GroupLasso"](model), callbacks, "it")


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_a_gradient_scaler_skips_is_no_update(fused: bool) -> None:
    model = network()
    step = torch.optim.SGD(model.parameters(), 0.1, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    attached(model).start(model, step, PLAN)
    for size, moves in ((torch.inf, False), (1.0, True)):
        before = copy.deepcopy(model.state_dict())
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        weight = model[0].weight
        scaler.scale((weight * size).sum()).backward()  # type: ignore[no-untyped-call]
        scaler.step(step)
        scaler.update()
        # The linear layer has slope 0: what moves it is the regularizer alone.
        assert torch.equal(before["4.weight"], model[4].weight) != moves


def test_after_the_end_the_optimizer_is_free() -> None:
    model = network()
    step, own = optimizer(model), attached(model)
    own.start(model, step, PLAN)
    own.start(model, step, PLAN)  # as after an error that told nobody
    assert len(step._optimizer_step_post_hooks) == 1
    own.close()
    assert not step._optimizer_step_post_hooks


def test_the_penalty_is_of_outputs_in_training_alone() -> None:
    model = network()
    own = attached(model)
    own.watch(model)
    with torch.no_grad():
        model(torch.zeros(2, 1, 4, 4))
    model.eval()(torch.zeros(2, 1, 4, 4))
    with pytest.raises(RuntimeError, match=r"saw no forward pass of the network in this step"):
        own.penalty(None)
    model.train()(torch.zeros(2, 1, 4, 4))
    with pytest.raises(TypeError, match=r"got a list for the outputs.* by `logits="):
        own.penalty(lambda outputs: [outputs])  # type: ignore[arg-type, return-value]


def test_a_state_is_restored_whole_or_not_at_all() -> None:
    class Refuses(prl.Callback):
        def load_state_dict(self, state: Any) -> None:
            raise KeyError("mine")

    model = network()
    control = Raise()
    own = attached(model, control, Refuses())
    state = {"regularizer": {"strength": 7.0}, "callbacks": [{"log": [7.0]}, {}], "epoch": 7}
    with pytest.raises(KeyError):
        own.load_state_dict(state)
    assert own.regularizer.strength == 0.3
    assert control.log == []
    assert own.epoch == 0


def test_sharded_weights_are_refused() -> None:
    class Sharded(nn.Parameter):
        placements = ()

    model = network()
    model[0].weight = Sharded(model[0].weight.detach())
    with pytest.raises(ValueError, match=r"weights are sharded over processes, which is not supported; use DDP"):
        attached(model).start(model, optimizer(model), PLAN)


def test_a_schedule_is_read_where_it_is_known_in_advance() -> None:
    step = optimizer(network())
    halved = torch.optim.lr_scheduler.LambdaLR(step, lambda done: 0.5**done)
    assert schedule_of(None, 4)(0.7) == 1
    assert [schedule_of(halved, 4)(progress) for progress in (0, 0.25, 0.75)] == [1, 0.5, 0.125]
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(step)
    with pytest.raises(ValueError, match=r"what ReduceLROnPlateau will do .* pass `schedule="):
        schedule_of(plateau, 4)(0.0)
