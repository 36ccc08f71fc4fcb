"""The estimators of SeReNe's sensitivity against per-example Jacobians, on every kind of head."""

import copy
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.graph import get_gradient_edge

from pruning_lib.regularizers import SeReNe, _sensitivity
from pruning_lib.regularizers._slopes import behind_pools, reduce_slopes
from tests.regularizers.observed import CLASSES, EXAMPLES, jacobian_of_conv, make


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


def check_every_space(model: nn.Module, x: torch.Tensor, reach: dict[str | None, np.ndarray]) -> None:
    """Compare S of the first layer with what the slopes of each example and output say, by how places are joined."""
    for space, felt in reach.items():
        reg = SeReNe(model, estimator="exact", space=space)
        reg.penalty(model(x))
        assert np.allclose(reg.sensitivity()["first"].numpy(), felt.mean((0, 1)), rtol=1e-5), space
        reg.remove()


class Doubled(torch.autograd.Function):
    """Twice its input; its backward reads the numbers of the slope, which a pass of several outputs cannot."""

    @staticmethod
    def forward(context, x):
        return 2 * x

    @staticmethod
    def backward(context, slope):
        return torch.from_numpy(2 * slope.numpy())


class Halved(torch.autograd.Function):
    """Half its input; its backward changes the slope that it is given and leaves the graph by `.data`."""

    @staticmethod
    def forward(context, x):
        return x / 2

    @staticmethod
    def backward(context, slope):
        return slope.data.mul_(0.5)


class Calling(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function.apply(x)


@pytest.mark.parametrize("middle", [nn.Tanh(), Calling(Doubled), Calling(Halved)])
@pytest.mark.parametrize("space", ["mean", "sum", "abs-of-sum"])
@pytest.mark.parametrize("norm", [False, True])
def test_outputs_taken_at_once_give_what_they_give_one_by_one(middle, space, norm, monkeypatch):
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4) if norm else nn.Identity(), middle, nn.MaxPool2d(2)]
    model = nn.Sequential(*layers, nn.Conv2d(4, 3, 3), nn.Flatten(), nn.Linear(12, 7))
    x, found = torch.randn(5, 1, 10, 10), []
    passes, backward = [], _sensitivity.backward
    monkeypatch.setattr(_sensitivity, "backward", lambda *its: passes.append(len(its[2])) or backward(*its))
    for at_once in (1, 3 * 5 * 4 * 64, _sensitivity.AT_ONCE):
        monkeypatch.setattr(_sensitivity, "AT_ONCE", at_once)
        reg = SeReNe(model, estimator="exact", space=space, seed=0)
        reg.penalty(model(x))
        found.append(reg.sensitivity())
        reg.remove()
    ones = [1] * 7
    assert passes == [*ones, *([3, 3, 1, 7] if isinstance(middle, nn.Tanh) else [3, *ones, 7, *ones])]
    for other in found[1:]:
        for name, value in found[0].items():
            torch.testing.assert_close(other[name], value)


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
    check_every_space(model, x, reach)
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


class Pooled(nn.Module):
    """A convolution whose pre-activation a max pooling takes up, alone or beside something else."""

    def __init__(self, pool: nn.Module, taken: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.pool, self.taken, self.head = nn.Conv2d(1, 4, 3, padding=1), pool, taken, nn.LazyLinear(3)

    def rest(self, p: torch.Tensor) -> torch.Tensor:
        before = torch.relu(p) if self.taken == "behind an activation" else p
        pooled = torch.relu_(self.pool(before)).flatten(1)
        beside = [torch.tanh(p).flatten(1)] if self.taken == "twice" else []
        return self.head(torch.cat([pooled, *beside], 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.rest(self.first(x))


POOLS = {
    "apart": (nn.MaxPool2d(2), True),
    "apart, one number in brackets": (nn.MaxPool2d((2,)), True),
    "apart, one stride in brackets": (nn.MaxPool2d(2, stride=(3,)), True),
    "apart, with gaps and a rest": (nn.MaxPool2d((2, 1), stride=(3, 2)), True),
    "apart, padded": (nn.MaxPool2d(3, padding=1, ceil_mode=True), True),
    "apart, dilated": (nn.MaxPool2d(2, stride=3, dilation=2), True),
    "overlapping": (nn.MaxPool2d(3, stride=2), False),
    "interleaved by dilation": (nn.MaxPool2d(2, stride=2, dilation=2), False),
}


@pytest.mark.parametrize("taken", ["alone", "twice", "behind an activation"])
@pytest.mark.parametrize("pool", POOLS)
def test_slopes_of_all_places_count_where_a_max_pooling_follows(pool, taken):
    kind, apart = POOLS[pool]
    model, x = Pooled(kind, taken).double(), torch.randn(EXAMPLES, 1, 7, 8, dtype=torch.float64)
    jacobian = slopes_of_all_outputs(model, x, 1)
    assert jacobian.shape[3] == 7 * 8
    reach = {
        "mean": np.abs(jacobian).mean(3),
        "sum": np.abs(jacobian).sum(3),
        "abs-of-sum": np.abs(jacobian.sum(3)),
    }
    check_every_space(model, x, reach)
    p = model.first(x)
    edge = get_gradient_edge(p)
    (moved,) = behind_pools([edge], model.rest(p).grad_fn)
    assert (moved.node is not edge.node) == (apart and taken == "alone")


class Taken(nn.Module):
    """A first layer whose pre-activation a function takes up."""

    def __init__(self, first: nn.Module, take) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.take, self.head = first, take, nn.LazyLinear(3)

    def rest(self, p: torch.Tensor) -> torch.Tensor:
        return self.head(self.take(p).flatten(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.rest(self.first(x))


@pytest.mark.parametrize(
    ("first", "window", "units"),
    [
        (nn.Conv1d(5, 4, 3, padding=1), (2, 1), 1),
        (nn.Linear(6, 4), (1, 2), 2),
        (nn.Linear(6, 4), (2, 1), 2),
    ],
)
def test_a_pooling_that_joins_units_is_not_taken_for_one_of_places(first, window, units):
    model = Taken(first, lambda p: F.max_pool2d(p, window)).double()
    x = torch.randn(EXAMPLES, 5, 6, dtype=torch.float64)
    model(x)
    found = []
    for example in x:
        p = model.first(example[None]).detach()
        jacobian = torch.autograd.functional.jacobian(lambda q: model.rest(q)[0], p)[:, 0]
        found.append(jacobian.movedim(units, 1).abs().flatten(2).mean(2).mean(0))
    reg = SeReNe(model, 0.5, estimator="exact", space="mean")
    reg.penalty(model(x))
    assert torch.allclose(reg.sensitivity()["first"].double(), torch.stack(found).mean(0), rtol=1e-5)
    reg.update(torch.optim.SGD(model.parameters(), 0.1))


@pytest.mark.parametrize("pool", [2, 1])
def test_slopes_that_two_layers_share_keep_their_signs_where_these_count(pool):
    """A linear layer and a convolution that are added get the same slopes; only the convolution has places."""

    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.c, self.fc = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(64, 256 // pool**2)
            self.h = nn.Linear(256 // pool**2, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            maps = self.c(x)
            return self.h(self.fc(x.flatten(1)) + (F.max_pool2d(maps, 2) if pool == 2 else maps).flatten(1))

    model = Sum()
    x = torch.randn(EXAMPLES, 1, 8, 8)
    reg = SeReNe(model, estimator="exact", space="abs-of-sum")
    reg.penalty(model(x))
    felt = model.h.weight.detach().view(3, 4, -1).sum(2).abs().mean(0)  # linear: the same for all examples
    assert torch.allclose(reg.sensitivity()["c"], felt, rtol=1e-5)


def test_an_observed_model_can_be_traced():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 3))
    SeReNe(model)
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(torch.jit.trace(model, x)(x), model(x))


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


def test_accumulated_passes_are_averaged_by_their_examples():
    model, x = make()
    whole, parts = (SeReNe(model, estimator="exact") for _ in range(2))
    whole.penalty(model(x))
    for part in x.split([5, 1]):
        parts.penalty(model(part))
    assert torch.allclose(parts.sensitivity()["conv"], whole.sensitivity()["conv"])
