"""What a forward may do: changes in place, branches, chance."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pruning_lib.channels import shrink
from tests.channels.helpers import assert_equal, kill, seeded


class InPlace(nn.Module):
    def __init__(self, view):
        super().__init__()
        self.view, self.a, self.b = view, nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x):
        x = self.a(x)
        if self.view:
            x[:, :3] += 1
        else:
            torch.relu_(x)
        return self.b(x)


@pytest.mark.parametrize("view", [False, True])
def test_changes_in_place_are_followed_or_left_alone(view):
    model = seeded(lambda: InPlace(view))
    kill(model.a, [1, 5], bias=-1.0)
    shrunk = shrink(model, torch.randn(2, 4))
    assert shrunk.removed == ({} if view else {"a": 2})
    assert_equal(model, shrunk.model, 4)


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 2)

    def forward(self, x):
        if x.sum() > 0:
            return self.fc(x)
        return -self.fc(x)


class Random(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.b(F.dropout(self.a(x), training=True))


def test_a_branch_on_a_value_is_refused_in_words(capfd):
    model = Branches()
    with pytest.raises(RuntimeError) as caught:
        shrink(model, torch.randn(1, 3))
    line = Branches.forward.__code__.co_firstlineno + 1
    assert f"could not trace Branches.forward: it branches on a tensor's value (test_trace.py, line {line})" in str(
        caught.value
    )
    assert capfd.readouterr() == ("", "")


def test_a_forward_that_is_random_in_eval_mode_is_left_whole():
    model = seeded(Random)
    kill(model.a, [0])
    assert shrink(model, torch.randn(2, 3)).removed == {}


class ThroughAView(nn.Module):
    """Changes a matrix through its diagonal, which no rule covers."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 16), nn.Linear(16, 2)

    def forward(self, x):
        x = self.a(x).unflatten(1, (4, 4))
        x.diagonal(dim1=1, dim2=2).copy_(torch.ones(len(x), 4).to(x))
        return self.b(x.flatten(1))


def test_a_change_through_a_view_that_has_no_rule_is_seen():
    model = seeded(ThroughAView).double()
    kill(model.a, list(range(0, 16, 5)), bias=0.0)  # the diagonal, which is 1 in the end
    shrunk = shrink(model, torch.randn(2, 4).double())
    assert shrunk.removed == {}
    assert "through a view" in shrunk.plan.notes[0]
