"""Layers that run in training mode alone keep what they read; the small network trains where the dense one does."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pruning_lib.channels import find_units, shrink
from tests.channels.helpers import kill, seeded, snapshot


class Supervised(nn.Module):
    """Two layers with a head behind each; the first head runs in training mode alone."""

    def __init__(self, head):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.second, self.out = nn.Conv2d(8, 8, 3), nn.Conv2d(8, 4, 1)
        self.head = head

    def forward(self, x):
        y = F.relu(self.norm(self.first(x)))
        out = self.out(F.relu(self.second(y)))
        return (out, self.head(y)) if self.training else out


class Raw(nn.Module):
    """A head with a weight of its own, read by a function."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 5))

    def forward(self, y):
        return F.dropout(y.mean((2, 3))) @ self.weight


HEADS = {
    "layer": lambda: nn.Conv2d(8, 4, 1),
    "behind a norm and dropout": lambda: nn.Sequential(nn.BatchNorm2d(8), nn.Dropout(), nn.Conv2d(8, 4, 1)),
    "two layers": lambda: nn.Sequential(nn.Conv2d(8, 6, 1), nn.ReLU(), nn.Conv2d(6, 4, 1)),
    "own weight": Raw,
    "features themselves": nn.Identity,
}


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("head", HEADS)
def test_what_a_head_reads_in_training_stays(head, training):
    model = seeded(lambda: Supervised(HEADS[head]())).train(training)
    kill(model.first, [0, 1, 2], bias=0.0)
    model.norm.bias.data[:3] = 0
    kill(model.second, [0, 1, 2, 3])
    x = torch.randn(2, 3, 8, 8)
    before, state = snapshot(model), torch.random.get_rng_state()
    shrunk = shrink(model, x)
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert shrunk.model.first.out_channels == 8
    assert shrunk.removed["second"] == 4
    small, large = shrunk.model.train()(x), model.train()(x)
    assert [each.shape for each in small] == [each.shape for each in large]


def test_heads_are_named_before_anything_is_pruned():
    units = find_units(Supervised(HEADS["layer"]()), torch.randn(2, 3, 8, 8))
    assert list(units) == ["second"]
    assert units.fixed["first"] == "is needed by what runs in training mode alone"
    assert units.fixed["head"] == "runs in training mode alone"


class Branching(nn.Conv2d):
    def forward(self, y):
        return super().forward(y) * (1.0 if y.sum() > 0 else 2.0)


@pytest.mark.parametrize("function", [find_units, shrink])
def test_a_training_mode_that_cannot_be_traced_is_refused_by_name(function):
    with pytest.raises(RuntimeError, match="'head' run in training mode alone, and could not trace that mode"):
        function(Supervised(Branching(8, 4, 1)), torch.randn(2, 3, 8, 8))


class Masked(nn.Module):
    """Hides positions at random while it trains, and branches on what it drew, as networks for sound do."""

    def __init__(self):
        super().__init__()
        self.first, self.hidden, self.last = nn.Linear(6, 8), nn.Linear(8, 12), nn.Linear(12, 4)
        self.mask = nn.Parameter(torch.randn(8))

    def forward(self, x):
        y = self.first(x)
        if self.training and (hidden := torch.rand(y.shape[:-1]) < 0.9).any():
            y = torch.where(hidden[..., None], self.mask, y)
        return self.last(F.relu(self.hidden(y)))


def test_a_vector_that_masks_at_random_does_not_end_it():
    model, x = seeded(Masked), torch.randn(2, 7, 6)
    with torch.no_grad():
        model.hidden.weight[:5] = 0
    shrunk = shrink(model, x)
    assert shrunk.removed == {"first": 0, "hidden": 5}
    assert shrunk.model.train()(x).shape == (2, 7, 4)


def test_a_vector_that_masks_what_would_be_cut_is_named():
    model = seeded(Masked)
    with torch.no_grad():
        model.first.weight[:5] = 0
    with pytest.raises(RuntimeError, match="'mask' run in training mode alone"):
        shrink(model, torch.randn(2, 7, 6))


def test_a_layer_that_never_runs_holds_nothing():
    class Plain(Supervised):
        def forward(self, x):
            return self.out(F.relu(self.second(F.relu(self.norm(self.first(x))))))

    model = Plain(nn.Linear(8, 8))
    units = find_units(model, torch.randn(2, 3, 8, 8))
    assert list(units) == ["first", "second"]
    assert units.fixed["head"] == "is not called by forward"


def test_a_model_that_does_not_train_on_the_example_is_shrunk_all_the_same():
    class Evaluating(nn.Sequential):
        def forward(self, x):
            if self.training:
                raise ValueError("training needs targets")
            return super().forward(x)

    model = seeded(lambda: Evaluating(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)))
    kill(model[0], [1])
    assert shrink(model, torch.randn(2, 4)).removed == {"0": 1}


def test_a_head_that_does_not_train_on_one_sample_is_seen_with_two():
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 6, 1), nn.BatchNorm2d(6), nn.Conv2d(6, 4, 1))
    model = seeded(lambda: Supervised(head)).train()
    kill(model.first, [0, 1, 2], bias=0.0)
    model.norm.bias.data[:3] = 0
    kill(model.second, [0, 1, 2, 3])
    small = shrink(model, torch.randn(1, 3, 8, 8)).model
    assert small.head[1].in_channels == small.first.out_channels == 8
    assert small.second.out_channels < 8
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(small.train()(x)[1], model.train()(x)[1])
