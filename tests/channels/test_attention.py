"""Heads of attention go whole, out of queries, keys and values at once, however forward writes it."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pruning_lib as prl
from pruning_lib import find_units, load, prune, save, shrink, zero
from pruning_lib.selection import cost

WIDTH, HEADS, DIM = 10, 4, 6


def fused(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, mask)


def written_out(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    scores = q @ k.transpose(-2, -1) * DIM**-0.5
    scores = scores if mask is None else scores.masked_fill(~mask, -1e9)
    return F.dropout(scores.softmax(-1), 0.1, training=False) @ v


def batched(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Heads and examples as one axis, and `bmm`."""
    n, heads = q.shape[:2]
    q, k, v = (each.reshape(-1, *each.shape[2:]) for each in (q, k, v))
    return ((q @ k.mT) * DIM**-0.5).softmax(-1).bmm(v).unflatten(0, (n, heads))


def rotated(x: Tensor) -> Tensor:
    angle = torch.arange(x.shape[-2]).to(x)[:, None] * 10 ** torch.linspace(0, -1, DIM // 2).to(x).repeat(2)
    left, right = x[..., : DIM // 2], x[..., DIM // 2 :]
    return x * angle.cos() + torch.cat([-right, left], -1) * angle.sin()


class Separate(nn.Module):
    """Queries, keys and values by layers of their own; `shared` heads of keys, and what happens to each head."""

    def __init__(self, core=fused, shared=HEADS, prepare=lambda x: x, bias=True, causal=False):
        super().__init__()
        self.q = nn.Linear(WIDTH, HEADS * DIM, bias=bias)
        self.k, self.v = (nn.Linear(WIDTH, shared * DIM, bias=bias) for _ in range(2))
        self.o = nn.Linear(HEADS * DIM, WIDTH, bias=bias)
        self.core, self.prepare, self.repeat, self.causal = core, prepare, HEADS // shared, causal

    def forward(self, x):
        q, k, v = (layer(x).view(*x.shape[:-1], -1, DIM).transpose(1, 2) for layer in (self.q, self.k, self.v))
        q, k = self.prepare(q), self.prepare(k)
        k, v = (each[:, :, None].expand(-1, -1, self.repeat, -1, -1).flatten(1, 2) for each in (k, v))
        mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril() if self.causal else None
        return self.o(self.core(q, k, v, mask).transpose(1, 2).reshape(*x.shape[:-1], -1))


class Asked(Separate):
    """Keys that torch itself repeats."""

    def forward(self, x):
        q, k, v = (layer(x).view(*x.shape[:-1], -1, DIM).transpose(1, 2) for layer in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return self.o(y.transpose(1, 2).reshape(*x.shape[:-1], -1))


class Counted(nn.Module):
    """One layer for all three, and heads that an attribute counts."""

    def __init__(self, core=fused, norm=nn.Identity):
        super().__init__()
        self.num_heads, self.head_dim, self.attn_dim = HEADS, DIM, HEADS * DIM
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * self.attn_dim), nn.Linear(self.attn_dim, WIDTH)
        self.q_norm, self.core = norm(DIM), core

    def forward(self, x):
        n, t, _ = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        y = self.core(self.q_norm(q), k, v)
        return self.proj(y.transpose(1, 2).reshape(n, t, self.attn_dim))


class Split(nn.Module):
    """One layer for all three, split at an attribute."""

    def __init__(self):
        super().__init__()
        self.split_size = HEADS * DIM
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * self.split_size), nn.Linear(self.split_size, WIDTH)

    def forward(self, x):
        parts = self.qkv(x).split(self.split_size, dim=2)
        q, k, v = (part.view(*x.shape[:-1], -1, DIM).transpose(1, 2) for part in parts)
        return self.proj(fused(q, k, v).transpose(1, 2).flatten(2))


class Biased(Separate):
    """Each head learns a bias for every distance, as in T5 and Swin."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(5, HEADS)

    def forward(self, x):
        steps = torch.arange(x.shape[1])
        bias = self.table((steps[:, None] - steps).abs().clamp(max=4)).permute(2, 0, 1)[None]
        q, k, v = (layer(x).view(*x.shape[:-1], -1, DIM).transpose(1, 2) for layer in (self.q, self.k, self.v))
        return self.o(fused(q, k, v, bias).transpose(1, 2).reshape(*x.shape[:-1], -1))


class Residual(nn.Module):
    def __init__(self, attention: nn.Module):
        super().__init__()
        self.attention, self.out = attention, nn.Linear(WIDTH, 3)

    def forward(self, x):
        return self.out(x + self.attention(x))


class Crossed(Separate):
    """Keys and values of another length than queries."""

    def forward(self, x):
        other = torch.cat([x, x.flip(1)], 1)
        q, k, v = (
            layer(each).view(*each.shape[:-1], -1, DIM).transpose(1, 2)
            for layer, each in ((self.q, x), (self.k, other), (self.v, other))
        )
        return self.o(self.core(q, k, v).transpose(1, 2).reshape(*x.shape[:-1], -1))


NETS = {
    "fused": Separate,
    "written out": lambda: Separate(written_out),
    "batched": lambda: Separate(batched),
    "without bias": lambda: Separate(bias=False),
    "causal": lambda: Separate(causal=True),
    "causal, written out": lambda: Separate(written_out, causal=True),
    "rotary": lambda: Separate(prepare=rotated),
    "grouped": lambda: Separate(shared=2),
    "grouped, written out, rotary": lambda: Separate(written_out, shared=2, prepare=rotated),
    "grouped by torch": lambda: Asked(shared=2),
    "counted": Counted,
    "counted, written out": lambda: Counted(written_out),
    "counted, normed": lambda: Counted(norm=nn.LayerNorm),
    "split": Split,
    "crossed": Crossed,
    "crossed, written out": lambda: Crossed(written_out),
    "biased": Biased,
}


def made(name: str, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return Residual(NETS[name]()).double().eval()


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def assert_same(dense: nn.Module, small: nn.Module) -> None:
    for batch, length in ((1, 9), (5, 7), (3, 4)):
        x = 3 * torch.randn(batch, length, WIDTH).double()
        torch.testing.assert_close(small(x), dense(x), rtol=1e-11, atol=1e-11)


# Of a bias that is looked up nobody knows whether it closes a row, so that a constant other than 0 would be lost there.
@pytest.mark.parametrize(
    ("name", "shift"), [(n, s) for n in NETS for s in ("keep", "drop") if (n, s) != ("biased", "keep")]
)
def test_zeroed_heads_go_whole(name, shift):
    model, x = made(name), torch.randn(2, 6, WIDTH).double()
    units = find_units(model, x)
    (group,) = [group for group in units.values() if group.name.startswith("attention")]
    assert group.size in (HEADS, 2)
    chosen = {group.name: torch.arange(group.size) < group.size // 2}
    zero(model, chosen, units, shift=shift)

    shrunk = shrink(model, x)

    assert shrunk.removed == {group.name: group.size // 2}
    assert_same(model, shrunk.model)
    # Half of everything, but what belongs to no head: the bias behind it, a norm of one head, the layer at the end.
    whole = [p for n, p in model.named_parameters() if "norm" in n or n.endswith(("o.bias", "proj.bias")) or "out" in n]
    rest = sum(parameter.numel() for parameter in whole)
    assert 2 * (count(shrunk.model) - rest) == count(model) - rest
    assert not any(shrink(shrunk.model, x).removed.values())


@pytest.mark.parametrize("name", NETS)
def test_a_head_that_nobody_reads_goes(name):
    model, x = made(name), torch.randn(2, 6, WIDTH).double()
    attention = model.attention
    reader = attention.o if hasattr(attention, "o") else attention.proj
    with torch.no_grad():
        reader.weight[:, : 2 * DIM] = 0  # one group of two, where heads share
        reader.weight[:, 2 * DIM : 3 * DIM - 1] = 0  # a head of which one number is read stays
    shrunk = shrink(model, x)
    ((name, removed),) = [pair for pair in shrunk.removed.items() if pair[0].startswith("attention")]
    assert removed == (1 if find_units(model, x)[name].size == 2 else 2)
    assert_same(model, shrunk.model)


@pytest.mark.parametrize("name", ["fused", "written out", "grouped", "counted"])
def test_weights_drawn_at_random_lose_nothing_that_matters(name):
    for seed in range(4):
        model, x = made(name, seed), torch.randn(2, 6, WIDTH).double()
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for layer in model.attention.children():
                if isinstance(layer, nn.Linear):
                    layer.weight[torch.rand(len(layer.weight), generator=generator) < 0.7] = 0
        assert_same(model, shrink(model, x).model)


def test_a_constant_head_stays_where_a_mask_that_comes_in_may_close_it():
    class Masked(Separate):
        def forward(self, x, mask):
            q, k, v = (layer(x).view(*x.shape[:-1], -1, DIM).transpose(1, 2) for layer in (self.q, self.k, self.v))
            return self.o(fused(q, k, v, mask[:, None, None]).transpose(1, 2).reshape(*x.shape[:-1], -1))

    torch.manual_seed(0)
    model = Masked().double().eval()
    example = torch.randn(2, 6, WIDTH).double(), torch.ones(2, 6, dtype=torch.bool)
    units = find_units(model, example)
    zero(model, {"q": torch.arange(HEADS) < 2}, units)
    whole = shrink(model, example)
    assert whole.removed == {"q": 0}
    assert "v: 12 rows of constants stay: a mask that comes in may leave their heads nothing" in "\n".join(
        whole.plan.notes
    )
    zero(model, {"q": torch.arange(HEADS) < 2}, units, shift="drop")
    shrunk = shrink(model, example)
    assert shrunk.removed == {"q": 2}
    closed = example[0], torch.zeros(2, 6, dtype=torch.bool)
    torch.testing.assert_close(shrunk.model(*closed), model(*closed), rtol=1e-11, atol=1e-11)


class Closed(Separate):
    """The first position may attend to nothing, says a mask that is written in place."""

    def forward(self, x):
        mask = torch.zeros(x.shape[1], x.shape[1], dtype=torch.bool)
        mask[1:] = True
        q, k, v = (layer(x).view(*x.shape[:-1], -1, DIM).transpose(1, 2) for layer in (self.q, self.k, self.v))
        return self.o(fused(q, k, v, mask).transpose(1, 2).reshape(*x.shape[:-1], -1))


def test_a_constant_head_stays_where_a_position_may_attend_to_nothing():
    torch.manual_seed(0)
    model, x = Closed().double().eval(), torch.randn(2, 6, WIDTH).double()
    zero(model, {"q": torch.arange(HEADS) < 2}, find_units(model, x))
    assert shrink(model, x).removed == {"q": 0}
    zero(model, {"q": torch.arange(HEADS) < 2}, find_units(model, x), shift="drop")
    shrunk = shrink(model, x)
    assert shrunk.removed == {"q": 2}
    assert_same(model, shrunk.model)


def test_prune_removes_heads_that_a_mask_may_close():
    torch.manual_seed(0)
    model, x = Closed().double().eval(), torch.randn(2, 6, WIDTH).double()
    for step in (1, 8):  # a head has many channels: no blocks of heads are computed at once
        assert prune(model, x, macs_left=0.5, round_to=step).widths == {"q": (HEADS, HEADS // 2)}


def test_keys_that_all_heads_share_stay():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.kv, self.o = (
                nn.Linear(WIDTH, HEADS * DIM),
                nn.Linear(WIDTH, 2 * DIM),
                nn.Linear(HEADS * DIM, 3),
            )

        def forward(self, x):
            q = self.q(x).view(*x.shape[:-1], -1, DIM).transpose(1, 2)
            k, v = self.kv(x)[:, None].chunk(2, -1)
            return self.o(written_out(q, k, v).transpose(1, 2).flatten(2))

    torch.manual_seed(0)
    model, x = Shared().double().eval(), torch.randn(2, 6, WIDTH).double()
    units = find_units(model, x)
    assert "take the same values" in units.fixed["q"]  # to zero the queries of one is not enough
    assert "kv" in units.fixed
    with torch.no_grad():
        model.o.weight[:, : 2 * DIM] = 0
    shrunk = shrink(model, x)
    assert shrunk.removed["q"] == 2
    assert_same(model, shrunk.model)


def test_dimensions_of_values_go_where_forward_counts_heads_and_lets_the_width_follow():
    class Wide(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k, self.v = (nn.Linear(WIDTH, HEADS * DIM) for _ in range(3))
            self.o = nn.Linear(HEADS * DIM, 3)

        def forward(self, x):
            q, k, v = (each(x).view(*x.shape[:2], HEADS, -1).transpose(1, 2) for each in (self.q, self.k, self.v))
            return self.o(fused(q, k, v).transpose(1, 2).flatten(2))

    torch.manual_seed(0)
    model, x = Wide().double().eval(), torch.randn(2, 6, WIDTH).double()
    assert list(find_units(model, x)) == ["v"]
    assert find_units(model, x)["v"].size == DIM
    zero(model, {"v": torch.arange(DIM) < 2}, find_units(model, x))
    shrunk = shrink(model, x)
    assert shrunk.removed == {"v": 2}
    assert shrunk.model.v.out_features == HEADS * (DIM - 2)
    assert_same(model, shrunk.model)


class Literal(Separate):
    def forward(self, x):
        q, k, v = (layer(x).view(*x.shape[:2], HEADS, DIM).transpose(1, 2) for layer in (self.q, self.k, self.v))
        return self.o(fused(q, k, v).transpose(1, 2).reshape(*x.shape[:2], HEADS * DIM))


def test_heads_that_forward_counts_by_a_number_stay_and_the_line_is_named():
    torch.manual_seed(0)
    model, x = Residual(Literal()).double().eval(), torch.randn(2, 6, WIDTH).double()
    with torch.no_grad():
        model.attention.o.weight[:, : 2 * DIM] = 0
    shrunk = shrink(model, x)
    assert shrunk.removed == {"attention.q": 0}
    assert "2 dead units stay: it passes `view` with a literal size (test_attention" in str(shrunk)
    assert_same(model, shrunk.model)


@pytest.mark.parametrize("weights", [True, False])
def test_attention_of_torch_stays_and_the_reason_is_told(weights):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention, self.out = nn.MultiheadAttention(WIDTH, 2, batch_first=True), nn.Linear(WIDTH, 3)

        def forward(self, x):
            return self.out(x + self.attention(x, x, x, need_weights=weights)[0])

    torch.manual_seed(0)
    model, x = Net().double().eval(), torch.randn(2, 6, WIDTH).double()
    assert "takes the width of its heads from that of its input" in find_units(model, x).fixed["attention"]
    with torch.no_grad():
        model.attention.out_proj.weight[:, : WIDTH // 2] = 0
    shrunk = shrink(model, x)
    assert shrunk.plan.kept == {}
    assert_same(model, shrunk.model)


def test_load_counts_heads_as_shrink_did(tmp_path):
    model, x = made("counted"), torch.randn(2, 6, WIDTH).double()
    units = find_units(model, x)
    zero(model, {"attention.qkv": torch.arange(HEADS) == 1}, units)
    shrunk = shrink(model, x)
    assert shrunk.plan.attributes == {"attention": {"num_heads": HEADS - 1, "attn_dim": DIM * (HEADS - 1)}}
    save(shrunk, tmp_path / "small.safetensors")
    dense = made("counted", seed=1)
    again = load(dense, tmp_path / "small.safetensors")
    assert torch.equal(again(x), shrunk.model(x))
    assert dense.attention.num_heads == HEADS


@pytest.mark.parametrize("gone", [0, 1])
def test_load_refuses_as_many_weights_in_other_heads(gone, tmp_path):
    model, x = made("counted"), torch.randn(2, 6, WIDTH).double()
    zero(model, {"attention.qkv": torch.arange(HEADS) < gone}, find_units(model, x))
    save(shrink(model, x), tmp_path / "small.safetensors")
    other = made("counted", seed=1)
    other.attention.num_heads, other.attention.head_dim = 2 * HEADS, DIM // 2
    with pytest.raises(ValueError, match=f"'num_heads' of 'attention' is {2 * HEADS}, the plan was made for {HEADS}"):
        load(other, tmp_path / "small.safetensors")


# What the rest of the library does with heads


@pytest.mark.parametrize("name", ["fused", "grouped", "counted"])
def test_group_lasso_takes_a_head_as_one_vector(name):
    model, x = made(name), torch.randn(2, 6, WIDTH).double()
    units = find_units(model, x)
    (group,) = units.values()
    assert group.kind == "heads"
    layers = dict(model.named_modules())
    for over, members in (("rows", [(m, 0) for m in group.writers]), ("coupled", [(m, 0) for m in group.writers])):
        members += [(m, 1) for m in group.readers] if over == "coupled" else []
        lengths = []
        for unit in range(group.size):
            parts = [
                layers[m.layer].weight.index_select(axis, (m.index == unit).nonzero()[:, 0]) for m, axis in members
            ]
            lengths.append(torch.cat([part.flatten() for part in parts]).norm())
        reg = prl.GroupLasso(model, strength=2.0, apply="loss", over=over, units=units)
        torch.testing.assert_close(reg.penalty(x), 2 * torch.stack(lengths).sum())
        shortest = int(torch.stack(lengths).argmin())
        second = sorted(float(length) for length in lengths)[1]
        trained = copy.deepcopy(model)
        step = (float(min(lengths)) + second) / 2
        reg = prl.GroupLasso(trained, strength=step, over=over, units=units)
        reg.update(torch.optim.SGD(trained.parameters(), lr=1.0))
        shrunk = shrink(trained, x)
        assert shrunk.removed == {group.name: 1}
        assert shortest not in shrunk.plan.units[group.name]
        assert_same(trained, shrunk.model)


@pytest.mark.parametrize("name", ["fused", "grouped", "counted"])
def test_heads_are_ranked_selected_and_counted_like_other_units(name):
    model, x = made(name), torch.randn(2, 6, WIDTH).double()
    units = find_units(model, x)
    (group,) = units.values()
    scores = prl.importance.magnitude(model, units)
    whole = prl.measure(model, x[:1]).macs
    assert sum(units.macs.values()) == whole
    chosen = prl.select(scores, units, fraction=0.5)
    assert int(chosen[group.name].sum()) == group.size // 2
    zero(model, chosen, units)
    small = shrink(model, x).model
    assert prl.measure(small, x[:1]).macs == cost(chosen, units)
