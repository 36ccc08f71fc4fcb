"""`TargetSize`: sizes that are reached on purpose, by arithmetic, against resistance, and after an interruption."""

import copy
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import pruning_lib as prl
from tests.training.runs import TRAIN, VAL, StoppedError, Stops, network, same


def bare(lengths):
    """A linear layer with units of these lengths, which a second one reads."""
    model = nn.Sequential(nn.Linear(3, len(lengths), bias=False), nn.ReLU(), nn.Linear(len(lengths), 1))
    with torch.no_grad():
        model[0].weight.copy_(F.normalize(torch.randn(len(lengths), 3)) * lengths[:, None])
    return model, prl.find_units(model, torch.zeros(1, 3))


def resist(model, resistance, optimizer):
    """Set the gradient of a loss that lengthens unit i by `resistance` i."""
    weight = model[0].weight
    optimizer.zero_grad()
    weight.grad = -F.normalize(weight.detach()) * resistance[:, None]


@pytest.mark.parametrize("schedule", [prl.cosine, lambda progress: 1.0])
@pytest.mark.parametrize("target", [0.3, 0.5, 0.8])
@pytest.mark.parametrize("seed", range(3))
def test_a_share_is_reached_against_resistances_that_nobody_told(seed, target, schedule):
    torch.manual_seed(seed)
    lengths, resistance = 1 + 0.2 * torch.rand(200), torch.rand(200)
    model, units = bare(lengths)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    reg = prl.GroupLasso(model, 0.0, units=units)
    size = prl.TargetSize(model, reg, optimizer, units, units_left=target, epochs=20, steps=400, schedule=schedule)
    for epoch in range(20):
        for step in range(20):
            optimizer.param_groups[0]["lr"] = 0.1 * schedule((20 * epoch + step) / 400)
            resist(model, resistance, optimizer)
            optimizer.step()
            reg.update(optimizer)
        size.step()
    size.close()
    gone = (model[0].weight == 0).all(1)
    assert abs((1 - gone.float().mean().item()) - target) <= 0.05
    left = pytest.approx(1 - gone.float().mean().item())
    assert size.log[-1] == {"epoch": 20, "strength": 0.0, "left": left, "expected": left}
    assert resistance[gone].mean() < resistance[~gone].mean(), "those go that resist least"


def test_the_first_strength_is_that_of_reach_and_units_that_went_stay_gone():
    torch.manual_seed(0)
    model, units = bare(torch.linspace(0.5, 1.5, 11))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    reg = prl.GroupLasso(model, 1.0, units=units)
    needed = prl.reach(reg, optimizer, steps=70).strength_for(6 / 11)
    size = prl.TargetSize(model, reg, optimizer, units, units_left=5.5 / 11, epochs=10, steps=100)
    assert reg.strength == pytest.approx(needed)
    with torch.no_grad():
        model[0].weight[2] = 0
    size.step()
    optimizer.zero_grad()
    model[0](torch.randn(50, 3)).sum().backward()
    optimizer.step()
    assert not model[0].weight[2].any()
    assert model[0].weight[3].any()
    assert not model[0].weight.grad[2].any()
    size.close()
    model[0](torch.randn(50, 3)).sum().backward()
    optimizer.step()
    assert model[0].weight[2].any(), "once it is closed, nothing is held"


@pytest.mark.parametrize("wish", [{"units_left": 0.5}, {"macs_left": 0.4}])
def test_fit_reaches_a_size_and_an_interrupted_run_ends_the_same(tmp_path, wish):
    def run(model, checkpoint=None, stop=None):
        units = prl.find_units(model, TRAIN.inputs[:1])
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        reg = prl.GroupLasso(model, 0.01, units=units)
        size = prl.TargetSize(model, reg, optimizer, units, **wish)

        prl.fit(
            model, TRAIN, VAL, epochs=24, optimizer=optimizer, regularizer=reg, callbacks=[size, Stops(stop)],
            batch_size=10, schedule=prl.cosine, strength_schedule=prl.ramp(0.1), progress=False, checkpoint=checkpoint,
        )  # fmt: skip
        assert reg.strength == 0.01, "as it came"
        return size.log

    whole, parts = network(), network()
    log = run(whole)
    assert len(log) == 25
    assert 0.8 * next(iter(wish.values())) - 0.05 <= log[-1]["left"] <= next(iter(wish.values())) + 0.05
    small = prl.shrink(whole, TRAIN.inputs[:1])
    if "macs_left" in wish:
        share = prl.measure(small.model, TRAIN.inputs[:1]).macs / prl.measure(whole, TRAIN.inputs[:1]).macs
    else:
        share = sum(after for _, after in small.widths.values()) / 20
    assert share == pytest.approx(log[-1]["left"]), "what was counted is what can be removed"
    with pytest.raises(StoppedError):
        run(parts, tmp_path / "run.pt", stop=13)
    again = network(seed=1)
    assert run(again, tmp_path / "run.pt") == log
    assert same(again, whole)


def test_a_channel_that_a_constant_keeps_counts_as_left():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 1), nn.Sigmoid(), nn.Conv2d(8, 1, 3, padding=1))
    example = torch.rand(2, 1, 5, 5)
    units = prl.find_units(model, example)
    optimizer, reg = torch.optim.SGD(model.parameters(), lr=0.1), prl.GroupLasso(model, 0.0, units=units)
    size = prl.TargetSize(model, reg, optimizer, units, macs_left=0.5, epochs=2, steps=2)
    with torch.no_grad():
        model[0].weight[:4] = 0
        model[0].bias[:4] = 0
    small = prl.shrink(model, example).model
    assert small[0].out_channels == 5, "of the four, one stays for the constant 0.5"
    assert size.left == prl.measure(small, example).macs / prl.measure(model, example).macs
    size.close()


def test_a_unit_of_a_stream_is_as_far_as_the_farthest_scale():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.out = nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(4, 2)
            self.na, self.nb = nn.BatchNorm1d(4), nn.BatchNorm1d(4)

        def forward(self, x):
            return self.out((self.na(self.a(x)) + self.nb(self.b(x))).relu())

    model = Sum()
    units = prl.find_units(model, torch.zeros(1, 3))
    reg = prl.NetworkSlimming(model, 0.0, apply="prox", units=units)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with torch.no_grad():
        model.na.weight.copy_(torch.tensor([0.0, 0.0, 1.0, 1.0]))
        model.nb.weight.copy_(torch.tensor([0.0, 2.0, 0.0, 1.0]))
    size = prl.TargetSize(model, reg, optimizer, units, units_left=0.5, within=1.0, epochs=1, steps=1)
    (entry,) = size.log
    assert entry == {"epoch": 0, "strength": pytest.approx(1 / 0.1), "left": 0.75, "expected": 0.25}, (
        "one has gone, two at 1"
    )


def test_coupled_units_that_went_stay_gone_while_what_read_them_moves():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 6, bias=False), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2))
    units = prl.find_units(model, torch.zeros(2, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    reg = prl.GroupLasso(model, 0.0, over="coupled", units=units)
    size = prl.TargetSize(model, reg, optimizer, units, units_left=0.5, epochs=3, steps=3)
    with torch.no_grad():
        for parameter in (model[0].weight, model[1].weight):
            parameter[:3] = 0
        model[1].bias.fill_(1.0)  # what a unit still emits moves the weights that read it
        model[3].weight[:, :3] = 0
    for _ in range(3):
        assert size.step() == 0
        assert size.left == pytest.approx(0.5)
        optimizer.zero_grad()
        F.cross_entropy(model(torch.randn(8, 3)), torch.arange(8) % 2).backward()
        optimizer.step()
    assert (model[3].weight[:, :3] != 0).any()
    assert not model[0].weight[:3].any()
    assert [entry["left"] for entry in size.log[1:]] == [pytest.approx(0.5)] * 3
    size.close()


def test_an_epoch_that_took_too_little_is_followed_by_more_and_a_strength_of_0_recovers():
    model = nn.Sequential(nn.Linear(3, 40), nn.ReLU(), nn.Linear(40, 2))
    reg = prl.GroupLasso(model, 0.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    units = prl.find_units(model, torch.randn(2, 3))
    size = prl.TargetSize(model, reg, optimizer, units, units_left=0.5, within=0.2, epochs=10, steps=10)
    strengths = [size.step() for _ in range(6)]  # nothing moves, as if noise held every unit
    assert all(after >= 1.29 * before for before, after in pairwise(strengths[1:]))
    reg.strength = 0.0
    size.log[-1]["strength"] = 0.0
    assert size.step() > 0


def test_there_is_no_haste_while_the_units_come_down_as_expected():
    """Scales that start alike reach zero together and late: none has gone when a count of zeros would cry for more."""
    torch.manual_seed(0)
    lengths, resistance = 1 + 0.1 * torch.rand(200), 0.02 + 0.02 * torch.rand(200)
    model, units = bare(lengths)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    reg = prl.GroupLasso(model, 0.0, units=units)
    size = prl.TargetSize(model, reg, optimizer, units, units_left=0.5, epochs=15, steps=150, schedule=prl.cosine)
    for epoch in range(15):
        for step in range(10):
            optimizer.param_groups[0]["lr"] = 0.1 * prl.cosine((10 * epoch + step) / 150)
            resist(model, resistance, optimizer)
            optimizer.step()
            reg.update(optimizer)
        size.step()
    size.close()
    before = [entry["strength"] for entry in size.log if entry["left"] == 1]
    assert len(before) >= 5, "the test is about epochs in which nothing goes"
    assert max(before) < 1.1 * before[1]
    assert abs(size.log[-1]["left"] - 0.5) <= 0.05


def test_haste_does_not_expect_to_take_more_than_half_of_what_shall_stay():
    torch.manual_seed(0)
    model, units = bare(1 + 0.01 * torch.rand(200))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    reg = prl.GroupLasso(model, 0.0, units=units)
    size = prl.TargetSize(model, reg, optimizer, units, units_left=0.6, within=0.2, epochs=10, steps=100)
    for _ in range(8):  # nothing moves, as if noise held every unit; they all lie close together
        size.step()
    assert min(entry["expected"] for entry in size.log) == pytest.approx(0.3, abs=0.01)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (10, 26),  # 1.3 times as far in an epoch of half the rate
        (20, 30),  # 52 would be that, and at 30 the target is expected
        (24, 31.2),  # 1.3 times the strength, whatever is expected
        (28, 35),  # but never more than half of what shall stay
    ],
)
def test_haste_makes_up_for_a_falling_rate_until_the_target_is_expected(before, after):
    model, units = bare(1 + torch.arange(1, 101) / 100)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    reg = prl.GroupLasso(model, 0.0, units=units)
    falling = {"schedule": lambda progress: 1.0 if progress < 0.5 else 0.5}
    size = prl.TargetSize(model, reg, optimizer, units, units_left=0.5, epochs=4, steps=8, **falling)
    size.log = size.log * 2  # two epochs of Σ η = 0.1 are over, one of 0.05 follows: λ of 20 to 40 bring units to zero
    reg.strength = before
    assert size._hurried(1.3) == pytest.approx(after, rel=1e-3)


@pytest.mark.parametrize(
    ("expected", "left", "times"),
    [
        (0.998, 1.0, 0.0),  # a unit or two of a thousand: too little to tell anything
        (0.7, 0.95, 1.5),
        (0.7, 0.89, 1.3),
        (0.7, 0.84, 0.0),  # about half of what was expected
        (0.1, 0.65, 0.0),  # much less than was expected, but what is missing now takes less than another such epoch
    ],
)
def test_haste_needs_an_epoch_of_which_more_was_expected(expected, left, times):
    model, units = bare(torch.ones(4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    size = prl.TargetSize(
        model, prl.GroupLasso(model, 0.0, units=units), optimizer, units, units_left=0.5, epochs=9, steps=9
    )
    size.log = [{"epoch": 0, "strength": 1.0, "left": 1.0, "expected": expected}]
    assert size._haste(left) == times


def test_a_method_without_exact_zeros_needs_a_threshold_and_then_reaches_the_size():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 40), nn.BatchNorm1d(40), nn.ReLU(), nn.Linear(40, 2))
    x = torch.randn(256, 3)
    y = (x[:, 0] > 0).long()
    units = prl.find_units(model, x)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    reg = prl.NetworkSlimming(model, 0.0, units=units)
    with pytest.raises(ValueError, match="makes no exact zeros: use apply='prox', or give"):
        prl.TargetSize(model, reg, optimizer, units, units_left=0.5)
    size = prl.TargetSize(model, reg, optimizer, units, units_left=0.5, threshold=0.02)
    prl.fit(model, (x, y), (x, y), epochs=30, optimizer=optimizer, regularizer=reg, callbacks=[size], batch_size=32,
            progress=False)  # fmt: skip
    assert abs(size.log[-1]["left"] - 0.5) <= 0.05
    assert prl.shrink(model, x).widths["0"][1] == round(40 * size.log[-1]["left"])


def test_wrong_use_is_named():
    model = network()
    units = prl.find_units(model, TRAIN.inputs[:1])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    reg = prl.GroupLasso(model, 0.0, units=units)
    with pytest.raises(ValueError, match="exactly one of units_left and macs_left"):
        prl.TargetSize(model, reg, optimizer, units)
    with pytest.raises(ValueError, match="within=0"):
        prl.TargetSize(model, reg, optimizer, units, units_left=0.5, within=0)
    with pytest.raises(RuntimeError, match="no plan for this epoch: give it epochs and steps"):
        prl.TargetSize(model, reg, optimizer, units, units_left=0.5).step()
    with pytest.raises(ValueError, match="needs epochs and steps, both, or neither"):
        prl.TargetSize(model, reg, optimizer, units, units_left=0.5, epochs=4)
    with pytest.raises(ValueError, match="3 steps in 4 epochs"):
        prl.TargetSize(model, reg, optimizer, units, units_left=0.5, epochs=4, steps=3)
    adam = torch.optim.Adam(model.parameters())
    with pytest.raises(TypeError, match="so no strength steers it"):
        prl.TargetSize(model, prl.GroupLasso(model, 0.0, apply="loss"), adam, units, units_left=0.5, threshold=0.1)
    half = {name: group for name, group in units.items() if name == "fc2"}
    few = prl.GroupLasso(model, 0.0, units=prl.Units(half.values()))
    with pytest.raises(
        ValueError, match="cannot reach 0.3: 0.6 stays with every unit at zero that GroupLasso pulls on"
    ):
        prl.TargetSize(model, few, optimizer, units, units_left=0.3)
    other = network()
    size = prl.TargetSize(other, prl.GroupLasso(other, 0.0), torch.optim.SGD(other.parameters(), 0.1), units,
                          units_left=0.5)  # fmt: skip
    with pytest.raises(ValueError, match="steers another regularizer"):
        prl.fit(model, TRAIN, VAL, epochs=1, optimizer=optimizer, regularizer=reg, callbacks=[size], progress=False)
    assert copy.deepcopy(reg.strength) == 0.0


def test_units_of_no_group_are_refused():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="units of no group: there is nothing to steer"):
        prl.TargetSize(model, prl.GroupLasso(model, 0.1), optimizer, prl.Units([]), units_left=0.5)


def test_what_is_restored_in_a_loop_of_ones_own_goes_on_in_any_order():
    def parts(seed):
        torch.manual_seed(seed)
        model = network(seed)
        units = prl.find_units(model, TRAIN.inputs[:1])
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        reg = prl.GroupLasso(model, 0.0, units=units)
        size = prl.TargetSize(model, reg, optimizer, units, units_left=0.5, epochs=20, steps=180)
        return {"model": model, "optimizer": optimizer, "reg": reg, "size": size}

    def epochs(its, count):
        strengths = []
        for _ in range(count):
            for x, y in zip(torch.split(TRAIN.inputs, 10), torch.split(TRAIN.targets, 10), strict=True):
                its["optimizer"].zero_grad()
                F.cross_entropy(its["model"](x), y).backward()
                its["optimizer"].step()
                its["reg"].update(its["optimizer"])
            strengths.append(its["size"].step())
        return strengths

    whole = parts(0)
    epochs(whole, 7)
    states = copy.deepcopy({name: part.state_dict() for name, part in whole.items()})
    expected = epochs(whole, 8)
    assert whole["size"].log[7]["left"] < 1, "the test is about units that have gone"
    assert max(expected) > 0, "and about a strength that is still steered"
    for order in (states, reversed(states), ("size", "reg", "model", "optimizer")):
        again = parts(1)
        for name in order:
            again[name].load_state_dict(copy.deepcopy(states[name]))
        assert epochs(again, 8) == expected
        assert same(again["model"], whole["model"])


@pytest.mark.parametrize("rate", [lambda p: 0.0 if p < 0.2 else 1.0, lambda p: 0.0 if 0.3 < p < 0.5 else 1.0])
def test_epochs_without_a_learning_rate_teach_nothing(rate):
    model = network()
    units = prl.find_units(model, TRAIN.inputs[:1])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    reg = prl.GroupLasso(model, 0.0, units=units)
    size = prl.TargetSize(model, reg, optimizer, units, units_left=0.5)
    prl.fit(
        model, TRAIN, VAL, epochs=20, optimizer=optimizer, regularizer=reg, callbacks=[size], batch_size=10,
        schedule=rate, progress=False,
    )  # fmt: skip
    assert size.log[-1]["left"] == pytest.approx(0.5, abs=0.051)
    still = [epoch for epoch in range(20) if not rate(epoch / 20)]
    assert all(size.log[epoch]["left"] == size.log[epoch + 1]["left"] for epoch in still)
    strengths = [size.log[epoch]["strength"] for epoch in still]
    assert strengths == pytest.approx([strengths[0]] * len(still), rel=0.01), "they do not grow for want of an effect"


def test_one_target_size_steers_one_training():
    model = network()
    units = prl.find_units(model, TRAIN.inputs[:1])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    reg = prl.GroupLasso(model, 0.0, units=units)
    size = prl.TargetSize(model, reg, optimizer, units, units_left=0.9)
    options = {"optimizer": optimizer, "regularizer": reg, "callbacks": [size], "progress": False}
    prl.fit(model, TRAIN, VAL, epochs=2, **options)
    with pytest.raises(RuntimeError, match="steered a training already: build a new one"):
        prl.fit(model, TRAIN, VAL, epochs=4, **options)


def test_a_state_of_other_units_is_refused_in_a_loop_of_ones_own_and_changes_nothing():
    def size_of(width):
        model = nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, 2))
        units = prl.find_units(model, torch.zeros(1, 3))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        reg = prl.GroupLasso(model, 0.0, units=units)
        return prl.TargetSize(model, reg, optimizer, units, units_left=0.5, epochs=4, steps=8)

    size, other = size_of(8), size_of(6)
    before = size.state_dict()
    for wrong in (other.state_dict(), {**before, "log": []}):
        with pytest.raises(ValueError, match="state of other units, or of a training that had not begun"):
            size.load_state_dict(wrong)
        assert size.log == before["log"]
        assert torch.equal(size.state_dict()["distances"]["0"], before["distances"]["0"])
    old = {name: value for name, value in before.items() if name != "distances"}
    size.load_state_dict(old)
