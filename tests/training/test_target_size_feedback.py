"""`TargetSize` with methods whose pull is not known: sizes that are reached by what an epoch has moved."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import pruning_lib as prl
from pruning_lib.training._pull import RANGE, START
from tests.training.runs import TRAIN, VAL, StoppedError, Stops, network, same
from tests.training.test_target_size import bare

METHODS = {
    "l2": lambda model, units: prl.L2(model, 0.03, units=units),
    "serene": lambda model, units: prl.SeReNe(model, 0.03, units=units),
    "stochastic": lambda model, units: prl.StochasticPruning(model, 0.03, units=units),
    "hoyer": lambda model, units: prl.GroupHoyer(model, 0.01, units=units),
    "group-sl": lambda model, units: prl.GroupSL(model, 0.01, units=units),
    "guided": lambda model, units: prl.Guided(model, 0.03, units=units),
    "polarization": lambda model, units: prl.Polarization(model, 0.01, units=units),
    "receding": lambda model, units: prl.RecedingNeurons(model, 0.3, units=units),
}
NORMALIZED = ("polarization", "receding")


def prepared(method, seed=0):
    """A network with what trains it and a method that makes it smaller."""
    model = network(seed, bn=method in NORMALIZED)
    if method == "receding":
        prl.bound_batchnorm(model)
    units = prl.find_units(model, TRAIN.inputs[:1])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return model, units, optimizer, METHODS[method](model, units)


@pytest.mark.parametrize("schedule", [prl.cosine, lambda progress: 1.0])
@pytest.mark.parametrize("times", [0.1, 1, 10])
@pytest.mark.parametrize("target", [0.3, 0.7])
def test_a_decay_reaches_a_share_against_resistances_from_a_guess_that_is_far_off(target, times, schedule):
    torch.manual_seed(0)
    lengths, resistance = 1 + 0.2 * torch.rand(200), torch.rand(200)
    model, units = bare(lengths)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    reg = prl.L2(model, times * 1.0, apply="decay", units=units)
    plan = {"epochs": 20, "steps": 400, "schedule": schedule, "threshold": 0.01}
    size = prl.TargetSize(model, reg, optimizer, units, units_left=target, **plan)
    assert size.log[0]["strength"] == pytest.approx(START * times)
    for epoch in range(20):
        for step in range(20):
            optimizer.param_groups[0]["lr"] = 0.1 * schedule((20 * epoch + step) / 400)
            weight = model[0].weight
            optimizer.zero_grad()
            # The loss lengthens a unit by its own share, up to the length 1.2.
            grows = (weight.detach().norm(dim=1) < 1.2) * resistance
            weight.grad = -weight.detach() * grows[:, None]
            optimizer.step()
            reg.update(optimizer)
        size.step()
    size.close()
    gone = (model[0].weight == 0).all(1)
    assert abs((1 - gone.float().mean().item()) - target) <= 0.05
    assert size.log[-1]["strength"] == 0
    assert resistance[gone].mean() < resistance[~gone].mean(), "those go that resist least"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.filterwarnings("ignore:.*was to leave:UserWarning")
def test_an_interrupted_run_ends_as_a_whole_one_and_what_was_counted_can_be_removed(tmp_path, method):
    def run(seed, checkpoint=None, stop=None):
        model, units, optimizer, reg = prepared(method, seed)
        given = reg.strength
        size = prl.TargetSize(model, reg, optimizer, units, units_left=0.5, threshold=0.1)

        prl.fit(
            model, TRAIN, VAL, epochs=16, optimizer=optimizer, regularizer=reg, callbacks=[size, Stops(stop)],
            batch_size=10, schedule=prl.cosine, progress=False, checkpoint=checkpoint,
        )  # fmt: skip
        assert reg.strength == given, "as it came"
        return model, size.log

    whole, log = run(0)
    assert log[-1]["left"] < 1, "the test is about units that go"
    widths = prl.shrink(whole, TRAIN.inputs[:1]).widths
    assert sum(after for _, after in widths.values()) / 20 == pytest.approx(log[-1]["left"])
    with pytest.raises(StoppedError):
        run(0, tmp_path / "run.pt", stop=9)
    again, resumed = run(0, tmp_path / "run.pt")
    assert resumed == log
    assert same(again, whole)


def test_behind_a_batchnorm_the_scale_is_what_counts():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
    units, optimizer = prl.find_units(model, torch.zeros(2, 3)), torch.optim.SGD(model.parameters(), lr=0.1)
    with torch.no_grad():
        model[0].weight[0] = 1e-6  # a BatchNorm divides by it
        model[1].weight.copy_(torch.tensor([1.0, 1.0, -0.01, 1.0]))
    size = prl.TargetSize(
        model, prl.GroupSL(model, 0.1, units=units), optimizer, units, units_left=0.5, threshold=0.02, epochs=2, steps=2
    )
    assert size.left == 0.75
    with pytest.raises(TypeError, match="L2 acts on no unit whose length says how near to zero it is"):
        prl.TargetSize(model, prl.L2(model, 0.1, units=units), optimizer, units, units_left=0.5, threshold=0.02)


def test_a_bounded_scale_is_held_by_its_mask():
    model, units, optimizer, reg = prepared("receding")
    size = prl.TargetSize(model, reg, optimizer, units, units_left=0.2, threshold=0.1, epochs=2, steps=20)
    norm = model.bn1
    with torch.no_grad():
        norm.parametrizations.weight.original[:3] = -9.0
        norm.parametrizations.weight.original[3:] = 3.0
    size.step()
    F.cross_entropy(model(TRAIN.inputs), TRAIN.targets).backward()
    optimizer.step()
    assert norm.weight[:3].tolist() == [0, 0, 0]
    assert (norm.weight[3:] > 0.5).all()
    size.close()


def test_what_guidance_pulls_on_is_known():
    torch.manual_seed(0)
    model, units = bare(torch.linspace(0.5, 1.5, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for base, longest in ((prl.GroupLasso, 2), (prl.L1, math.inf)):
        reg = prl.Guided(model, 0.5, base=base, units=units)
        expected = model[0].weight.detach().norm(longest, dim=1) / torch.linspace(0.1, 1, 10) * 0.55
        torch.testing.assert_close(reg.distance()["0"], expected)
        # A proximal step of just that pull, η λ = d, is where a unit goes.
        reg.strength = 10 * float(expected.sort().values[4]) + 1e-4
        prl.Guided.update(reg, optimizer)
        assert (model[0].weight == 0).all(1).sum() == 5
        model, units = bare(torch.linspace(0.5, 1.5, 10))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for other in ({}, {"base": prl.GroupLasso, "guidance": "step"}, {"base": prl.GroupLasso, "side": "both"}):
        with pytest.raises(TypeError, match="Guided does not pull on every unit alike"):
            prl.Guided(model, 0.5, units=units, **other).distance()


def test_a_guided_group_lasso_needs_no_guess_and_reaches_the_size():
    model, _, optimizer, _ = prepared("l2")
    units = prl.find_units(model, TRAIN.inputs[:1])
    reg = prl.Guided(model, 0.0, base=prl.GroupLasso, units=units)
    size = prl.TargetSize(model, reg, optimizer, units, units_left=0.5)
    prl.fit(
        model, TRAIN, VAL, epochs=24, optimizer=optimizer, regularizer=reg, callbacks=[size], batch_size=10,
        schedule=prl.cosine, progress=False,
    )  # fmt: skip
    assert size.log[-1]["left"] == pytest.approx(0.5, abs=0.051)


def test_a_share_of_each_step_falls_with_the_rate_that_the_loss_resists_with():
    model, units = bare(torch.ones(4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    reg = prl.SeReNe(model, 0.01, units=units)
    plan = {"epochs": 2, "steps": 100, "schedule": lambda progress: 1.0 if progress < 0.5 else 0.1}
    size = prl.TargetSize(model, reg, optimizer, units, units_left=0.5, threshold=0.1, **plan)
    assert size._drifts == pytest.approx([5.0, 0.5])
    with torch.no_grad():
        model[0].weight.mul_(math.exp(-5 * 0.2))  # 0.2 a unit of Σ η, at the strength 0.001 a step
    # log 10 − 1 are left to go, in 0.5 · 0.5 of Σ η: 46 times as fast; at most three times, and a tenth of that a step.
    assert size.step() == pytest.approx(0.001 * 3 * 0.1)


def test_no_strength_goes_beyond_what_the_method_takes_or_far_beyond_the_guess():
    model, units = bare(torch.ones(4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for reg, most in ((prl.SeReNe(model, 0.1, units=units), 1.0), (prl.L2(model, 0.1, units=units), 0.1 * RANGE)):
        plan = {"epochs": 30, "steps": 30, "threshold": 0.1}
        size = prl.TargetSize(model, reg, optimizer, units, units_left=0.5, **plan)
        strengths = [size.step() for _ in range(29)]  # nothing moves
        assert most / 2 < max(strengths) <= most
        with pytest.warns(UserWarning, match=r"was to leave 50.0% and leaves 100.0%, after strengths of up to"):
            size.step()


def test_wrong_use_is_named():
    model, units, optimizer, reg = prepared("l2")
    with pytest.raises(ValueError, match="L2 is steered by how fast units become shorter.*threshold > 0"):
        prl.TargetSize(model, reg, optimizer, units, units_left=0.5)
    reg.strength = 0.0
    with pytest.raises(ValueError, match="came to TargetSize with the strength 0.*build it with a first guess > 0"):
        prl.TargetSize(model, reg, optimizer, units, units_left=0.5, threshold=0.1)
    reg.strength = 0.1
    size = prl.TargetSize(model, reg, optimizer, units, units_left=0.5, threshold=0.1, epochs=2, steps=2)
    state = size.state_dict()
    with pytest.raises(ValueError, match="numbers that are not finite"):
        size.load_state_dict({**state, "gain": math.nan})
    del state["gain"]
    with pytest.raises(KeyError):
        size.load_state_dict(state)
    known = prl.TargetSize(model, prl.GroupLasso(model, 0.0, units=units), optimizer, units, units_left=0.5)
    known.load_state_dict(state)  # as before there was a gain to be learned


def test_a_threshold_that_most_units_lie_within_is_refused() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2))
    units, optimizer = prl.find_units(model, torch.zeros(1, 8)), torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"threshold=5, within which 100% of what can go lies already"):
        prl.TargetSize(model, prl.L2(model, 1e-2), optimizer, units, units_left=0.5, threshold=5.0)


def test_a_known_pull_that_misses_says_so() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2))
    units, optimizer = prl.find_units(model, torch.zeros(1, 8)), torch.optim.SGD(model.parameters(), lr=0.1)
    reg = prl.GroupLasso(model, strength=0.0, units=units)
    size = prl.TargetSize(model, reg, optimizer, units, units_left=0.5, epochs=1, steps=1)
    with pytest.warns(UserWarning, match=r"GroupLasso was to leave 50.0% and leaves 100.0%, .*: give it more epochs"):
        size.step()  # nothing was trained
