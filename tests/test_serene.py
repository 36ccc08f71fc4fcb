"""SeReNe: sensitivities against per-example Jacobians, updates against the formula written out here."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from pruning_lib.regularizers import SeReNe, bound_batchnorm
from pruning_lib.regularizers._sensitivity import reduce_slopes
from pruning_lib.units import Group, Member, Units

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


class Map(nn.Module):
    """A first layer → ReLU → conv with stride 2 → tanh → 1 × 1 conv: a map of 2 classes on 3 × 2 places."""

    def __init__(self, first: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = first, nn.Conv2d(3, 4, 3, padding=1, stride=2)
        self.head = nn.Conv2d(4, 2, 1)

    def rest(self, p: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.second(torch.relu(p))))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.rest(self.first(x))


class Sequence(nn.Module):
    """A linear layer at each of 5 steps, a convolution over the steps, a linear head of 3 numbers a step."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.head = nn.Linear(2, 4), nn.Conv1d(4, 4, 3, padding=1), nn.Linear(4, 3)

    def rest(self, p: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.second(torch.relu(p).transpose(1, 2))).transpose(1, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.rest(self.first(x))


class Regression(nn.Module):
    """A multilayer perceptron of one number an example, with or without an axis for it."""

    def __init__(self, flat: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.head, self.flat = nn.Linear(2, 4), nn.Linear(4, 3), nn.Linear(3, 1), flat

    def rest(self, p: torch.Tensor) -> torch.Tensor:
        y = self.head(torch.relu(self.second(torch.tanh(p))))
        return y[:, 0] if self.flat else y

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.rest(self.first(x))


HEADS = {
    "map": (lambda: Map(nn.Conv2d(1, 3, 3, padding=1)), (1, 6, 4), 1),
    "map from transposed": (lambda: Map(nn.ConvTranspose2d(1, 3, 2, stride=2)), (1, 3, 2), 1),
    "sequence": (Sequence, (5, 2), 2),
    "numbers": (lambda: Regression(flat=False), (2,), 1),
    "number": (lambda: Regression(flat=True), (2,), 1),
}


def slopes_of_all_outputs(model: nn.Module, x: torch.Tensor, units: int) -> np.ndarray:
    """∂y/∂p of the first layer, each example alone: shape (examples, numbers it gives, units, places)."""
    found = []
    for example in x:
        p = model.first(example[None]).detach()
        jacobian = torch.autograd.functional.jacobian(lambda q: model.rest(q)[0].flatten(), p)
        found.append(jacobian.movedim(units + 1, 2)[:, 0].flatten(2) if p.ndim > 2 else jacobian[:, 0, :, None])
    return torch.stack(found).numpy()


@pytest.mark.parametrize("head", HEADS)
def test_other_heads_count_every_number_that_an_example_gives(head):
    make_head, shape, units = HEADS[head]
    model, x = make_head().double(), torch.randn(EXAMPLES, *shape, dtype=torch.float64)
    jacobian = slopes_of_all_outputs(model, x, units)
    assert jacobian.shape[1] == model(x)[0].numel()
    reach = {
        None: np.abs(jacobian).sum(3) if model(x).ndim > 2 else np.abs(jacobian).mean(3),
        "mean": np.abs(jacobian).mean(3),
        "sum": np.abs(jacobian).sum(3),
        "abs-of-sum": np.abs(jacobian.sum(3)),
    }
    for space, felt in reach.items():
        reg = SeReNe(model, estimator="exact", space=space)
        reg.penalty(model(x))
        assert np.allclose(reg.sensitivity()["first"].numpy(), felt.mean((0, 1)), rtol=1e-5), space
        reg.remove()
    bound = SeReNe(model, estimator="lower-bound", space="sum")
    bound.penalty(model(x))
    expected = np.abs(jacobian.sum(1)).sum(2).mean(0) / jacobian.shape[1]
    assert np.allclose(bound.sensitivity()["first"].numpy(), expected, rtol=1e-5)
    assert (expected <= reach["sum"].mean((0, 1)) + 1e-12).all()


@pytest.mark.parametrize("head", HEADS)
def test_the_sampled_sensitivity_of_other_heads_is_unbiased(head):
    """Within 4 standard errors in the 7 or 8 hidden units of each head: fails by chance once in 2,000 seeds."""
    make_head, shape, _ = HEADS[head]
    model, x = make_head().double(), torch.randn(200, *shape, dtype=torch.float64)
    values = []
    for estimator in ("exact", "sampled"):
        reg = SeReNe(model, estimator=estimator, every=1, smoothing=0.0)
        draws = []
        for part in x.split(200 if estimator == "exact" else 1):
            reg.penalty(model(part))
            s = reg.sensitivity()
            draws.append(torch.cat([s["first"], s["second"]]))
        values.append(torch.stack(draws))
        reg.remove()
    exact, draws = values
    # One example a draw: what varies is the example too, whose mean over all of them is the exact value's.
    error = (draws.mean(0) - exact[0]).abs()
    assert (error <= 4 * draws.std(0) / len(draws) ** 0.5 + 1e-6).all()


def test_a_network_that_treats_places_alone_has_the_sensitivities_of_single_places():
    """Convolutions of 1 × 1 on maps are a perceptron on pixels, whatever the size of the map."""
    torch.manual_seed(0)
    places = nn.Sequential(nn.Conv2d(3, 5, 1), nn.ReLU(), nn.Conv2d(5, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))
    pixels = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        for conv, linear in zip(places[::2], pixels[::2], strict=True):
            linear.weight.copy_(conv.weight.flatten(1))
            linear.bias.copy_(conv.bias)
    x = torch.randn(4, 3, 5, 6)
    for estimator in ("exact", "local"):
        on_maps, on_pixels = (SeReNe(m, estimator=estimator) for m in (places, pixels))
        on_maps.penalty(places(x))
        on_pixels.penalty(pixels(x.movedim(1, -1).reshape(-1, 3)))
        for name, value in on_maps.sensitivity().items():
            assert torch.allclose(value, on_pixels.sensitivity()[name], rtol=1e-5)
            assert value.max() > 0.01
    assert torch.allclose(on_maps.sensitivity()["4"], torch.ones(2))


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


def test_accumulated_passes_are_averaged_by_their_examples():
    model, x = make()
    whole, parts = (SeReNe(model, estimator="exact") for _ in range(2))
    whole.penalty(model(x))
    for part in x.split([5, 1]):
        parts.penalty(model(part))
    assert torch.allclose(parts.sensitivity()["conv"], whole.sensitivity()["conv"])


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
        twin(2 * x)
    reg.penalty(logits)
    assert np.allclose(
        reg.sensitivity()["conv"].numpy(), np.abs(jacobian_of_conv(model, x)).mean((0, 1, 3, 4)), rtol=1e-5
    )


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


def test_mixed_precision_measures_in_float32():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, CLASSES))
    x = torch.randn(64, 8)
    values = []
    for enabled in (False, True):
        reg = SeReNe(model, estimator="exact")
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            reg.penalty(model(x))
        values.append(reg.sensitivity()["0"])
        reg.remove()
    assert values[1].dtype == torch.float32
    assert torch.allclose(*values, rtol=0.05, atol=0.01)
    assert not torch.equal(*values), "autocast was on"


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


def test_outputs_of_another_pass_are_refused_and_passes_without_gradient_do_not_count():
    model, x = make()
    reg = SeReNe(model, estimator="exact")
    old = model(x)
    model(x + 1)
    with pytest.raises(ValueError, match="do not come from the model's last forward pass"):
        reg.penalty(old)
    logits = model(x)
    with torch.no_grad():
        model(x + 1)
    reg.penalty(logits)
    assert np.allclose(
        reg.sensitivity()["conv"].numpy(), np.abs(jacobian_of_conv(model, x)).mean((0, 1, 3, 4)), rtol=1e-5
    )


def test_train_mode_batchnorm_keeps_the_scale_of_single_examples():
    """S with frozen batch statistics is the definition; without signs it came out at less than half of it."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(8, 16),
        nn.BatchNorm1d(16),
        nn.ReLU(),
        nn.Linear(16, 16),
        nn.BatchNorm1d(16),
        nn.ReLU(),
        nn.Linear(16, 4),
    )
    x = torch.randn(256, 8)
    for norm in (model[1], model[4]):
        norm.momentum = 1.0
    model(x)  # running statistics are now those of this batch
    values = []
    for training in (False, True):
        reg = SeReNe(model.train(training), estimator="exact")
        reg.penalty(model(x))
        values.append(reg.sensitivity())
        reg.remove()
    for name in ("0", "3"):
        assert (values[1][name] / values[0][name]).mean().item() == pytest.approx(1, abs=0.1)


def test_a_shared_batchnorm_stands_for_the_layer_use_that_it_follows():
    class Twice(nn.Module):
        def __init__(self, interleaved: bool) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.layer, self.norm, self.head = nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)
            self.interleaved = interleaved

        def forward(self, x):
            if self.interleaved:
                u, v = self.norm(self.layer(x)), self.norm(self.layer(2 * x))
            else:
                u, v = self.layer(x), self.layer(2 * x)
                u, v = self.norm(u), self.norm(v)
            return self.head(torch.relu(u) + 3 * torch.relu(v))

    torch.manual_seed(1)
    x = torch.randn(8, 3)
    values = []
    for interleaved in (False, True):
        model = Twice(interleaved).eval()
        reg = SeReNe(model, estimator="exact")
        reg.penalty(model(x))
        values.append(reg.sensitivity()["layer"])
    assert torch.allclose(*values)


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


def test_a_tied_weight_is_felt_wherever_it_is_used():
    first, second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
    second.weight = first.weight

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = first, second

        def forward(self, x):
            return 0 * self.first(x) + self.second(x)

    model = Tied()
    reg = SeReNe(model, estimator="exact")
    reg.penalty(model(torch.randn(5, 4)))
    assert torch.allclose(reg.sensitivity()["first"], torch.full((4,), 0.25))


def test_a_measurement_that_overflowed_is_dropped():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3), nn.Linear(3, 2))
    reg = SeReNe(model, 0.1, estimator="exact")
    x = torch.randn(4, 3)
    reg.penalty(model(x))
    wanted = reg.sensitivity()
    reg.penalty(model(x * float("inf")))
    assert all(torch.equal(value, wanted[name]) for name, value in reg.sensitivity().items())


def test_local_finds_the_output_layer_behind_a_cast():
    model, x = make()
    reg = SeReNe(model, estimator="local")
    reg.penalty((model(x) / 2).float())
    assert (reg.sensitivity()["fc2"] == 1).all()


def test_removed_hooks_see_nothing():
    model, x = make()
    reg = SeReNe(model)
    reg.remove()
    with pytest.raises(ValueError, match="saw no forward pass"):
        reg.penalty(model(x))
    assert not any(module._forward_hooks for module in model.modules())


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
    with pytest.raises(TypeError, match="SeReNe got a tuple; pass the tensor of outputs"):
        reg.penalty((model(x), 1))
    reg.penalty(model(x))
    reg.strength = 2.5
    before = copy.deepcopy(model)
    with pytest.raises(ValueError, match=r"strength=2\.5; it is a share"):
        reg.update(torch.optim.SGD(model.parameters(), lr=0.1))
    assert torch.equal(model.fc1.weight, before.fc1.weight)


def test_a_seed_that_is_no_integer_leaves_no_hook_behind():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    with pytest.raises(TypeError, match="SeReNe got seed=None; it is an integer"):
        SeReNe(model, 1e-4, seed=None)
    assert not any(module._forward_hooks for module in model.modules())
