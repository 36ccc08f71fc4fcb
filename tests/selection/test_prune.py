"""`prune`: what the steps give one by one, on a copy, and what it refuses."""

import copy
from xml.etree import ElementTree

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import pruning_lib as prl
from pruning_lib.selection import _prune
from tests.selection.chain import lifted


class Residual(nn.Module):
    """A stream of eight channels, a branch of sixteen, a head."""

    def __init__(self, *, bn: bool = True):
        super().__init__()
        norm = nn.BatchNorm2d if bn else nn.Identity
        self.stem, self.bn0 = nn.Conv2d(2, 8, 3, padding=1), norm(8)
        self.conv1, self.bn1 = nn.Conv2d(8, 16, 3, padding=1), norm(16)
        self.conv2, self.bn2 = nn.Conv2d(16, 8, 3, padding=1), norm(8)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = F.relu(self.bn0(self.stem(x)))
        x = F.relu(x + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        return self.head(x.mean((2, 3)))


def trained(seed=0, **options):
    torch.manual_seed(seed)
    model = Residual(**options)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.2, 2)
                module.bias.normal_()
                module.running_mean.normal_()
                module.running_var.uniform_(0.2, 2)
    return model.eval(), torch.randn(64, 2, 6, 6), torch.randint(3, (64,))


def same(left, right):
    return all(torch.equal(a, b) for a, b in zip(left.state_dict().values(), right.state_dict().values(), strict=True))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("share", [0.8, 0.5, 0.2])
def test_the_share_that_stays_is_measured_below_the_wish_and_near_it(seed, share):
    model, x, y = trained(seed)
    before = copy.deepcopy(model)
    pruned = prl.prune(model, x, macs_left=share, data=(x, y), loss_fn=F.cross_entropy)
    dense, small = prl.measure(model, x).macs, prl.measure(pruned.model, x).macs
    assert small <= share * dense
    assert small > (share - 0.15) * dense, "no more goes than is asked: a channel here is up to a tenth"
    assert same(model, before)
    assert pruned.max_error < 1e-9
    assert pruned.widths["stem"][0] == 8
    assert pruned.widths["conv1"] == (16, pruned.model.conv1.out_channels)
    assert pruned.notes == [f"{100 * small / dense:.1f} % of the multiply-adds are left"]
    assert str(pruned).splitlines()[-1] == pruned.notes[0]


def test_where_activations_make_constants_of_0_what_is_asked_for_is_left():
    model, x = lifted(), torch.randn(2, 3, 9, 9)
    pruned = prl.prune(model, x, macs_left=0.5)
    assert 0.4 <= prl.measure(pruned.model, x).macs / prl.measure(model, x).macs <= 0.5
    rounded = prl.prune(model, x, macs_left=0.5, round_to=4)
    assert {after for _, after in rounded.widths.values()} == {4, 8}, "with the channel of the constant"


def test_widths_are_rounded():
    model, x, _ = trained()
    pruned = prl.prune(model, x, macs_left=0.5, round_to=4)
    assert all(after % 4 == 0 or after == before for before, after in pruned.widths.values())
    assert any(after < before for before, after in pruned.widths.values())
    with pytest.raises(ValueError, match="prune got round_to=0"):
        prl.prune(model, x, macs_left=0.5, round_to=0)


def test_it_is_the_steps_one_by_one():
    model, x, y = trained()
    by_hand = copy.deepcopy(model)
    units = prl.find_units(by_hand, x)
    scores = prl.importance.taylor(by_hand, units, (x, y))
    chosen = prl.select(scores, units, macs_left=0.5, scope="local")
    prl.zero(by_hand, chosen, units, shift="drop")  # every convolution here pads with zeros
    prl.recalibrate(by_hand, x)
    by_hand = prl.shrink(by_hand, x).model
    assert same(prl.prune(model, x, macs_left=0.5, data=(x, y), loss_fn=F.cross_entropy).model, by_hand)
    loader = [(x[:32], y[:32]), (x[32:], y[32:])]
    batched = prl.prune(model, x, macs_left=0.5, data=iter(loader), loss_fn=F.cross_entropy)
    assert same(prl.prune(model, x, macs_left=0.5, data=loader, loss_fn=F.cross_entropy).model, batched.model)


def test_data_renew_the_statistics_and_their_absence_is_noted():
    model, x, _ = trained()
    loose, renewed = prl.prune(model, x, macs_left=0.5), prl.prune(model, x, macs_left=0.5, data=x)
    assert loose.widths == renewed.widths
    assert "still those of the dense network: pass data" in loose.notes[1]
    seen = F.conv2d(x, renewed.model.stem.weight, renewed.model.stem.bias, padding=1)
    torch.testing.assert_close(renewed.model.bn0.running_mean, seen.mean((0, 2, 3)))
    assert not torch.allclose(loose.model.bn0.running_mean, seen.mean((0, 2, 3)), atol=0.1)
    plain, x, _ = trained(bn=False)
    assert len(prl.prune(plain, x, macs_left=0.5).notes) == 1, "without BatchNorm nothing is missing"


def test_constants_stay_where_no_convolution_pads():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    pruned = prl.prune(model, torch.zeros(1, 4), macs_left=0.5)
    gone = sorted(set(range(8)) - set(pruned.plan.units["0"]))
    constant = model[2].weight[:, gone] @ model[0].bias[gone].relu()
    torch.testing.assert_close(pruned.model[2].bias, model[2].bias + constant)


def test_default_judges_by_folded_lengths_in_equal_shares_and_a_mapping_judges_instead():
    model, x, _ = trained()
    pruned = prl.prune(model, x, macs_left=0.5, data=x)
    length = model.conv1.weight.flatten(1).norm(dim=1) * model.bn1.weight / (model.bn1.running_var + 1e-5).sqrt()
    kept = pruned.plan.units["conv1"]
    assert kept == sorted(length.topk(len(kept)).indices.tolist())
    assert abs(len(kept) / 16 - len(pruned.plan.units["stem"]) / 8) <= 1 / 8
    turned = prl.prune(model, x, macs_left=0.5, data=x, importance={"conv1": -length})
    assert turned.widths["stem"] == (8, 8), "what the mapping leaves out stays"
    kept = turned.plan.units["conv1"]
    assert kept == sorted((-length).topk(len(kept)).indices.tolist())


def test_wrong_use_is_named_before_anything_is_traced():
    model, x, _ = trained()
    with pytest.raises(ValueError, match="macs_left=1.5; it needs a number in"):
        prl.prune(model, x, macs_left=1.5)
    with pytest.raises(ValueError, match="loss_fn without data"):
        prl.prune(model, x, macs_left=0.5, loss_fn=F.cross_entropy)
    with pytest.raises(ValueError, match="loss_fn and importance; give one"):
        prl.prune(model, x, macs_left=0.5, loss_fn=F.cross_entropy, importance={}, data=x)
    with pytest.raises(ValueError, match="taylor needs targets"):
        prl.prune(model, x, macs_left=0.5, loss_fn=F.cross_entropy, data=x)
    with pytest.raises(ValueError, match=r"no unit that could go:\n0 stays: it writes the model's output"):
        prl.prune(nn.Sequential(nn.Linear(2, 3)), torch.zeros(1, 2), macs_left=0.5)


@pytest.mark.parametrize(
    ("data", "loss_fn", "sentence"),
    [
        (lambda x, y: x, F.cross_entropy, "taylor needs targets"),
        (lambda x, y: {"x": x}, F.cross_entropy, "taylor needs targets"),
        (lambda x, y: DataLoader(x, 8), F.cross_entropy, "taylor needs targets"),
        (lambda x, y: (part for part in x.split(8)), F.cross_entropy, "taylor needs targets"),
        (lambda x, y: [(x[:, :1], y)], F.cross_entropy, "`taylor` could not run Residual.forward on inputs of shape"),
        (lambda x, y: (x, y), lambda outputs, targets: outputs, "it needs the mean loss, a scalar"),
        (lambda x, y: (x, y[:5]), None, "64 inputs and 5 targets"),
        (lambda x, y: 3, None, "Data must be a tensor of samples"),
        (lambda x, y: [], None, "these hold no sample"),
    ],
)
def test_what_data_lack_is_told_before_anything_is_traced(monkeypatch, data, loss_fn, sentence):
    def traced(*args):
        raise AssertionError("it was traced first")

    monkeypatch.setattr(_prune, "find_units", traced)
    model, x, y = trained()
    with pytest.raises((TypeError, ValueError, RuntimeError), match=sentence):
        prl.prune(model, x, macs_left=0.5, data=data(x, y), loss_fn=loss_fn)


class Once:
    """An iterable, and no iterator, that gives its batches a single time."""

    def __init__(self, batches):
        self.batches = iter(batches)

    def __iter__(self):
        return self.batches


def test_the_first_look_takes_no_batch_from_data_that_are_read_once():
    model, x, y = trained(bn=False)
    loader = [(x[:32], y[:32]), (x[32:], y[32:])]
    options = {"macs_left": 0.5, "loss_fn": F.cross_entropy}
    once, often = (prl.prune(model, x, data=data, **options) for data in (Once(loader), loader))
    assert same(once.model, often.model)
    (model, x, _), parts = trained(), list(x.split(32))
    once, often = (prl.prune(model, x, macs_left=0.5, data=data) for data in (Once(parts), parts))
    assert same(once.model, often.model)


def test_a_loader_whose_last_batch_has_one_sample_prunes_as_tensors_do():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    x, y = torch.randn(129, 4), torch.randint(2, (129,))  # `taylor` and `recalibrate` split tensors by 128 and 256
    loader = DataLoader(TensorDataset(x, y), batch_size=128)
    options = {"macs_left": 0.5, "loss_fn": F.cross_entropy}
    by_loader, by_tensors = (prl.prune(model, x[:1], data=data, **options).model for data in (loader, (x, y)))
    torch.testing.assert_close(by_loader.state_dict(), by_tensors.state_dict())
    assert by_loader[1].running_var.isfinite().all()


def test_a_pair_of_a_mapping_and_targets_is_one_data_set():
    model, x, y = trained()
    options = {"macs_left": 0.5, "loss_fn": F.cross_entropy}
    named = prl.prune(model, {"x": x[:1]}, data=({"x": x}, y), **options)
    assert same(named.model, prl.prune(model, x[:1], data=(x, y), **options).model)


def test_a_share_below_what_stays_is_refused_in_the_words_of_prune():
    model, x, _ = trained()
    with pytest.raises(ValueError, match=r"prune cannot reach macs_left=0\.01: at least \d+\.\d% of the") as caught:
        prl.prune(model, x, macs_left=0.01)
    assert "floor" not in str(caught.value)
    assert "`print(find_units(model, example))` says what that is, and why" in str(caught.value)
    with pytest.raises(ValueError, match="are in what stays at round_to=8, and"):
        prl.prune(model, x, macs_left=0.1, round_to=8)


def test_a_notebook_shows_a_table_and_names_are_escaped():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleDict({"a<b>": nn.Linear(4, 8), "out": nn.Linear(8, 3)})

        def forward(self, x):
            return self.layers["out"](self.layers["a<b>"](x).relu())

    shown = prl.prune(Odd(), torch.zeros(1, 4), macs_left=0.5)._repr_html_()
    cells = [cell.text or "" for row in ElementTree.fromstring(f"<div>{shown}</div>").iter("tr") for cell in row]
    assert cells == ["group", "before", "after", "left", "layers.a<b>", "8", "4", "50%"]
    assert [item.text for item in ElementTree.fromstring(f"<div>{shown}</div>").iter("li")][1:] == [
        "50.0 % of the multiply-adds are left"
    ]


def test_a_small_residual_network_loses_less_by_taylor_than_by_chance():
    model, x, y = trained()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    y = (x[:, 0].mean((1, 2)) > 0).long() + (x[:, 1].std((1, 2)) > 1).long()
    model.train()
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    model.eval()
    taylor = prl.prune(model, x, macs_left=0.5, data=(x, y), loss_fn=F.cross_entropy).model
    units = prl.find_units(model, x)
    chance = [
        prl.prune(model, x, macs_left=0.5, data=x, importance=prl.importance.random(units, seed)).model
        for seed in range(5)
    ]
    losses = [F.cross_entropy(small.eval()(x), y).item() for small in chance]
    assert F.cross_entropy(taylor.eval()(x), y).item() < sorted(losses)[2]


def test_what_stays_is_said_with_its_reason_and_so_is_who_pays_for_it() -> None:
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.ReLU()) for _ in range(9)]
    model = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), *blocks, nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 8))
    pruned = prl.prune(model, torch.zeros(1, 8), macs_left=0.65)
    left, thin, stays = pruned.notes
    assert left.endswith("% of the multiply-adds are left")
    assert thin == f"little is left of 11 ({pruned.widths['11'][1]} of 32): those pay for what stays whole"
    assert pruned.widths["11"][1] < 8
    assert stays == "0 and 9 more stay: each feeds `layer_norm`, whose statistics count every channel"
    assert all(note in str(pruned) and note.split("`")[0] in pruned._repr_html_() for note in pruned.notes)
    even = prl.prune(nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3)), torch.zeros(1, 8), macs_left=0.5)
    assert even.notes == ["50.0 % of the multiply-adds are left"]


def test_batches_of_a_generator_that_fills_one_tensor_are_each_taken():
    def again():
        batch = torch.empty(16, *inputs.shape[1:]), torch.empty(16, dtype=torch.int64)
        for rows, labels in zip(torch.split(inputs, 16), torch.split(targets, 16), strict=True):
            yield batch[0].copy_(rows), batch[1].copy_(labels)

    model, inputs, targets = trained()
    apart = list(zip(torch.split(inputs, 16), torch.split(targets, 16), strict=True))
    pruned = [
        prl.prune(model, inputs[:1], macs_left=0.5, data=data, loss_fn=F.cross_entropy).model.state_dict()
        for data in (again(), apart)
    ]
    assert all(torch.equal(pruned[0][name], pruned[1][name]) for name in pruned[1])


def test_inference_mode_is_refused_since_its_tensors_can_never_be_trained():
    model, inputs, _ = trained()
    with torch.inference_mode(), pytest.raises(RuntimeError, match=r"torch\.inference_mode.*no_grad"):
        prl.prune(model, inputs[:1], macs_left=0.5)
    with torch.no_grad():
        assert prl.prune(model, inputs[:1], macs_left=0.5).model.head.weight.requires_grad


def test_a_network_all_of_whose_units_stay_is_refused_in_the_words_of_prune():
    class Twins(nn.Sequential):
        def __init__(self):
            super().__init__(nn.Linear(8, 16), nn.Sigmoid(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 16), nn.ReLU())
            self[4].weight = self[2].weight
            self.append(nn.Linear(16, 4))

    with pytest.raises(ValueError, match="prune found no unit that could go"):
        prl.prune(Twins(), torch.zeros(1, 8), macs_left=0.5)


def test_a_budget_that_is_missed_is_told_once_as_it_was_asked_for():
    model = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 3))  # a unit costs a quarter
    with pytest.warns(UserWarning, match=r"50\.0% of the .* where 60\.0% were to stay") as told:
        prl.prune(model, torch.zeros(1, 8), macs_left=0.6)
    assert len(told) == 1


def test_a_loss_that_needs_gradients_is_tried_with_them():
    model, inputs, targets = trained()

    def loss(outputs, labels):
        assert torch.is_grad_enabled()
        return F.cross_entropy(outputs, labels)

    with torch.no_grad():
        assert prl.prune(model, inputs[:1], macs_left=0.5, data=(inputs, targets), loss_fn=loss).notes
