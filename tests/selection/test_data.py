"""Data come in every form that the library reads, and what is wrong with them is said before anything changes."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import pruning_lib as prl
from pruning_lib.selection import importance


def setting():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    x, y = torch.randn(12, 6), torch.randint(0, 3, (12,))
    return model, prl.find_units(model, x[:1]), x, y


def test_taylor_reads_a_loader_as_it_reads_tensors():
    model, units, x, y = setting()
    whole = importance.taylor(model, units, (x, y), batch_size=5)  # five, five and two
    loader = DataLoader(TensorDataset(x, y), batch_size=5)
    torch.testing.assert_close(importance.taylor(model, units, loader), whole)
    by_name = [{"input": part, "labels": labels} for part, labels in loader]
    torch.testing.assert_close(importance.taylor(model, units, by_name), whole)


def test_means_are_those_of_all_batches_each_by_its_samples():
    model, units, x, _ = setting()
    chosen = {"0": torch.arange(8) < 3}
    whole, batched = copy.deepcopy(model), copy.deepcopy(model)
    prl.zero(whole, chosen, units, shift="mean", inputs=x)
    prl.zero(batched, chosen, units, shift="mean", inputs=(part for part in torch.split(x, 5)))  # read once
    torch.testing.assert_close(batched[0].bias, whole[0].bias)
    torch.testing.assert_close(whole[0].bias[:3], model[0](x).relu().mean(0)[:3])


@pytest.mark.parametrize("spoilt", [float("nan"), float("inf"), "empty", "no targets", "a word"])
def test_data_that_say_nothing_are_refused_and_nothing_changes(spoilt):
    model, units, x, y = setting()
    if isinstance(spoilt, float):
        x[3, 2] = spoilt
    data = {"empty": (x[:0], y[:0]), "no targets": x, "a word": "data"}.get(spoilt, (x, y))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises((TypeError, ValueError), match="NaN or infinite|hold no sample|needs targets|Data must be"):
        importance.taylor(model, units, data)
    if spoilt != "no targets":
        inputs = data[0] if isinstance(data, tuple) else data
        with pytest.raises((TypeError, ValueError), match="NaN or infinite|hold no sample|Data must be"):
            prl.zero(model, {"0": torch.arange(8) < 3}, units, shift="mean", inputs=inputs)
    torch.testing.assert_close(dict(model.state_dict()), dict(before), rtol=0, atol=0)
    assert not any(module._forward_pre_hooks for module in model.modules())


class Decodes(nn.Module):
    """Makes its second input from labels where it gets none, as networks of Transformers do."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x, decoded=None, labels=None):
        if decoded is None and labels is None:
            raise ValueError("nothing to decode")
        return {"logits": self.b(self.a(x).relu()) + (labels if decoded is None else decoded)[:, None]}


def test_labels_that_were_taken_as_targets_are_named_where_forward_misses_them():
    model, (_, _, x, y) = Decodes(), setting()
    units = prl.find_units(model, {"x": x, "decoded": y})

    def loss_fn(outputs, targets):
        return nn.functional.cross_entropy(outputs["logits"], targets)

    taken = "nothing to decode. The 'labels' of the batch were taken as targets, and forward does not get them"
    with pytest.raises(RuntimeError, match=taken):
        importance.taylor(model, units, [{"x": x, "labels": y}], loss_fn)
    with pytest.raises(RuntimeError, match=taken):
        prl.zero(model, {"a": torch.arange(8) < 3}, units, shift="mean", inputs={"x": x, "labels": y})
    with pytest.raises(RuntimeError, match="nothing to decode. Pass inputs that the model accepts"):
        importance.taylor(model, units, [({"x": x}, y)], loss_fn)
    with pytest.raises(RuntimeError, match=r"without labels; if it makes inputs from them .decoder_input_ids"):
        prl.find_units(model, {"x": x})
    importance.taylor(model, units, [{"x": x, "decoded": y, "labels": y}], loss_fn)
    importance.taylor(model, units, ({"x": x, "decoded": y}, y), loss_fn)


def test_a_loss_that_fails_is_told_with_what_it_was_given():
    _, _, x, y = setting()
    model = Decodes()
    units = prl.find_units(model, {"x": x, "decoded": y})
    sentence = (
        r"not dict.*; loss_fn was given a dict of \['logits'\] as outputs and a tensor of shape \(12,\) as targets"
    )
    with pytest.raises(ValueError, match=sentence):
        importance.taylor(model, units, ({"x": x, "decoded": y}, y))
    model, units, x, y = setting()
    sentence = r"loss_fn was given a tensor of shape \(12, 3\) as outputs and a tensor of shape \(12, 2\) as targets"
    with pytest.raises(ValueError, match=sentence + ", and may take them apart.$"):
        importance.taylor(model, units, (x, torch.stack([y, y], 1)))


def test_slips_are_told_before_the_first_round():
    model, units, _, _ = setting()
    before, rounds = copy.deepcopy(model.state_dict()), []

    def judge(model):
        return importance.magnitude(model, units)

    other = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)
    for wrong, said in (
        ({"macs": 1}, "got macs=, which it does not know"),
        ({"max_macs": 3}, "cannot be met"),
        ({"macs_left": 0.5, "optimizer": 5}, "optimizer=5; it needs a torch.optim.Optimizer"),
        ({"macs_left": 0.5, "optimizer": other}, "the optimizer of another model"),
        ({"macs_left": 0.5, "shift": "mean"}, "shift='mean'"),
        ({"macs_left": 0.5, "train": 3}, "train=3"),
    ):
        options = {"train": rounds.append, "rounds": 3, **wrong}
        with pytest.raises((TypeError, ValueError), match=said):
            prl.iterative(model, units, judge, **options)
    with pytest.raises(TypeError, match="optimizer=5; it needs a torch.optim.Optimizer"):
        prl.zero(model, {"0": torch.arange(8) < 3}, units, optimizer=5)
    with pytest.raises(ValueError, match="the optimizer of another model"):
        prl.zero(model, {"0": torch.arange(8) < 3}, units, optimizer=other)
    assert not rounds
    torch.testing.assert_close(dict(model.state_dict()), dict(before), rtol=0, atol=0)
