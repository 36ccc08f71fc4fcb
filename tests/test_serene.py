"""SeReNe: sensitivities against per-example Jacobians, updates against the formula written out here."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from pruning_lib.regularizers import SeReNe
from pruning_lib.regularizers.serene import reduce_slopes

CLASSES, EXAMPLES = 4, 6


class Net(nn.Module):
    """conv → BatchNorm → in-place ReLU → pool → linear → ReLU → linear: every kind of pre-activation there is."""

    def __init__(self, norm: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3)
        self.norm = nn.BatchNorm2d(3) if norm else nn.Identity()
        self.fc1 = nn.Linear(3 * 9, 5)
        self.fc2 = nn.Linear(5, CLASSES)

    def head(self, p: torch.Tensor) -> torch.Tensor:
        h = nn.functional.max_pool2d(torch.relu(p), 2).flatten(1)
        return self.fc2(torch.relu(self.fc1(h)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        p = nn.functional.relu(self.norm(self.conv(x)), inplace=True)
        return self.fc2(nn.functional.relu(self.fc1(nn.functional.max_pool2d(p, 2).flatten(1)), inplace=True))


def make(norm: bool = False) -> tuple[Net, torch.Tensor]:
    torch.manual_seed(0)
    model = Net(norm).double()
    if norm:
        model.norm.running_mean.normal_()
        model.norm.running_var.uniform_(0.5, 2)
        nn.init.normal_(model.norm.weight)
        nn.init.normal_(model.norm.bias)
        model.eval()
    return model, torch.randn(EXAMPLES, 1, 8, 8, dtype=torch.float64)


def jacobian_of_conv(model: Net, x: torch.Tensor) -> np.ndarray:
    """|∂y_k/∂p| of every example alone: shape (examples, classes, channels, height, width)."""
    slopes = []
    for example in x:
        p = model.norm(model.conv(example[None])).detach()
        slopes.append(torch.autograd.functional.jacobian(lambda q: model.head(q)[0], p)[:, 0])
    return torch.stack(slopes).numpy()


@pytest.mark.parametrize("norm", [False, True])
def test_exact_sensitivity_is_the_mean_absolute_jacobian(norm):
    model, x = make(norm)
    jacobian = jacobian_of_conv(model, x)
    expected = {
        "mean": np.abs(jacobian).mean((0, 1, 3, 4)),
        "sum": np.abs(jacobian).sum((3, 4)).mean((0, 1)),
        "abs-of-sum": np.abs(jacobian.sum((3, 4))).mean((0, 1)),
    }
    for space, wanted in expected.items():
        reg = SeReNe(model, estimator="exact", space=space)
        reg.penalty(model(x))
        assert np.allclose(reg.sensitivity()["conv"].numpy(), wanted, rtol=1e-5), space
        reg.remove()


def test_lower_bound_takes_the_absolute_value_after_the_sum_over_classes():
    model, x = make()
    reg = SeReNe(model, estimator="lower-bound")
    reg.penalty(model(x))
    bound = reg.sensitivity()["conv"].numpy()
    jacobian = jacobian_of_conv(model, x)
    assert np.allclose(bound, np.abs(jacobian.sum(1)).mean((0, 2, 3)) / CLASSES, rtol=1e-5)
    assert (bound <= np.abs(jacobian).mean((0, 1, 3, 4)) + 1e-7).all()


def test_sampled_sensitivity_is_unbiased():
    """Within 4 standard errors of the exact value in all 3 + 5 units: fails by chance once in 2,000 seeds."""
    model, x = make()
    exact = SeReNe(model, estimator="exact")
    exact.penalty(model(x))
    wanted = exact.sensitivity()
    exact.remove()
    reg = SeReNe(model, estimator="sampled", every=1, smoothing=0.0)
    draws = []
    for _ in range(600):
        reg.penalty(model(x))
        draws.append(torch.cat([reg.sensitivity()[name] for name in ("conv", "fc1")]))
    draws = torch.stack(draws)
    error = (draws.mean(0) - torch.cat([wanted["conv"], wanted["fc1"]])).abs()
    assert (error <= 4 * draws.std(0) / len(draws) ** 0.5).all()
    assert (draws.std(0) > 0).any()


def test_local_sensitivity_is_the_share_of_examples_that_switch_a_unit_on():
    model, x = make()
    reg = SeReNe(model, estimator="local")
    reg.penalty(model(x))
    s = reg.sensitivity()
    assert np.allclose(s["conv"].numpy(), (model.conv(x) > 0).double().mean((0, 2, 3)).numpy())
    assert (s["fc2"] == 1).all(), "the layer that writes the outputs is linear"
    assert 0 < s["fc1"].mean() < 1


def test_local_sensitivity_takes_the_slope_of_the_activation_it_is_given():
    layer = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2))
    x = torch.randn(5, 2)
    reg = SeReNe(layer, estimator="local", activation=torch.tanh)
    reg.penalty(layer(x))
    assert torch.allclose(reg.sensitivity()["0"], (1 - torch.tanh(layer[0](x)) ** 2).mean(0), atol=1e-6)


def test_output_layer_has_sensitivity_one_over_classes():
    model, x = make()
    reg = SeReNe(model, estimator="exact")
    reg.penalty(model(x))
    assert torch.allclose(reg.sensitivity()["fc2"], torch.full((CLASSES,), 1 / CLASSES))


def test_released_scaling_divides_by_the_batch():
    model, x = make()
    values = {}
    for scaling in ("paper", "released"):
        reg = SeReNe(model, estimator="exact", scaling=scaling)
        reg.penalty(model(x))
        values[scaling] = reg.sensitivity()["fc1"]
        reg.remove()
    assert torch.allclose(values["released"] * EXAMPLES, values["paper"])


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


def test_accumulated_passes_are_averaged():
    model, x = make()
    whole, halves = (SeReNe(model, estimator="exact") for _ in range(2))
    logits = model(x)
    whole.penalty(logits)
    for part in x.chunk(2):
        halves.penalty(model(part))
    assert torch.allclose(halves.sensitivity()["conv"], whole.sensitivity()["conv"])


def test_frozen_layers_stay_and_the_rest_moves():
    model, x = make()
    model.conv.weight.requires_grad_(False)
    before = copy.deepcopy(model)
    reg = SeReNe(model, 0.5, estimator="exact")
    step(model, reg, torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.0), x)
    assert torch.equal(model.conv.weight, before.conv.weight)
    assert not torch.equal(model.fc1.weight, before.fc1.weight)


def test_a_unit_that_no_output_feels_is_fully_insensitive():
    class Aside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.aside = nn.Linear(3, 2), nn.Linear(3, 2)

        def forward(self, x):
            self.extra = self.aside(x)
            return self.used(x)

    model = Aside()
    reg = SeReNe(model, estimator="exact")
    reg.penalty(model(torch.randn(4, 3)))
    assert (reg.sensitivity()["aside"] == 0).all()


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


def test_copies_and_pickles_of_an_observed_model_are_plain():
    model, x = make()
    reg = SeReNe(model, estimator="exact")
    logits = model(x)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(2 * x), model.head(model.conv(2 * x)))
    reg.penalty(logits)
    assert reg.sensitivity()["conv"].shape == (3,)


def test_spatial_reductions_of_a_hand_made_slope():
    slope = torch.tensor([[[1.0, -3.0]], [[2.0, 2.0]]])  # 2 examples, 1 unit, 2 places
    assert reduce_slopes(slope, "mean").item() == pytest.approx((2 + 2) / 2)
    assert reduce_slopes(slope, "sum").item() == pytest.approx((4 + 4) / 2)
    assert reduce_slopes(slope, "abs-of-sum").item() == pytest.approx((2 + 4) / 2)


def test_wrong_use_is_named():
    model, x = make()
    with pytest.raises(ValueError, match="SeReNe got strength=1.5; it is a share of the weight per step, below 1"):
        SeReNe(model, 1.5)
    with pytest.raises(ValueError, match="SeReNe got strength=nan"):
        SeReNe(model, float("nan"))
    with pytest.raises(ValueError, match="estimator='full' is unknown; choose one of"):
        SeReNe(model, estimator="full")
    with pytest.raises(ValueError, match="every=0; it is a number of steps"):
        SeReNe(model, every=0)
    with pytest.raises(ValueError, match="smoothing=1"):
        SeReNe(model, smoothing=1)
    with pytest.raises(TypeError, match="SeReNe got a compiled model"):
        SeReNe(torch.compile(model))
    reg = SeReNe(model)
    with pytest.raises(ValueError, match="measured no sensitivity yet"):
        reg.sensitivity()
    with pytest.raises(ValueError, match=r"outputs of shape \(6,\); it needs the model's, \(examples, classes\)"):
        reg.penalty(model(x).sum(1))
    with torch.no_grad(), pytest.raises(ValueError, match="outputs without a graph"):
        reg.penalty(model(x))
    logits = model(x)
    reg.penalty(logits)
    with pytest.raises(ValueError, match="saw no forward pass since the last penalty"):
        reg.penalty(logits)
