"""L1, L2, and what they share with group lasso: values against formulas written out here, proximal maps by search."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import pruning_lib as prl
from pruning_lib.companion.data import digits
from pruning_lib.companion.models import LeNet300
from pruning_lib.regularizers import L1, L2, GroupLasso
from pruning_lib.units import Group, Member, Units
from tests.regularizers.protocol import Method, modes

STRENGTH = 0.03

PROTOCOL = [
    Method(f"{base.__name__} {mode}", partial(base, apply=mode), partner=(base, mode) == (L1, "prox"))
    for base in (L1, L2)
    for mode in modes(base)
]


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5), nn.ReLU(), nn.Linear(5, 3))


def weights(model: nn.Module) -> list[np.ndarray]:
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    return [m.weight.detach().double().numpy().reshape(len(m.weight), -1) for m in layers]


FORMULAS = {
    L1: lambda w: np.abs(w).sum(),
    L2: lambda w: 0.5 * (w**2).sum(),
    GroupLasso: lambda w: np.sqrt((w**2).sum(axis=1)).sum(),
}


@pytest.mark.parametrize("method", FORMULAS)
def test_penalty_is_the_formula_over_weights_without_biases(method):
    model = network()
    value = method(model, STRENGTH, apply="loss").penalty(torch.zeros(2, 3)).item()
    assert value == pytest.approx(STRENGTH * sum(FORMULAS[method](w) for w in weights(model)), rel=1e-5)


@pytest.mark.parametrize("apply", ["loss", "gradient"])
@pytest.mark.parametrize("method", FORMULAS)
def test_gradient_of_the_penalty_is_right_in_float64(method, apply):
    """Numerically, entry by entry; "gradient" has the slope of the "loss" and the value 0."""
    model = network().double()
    layers = [model[0], model[3], model[5]]
    method(model, STRENGTH, apply=apply).penalty(torch.zeros(1, 3)).backward()
    slopes = [layer.weight.grad for layer in layers]
    loss = method(model, STRENGTH, apply="loss")
    for layer, slope in zip(layers, slopes, strict=True):
        flat, epsilon = layer.weight.detach().view(-1), 1e-6
        for k in range(0, len(flat), 7):
            value = flat[k].item()
            ends = []
            for end in (value + epsilon, value - epsilon):
                flat[k] = end
                ends.append(loss.penalty(torch.zeros(1, 3)).item())
            flat[k] = value
            assert slope.view(-1)[k].item() == pytest.approx((ends[0] - ends[1]) / (2 * epsilon), abs=1e-7)
    assert (method(model, STRENGTH, apply=apply).penalty(torch.zeros(1, 3)).item() == 0) is (apply == "gradient")
    assert model[0].bias.grad is None


def brute_force_prox(norm, w: float, t: float) -> float:
    grid = np.linspace(-4, 4, 2001)
    for _ in range(2):  # the second time between the neighbours of the best
        best = grid[np.argmin(0.5 * (grid - w) ** 2 + t * norm(grid))]
        grid = np.linspace(best - 0.004, best + 0.004, 2001)
    return best


@settings(max_examples=40, deadline=None)
@given(w=st.floats(-3, 3), t=st.floats(0.01, 2))
def test_proximal_steps_minimize_distance_plus_penalty(w, t):
    norms = {L1: np.abs, L2: lambda v: 0.5 * v**2, GroupLasso: np.abs}  # one weight a row: group lasso is |w|
    for method, norm in norms.items():
        layer = nn.Linear(1, 1, bias=False)
        nn.init.constant_(layer.weight, w)
        reg = method(layer, strength=t / 0.5, apply="prox")
        reg.update(torch.optim.SGD(layer.parameters(), lr=0.5))
        assert layer.weight.item() == pytest.approx(brute_force_prox(norm, w, t), abs=2e-4)


def test_loss_and_prox_of_l2_are_weight_decay_of_plain_sgd():
    x, y = torch.randn(16, 1, 8, 8), torch.randint(3, (16,))
    ours, theirs = network(), network()
    reg = L2(ours, STRENGTH)
    decayed = [m.weight for m in theirs.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    rest = [p for p in theirs.parameters() if not any(p is d for d in decayed)]
    a = torch.optim.SGD(ours.parameters(), lr=0.1)
    b = torch.optim.SGD([{"params": decayed, "weight_decay": STRENGTH}, {"params": rest}], lr=0.1)
    for model, optimizer in ((ours, a), (theirs, b)):
        for _ in range(3):
            logits = model(x)
            loss = nn.functional.cross_entropy(logits, y) + (reg.penalty(logits) if model is ours else 0)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(p, q, atol=1e-6)


def test_prox_reads_each_parameters_own_learning_rate():
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    for layer in model:
        nn.init.constant_(layer.weight, 1.0)
    units = [{"params": model[0].parameters(), "lr": 0.1}, {"params": model[1].parameters(), "lr": 0.5}]
    L1(model, 1.0).update(torch.optim.SGD(units, lr=1.0))
    assert torch.allclose(model[0].weight, torch.tensor(0.9))
    assert torch.allclose(model[1].weight, torch.tensor(0.5))


def test_frozen_and_untrained_weights_stay():
    model = network()
    before = copy.deepcopy(model)
    model[0].weight.requires_grad_(False)
    optimizer = torch.optim.SGD([*model[0].parameters(), *model[3].parameters()], lr=0.1)
    for method in FORMULAS:
        method(model, 1.0, apply="prox").update(optimizer)
    assert torch.equal(model[0].weight, before[0].weight)
    assert torch.equal(model[5].weight, before[5].weight)
    assert not torch.equal(model[3].weight, before[3].weight)


def test_shared_weights_count_once():
    a, b = nn.Linear(4, 4), nn.Linear(4, 4)
    b.weight = a.weight
    reg = L1(nn.Sequential(a, nn.ReLU(), b), 1.0, apply="loss")
    assert reg.penalty(torch.zeros(1, 4)).item() == pytest.approx(a.weight.abs().sum().item(), rel=1e-6)


@pytest.mark.parametrize("method", FORMULAS)
@pytest.mark.parametrize("strength", [-1.0, float("nan"), float("inf")])
def test_bad_strength_is_named(method, strength):
    with pytest.raises(ValueError, match=rf"{method.__name__} got strength=.*finite number ≥ 0"):
        method(network(), strength)


def test_other_wrong_use_is_named():
    with pytest.raises(ValueError, match="no prunable layer in Sequential"):
        L1(nn.Sequential(nn.ReLU()), 0.1)
    with pytest.raises(ValueError, match="apply='hook' is unknown; choose one of"):
        L1(network(), 0.1, apply="hook")
    with pytest.raises(TypeError, match=r"L1 got a list for model; it needs a torch\.nn\.Module"):
        L1([1, 2], 0.1)


def test_strength_zero_changes_nothing():
    model = network()
    before = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for method in FORMULAS:
        method(model, 0.0, apply="prox").update(optimizer)
        assert method(model, 0.0, apply="loss").penalty(torch.ones(1, 3)).item() == 0
    for p, q in zip(model.parameters(), before.parameters(), strict=True):
        assert torch.equal(p, q)


def test_units_narrow_the_penalty_to_what_can_go():
    model = network()
    index = torch.arange(4)
    units = Units([Group("0", 4, "inner", (Member("0", index),), (), ())], {})
    value = L1(model, 1.0, apply="loss", units=units).penalty(torch.zeros(1, 3)).item()
    assert value == pytest.approx(model[0].weight.abs().sum().item(), rel=1e-6)
    with pytest.raises(ValueError, match="L1 got units of another model: it has no layer '0'"):
        L1(nn.Linear(2, 2), 1.0, units=units)


def test_computed_weights_are_refused_by_proximal_steps_and_taken_by_losses():
    model = nn.Sequential(torch.nn.utils.parametrizations.weight_norm(nn.Linear(3, 2)))
    assert L2(model, 1.0, apply="loss").penalty(torch.zeros(1, 2)) > 0
    with pytest.raises(ValueError, match="L2 changes weights in place, and that of '0' is computed"):
        L2(model, 1.0, apply="prox")


@pytest.mark.parametrize(
    ("method", "strength", "options"),
    [(L2, 3e-3, {}), (L1, 3e-3, {}), (GroupLasso, 3e-2, {}), (GroupLasso, 3e-2, {"over": "coupled"})],
)
def test_on_digits_l2_leaves_no_zero_l1_scatters_them_and_group_lasso_takes_whole_rows(method, strength, options):
    split = digits()
    torch.manual_seed(0)
    model = LeNet300(10, (1, 8, 8), (60, 30))
    reg = method(model, strength, units=prl.find_units(model, split.train.inputs[:1]), **options)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    prl.fit(model, split.train, split.val, epochs=25, optimizer=optimizer, regularizer=reg, progress=False)
    zeros = model.fc1.weight == 0
    dead, living = zeros.all(1), zeros[~zeros.all(1)].float().mean()
    expected = {L2: zeros.sum() == 0, L1: dead.sum() == 0 and living > 0.2, GroupLasso: dead.sum() > 5 and living == 0}
    assert expected[method]  # [L1: 0.31; group lasso: 14 to 17 of 60 rows]
    assert prl.evaluate(model, split.val).accuracy > 0.9  # [≥ 0.94]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("apply", ["prox", "decay"])
def test_steps_that_rounding_would_undo_are_refused(dtype, apply):
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).to(dtype)
    for method in (prl.L1, prl.L2, prl.GroupLasso):
        if apply in method.ways:
            with pytest.raises(ValueError, match=r"rounds away in '0'; keep the weights in float32"):
                method(model, 1e-3, apply=apply)
        method(model, 1e-3, apply="loss")


def test_what_a_penalty_leaves_out_is_named():
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ConvTranspose2d(4, 4, 3, groups=2), nn.Conv2d(4, 2, 3))
    with pytest.warns(UserWarning, match="L1 leaves out '1': weights of a transposed convolution in groups"):
        assert prl.L1(model, 1e-3).layers == ("0", "2")


def test_linear_layers_of_gpt2_are_penalized_as_others():
    transformers = pytest.importorskip("transformers")
    model = nn.Sequential(transformers.pytorch_utils.Conv1D(5, 3), nn.ReLU(), nn.Linear(5, 2))
    reg = prl.GroupLasso(model, 1e-3)
    assert reg.layers == ("0", "2")
    torch.testing.assert_close(reg.importance()["0"], model[0].weight.detach().norm(dim=0))


def test_a_frozen_layer_in_half_precision_is_no_hindrance():
    model = nn.Sequential(nn.Linear(3, 4).bfloat16().requires_grad_(False), nn.Linear(4, 2))
    assert prl.L2(model, 1e-3, apply="decay").layers == ("0", "1")
