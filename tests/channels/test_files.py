"""Saving and loading: one file, no pickle, whole or not at all."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from pruning_lib.channels import Plan, find_units, load, save, shrink
from pruning_lib.companion.models import LeNet5, LeNet300
from pruning_lib.selection import zero
from tests.channels.helpers import rows_at_random


@pytest.fixture
def shrunk():
    torch.manual_seed(0)
    model = LeNet5(widths=(4, 6, 8), bn=True)
    with torch.no_grad():
        for layer in (model.conv1, model.conv2, model.fc1):
            layer.weight[[0, 2]] = 0
        model.bn1.bias.normal_()
        model.bn1.running_mean.normal_()
    return shrink(model, torch.randn(2, 1, 28, 28))


@pytest.fixture
def path(shrunk, tmp_path):
    save(shrunk, tmp_path / "small.safetensors")
    return tmp_path / "small.safetensors"


def test_round_trip(shrunk, path):
    dense = LeNet5(widths=(4, 6, 8), bn=True)
    before = {name: tensor.clone() for name, tensor in dense.state_dict().items()}
    small = load(dense, path)
    assert all(torch.equal(tensor, before[name]) for name, tensor in dense.state_dict().items())
    state = shrunk.model.state_dict()
    assert list(small.state_dict()) == list(state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in small.state_dict().items())
    assert (small.conv2.in_channels, small.bn1.num_features, small.fc1.in_features) == (2, 2, 64)
    x = torch.randn(3, 1, 28, 28)
    assert torch.equal(small.eval()(x), shrunk.model.eval()(x))
    assert [each.name for each in path.parent.iterdir()] == ["small.safetensors"]


def test_the_plan_is_json_in_the_metadata(shrunk, path):
    with safe_open(path, framework="pt") as file:
        text = file.metadata()["pruning_lib"]
    assert json.loads(text)["kept"]["conv1.weight"] == {"0": [1, 3]}
    assert Plan.from_json(text) == shrunk.plan
    assert b"pickle" not in path.read_bytes()


def test_created_biases_groups_and_shared_weights_come_back(tmp_path):
    def build():
        torch.manual_seed(1)
        model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Tanh(), nn.Conv2d(4, 4, 3, groups=4), nn.ReLU())
        model.extend([nn.Conv2d(4, 5, 1, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(45, 45), nn.Linear(45, 45)])
        model[8].weight = model[7].weight
        return model

    model = build()
    with torch.no_grad():
        model[2].weight[[1, 2]] = 0
        model[2].bias[[1, 2]] = 1.0
    shrunk = shrink(model, torch.randn(2, 1, 5, 5))
    assert shrunk.plan.groups == {"2": 2}
    assert shrunk.plan.created == ["4"]
    save(shrunk, tmp_path / "a.safetensors")
    small = load(build().eval(), tmp_path / "a.safetensors")
    assert small[8].weight is small[7].weight
    x = torch.randn(3, 1, 5, 5)
    assert torch.equal(small(x), shrunk.model.eval()(x))
    assert not small.training


@pytest.mark.parametrize(
    ("dense", "sentence"),
    [
        (
            lambda: LeNet300(),
            "LeNet300: it was saved from a LeNet5. Build the dense model that was given to `shrink` or `prune`",
        ),
        (
            lambda: LeNet5(widths=(4, 6, 9), bn=True),
            r"'fc1.weight' has shape \[9, 96\], the plan was made for \[8, 96\]",
        ),
        (lambda: LeNet5(widths=(4, 6, 8), bn=True, classes=7), "'fc2.weight' has shape|the plan was made for"),
        (lambda: LeNet5(widths=(4, 6, 8)), "does not fit this LeNet5: the plan cuts 'bn"),
    ],
)
def test_another_model_is_refused(path, dense, sentence):
    model = dense()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match=sentence) as caught:
        load(model, path)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_classifier_of_other_size_that_the_plan_does_not_cut_is_refused(tmp_path):
    save(shrink(LeNet300(), torch.randn(1, 1, 28, 28)), tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r"'fc3.weight' has shape \[10, 100\] in the file, \[7, 100\] here"):
        load(LeNet300(classes=7), tmp_path / "a.safetensors")


@pytest.mark.parametrize("part", [0.0, 0.001, 0.3, 0.9999])
def test_a_cut_file_is_named(path, part):
    whole = path.read_bytes()
    path.write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(ValueError, match="is cut or is not a safetensors file"):
        load(LeNet5(widths=(4, 6, 8), bn=True), path)


def test_a_pickle_is_not_read(tmp_path):
    torch.save(LeNet300().state_dict(), tmp_path / "a.pt")
    with pytest.raises(ValueError, match="is cut or is not a safetensors file"):
        load(LeNet300(), tmp_path / "a.pt")


@pytest.mark.parametrize("text", ["{}", "[]", "not json", '{"format":6,"model":"A"}', '{"format":1}'])
def test_a_spoilt_plan_is_named(tmp_path, text):
    save_file({"a": torch.ones(2)}, tmp_path / "a.safetensors", metadata={"pruning_lib": text})
    with pytest.raises(ValueError, match=r"does not fit this LeNet300: (the plan is not what|it has format)"):
        load(LeNet300(), tmp_path / "a.safetensors")


def test_weights_without_a_plan_and_a_missing_file(tmp_path):
    save_file(LeNet300().state_dict(), tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="holds weights but no plan"):
        load(LeNet300(), tmp_path / "a.safetensors")
    with pytest.raises(FileNotFoundError, match="There is no file"):
        load(LeNet300(), tmp_path / "b.safetensors")


def test_a_failed_save_leaves_the_old_file(shrunk, path, monkeypatch):
    old = path.read_bytes()

    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr("pruning_lib._model.os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        save(shrunk, path)
    assert path.read_bytes() == old
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_what_save_refuses(shrunk, tmp_path):
    with pytest.raises(TypeError, match="takes what `shrink` or `prune` returned; got LeNet300"):
        save(LeNet300(), tmp_path / "a.safetensors")
    shrunk.model.conv1 = nn.Conv2d(1, 4, 5)
    with pytest.raises(
        ValueError, match=r"'conv1.weight' has shape .* save the model that `shrink` or `prune` returned"
    ):
        save(shrunk, tmp_path / "a.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_another_class_with_the_same_tensors_is_refused(tmp_path):
    class Other(LeNet300):
        pass

    shrunk = shrink(LeNet300(inputs=(1, 4, 4), widths=(6, 5)), torch.randn(2, 1, 4, 4))
    save(shrunk, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="does not fit this Other: it was saved from a LeNet300"):
        load(Other(inputs=(1, 4, 4), widths=(6, 5)), tmp_path / "a.safetensors")


def test_plans_of_grouped_convolutions_travel(tmp_path):
    def build():
        return nn.Sequential(
            *(nn.Conv2d(2, 16, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1, groups=4)),
            *(nn.BatchNorm2d(16), nn.ReLU(), nn.ConvTranspose2d(16, 8, 2, groups=2), nn.ReLU(), nn.Conv2d(8, 3, 1)),
        ).double()

    torch.manual_seed(0)
    model = rows_at_random(build(), share=0.6)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(3, 2, 8, 8).double()).square().sum().backward()
    optimizer.step()
    model = rows_at_random(model, share=0.6)
    shrunk = shrink(model, torch.randn(2, 2, 8, 8).double(), optimizer=optimizer)
    assert shrunk.plan.blocks
    for parameter in shrunk.model.parameters():
        assert shrunk.optimizer.state[parameter]["exp_avg"].shape == parameter.shape
    save(shrunk, tmp_path / "a.safetensors")
    x = torch.randn(2, 2, 9, 9).double()
    assert torch.equal(load(build().eval(), tmp_path / "a.safetensors")(x), shrunk.model(x))


class Placed(nn.Module):
    """A stream to which positions are added that no checkpoint holds, and a bias that is such a buffer."""

    def __init__(self):
        super().__init__()
        self.enter = nn.Conv1d(3, 8, 1)
        self.register_buffer("places", torch.randn(1, 8, 10), persistent=False)
        self.conv = nn.Conv1d(8, 6, 3, padding=1)
        self.weight = nn.Parameter(torch.randn(5, 6))
        self.register_buffer("shift", torch.randn(5), persistent=False)
        self.out = nn.Linear(5, 3)

    def forward(self, x):
        x = torch.sigmoid(self.conv(torch.sigmoid(self.enter(x) + self.places)))
        return self.out(torch.relu(nn.functional.linear(x.mean(-1), self.weight, self.shift)))


def test_buffers_that_no_checkpoint_holds_come_back_as_they_were_left(tmp_path):
    torch.manual_seed(0)
    model = Placed().eval()
    dense, x = copy.deepcopy(model), torch.randn(4, 3, 10)
    units = find_units(model, x)
    zero(model, {"enter": torch.arange(8) < 3, "conv": torch.arange(6) < 2}, units)
    shrunk = shrink(model, x)
    assert not torch.equal(shrunk.model.shift, dense.shift), "constants of `conv` are in it"
    save(shrunk, tmp_path / "small.safetensors")
    small = load(dense, tmp_path / "small.safetensors")
    assert torch.equal(small.eval()(x), shrunk.model.eval()(x))
    assert small.state_dict().keys() == shrunk.model.state_dict().keys()


def test_buffers_that_the_dense_model_has_not_yet_made_are_left_to_it(tmp_path):
    def build():
        return nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))

    model = build()
    with torch.no_grad():
        model[0].weight[1].zero_()
    shrunk = shrink(model, torch.ones(1, 2))
    shrunk.model.register_buffer("seen", torch.ones(2), persistent=False)  # as forward may do when it is first called
    save(shrunk, tmp_path / "small.safetensors")
    assert not hasattr(load(build(), tmp_path / "small.safetensors"), "seen")


def test_a_buffer_that_grew_in_use_is_left_to_the_dense_model(tmp_path):
    def build():
        model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
        model.register_buffer("cache", torch.zeros(4), persistent=False)
        return model

    model = build()
    with torch.no_grad():
        model[0].weight[1].zero_()
    shrunk = shrink(model, torch.ones(1, 2))
    shrunk.model.cache = torch.ones(9)
    save(shrunk, tmp_path / "small.safetensors")
    assert load(build(), tmp_path / "small.safetensors").cache.shape == (4,)
