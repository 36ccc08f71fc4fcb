"""The comparison of outputs: what it says, and what it compares on."""

from __future__ import annotations

import copy
import re
from dataclasses import replace

import pytest
import torch
from torch import nn

from pruning_lib._inputs import inputs
from pruning_lib.channels import shrink
from pruning_lib.channels._plan import cast
from pruning_lib.channels._probes import probes
from pruning_lib.channels._verify import Comparison, compare, refer
from tests.channels.helpers import seeded


def small(change):
    """Return a function that makes a changed copy of a model in a dtype."""

    def of(model):
        def make(dtype):
            other = copy.deepcopy(model)
            change(other)
            cast(other, dtype or torch.float32)
            return other

        return make

    return of


def bump(size):
    @torch.no_grad()
    def change(model):
        model[0].bias += size

    return change


def fail(model):
    def raising(*_):
        raise ValueError("no")

    model.register_forward_pre_hook(raising)


@pytest.mark.parametrize(
    ("change", "difference", "raised"),
    [
        (bump(0.0), "", False),
        (bump(1e-3), "by .*e-0. in float64", False),
        (lambda model: model.append(nn.Flatten(0)), "in shape", False),
        (fail, "no", True),
    ],
)
def test_a_comparison_says_what_differs(change, difference, raised):
    model = seeded(lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh()))
    comparison = compare(refer(model, inputs(torch.randn(2, 3)), []), small(change)(model))
    assert comparison.equal == (not difference)
    assert bool(comparison.raised) == raised
    assert re.fullmatch(difference, comparison.difference)


@torch.no_grad()
def cancelling():
    """Return a network of constants near 1e8 that cancel: eight digits of its outputs are left."""
    model = seeded(lambda: nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))).double()
    model[0].weight[:3] = 0
    model[0].bias[:3] = torch.tensor([1e8, 3e7, 7e7])
    model[2].bias -= model[2].weight[:, :3] @ model[0].bias[:3]
    return model


def test_what_rounding_explains_is_no_difference():
    shrunk = shrink(cancelling(), torch.randn(2, 4).double())
    assert shrunk.removed == {"0": 3}
    assert 1e-9 < shrunk.max_error < 1.5e-8


def test_what_rounding_does_not_explain_is_one():
    model = cancelling()
    comparison = compare(refer(model, inputs(torch.randn(2, 4).double()), []), small(bump(1e-3))(model))
    assert comparison.difference.endswith("in float64")


def test_a_decision_that_a_last_digit_tips_hides_no_error():
    class Tips(nn.Sequential):
        """Returns nothing unless sixteen sums are 0, as they are."""

        def forward(self, x):
            return super().forward(x) * (self.ones - self.others == 0).all()

    model = seeded(lambda: Tips(nn.Linear(3, 4), nn.Tanh()))
    for name in ("ones", "others"):
        model.register_buffer(name, torch.ones(16))
    comparison = compare(refer(model, inputs(torch.randn(2, 3)), []), small(bump(1e-3))(model))
    assert comparison.difference.endswith("in float64")


class Wild(nn.Sequential):
    """For large inputs, the last digits of the weights decide what it returns; for small ones, they do not."""

    def forward(self, x):
        return torch.sin(0.1 * super().forward(x) ** 11)


@torch.no_grad()
def wild():
    model = seeded(lambda: Wild(nn.Linear(4, 30), nn.ReLU(), nn.Linear(30, 3)))
    model[0].weight[:20] = 0
    return model


def test_where_the_last_digits_decide_calmer_inputs_are_compared():
    model, x = wild(), torch.randn(4, 4)
    assert (model(100 * x) - model.double()(100 * x.double())).abs().max() > 0.1
    shrunk = shrink(model.float(), 100 * x)
    assert shrunk.removed == {"0": 20}
    assert torch.allclose(shrunk.model(x), model(x), atol=1e-4)


class Bumped(nn.Sequential):
    """Adds a little to the outputs for inputs of a middle size alone: only the calmer ones have it."""

    def forward(self, x):
        return super().forward(x) + 1e-3 * (1 < x.abs().max() < 40)


def test_where_the_last_digits_decide_calmer_inputs_show_a_difference():
    model, example = wild(), 100 * torch.ones(4, 4)
    reference = replace(refer(model, inputs(example), []), native=[], training=None)
    reference = replace(reference, exact=reference.exact[:1])  # the example alone

    def make(around):
        def of(dtype):
            other = copy.deepcopy(model)
            cast(other, dtype or torch.float32)
            bump(1e-15)(other)  # a last digit
            return around(other)

        return of

    assert compare(reference, make(nn.Sequential)).equal
    assert compare(reference, make(Bumped)).difference.endswith("in float64")


def test_half_precision_does_not_excuse_a_constant_that_lost_its_digits():
    model = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1)).half()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0], [0.0]]))
        model[0].bias.copy_(torch.tensor([0.0, 60000.0]))
        model[2].weight.copy_(torch.tensor([[-1.0, 1.0]]))
        model[2].bias.fill_(10.0)  # 60010 is no number of half precision
    x = torch.tensor([[60000.0]]).half()
    if model(x).item() != 10:
        pytest.skip("this processor adds up in half precision")
    with pytest.raises(RuntimeError, match="in torch.float16"):
        shrink(model, x)


def test_what_forward_keeps_in_buffers_sees_the_inputs_in_one_order():
    class Peak(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("peak", torch.tensor(1.0))

        def forward(self, x):
            self.peak.copy_(torch.maximum(self.peak, x.abs().max()))
            return x / self.peak

    model = seeded(lambda: nn.Sequential(Peak(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)))
    with torch.no_grad():
        model[1].weight[:4] = 0
    assert shrink(model, 100 * torch.randn(2, 4)).removed == {"1": 4}


def test_nothing_compared_is_equal():
    assert Comparison().equal
    assert Comparison().error == 0


def tried(call, words=()):
    return [[[tuple(x.shape) for x in one.tensors] for one in choices] for choices in probes(call, words)]


def test_probes_vary_batch_and_sides_at_once():
    example, smaller, larger = tried(inputs(torch.randn(2, 3, 8, 80)))
    assert example == [[(2, 3, 8, 80)]]
    assert smaller[0] == [(3, 3, 7, 45)]
    assert smaller[-1] == [(2, 3, 8, 80)]
    assert [(3, 3, 4, 40)] in smaller
    assert len(smaller) == len(set(map(tuple, smaller)))  # nothing is tried twice
    assert larger[0] == [(1, 3, 13, 85)]
    assert [(1, 3, 16, 112)] in larger


def test_probes_vary_lengths_of_masks_with_those_of_words():
    words, mask, pairs = torch.randint(9, (2, 7)), torch.ones(2, 7), torch.ones(7, 7, dtype=torch.bool)
    _, smaller, larger = tried(inputs(words, mask=mask, pairs=pairs))
    assert smaller[0] == [(3, 6), (3, 6), (6, 6)]
    assert larger[0] == [(1, 12), (1, 12), (12, 12)]


def test_probes_of_large_images_begin_with_light_ones():
    _, smaller, larger = tried(inputs(torch.randn(1, 3, 224, 224)))
    assert smaller[0] == [(3, 3, 61, 61)]
    assert [(3, 3, 117, 117)] in smaller
    assert [(3, 3, 112, 112)] in smaller
    assert larger[0] == [(1, 3, 229, 229)]


def test_the_lengths_of_one_tensor_vary_where_another_one_cannot():
    class Answering(nn.Module):
        def forward(self, sound, words):
            return nn.functional.linear(sound, torch.ones(2, 40)).sum() + words.float().cumsum(1)

    reference = refer(Answering(), inputs(torch.randn(2, 40), torch.ones(2, 7).long()), [0, 9])
    lengths = [[tuple(each.shape) for each in call.tensors] for call, _ in reference.exact]
    assert lengths == [[(2, 40), (2, 7)], [(3, 40), (3, 6)], [(1, 40), (1, 12)]]


def test_words_are_drawn_from_the_whole_table():
    _, smaller, _ = probes(inputs(torch.zeros(2, 30).long(), torch.full((2, 30), 4)), [50, 0])
    words, others = next(iter(smaller)).tensors
    assert 20 < int(words.max()) < 50
    assert set(others.flatten().tolist()) == {4}


def test_a_size_that_the_model_refuses_is_passed_over():
    reference = refer(nn.Sequential(nn.Flatten(), nn.Linear(16, 2)), inputs(torch.randn(2, 4, 4)), [])
    assert [tuple(call.tensors[0].shape) for call, _ in reference.native] == [(2, 4, 4), (3, 4, 4)]


def test_an_example_that_forward_refuses_is_no_reference():
    with pytest.raises(RuntimeError, match="could not run Linear.forward on the example of shape"):
        refer(nn.Linear(3, 2), inputs(torch.ones(2, 3).long()), [])


@pytest.mark.parametrize("change", [lambda w: w.clamp_(-0.1, 0.1), lambda w: w.data.mul_(0.5)])
def test_a_forward_that_changes_its_weights_is_refused(change):
    class Changing(nn.Linear):
        def forward(self, x):
            with torch.no_grad():
                change(self.weight)
            return super().forward(x)

    model = nn.Sequential(Changing(6, 8), nn.ReLU(), nn.Linear(8, 2))
    before = model[0].weight.detach().clone()
    with pytest.raises(RuntimeError, match="changes its own weight '0.weight'"):
        shrink(model, torch.randn(2, 6))
    assert torch.equal(model[0].weight, before)


def test_cast_leaves_a_model_alone_that_shares_its_tensors():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    other = copy.deepcopy(model, {id(p): p for p in model.parameters()})
    cast(other, torch.float64)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert {p.dtype for p in other.parameters()} == {torch.float64}
    assert other[1].num_batches_tracked.dtype is torch.int64
    assert torch.equal(other[0].weight, model[0].weight.double())
