"""Some hundred wrong calls of the library, each right or refused in a sentence; the fuzzer itself can fail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import SGD

import pruning_lib as prl
from tests.fuzz import arguments
from tests.fuzz.verdict import tried

DATA = {"Callback", "Evaluation", "Field", "Group", "History", "Hold", "Inputs", "Measurement", "Member", "Plan"}
DATA |= {"Reach", "Regularizer", "Shrunk", "Trajectory"}
"""What holds what it is given, and is seldom made by hand."""


def test_a_wrong_argument_is_refused_in_a_sentence_or_right(tmp_path: Path) -> None:
    tries = list(arguments.fuzz(300, 0, tmp_path))
    assert [each for each in tries if each.outcome == "faulty"] == []
    assert sum(each.outcome == "refused" for each in tries) > 150


def test_every_public_function_is_tried() -> None:
    names = {name for name, value in vars(prl).items() if callable(value) and not name.startswith("_")} - DATA
    functions = {getattr(case.function, "__name__", "") for case in arguments.cases()}
    named = {case.name.partition(" ")[0].partition(".")[0] for case in arguments.cases()}
    assert names - functions - named == {"flushed"}  # takes nothing


@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        (lambda model: None.shape, "a AttributeError"),
        (lambda model: torch.ones(2) + torch.ones(3), "no full stop"),
        (lambda model: prl.L2(5, 1.0), ""),
        (lambda model: model[0].weight.detach().zero_() + model, "something was changed"),
        (lambda model: model[0].weight.detach().fill_(torch.nan), "not finite were written"),
        (lambda model: torch.set_grad_enabled(False), "a setting of torch was changed"),
    ],
)
def test_the_verdict_finds_what_it_looks_for(wrong: Any, found: str) -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    try:
        result = tried("case", "what", lambda: wrong(model), {"model": model})
    finally:
        torch.set_grad_enabled(True)
    assert result.outcome == ("faulty" if found else "refused")
    assert found in result.text


@pytest.mark.parametrize(
    ("call", "error", "sentence"),
    [
        (lambda m, o: prl.L1(m, "0.1"), TypeError, "L1 got strength='0.1'; it needs a finite number ≥ 0"),
        (lambda m, o: prl.L2(m, True), TypeError, "L2 got strength=True"),
        (lambda m, o: prl.L2(m, 1.0, units={}), TypeError, "L2 got a dict for units; it needs the units that"),
        (lambda m, o: prl.L2(m, 1.0, apply=5), TypeError, "apply=5 is unknown; choose one of 'loss'"),
        (lambda m, o: prl.SeReNe(m, every=2.5), TypeError, "SeReNe got every=2.5; it needs a whole number"),
        (lambda m, o: prl.L1(m, 1.0).update(5), TypeError, "L1 got optimizer=5; it needs a torch.optim.Optimizer"),
        (lambda m, o: prl.L1(m, 1.0).update(o), ValueError, "L1 got an optimizer of another model"),
        (lambda m, o: prl.SeReNe(m).penalty([1]), TypeError, "SeReNe got a list for outputs; it needs the tensor"),
        (lambda m, o: prl.SeReNe(m).penalty(torch.ones(0, 3)), ValueError, "shape .0, 3. for outputs; it needs"),
        (lambda m, o: prl.L2(m, 1.0).load_state_dict(5), TypeError, "L2 got state=5; it needs what state_dict"),
        (lambda m, o: prl.measure(m.to("meta"), torch.ones(1, 4)), ValueError, "'0.weight' is on the meta device"),
        (lambda m, o: prl.evaluate(m, (1, 2)), TypeError, "Data must be a tensor of samples"),
        (lambda m, o: prl.evaluate(m, arguments.X), ValueError, "evaluate needs targets"),
        (
            lambda m, o: prl.evaluate(m, (torch.ones(2, 9), torch.ones(2))),
            RuntimeError,
            "`evaluate` could not run Sequential.forward on inputs of shape .* mat1 and mat2 .* Pass inputs that",
        ),
        (
            lambda m, o: prl.evaluate(m, (arguments.X, arguments.Y + 5)),
            ValueError,
            "evaluate cannot compute the loss: Target 5 is out of bounds",
        ),
        (
            lambda m, o: prl.evaluate(m, (arguments.X, arguments.Y), loss_fn=nn.MSELoss),
            TypeError,
            "evaluate got the class MSELoss for loss_fn; it needs a function",
        ),
        (lambda m, o: prl.recalibrate(m, arguments.X, 1), ValueError, "batch_size=1; it needs a whole number, 2"),
        (lambda m, o: prl.steps("x"), TypeError, "steps got milestone='x'; it needs a share"),
        (lambda m, o: prl.ramp(0.0), ValueError, r"ramp got share=0.0; it needs a share of the training in \(0, 1\]"),
        (lambda m, o: prl.Units([5]), TypeError, "Units is made of groups"),
        (lambda m, o: prl.History()["losses"], ValueError, "no column 'losses'; it has epoch, train_loss"),
        (lambda m, o: prl.bound_batchnorm(m, generator=0), TypeError, "generator=0; it needs a torch.Generator"),
        (lambda m, o: prl.L1(m, 10**30), ValueError, "L1 got strength=10+; torch holds no whole number of more than"),
        (lambda m, o: prl.load(m, "a\nb"), ValueError, r"load got path='a\\nb'; it needs a path of one line"),
        (lambda m, o: prl.load(m, "x" * 10**4), ValueError, "load got path=.x{39}….* it needs a path of one line"),
        (
            lambda m, o: prl.select(
                arguments.scores(), arguments.found(), loss_fn=arguments.loss, model=nn.Sequential(nn.Linear(4, 3))
            ),
            ValueError,
            "select got units of another model: its .0. has 3 channels, theirs has 6",
        ),
    ],
)
def test_sentences_say_what_came_and_what_is_needed(call: Any, error: type[Exception], sentence: str) -> None:
    foreign = SGD(nn.Linear(2, 2).parameters(), 0.1)
    with pytest.raises(error, match=sentence):
        call(arguments.network(), foreign)


def test_what_was_given_is_told_on_one_line_however_large_it_is() -> None:
    for value in ("x" * 10**6, "a\nb", 10**5000, torch.ones(50, 50), [1] * 10**5, {}, lambda: None):
        with pytest.raises(TypeError) as caught:
            prl.measure(value, torch.ones(1, 2))
        assert len(str(caught.value)) < 200
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("strength", [1, 0.5, np.float32(0.5), np.int64(1)])
def test_a_number_is_one_whoever_made_it(strength: Any) -> None:
    assert prl.L2(arguments.network(), strength).strength == float(strength)
