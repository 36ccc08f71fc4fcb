"""Stochastic weight pruning: probabilities against NumPy, draws against their distribution, the paper's claim."""

import copy
import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

import pruning_lib as prl
from pruning_lib.companion.data import digits
from pruning_lib.companion.models import LeNet300
from pruning_lib.regularizers import L1, L2, GroupLasso, Guided, StochasticPruning
from tests.regularizers.protocol import Method

FORMULAS = {
    "gaussian": lambda x: np.exp(-(x**2) / 2),
    "laplace": lambda x: np.exp(-x),
    "sigmoid": lambda x: 2 / (1 + np.exp(x)),
    "deterministic": lambda x: (x < 1).astype(float),
}
# Two-sided 4.9 standard deviations: a right sampler fails one such comparison in a million.
DEVIATIONS = 4.9

PROTOCOL = [
    Method("StochasticPruning", partial(StochasticPruning, temperature=0.3), off_at_zero=False, partner=True),
    Method(
        "StochasticPruning mask",
        partial(StochasticPruning, base=L1, temperature=0.3, mode="mask"),
        off_at_zero=False,
    ),
]


def layer_of(values: torch.Tensor) -> nn.Linear:
    layer = nn.Linear(values.shape[1], values.shape[0], bias=False, dtype=values.dtype)
    layer.weight = nn.Parameter(values.clone())
    return layer


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 10))


def sgd(model: nn.Module, momentum: float = 0.0) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=momentum)


def drop(layer: nn.Linear, **settings) -> torch.Tensor:
    """Return which weights one step of sampling zeroed."""
    StochasticPruning(layer, **settings).update(sgd(layer))
    return layer.weight.detach() == 0


@pytest.mark.parametrize("probability", FORMULAS)
def test_probabilities_are_the_formulas(probability):
    torch.manual_seed(0)
    layer = nn.Linear(30, 20).double()
    reg = StochasticPruning(layer, probability=probability, temperature={"": 0.07})
    x = np.abs(layer.weight.detach().numpy()) / 0.07
    assert np.allclose(reg.probabilities()[""].numpy(), FORMULAS[probability](x), rtol=1e-12)


def test_temperature_is_a_share_of_each_layers_root_mean_square():
    model = network()
    found = StochasticPruning(model, temperature=0.3).temperatures
    for name in ("1", "3", "5"):
        weight = model.get_submodule(name).weight.detach().numpy()
        assert found[name] == pytest.approx(0.3 * np.sqrt((weight**2).mean()), rel=1e-5)


@pytest.mark.parametrize("probability", FORMULAS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_weight_goes_as_often_as_its_probability_says(probability, dtype):
    sizes = torch.tensor([0.25, 0.75, 1.5, 2.5, 4.0], dtype=dtype)
    draws = 100_000
    values = sizes[:, None].expand(5, draws) * (1 - 2 * (torch.arange(draws) % 2)).to(dtype)  # of either sign
    gone = drop(layer_of(values), probability=probability, temperature={"": 1.0}).float().mean(1).double().numpy()
    p = FORMULAS[probability](sizes.double().numpy())
    assert (np.abs(gone - p) <= DEVIATIONS * np.sqrt(p * (1 - p) / draws)).all()


def test_draws_of_neighbours_of_steps_and_of_layers_are_independent():
    n = 200_000
    model = nn.Sequential(nn.Linear(n, 1, bias=False), nn.Linear(n, 1, bias=False))
    reg = StochasticPruning(model, probability=lambda x: torch.full_like(x, 0.5), temperature={"0": 1.0, "1": 1.0})
    seen = []
    for _ in range(2):
        for layer in model:
            nn.init.ones_(layer.weight)
        reg.update(sgd(model))
        seen += [(layer.weight.detach()[0] == 0).double() - 0.5 for layer in model]
    pairs = [(a, b) for i, a in enumerate(seen) for b in seen[:i]] + [(a[1:], a[:-1]) for a in seen]
    for a, b in pairs:
        assert abs((4 * a * b).sum().item()) < DEVIATIONS * math.sqrt(len(a))


def test_what_has_no_chance_to_go_never_goes_even_for_the_smallest_random_number(monkeypatch):
    monkeypatch.setattr(torch, "rand", lambda count, **_: torch.zeros(count))
    gone = drop(layer_of(torch.tensor([[0.0, 12.0, 7.0], [0.1, -12.0, -7.0]])), temperature={"": 1.0})
    assert not gone[:, 1:].any()


def test_the_deterministic_limit_is_a_magnitude_threshold():
    values = torch.tensor([[0.99, -0.99, 1.01, -1.01, 0.0]])
    assert drop(layer_of(values), probability="deterministic", temperature={"": 1.0}).tolist() == [
        [True, True, False, False, True]
    ]


def test_the_seed_alone_decides_and_every_rank_draws_the_same():
    values = torch.randn(50, 50)
    first, second, other = (drop(layer_of(values), temperature=1.0, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_the_global_random_state_is_left_alone_and_has_no_say():
    layers = [layer_of(torch.ones(50, 50)) for _ in range(2)]
    gone = []
    for seed, layer in enumerate(layers):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        gone.append(drop(layer, temperature=1.0))
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(*gone)


def test_freezing_one_layer_changes_no_draw_of_another():
    models = [network() for _ in range(2)]
    models[1][1].weight.requires_grad_(False)
    before = models[1][1].weight.detach().clone()
    for model in models:
        StochasticPruning(model, temperature=1.0).update(sgd(model))
    assert torch.equal(models[0][3].weight, models[1][3].weight)
    assert torch.equal(models[1][1].weight, before)


def test_only_weights_that_the_optimizer_trains_are_sampled_and_no_bias_or_normalization():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3))
    before = copy.deepcopy(model)
    optimizer = torch.optim.SGD([*model[0].parameters(), *model[1].parameters()], lr=0.1)
    StochasticPruning(model, temperature=100.0).update(optimizer)
    assert (model[0].weight == 0).float().mean() > 0.9
    for name in ("0.bias", "1.weight", "1.bias", "2.weight", "2.bias"):
        assert torch.equal(model.get_parameter(name), before.get_parameter(name)), name


def steps(
    model: nn.Module, reg: StochasticPruning, optimizer: torch.optim.Optimizer, count: int, seed: int = 0
) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        x = torch.randn(16, 64, generator=generator)
        logits = model(x)
        loss = nn.functional.cross_entropy(logits, x[:, :10].argmax(1)) + reg.penalty(logits)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        reg.update(optimizer)


def zeros(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach() == 0 for name, p in model.named_parameters() if p.ndim > 1}


@pytest.mark.parametrize(("mode", "grows"), [("regrow", True), ("mask", False)])
def test_masked_weights_stay_zero_and_others_may_grow_again(mode, grows):
    model = network()
    optimizer = sgd(model, momentum=0.9)
    reg = StochasticPruning(model, 1e-3, mode=mode, temperature=0.1)
    steps(model, reg, optimizer, 10)
    early = zeros(model)
    steps(model, reg, optimizer, 40, seed=1)
    late = zeros(model)
    assert any(bool((early[name] & ~late[name]).any()) for name in early) is grows
    assert sum(int(mask.sum()) for mask in late.values()) > 0


def test_the_momentum_of_zeroed_weights_is_left_as_it_is():
    model = network()
    optimizer = sgd(model, momentum=0.9)
    reg = StochasticPruning(model, temperature=1.0)
    steps(model, reg, optimizer, 3)
    before = [optimizer.state[p]["momentum_buffer"].clone() for p in model.parameters()]
    reg.update(optimizer)
    for p, momentum in zip(model.parameters(), before, strict=True):
        assert torch.equal(optimizer.state[p]["momentum_buffer"], momentum)


@pytest.mark.parametrize("mode", ["regrow", "mask"])
def test_a_resumed_run_equals_an_uninterrupted_one(mode):
    def make():
        model = network()
        return model, StochasticPruning(model, 1e-3, base=L1, mode=mode, temperature=0.5, seed=5), sgd(model)

    model, reg, optimizer = make()
    steps(model, reg, optimizer, 7)
    saved = copy.deepcopy((model.state_dict(), reg.state_dict()))
    steps(model, reg, optimizer, 7, seed=1)
    resumed, again, other = make()
    # Made anew on trained weights: the temperature would differ if the state did not hold it.
    resumed.load_state_dict(saved[0])
    again = StochasticPruning(resumed, base=L1, mode=mode, temperature=0.9)
    again.load_state_dict(saved[1])
    steps(resumed, again, other, 7, seed=1)
    for ours, theirs in zip(model.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("base", [L1, L2, GroupLasso])
def test_penalty_and_update_are_those_of_the_base(base):
    ours, theirs = network(), network()
    # Probability 0 leaves the base alone.
    reg = StochasticPruning(ours, 0.7, base=base, probability=torch.zeros_like)
    plain = base(theirs, 0.02)
    reg.strength = 0.02  # as a schedule sets it
    assert torch.equal(reg.penalty(torch.zeros(1, 10)), plain.penalty(torch.zeros(1, 10)))
    reg.update(sgd(ours))
    plain.update(sgd(theirs))
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(p, q)
    reg.strength = 0.0
    assert reg.penalty(torch.zeros(1, 10)) == 0 == reg.base.strength


def test_without_strength_only_the_sampling_is_left():
    model = network()
    before = copy.deepcopy(model)
    reg = StochasticPruning(model, base=GroupLasso, temperature=0.5)
    assert reg.penalty(torch.ones(2, 10)) == 0
    reg.update(sgd(model))
    for p, q in zip(model.parameters(), before.parameters(), strict=True):
        assert torch.equal(p[p != 0], q[p != 0])
    assert any(bool(mask.any()) for mask in zeros(model).values())


def test_it_composes_with_a_guided_group_lasso():
    model = network()
    units = prl.find_units(model, torch.zeros(1, 64))
    base = partial(Guided, base=GroupLasso, units=units)
    reg = StochasticPruning(model, 0.05, base=base, temperature=0.3)
    steps(model, reg, sgd(model), 150)
    chosen = [norm == 0 for name, norm in reg.importance().items() if name in units]
    assert 0 < int(torch.cat(chosen).sum()) < 24  # rows that the group lasso cleared
    rows = torch.cat([model.get_submodule(name).weight.detach() for name in ("3", "5")])
    assert bool((rows[(rows != 0).any(1)] == 0).any())  # and single weights that the sampling did
    late = torch.cat(chosen).nonzero() % 12
    assert late.double().mean() > 5.5  # the guidance clears the end of the index first


def test_a_group_is_sampled_alone_where_units_are_given():
    model = network()
    before = model[5].weight.detach().clone()
    units = prl.find_units(model, torch.zeros(1, 64))
    reg = StochasticPruning(model, 0.1, temperature=0.5, units=units)
    assert list(reg.temperatures) == ["1", "3"]
    assert reg.penalty(torch.zeros(1, 10)).item() == pytest.approx(
        0.05 * sum(model[i].weight.square().sum().item() for i in (1, 3)), rel=1e-5
    )
    reg.update(sgd(model))
    assert torch.equal(model[5].weight, before)


def test_shared_weights_are_sampled_once():
    layer = nn.Linear(300, 300, bias=False)
    nn.init.ones_(layer.weight)
    twin = nn.Linear(300, 300, bias=False)
    twin.weight = layer.weight
    model = nn.Sequential(layer, twin)
    StochasticPruning(model, probability=lambda x: torch.full_like(x, 0.5), temperature=1.0).update(sgd(model))
    share = (layer.weight == 0).double().mean().item()
    assert abs(share - 0.5) < DEVIATIONS * 0.5 / 300


def test_the_mask_is_one_copy_of_the_weights_and_regrowing_keeps_nothing():
    for mode, wanted in (("regrow", 0), ("mask", sum(p.numel() for p in network().parameters() if p.ndim > 1))):
        model = network()
        reg = StochasticPruning(model, mode=mode)
        reg.update(sgd(model))
        kept = reg.state_dict()["kept"].values()
        assert sum(mask.numel() * mask.element_size() for mask in kept) == 4 * wanted
        assert all(torch.equal(mask != 0, layer.weight != 0) for mask, layer in zip(kept, model[1::2], strict=False))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"strength": -1.0}, "StochasticPruning got strength=-1.0; it needs a finite number ≥ 0"),
        ({"mode": "hold"}, "mode='hold' is unknown; choose one of 'regrow', 'mask'"),
        ({"probability": "cauchy"}, "probability='cauchy' is unknown; choose one of 'gaussian', 'laplace'"),
        ({"probability": lambda x: x / 10}, "must stay in \\[0, 1\\] and never rise"),
        ({"probability": lambda x: 2 - x / 10}, "must stay in \\[0, 1\\] and never rise"),
        ({"probability": lambda x: 0.5}, "a tensor of the same shape"),
        ({"seed": -1}, "seed=-1; it needs a whole number, 0 or more, the same on every rank"),
        ({"temperature": 0.0}, "temperature=0.0, which makes τ = 0 in '1'; it must be positive"),
        ({"temperature": math.nan}, "it must be positive"),
        ({"temperature": {"1": 0.1, "3": 0.1}}, "each layer of 1, 3, 5 and no other; see '5'"),
        ({"temperature": {"1": 0.1, "3": 0.1, "5": 0.1, "7": 0.1}}, "and no other; see '7'"),
    ],
)
def test_wrong_use_is_named(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        StochasticPruning(network(), **settings)


def test_a_layer_of_zeros_and_computed_weights_and_a_foreign_state_are_named():
    model = network()
    reg = StochasticPruning(model)
    with pytest.raises(ValueError, match="StochasticPruning got the state of another network, or none"):
        reg.load_state_dict(StochasticPruning(nn.Linear(2, 2)).state_dict())
    with pytest.raises(ValueError, match="StochasticPruning got the state of another network, or none"):
        reg.load_state_dict({})
    nn.init.zeros_(model[3].weight)
    with pytest.raises(ValueError, match="makes τ = 0 in '3'; it must be positive \\(and a layer of zeros"):
        StochasticPruning(model)
    nn.utils.parametrizations.weight_norm(model[1])
    with pytest.raises(ValueError, match="StochasticPruning changes weights in place, and that of '1' is computed"):
        StochasticPruning(model)


# What the paper claims, in kind -------------------------------------------------------------------------------------


def sampled(base: type, strength: float, temperature: float) -> tuple[float, list[int]]:
    """Train on digits; return the share of zero weights, and the units alive, dead on one side, dead on both."""
    data = digits()
    torch.manual_seed(0)
    model = LeNet300(inputs=(1, 8, 8), widths=(100, 50))
    dynamics = prl.Dynamics(model, prl.find_units(model, data.val.inputs[:1]))
    history = prl.fit(
        model, data.train, data.val, epochs=60, optimizer=torch.optim.SGD(model.parameters(), 0.1, momentum=0.9),
        regularizer=StochasticPruning(model, strength, base=base, temperature=temperature),
        batch_size=32, callbacks=[dynamics], progress=False,
    )  # fmt: skip
    assert history["val_accuracy"][-1] > 0.9
    gone = torch.cat([mask.flatten() for mask in zeros(model).values()]).double().mean().item()
    state = torch.cat([dynamics[group].state[-1] for group in ("fc1", "fc2")])
    return gone, [int((state == 0).sum()), int(((state == 1) | (state == 2)).sum()), int((state == 3).sum())]


@pytest.mark.slow
def test_with_l2_whole_nodes_are_cleared_where_l1_or_no_penalty_leave_isolated_weights():
    # Over 10 seeds, of 150 nodes: dead on both sides 44 to 65 with L2, 28 to 44 with L1 (13 to 26 fewer), none without;
    # on one side 0 to 2, 1 to 7, 5 to 16. Without penalty it takes 4 times the temperature to get as many zeros.
    gone_l2, (_, half_l2, dead_l2) = sampled(L2, 5e-3, 0.1)
    gone_l1, (_, _, dead_l1) = sampled(L1, 8e-4, 0.1)
    gone, (_, half, dead) = sampled(L2, 0.0, 0.4)
    assert gone_l2 < min(gone_l1 + 0.02, gone)
    assert dead_l2 >= 35
    assert dead_l2 >= dead_l1 + 6
    assert dead_l1 >= dead + 15
    assert half_l2 <= 4
    assert dead <= 3 <= half
