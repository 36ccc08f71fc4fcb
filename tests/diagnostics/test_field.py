"""The shrinkage field of every method against its closed form, on networks whose units spread over their coordinate."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pruning_lib.channels import find_units
from pruning_lib.companion.models import LeNet300
from pruning_lib.diagnostics import Field, shrinkage_field
from pruning_lib.regularizers import (
    L1,
    L2,
    GroupLasso,
    Guided,
    NetworkSlimming,
    Polarization,
    RecedingNeurons,
    SeReNe,
    StochasticPruning,
    bound_batchnorm,
)
from pruning_lib.units import weighted

X = torch.randn(20, 1, 4, 4, generator=torch.Generator().manual_seed(1))


def network(*, bn: bool = False) -> LeNet300:
    """Return a network whose rows have lengths, and whose scales have sizes, from 0.05 to 2."""
    torch.manual_seed(0)
    model = LeNet300(3, (1, 4, 4), (20, 12), bn=bn)
    with torch.no_grad():
        for name, layer in weighted(model).items():
            layer.weight.mul_(
                torch.linspace(0.05, 2, len(layer.weight)).unsqueeze(1) / layer.weight.norm(dim=1, keepdim=True)
            )
            if bn and name != "fc3":
                model.get_submodule(name.replace("fc", "bn")).weight.copy_(torch.linspace(0.05, 2, len(layer.weight)))
    return model


def lengths(model: nn.Module) -> Tensor:
    return torch.cat([layer.weight.detach().double().norm(dim=1) for layer in weighted(model).values()])


def check(field: Field, x: Tensor, y: Tensor, per: str, rel: float = 1e-5) -> None:
    assert field.per == per
    torch.testing.assert_close(field.importance, x, rtol=1e-6, atol=0)
    torch.testing.assert_close(field.rate, y.double(), rtol=rel, atol=1e-6)
    assert len(field.layer) == len(x)


@pytest.mark.parametrize("apply", ["loss", "gradient", "prox", "decay"])
def test_norms_are_proportional_constant_and_between(apply: Any) -> None:
    model = network()
    x = lengths(model)
    check(shrinkage_field(L2(model, 0.3, apply=apply), model, X), x, x, "lr × strength", 1e-3)
    check(shrinkage_field(GroupLasso(model, 0.3, apply=apply), model, X), x, torch.ones_like(x), "lr × strength")
    ratio = torch.cat([w.weight.detach().double().norm(1, dim=1) for w in weighted(model).values()]) / x
    check(shrinkage_field(L1(model, 0.3, apply=apply), model, X), x, ratio, "lr × strength", 1e-2)
    assert 1 < ratio.min() < ratio.max() < math.sqrt(20)


@pytest.mark.parametrize("base", [L1, L2, GroupLasso])
def test_guidance_multiplies_its_base(base: Any) -> None:
    model = network()
    units = find_units(model, X[:1])
    plain = shrinkage_field(base(model, 0.1, units=units), model, X)
    guided = Guided(model, 0.1, base=base, guidance="quadratic", units=units)
    g = torch.cat([guided.guidance[name] for name in units])
    check(shrinkage_field(guided, model, X), plain.importance, g * plain.rate, "lr × strength", 1e-2)


def test_serene_is_a_line_for_each_sensitivity_and_knows_no_learning_rate() -> None:
    model = network()
    reg = SeReNe(model, 1e-3, estimator="exact")
    field = shrinkage_field(reg, model, X)
    reg.penalty(model(X))
    s = torch.cat(list(reg.sensitivity().values())).double()
    x = lengths(model)
    check(field, x, (1 - s).clamp(min=0) * x, "strength", 1e-4)
    assert shrinkage_field(reg, model, X, lr=0.1).rate.allclose(field.rate)


def test_scales_slimming_polarization_and_receding() -> None:
    model = network(bn=True)
    gamma = torch.cat([model.get_submodule(name).weight.detach().double() for name in ("bn1", "bn2")])
    check(shrinkage_field(NetworkSlimming(model, 0.1), model, X), gamma, torch.ones_like(gamma), "lr × strength")
    with torch.no_grad():
        for name in ("bn1", "bn2"):
            model.get_submodule(name).weight.mul_(0.49)
    inside = gamma * 0.49  # where nothing is clamped
    sign = torch.sign(inside - inside.mean())
    expected = 1.2 - sign + sign.mean()
    field = shrinkage_field(Polarization(model, 0.1, t=1.2), model, X)
    check(field, field.importance, expected, "lr × strength", 1e-4)
    bound_batchnorm(model)
    for shift in (0.0, 3.0):
        reg = RecedingNeurons(model, 0.1, shift=shift)
        alpha = torch.cat(list(reg.importance().values())).double()
        s = torch.sigmoid(torch.logit(alpha) + shift)
        expected = alpha * (1 - alpha) * -s * (1 - s) * s.log()
        field = shrinkage_field(reg, model, X)
        torch.testing.assert_close(field.importance, alpha, rtol=1e-6, atol=0)
        # The penalty falls on γ; α follows with its slope, α(1 − α).
        torch.testing.assert_close(field.rate, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_sampling_takes_its_expected_length_in_a_step() -> None:
    model = network()
    reg = StochasticPruning(model, temperature=0.5, seed=3)
    field = shrinkage_field(reg, model, X, repeats=2000)
    assert field.per == "step"
    generator = torch.Generator().manual_seed(0)
    expected = []
    for name, layer in weighted(model).items():
        w, p = layer.weight.detach().double(), reg.probabilities()[name].double()
        kept = torch.rand(4000, *w.shape, generator=generator, dtype=torch.float64) > p
        expected.append(w.norm(dim=1) - (w * kept).norm(dim=2).mean(0))
    expected_rate = torch.cat(expected)
    assert (field.rate - expected_rate).abs().max() < 0.05 * expected_rate.max()


@pytest.mark.parametrize("method", ["group", "stochastic", "serene", "receding"])
def test_nothing_is_left_changed(method: str) -> None:
    model = network(bn=True)
    if method == "receding":
        bound_batchnorm(model)
    reg: Any = {
        "group": lambda: GroupLasso(model, 0.1),
        "stochastic": lambda: StochasticPruning(model, 0.1, mode="mask"),
        "serene": lambda: SeReNe(model, 0.1, seed=4),
        "receding": lambda: RecedingNeurons(model, 0.1),
    }[method]()
    reg.penalty(model(X)).add(model(X).sum()).backward()
    if method == "serene":
        reg.penalty(model(X))
    before, state = copy.deepcopy(model.state_dict()), copy.deepcopy(reg.state_dict())
    gradients = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    random = torch.get_rng_state()
    shrinkage_field(reg, model, X, repeats=3)
    after = model.state_dict()
    assert all(torch.equal(before[k], after[k]) and before[k].dtype == after[k].dtype for k in before)
    assert str(state) == str(reg.state_dict())
    assert all((p.grad is None) == (g is None) for p, g in zip(model.parameters(), gradients, strict=True))
    assert all(g is None or torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients, strict=True))
    assert torch.equal(random, torch.get_rng_state())
    assert model.training


def test_misuse_is_named() -> None:
    model = network()
    with pytest.raises(ValueError, match="Nothing pulls: L2 has strength 0"):
        shrinkage_field(L2(model, 0.0), model, X)
    with pytest.raises(ValueError, match="lr=0; it needs a finite number above 0"):
        shrinkage_field(L2(model, 0.1), model, X, lr=0)
    model.fc1.half()
    with pytest.raises(ValueError, match="one floating dtype"):
        shrinkage_field(L2(model, 0.1), model, X)


def test_a_model_that_fails_comes_back_as_it_was() -> None:
    model = network()
    reg = StochasticPruning(model, 0.1, seed=4)
    before, state = copy.deepcopy(model.state_dict()), copy.deepcopy(reg.state_dict())
    with pytest.raises(RuntimeError):
        shrinkage_field(reg, model, X[:, :, :2])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert str(state) == str(reg.state_dict())


def test_a_buffer_of_float64_comes_back_as_it_was() -> None:
    model = LeNet300(inputs=(1, 4, 4))
    exact = torch.tensor([0.1], dtype=torch.float64) / 3
    model.register_buffer("exact", exact.clone())
    shrinkage_field(L2(model, 0.1), model, X)
    assert model.exact.dtype == torch.float64
    assert torch.equal(model.exact, exact)  # type: ignore[arg-type]
