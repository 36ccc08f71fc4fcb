"""SeReNe: updates against the formula written out here, averages, states and misuse."""

import copy
from functools import partial

import pytest
import torch
from torch import nn

from pruning_lib.regularizers import SeReNe, bound_batchnorm
from pruning_lib.units import Group, Member, Units
from tests.regularizers.observed import CLASSES, EXAMPLES, Net, make
from tests.regularizers.protocol import Method

PROTOCOL = [
    Method("SeReNe sampled", partial(SeReNe, every=2), eager_only=True, draws=True),
    Method("SeReNe exact", partial(SeReNe, estimator="exact"), eager_only=True, partner=True),
    Method("SeReNe lower-bound", partial(SeReNe, estimator="lower-bound"), eager_only=True),
    Method("SeReNe local", partial(SeReNe, estimator="local"), eager_only=True),
]


def step(model, reg, optimizer, x) -> None:
    logits = model(x)
    loss = nn.functional.cross_entropy(logits, torch.arange(len(x)) % CLASSES) + reg.penalty(logits)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    reg.update(optimizer)


def test_update_decays_rows_by_their_insensitivity_after_the_step():
    model, x = make(norm=True)
    plain = copy.deepcopy(model)
    strength = 0.1
    reg = SeReNe(model, strength, estimator="exact", space="sum")
    for network in (model, plain):
        optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
        logits = network(x)
        loss = nn.functional.cross_entropy(logits, torch.arange(EXAMPLES) % CLASSES)
        loss = loss + (reg.penalty(logits) if network is model else 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if network is model:
            reg.update(optimizer)
    keep = {name: 1 - strength * (1 - s).clamp(min=0) for name, s in reg.sensitivity().items()}
    assert keep["conv"].max() > keep["conv"].min()
    assert torch.allclose(model.conv.weight.detach(), plain.conv.weight.detach() * keep["conv"][:, None, None, None])
    assert torch.allclose(model.norm.weight.detach(), plain.norm.weight.detach() * keep["conv"])
    assert torch.allclose(model.fc1.weight.detach(), plain.fc1.weight.detach() * keep["fc1"][:, None])
    assert torch.equal(model.fc1.bias, plain.fc1.bias)
    assert torch.equal(model.norm.bias, plain.norm.bias)


def test_running_average_is_bias_corrected_and_skips_steps():
    model, x = make()
    reg = SeReNe(model, 0.0, estimator="exact", smoothing=0.5, every=2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    values = []
    for scale in (1.0, 5.0, 2.0):
        step(model, reg, optimizer, scale * x)
        single = SeReNe(model, estimator="exact")
        single.penalty(model(scale * x))
        values.append(single.sensitivity()["conv"])
        single.remove()
    expected = (0.25 * values[0] + 0.5 * values[2]) / 0.75  # the second step measured nothing
    assert torch.allclose(reg.sensitivity()["conv"], expected)


def test_frozen_layers_stay_and_the_rest_moves():
    model, x = make()
    model.conv.weight.requires_grad_(False)
    before = copy.deepcopy(model)
    reg = SeReNe(model, 0.5, estimator="exact")
    step(model, reg, torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.0), x)
    assert torch.equal(model.conv.weight, before.conv.weight)
    assert not torch.equal(model.fc1.weight, before.fc1.weight)


def test_resumed_run_equals_an_uninterrupted_one():
    def run(interrupt: bool) -> torch.Tensor:
        model, x = make()
        reg = SeReNe(model, 0.01, seed=3)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for t in range(6):
            if interrupt and t == 3:
                state = copy.deepcopy(reg.state_dict())
                reg.remove()
                reg = SeReNe(model, 0.9, seed=99)
                reg.load_state_dict(state)
            step(model, reg, optimizer, x)
        return model.conv.weight.detach()

    assert torch.equal(run(False), run(True))


def test_wrong_use_is_named():
    model, x = make()
    with pytest.raises(ValueError, match="SeReNe got strength=1.5; it needs .* a share of the weight per step"):
        SeReNe(model, 1.5)
    with pytest.raises(ValueError, match="SeReNe got strength=nan"):
        SeReNe(model, float("nan"))
    with pytest.raises(ValueError, match="estimator='full' is unknown; choose one of"):
        SeReNe(model, estimator="full")
    with pytest.raises(ValueError, match="every=0; it needs a whole number"):
        SeReNe(model, every=0)
    with pytest.raises(ValueError, match="smoothing=1"):
        SeReNe(model, smoothing=1)
    with pytest.raises(TypeError, match="SeReNe got a compiled model"):
        SeReNe(torch.compile(model))
    reg = SeReNe(model)
    with pytest.raises(ValueError, match="measured no sensitivity yet"):
        reg.sensitivity()
    with pytest.raises(
        ValueError, match=r"SeReNe got a scalar; it needs the model's outputs, \(examples, …\), not the"
    ):
        reg.penalty(model(x).sum())
    with torch.no_grad(), pytest.raises(ValueError, match="outputs without a graph"):
        reg.penalty(model(x))
    logits = model(x)
    reg.penalty(logits)
    with pytest.raises(ValueError, match="saw no forward pass since the last penalty"):
        reg.penalty(logits)


def share_of_a_batch(rank: int, address: str, x: torch.Tensor, results) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{address}", rank=rank, world_size=2)
    torch.manual_seed(0)
    model = nn.parallel.DistributedDataParallel(nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, CLASSES)))
    reg = SeReNe(model, 0.1, estimator="exact")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    logits = model(x.split([24, 8])[rank])
    (logits.square().mean() + reg.penalty(logits)).backward()
    optimizer.step()
    reg.update(optimizer)
    results[rank] = (reg.sensitivity(), model.module[0].weight.detach())
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_ranks_share_one_sensitivity_and_stay_equal(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, CLASSES))
    x = torch.randn(32, 8)  # 24 examples for one rank, 8 for the other
    whole = SeReNe(model, estimator="exact")
    whole.penalty(model(x))
    with torch.multiprocessing.Manager() as manager:
        results = manager.dict()
        torch.multiprocessing.spawn(share_of_a_batch, (str(tmp_path / "meet"), x, results), nprocs=2)
        (s0, w0), (s1, w1) = results[0], results[1]
    assert list(s0) == ["0", "2"], "names without module."
    assert torch.allclose(s0["0"], whole.sensitivity()["0"], atol=1e-6)
    assert torch.equal(s0["0"], s1["0"])
    assert torch.equal(w0, w1)


def test_units_felt_beyond_one_are_left_alone_and_the_rest_decays():
    model, x = make()
    with torch.no_grad():
        model.fc2.weight *= 50
    before = copy.deepcopy(model)
    reg = SeReNe(model, 0.5, estimator="exact", space="sum")
    reg.penalty(model(x))
    felt = reg.sensitivity()["fc1"] >= 1
    assert felt.any()
    reg.update(torch.optim.SGD(model.parameters(), lr=0.1))
    assert torch.equal(model.fc1.weight[felt], before.fc1.weight[felt])
    assert torch.allclose(model.fc2.weight, before.fc2.weight * (1 - 0.5 * (1 - 1 / CLASSES)))


def test_a_weight_beyond_recovery_becomes_0_and_what_is_felt_does_not_change():
    """Decay by 1 % a step from 1e-29: 230 steps to 1e-30, and 0 from there on, instead of 2,000 to denormal numbers."""
    layer = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        layer.weight[:] = torch.tensor([[1.0, 1e-29]])
    reg = SeReNe(layer, 0.01, estimator="exact")
    optimizer, x = torch.optim.SGD(layer.parameters(), lr=0.0), torch.zeros(1, 2)
    reg.penalty(0.0 * layer(x))
    values = []
    for _ in range(240):
        reg.update(optimizer)
        values.append(layer.weight[0, 1].item())
    assert values[:3] == pytest.approx([0.99e-29, 0.99**2 * 1e-29, 0.99**3 * 1e-29], rel=1e-5)
    assert next(i for i, value in enumerate(values) if value == 0) + 1 == 230  # 0.99^229 > 0.1 > 0.99^230
    assert layer.weight[0, 0].item() == pytest.approx(0.99**240, rel=1e-4)


def test_only_what_the_optimizer_trains_decays():
    model, x = make()
    before = copy.deepcopy(model)
    reg = SeReNe(model, 0.5, estimator="exact")
    reg.penalty(model(x))
    reg.update(torch.optim.SGD(model.fc2.parameters(), lr=0.1))
    assert torch.equal(model.fc1.weight, before.fc1.weight)
    assert not torch.equal(model.fc2.weight, before.fc2.weight)


def test_units_leave_the_output_layer_alone():
    model, x = make()
    units = Units([Group("fc1", 5, "inner", (Member("fc1", torch.arange(5)),), (), ())], {})
    reg = SeReNe(model, 0.5, estimator="exact", units=units)
    reg.penalty(model(x))
    assert list(reg.sensitivity()) == ["fc1"]


def test_a_bounded_scale_decays_with_its_row():
    """The scale itself is multiplied, from σ(−60) to σ(40); a dead one stays dead, one below 1e-30 stays."""
    model, x = make(norm=True)
    bound_batchnorm(model)
    gamma, dead = model.norm.parametrizations.weight.original, model.norm.parametrizations.weight[0].dead
    for start in ([-2.0, 0.5, 3.0], [-60.0, 40.0, -75.0]):
        with torch.no_grad():
            gamma.copy_(torch.tensor(start))
        before = model.norm.weight.detach().clone()
        reg = SeReNe(model, 0.1, estimator="exact")
        reg.penalty(model(x))
        reg.update(torch.optim.SGD(model.parameters(), lr=1.0))
        keep = 1 - 0.1 * (1 - reg.sensitivity()["conv"].double()).clamp(min=0)
        assert (keep < 1).all()
        wanted = torch.where(gamma > -70, before * keep, before)
        assert torch.allclose(model.norm.weight, wanted, rtol=1e-6)
        reg.remove()
    kept = gamma.detach().clone()
    dead[0] = True
    for reg, held in ((SeReNe(model, 0.0, estimator="exact"), [gamma]), (SeReNe(model, 0.5, estimator="exact"), [])):
        reg.penalty(model(x))
        reg.update(torch.optim.SGD([model.conv.weight, *held], lr=1.0))
        assert torch.equal(gamma, kept), "strength 0, or not in the optimizer"
        assert model.norm.weight[0] == 0
        reg.remove()


def test_a_measurement_that_overflowed_is_dropped():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3), nn.Linear(3, 2))
    reg = SeReNe(model, 0.1, estimator="exact")
    x = torch.randn(4, 3)
    reg.penalty(model(x))
    wanted = reg.sensitivity()
    reg.penalty(model(x * float("inf")))
    assert all(torch.equal(value, wanted[name]) for name, value in reg.sensitivity().items())


def test_the_sampled_estimator_is_cheap_by_default():
    model, x = make()
    reg = SeReNe(model)
    assert (reg.every, reg.smoothing) == (3, 0.6)
    assert (SeReNe(model, estimator="exact").every, SeReNe(model, estimator="exact").smoothing) == (1, 0.0)
    reg.penalty(model(x))
    one_class_an_example = SeReNe(model, every=1, smoothing=0.0)
    one_class_an_example.penalty(model(x))
    shares = one_class_an_example.sensitivity()["fc2"] * EXAMPLES
    assert torch.equal(shares, shares.round())
    assert shares.sum() == EXAMPLES
    assert (shares > 0).sum() > 1, "not one class for the whole batch"


def test_wrong_state_changes_nothing():
    model, x = make()
    reg = SeReNe(model, 0.1, estimator="exact")
    reg.penalty(model(x))
    wanted = reg.sensitivity()
    for state in ({"strength": 0.7}, {**reg.state_dict(), "average": {"zz": torch.ones(3)}}):
        with pytest.raises(ValueError, match="state of another network"):
            reg.load_state_dict(state)
    assert reg.strength == 0.1
    assert all(torch.equal(value, wanted[name]) for name, value in reg.sensitivity().items())


def test_update_before_any_measurement_does_not_count_as_a_step():
    model, x = make()
    reg = SeReNe(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="measured no sensitivity yet"):
        reg.update(optimizer)
    reg.penalty(model(x))
    reg.update(optimizer)


def test_more_wrong_use_is_named():
    model, x = make()
    with pytest.raises(
        ValueError, match="scaling='released' is the factor of the exact estimator; got estimator='local'"
    ):
        SeReNe(model, estimator="local", scaling="released")
    with pytest.raises(ValueError, match="estimator='local' knows space='mean' alone"):
        SeReNe(model, estimator="local", space="sum")
    with pytest.raises(ValueError, match=r"torch\.bfloat16 rounds away in 'conv'"):
        SeReNe(Net().bfloat16(), 1e-4)
    with pytest.raises(ValueError, match="that of '0' is computed from others"):
        SeReNe(nn.Sequential(torch.nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))))
    reg = SeReNe(model)
    with pytest.raises(TypeError, match="SeReNe got a tuple for outputs; it needs the tensor"):
        reg.penalty((model(x), 1))
    reg.penalty(model(x))
    reg.strength = 2.5
    before = copy.deepcopy(model)
    with pytest.raises(ValueError, match=r"strength=2\.5; it needs .* a share"):
        reg.update(torch.optim.SGD(model.parameters(), lr=0.1))
    assert torch.equal(model.fc1.weight, before.fc1.weight)


def test_a_seed_that_is_no_integer_leaves_no_hook_behind():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    with pytest.raises(TypeError, match="SeReNe got seed=None; it needs a whole number"):
        SeReNe(model, 1e-4, seed=None)
    assert not any(module._forward_hooks for module in model.modules())


def test_a_layer_that_is_first_reached_late_has_an_average_of_its_own():
    class Late(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.head, self.reaches = nn.Linear(6, 5), nn.Linear(5, 5), nn.Linear(5, 3), False

        def forward(self, x):
            x = torch.relu(self.one(x))
            return self.head(x + torch.relu(self.two(x)) if self.reaches else x)

    torch.manual_seed(0)
    model, x = Late(), torch.randn(20, 6)
    reg = SeReNe(model, 0.0, estimator="exact", smoothing=0.9)
    for _ in range(5):
        reg.penalty(model(x))
        reg.sensitivity()
    model.reaches = True
    now = SeReNe(model, 0.0, estimator="exact")
    for each in (reg, now):
        each.penalty(model(x))
    torch.testing.assert_close(reg.sensitivity()["two"], now.sensitivity()["two"])


@pytest.mark.parametrize("length", [5, 7])
def test_units_of_a_layer_that_somebody_wrote_are_the_last_axis_as_of_a_linear_one(length):
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(5, 4))

        def forward(self, x):
            return nn.functional.linear(x, self.weight)

    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(4, 5, bias=False), nn.Tanh(), nn.Linear(5, 2))
    own = nn.Sequential(Own(), *plain[1:])
    with torch.no_grad():
        own[0].weight.copy_(plain[0].weight)
    every = torch.arange(5)
    units = Units([Group("0", 5, "inner", (Member("0", every),), (), (Member("2", every),))])
    x = torch.randn(3, length, 4)
    found = []
    for model in (plain, own):
        reg = SeReNe(model, 0.1, estimator="exact", units=units)
        reg.penalty(model(x))
        found.append(reg.sensitivity()["0"])
    torch.testing.assert_close(found[1], found[0])
