"""What can be pruned: names, index maps, kinds, and the layers that stay."""

from __future__ import annotations

import threading
from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import pruning_lib as prl
from pruning_lib.channels import find_units
from pruning_lib.companion.models import LeNet5, LeNet300
from pruning_lib.units import Units


def member(found, layer):
    return next(each for each in found if each.layer == layer).index.tolist()


def test_lenet300_by_hand():
    units = find_units(LeNet300(bn=True), torch.randn(1, 1, 28, 28))
    assert isinstance(units, Units)
    assert str(units) == (
        "fc1 → bn1 → fc2, 300 units, inner\nfc2 → bn2 → fc3, 100 units, inner\nfc3 stays: it writes the model's output"
    )
    assert units.macs == {"fc1": 784 * 300, "fc2": 300 * 100, "fc3": 100 * 10}
    assert units.translate("bn2") == "fc2"
    with pytest.raises(ValueError, match="'fc3' names no prunable group: it writes the model's output"):
        units.translate("fc3")


def test_lenet5_reads_a_channel_through_all_its_pixels():
    units = find_units(LeNet5(), torch.randn(2, 1, 28, 28))
    assert list(units) == ["conv1", "conv2", "fc1"]
    assert [group.size for group in units.values()] == [20, 50, 500]
    assert member(units["conv2"].readers, "fc1") == [i // 16 for i in range(800)]
    assert member(units["conv1"].readers, "conv2") == list(range(20))
    assert sum(units.macs.values()) == 2_293_000
    assert {group.kind for group in units.values()} == {"inner"}
    assert not any(group.bypassed for group in units.values())


class Zoo(nn.Module):
    """A stem, an inner branch around which the sum passes, and a concatenation."""

    def __init__(self):
        super().__init__()
        self.stem, self.spare = nn.Conv2d(1, 3, 3), nn.Linear(2, 2)
        self.inner, self.back = nn.Conv2d(3, 5, 1), nn.Conv2d(5, 3, 1)
        self.norm = nn.BatchNorm2d(3)
        self.side = nn.Conv2d(1, 2, 3)
        self.head = nn.Conv2d(5, 4, 1)

    def forward(self, x):
        y = F.relu(self.stem(x))
        y = y + self.norm(self.back(F.relu(self.inner(y))))
        return self.head(torch.cat([self.side(x), y], 1))


def test_streams_bypasses_and_concatenations():
    model = Zoo()
    units = find_units(model, torch.randn(1, 1, 6, 6))
    assert list(units) == ["stem", "inner", "side"]
    stem = units["stem"]
    assert (stem.kind, stem.size) == ("stream", 3)
    assert [each.layer for each in stem.writers] == ["stem", "back"]
    assert [each.layer for each in stem.norms] == ["norm"]
    assert member(stem.readers, "head") == [-1, -1, 0, 1, 2]
    assert member(units["side"].readers, "head") == [0, 1, -1, -1, -1]
    assert [group.bypassed for group in units.values()] == [True, True, True]
    assert units.fixed == {"spare": "is not called by forward", "head": "writes the model's output"}
    assert units.translate("back") == units.translate("norm") == "stem"


def test_depthwise_layers_write_the_units_that_they_read():
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Conv2d(4, 8, 3, groups=4), nn.ReLU(), nn.Conv2d(8, 2, 1))
    group = find_units(model, torch.randn(1, 1, 5, 5))["0"]
    assert group.size == 4
    assert group.kind == "inner"
    assert member(group.writers, "1") == [0, 0, 1, 1, 2, 2, 3, 3]
    assert [each.layer for each in group.readers] == ["3"]


def test_layers_without_a_rule_say_so():
    model = nn.Sequential(nn.Linear(4, 6), nn.Softmax(1), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2))
    units = find_units(model, torch.randn(1, 4))
    assert list(units) == ["2"]
    assert units.fixed["0"] == "feeds `softmax`, whose statistics count every channel"
    assert units.fixed["4"] == "writes the model's output"


def test_grouped_convolutions_are_followed():
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Conv2d(4, 8, 3, groups=2), nn.ReLU(), nn.Conv2d(8, 2, 1))
    units = find_units(model, torch.randn(1, 1, 5, 5))
    assert list(units) == ["0", "1"]
    assert str(units["0"]) == "0 → 1, 4 units, inner"
    assert units["0"].readers[0].index.tolist() == [0, 1, 2, 3]
    assert units["1"].size == 8


def test_input_that_is_added_pins_what_it_meets():
    class Skip(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.b(x + self.a(x))

    units = find_units(Skip(), torch.randn(1, 4))
    assert units.fixed["a"] == "meets channels that cannot go at `add`"


def test_the_model_is_untouched_and_may_be_in_train_mode():
    model = LeNet5(bn=True).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    find_units(model, torch.randn(1, 1, 28, 28))
    assert all(module.training for module in model.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_several_inputs():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 3), nn.Linear(5, 3), nn.Linear(3, 2)

        def forward(self, x, y):
            return self.c(torch.relu(self.a(x) + self.b(y)))

    group = find_units(Two(), (torch.randn(1, 4), torch.randn(1, 5)))["a"]
    assert [each.layer for each in group.writers] == ["a", "b"]
    assert group.kind == "stream"


@pytest.mark.parametrize("forward", [lambda h: h * h.mean().item(), lambda h: h[h[:, 0] > 0]])
def test_a_forward_that_depends_on_values_is_refused_with_its_line(forward):
    class Depends(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.b(forward(self.a(x)))

    for ask in (prl.find_units, prl.shrink):
        with pytest.raises(RuntimeError, match=r"could not trace Depends.forward: .*\(test_find.py, line \d+\)"):
            ask(Depends(), torch.randn(4, 3))


def test_what_cannot_be_copied_is_named():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    model[0].lock = threading.Lock()
    with pytest.raises(RuntimeError, match="Sequential cannot be copied"):
        prl.find_units(model, torch.randn(1, 3))


def test_an_attention_whose_width_is_written_down_keeps_what_it_reads():
    class Reads(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.attention, self.head = nn.Linear(3, 4), nn.MultiheadAttention(4, 1), nn.Linear(4, 2)

        def forward(self, x):
            h = self.a(x)
            return self.head(self.attention(h, h, h, need_weights=False)[0])

    units = prl.find_units(Reads().eval(), torch.randn(2, 5, 3))
    assert not units
    assert "passes code that counts its channels (test_find.py" in units.fixed["a"]


def test_a_reader_without_a_weight_of_its_own_is_named_where_its_weights_would_be_needed():
    class Mixes(nn.Module):
        def __init__(self):
            super().__init__()
            self.kernel = nn.Parameter(torch.randn(2, 4))

        def forward(self, x):
            return nn.functional.linear(x, self.kernel)

    model, x = nn.Sequential(OrderedDict(a=nn.Linear(3, 4), mix=Mixes(), head=nn.Linear(2, 2))), torch.randn(2, 5, 3)
    units = prl.find_units(model, x)
    assert [member.layer for member in units["a"].readers] == ["mix"]
    assert prl.importance.magnitude(model, units)["a"].shape == (4,)
    y = torch.zeros(2, 5, dtype=torch.int64)
    for needs in (
        lambda: prl.importance.taylor(model, units, (x, y)),
        lambda: prl.GroupLasso(model, 1e-3, over="columns", units=units),
        lambda: prl.Guided(model, 1e-3, side="both", units=units),
        lambda: prl.Dynamics(model, units),
    ):
        with pytest.raises(ValueError, match="'mix', a Mixes, is not a linear or convolution layer"):
            needs()


def test_a_tensor_joined_with_itself_has_an_owner_when_an_operator_without_a_rule_reads_it():
    class Rotary(nn.Module):
        def __init__(self):
            super().__init__()
            self.angles = nn.Linear(6, 4, bias=False)
            self.out = nn.Linear(8, 2)

        def forward(self, x):
            turned = self.angles.weight.mean(1) * x[:, :4]
            return self.out(torch.logcumsumexp(torch.cat([turned, turned], 1), 1))

    units = prl.find_units(Rotary(), torch.randn(2, 6))
    assert not units


def test_a_network_without_numbers_is_listed():
    model, x = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.ones(1, 3)
    assert (
        str(find_units(model.to("meta"), x.to("meta")))
        == "0 → 2, 4 units, inner\n2 stays: it writes the model's output"
    )
