"""Multiply-adds of products that torch's own counter leaves out, by hand, for `measure` and for budgets alike."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pruning_lib as prl

REST = 5 * 8 * 8 + 5 * 8  # two layers at five positions
ENDS = torch.tensor([4, 10], dtype=torch.int32)
PRODUCTS = {
    "bilinear": (lambda x, w: F.bilinear(x, x, w), (3, 8, 8), 5 * 3 * 8 * 8),
    "mv": (lambda x, w: x @ w, (8,), 5 * 8),
    "addmv": (lambda x, w: torch.addmv(w[:1], x.flatten(0, 1), w), (8,), 5 * 8),
    "dot": (lambda x, w: torch.dot(x.flatten(), x.flatten()), (1,), 5 * 8),
    "addbmm": (lambda x, w: torch.addbmm(w, x, x.mT), (5, 5), 5 * 5 * 8),
    "int": (lambda x, w: torch._int_mm(x.flatten(0, 1).repeat(2, 1).to(torch.int8), _eights(w)), (1,), 10 * 8 * 8),
    "scaled": (lambda x, w: torch._scaled_mm(*_floats(x), **_scales(), out_dtype=torch.bfloat16), (1,), 16 * 16 * 16),
    "grouped": (lambda x, w: torch._grouped_mm(x.flatten(0, 1), w, offs=ENDS), (2, 8, 12), 5 * 8 * 12),
    "batched": (lambda x, w: torch._grouped_mm(x, w), (2, 8, 8), 5 * 8 * 8),
    "by columns": (lambda x, w: torch._grouped_mm(x, w, offs=ENDS - 2), (8, 8), 5 * 8 * 8 // 2),
    "by sums": (lambda x, w: torch._grouped_mm(w, w.mT, offs=ENDS - 2), (8, 8), 8 * 8 * 8 // 2),
}


def _eights(w: Tensor) -> Tensor:
    return torch.ones(8, 8, dtype=torch.int8, device=w.device)


def _floats(x: Tensor) -> list[Tensor]:
    ones = torch.ones(32, 16, device=x.device).to(torch.float8_e4m3fn)
    return [ones, ones[:16].mT]


def _scales() -> dict[str, Tensor]:
    return {"scale_a": torch.tensor(1.0), "scale_b": torch.tensor(1.0)}


class Beside(nn.Module):
    """Two layers, and a product beside them."""

    def __init__(self, product, shape):
        super().__init__()
        self.product, self.weight = product, nn.Parameter(torch.randn(shape))
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 1)

    def forward(self, x):
        return self.b(self.a(x)) + self.product(x, self.weight).sum()


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_are_counted_by_hand(name):
    product, shape, macs = PRODUCTS[name]
    model, x = Beside(product, shape).eval(), torch.randn(2, 5, 8)
    try:
        with torch.no_grad():
            model(x)
    except (RuntimeError, NotImplementedError, ValueError) as error:
        pytest.skip(f"this torch does not run it here: {error}")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert prl.measure(model, x).macs == macs + REST
        assert sum(prl.find_units(model, x).macs.values()) == macs + REST


def test_a_deformable_convolution_is_counted():
    deform = pytest.importorskip("torchvision.ops").deform_conv2d
    x, offset = torch.randn(2, 8, 6, 6), torch.zeros(2, 18, 6, 6)
    model = Beside(lambda x, w: deform(x, offset, w, padding=1), (4, 8, 3, 3))
    model.a, model.b = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 1, 1)
    macs = 36 * (4 * 8 * 9 + 8 * 8 + 8)
    assert prl.measure(model, x).macs == sum(prl.find_units(model, x).macs.values()) == macs


def test_experts_are_counted_however_they_run():
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 4}
    config = transformers.MixtralConfig(**sizes, **heads)
    if not hasattr(config, "_experts_implementation"):
        pytest.skip("this release of transformers runs experts one by one")
    inputs, found = {"input_ids": torch.arange(7)[None]}, []
    for way in ("eager", "grouped_mm", "batched_mm"):
        config._experts_implementation = way
        torch.manual_seed(0)
        model = transformers.MixtralForCausalLM(config).eval()
        found.append(prl.measure(model, inputs).macs)
        if way != "eager":  # which branches on values
            found.append(sum(prl.find_units(model, inputs).macs.values()))
    # Projections of queries and outputs, of keys and values; scores and their means; the router; two experts a token.
    layer = 2 * 16 * 16 + 2 * 16 * 8 + 2 * 7 * 16 + 4 * 16 + 2 * 3 * 16 * 24
    assert set(found) == {7 * (2 * layer + 16 * 40)}
    pruned = prl.prune(model, inputs, macs_left=0.95).model
    assert prl.measure(pruned, inputs).macs / found[0] == pytest.approx(0.95, abs=0.05)


@torch.library.custom_op("pruning_lib_tests::product", mutates_args=())
def strange(x: Tensor, weight: Tensor) -> Tensor:
    return x @ weight


@strange.register_fake
def _(x: Tensor, weight: Tensor) -> Tensor:
    return x @ weight


def test_what_cannot_be_counted_is_named():
    model, x = Beside(lambda x, w: strange(x, w), (8, 6)).eval(), torch.randn(2, 5, 8)
    for function in (prl.measure, prl.find_units):
        with pytest.warns(UserWarning, match="counts no multiply-adds for `pruning_lib_tests::product`") as caught:
            function(model, x)
        assert len(caught) == 1
        assert caught[0].filename == __file__


def test_weights_of_eight_bits_are_matrices_too() -> None:
    @torch.library.custom_op("test_products::mm8", mutates_args=())
    def mm8(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return x @ weight.to(x.dtype)

    @mm8.register_fake
    def _(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return x.new_empty(len(x), weight.shape[1])

    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(4, 4)
            self.register_buffer("weight", torch.ones(4, 3, dtype=torch.int8))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return mm8(self.first(x), self.weight)

    with pytest.warns(UserWarning, match="counts no multiply-adds for `test_products::mm8`"):
        assert prl.measure(Packed(), torch.ones(1, 4)).macs == 16
