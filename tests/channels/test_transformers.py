"""Networks of Transformers and timm from small configurations: heads and hidden units go, and all else is as before."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pruning_lib as prl

transformers = pytest.importorskip("transformers")

TEXT = {"vocab_size": 40, "attn_implementation": "sdpa"}
IMAGE = {"image_size": 16, "patch_size": 4, "num_labels": 3}
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24}
SHARED = {**SIZES, "num_key_value_heads": 2, "max_position_embeddings": 64}
CONFIGURATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("ForSequenceClassification", {**TEXT, **SIZES}),
    "distilbert": ("ForSequenceClassification", {**TEXT, "dim": 16, "n_layers": 2, "n_heads": 4, "hidden_dim": 24}),
    "vit": ("ForImageClassification", {**IMAGE, **SIZES}),
    "deit": ("ForImageClassification", {**IMAGE, **SIZES, "architectures": ["DeiTForImageClassification"]}),
    "llama": ("ForCausalLM", {**TEXT, **SHARED}),
    "qwen2": ("ForCausalLM", {**TEXT, **SHARED}),
    "gpt2": ("ForCausalLM", {**TEXT, "n_embd": 16, "n_layer": 2, "n_head": 4, "bos_token_id": 0, "eos_token_id": 0}),
}
FAST = ("llama", "gpt2")
EVERY = [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in CONFIGURATIONS]


def built(kind: str, **options: Any) -> nn.Module:
    """Return a network in float64, its vectors drawn, so that no bias is 0 by habit."""
    torch.manual_seed(0)
    head, sizes = CONFIGURATIONS[kind]
    config = transformers.AutoConfig.for_model(kind, **{**sizes, **options})
    model = getattr(transformers, f"AutoModel{head}").from_config(config).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_() if parameter.ndim == 1 else parameter.mul_(5)
    return model


def example(kind: str, batch: int = 2, length: int = 6) -> Any:
    if kind in ("vit", "deit"):
        return torch.randn(batch, 3, 16, 16).double()
    return {"input_ids": torch.randint(40, (batch, length))}


def logits(model: nn.Module, inputs: Any) -> Tensor:
    with torch.no_grad():
        return (model(inputs) if isinstance(inputs, Tensor) else model(**inputs)).logits


def halved(model: nn.Module, inputs: Any) -> tuple[dict[str, Tensor], prl.Units]:
    """Return a choice of every second head and of every second hidden unit of an MLP."""
    units = prl.find_units(model, inputs)
    layers = {name for name in units if "pool" not in name and "pre_classifier" not in name}
    return {name: torch.arange(units[name].size) % 2 == 0 for name in layers}, units


def size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def rows_gone(model: nn.Module, chosen: dict[str, Tensor], units: prl.Units) -> int:
    """Count the parameters of the chosen units: their rows and biases, and the columns that read them."""
    layers, gone = dict(model.named_modules()), 0
    for name, mask in chosen.items():
        group = units[name]
        for member in (*group.writers, *group.readers):
            weight = layers[member.layer].weight
            each = weight.numel() // len(member.index)
            bias = getattr(layers[member.layer], "bias", None) is not None and member in group.writers
            gone += int(mask[member.index].sum()) * (each + bias)
    return gone


def biases_come(model: nn.Module, small: nn.Module) -> int:
    """Count what a layer without a bias got: the constant output of the value biases whose heads went."""
    before = dict(model.named_parameters())
    return sum(
        parameter.numel()
        for name, parameter in small.named_parameters()
        if name not in before and name.endswith("o_proj.bias")
    )


@pytest.mark.parametrize("kind", EVERY)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_heads_and_hidden_units_go_and_outputs_stay(kind, attention):
    model, inputs = built(kind, attn_implementation=attention), example(kind)
    chosen, units = halved(model, inputs)
    assert sum(units[name].kind == "heads" for name in chosen) == 2
    zeroed = copy.deepcopy(model)
    prl.zero(zeroed, chosen, units)
    shrunk = prl.shrink(zeroed, inputs)
    assert all(shrunk.removed[name] == mask.sum() for name, mask in chosen.items())
    assert size(shrunk.model) == size(model) - rows_gone(model, chosen, units) + biases_come(model, shrunk.model)
    # Written-out attention takes its softmax in float32, whatever the model's type.
    most = {"sdpa": 1e-10, "eager": 1e-6}[attention]
    for other in (example(kind, 5), example(kind, 1, 9)):
        torch.testing.assert_close(logits(shrunk.model, other), logits(zeroed, other), rtol=most, atol=most)
    moved = (logits(model, inputs) - logits(zeroed, inputs)).abs().max()
    assert moved > 1e-3, "zeroing has to change far more than removal may"


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_pruned_decoder_generates_the_same_tokens_with_its_cache(kind, tmp_path):
    model = built(kind)
    assert model.config.use_cache
    chosen, units = halved(model, example(kind))
    prl.zero(model, chosen, units)
    shrunk = prl.shrink(model, example(kind))
    prompt = example(kind, 3, 4)["input_ids"]
    how = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    expected = model.generate(prompt, use_cache=False, **how)
    assert torch.equal(model.generate(prompt, use_cache=True, **how), expected)
    assert len({tuple(row) for row in expected.tolist()}) == 3
    assert torch.equal(shrunk.model.generate(prompt, use_cache=True, **how), expected)
    # One call builds the small network again.
    prl.save(shrunk, tmp_path / "small.safetensors")
    again = prl.load(type(model)(model.config).eval(), tmp_path / "small.safetensors")
    assert torch.equal(again.generate(prompt, use_cache=True, **how), expected)


def test_a_mask_of_padding_leaves_heads_of_zeros_alone_to_go():
    model = built("llama", attention_bias=True)
    inputs = {**example("llama"), "attention_mask": torch.tensor([[0, 0, 1, 1, 1, 1], [1] * 6])}
    units = prl.find_units(model, inputs)
    heads = {name: torch.tensor([True, False]) for name, group in units.items() if group.kind == "heads"}
    prl.zero(model, heads, units)
    assert not any(prl.shrink(model, inputs).removed.values())
    prl.zero(model, heads, units, shift="drop")
    shrunk = prl.shrink(model, inputs)
    assert sum(shrunk.removed.values()) == len(heads) == 2
    torch.testing.assert_close(logits(shrunk.model, inputs), logits(model, inputs), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("fused", [True, False])
def test_heads_of_timm_follow(fused):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.create_model(
        "vit_tiny_patch16_224",
        img_size=16,
        patch_size=4,
        embed_dim=16,
        depth=2,
        num_heads=4,
        num_classes=3,
        qk_norm=True,
    )
    model, x = model.double().eval(), torch.randn(2, 3, 16, 16).double()
    for block in model.blocks:
        block.attn.fused_attn = fused
    chosen, units = halved(model, x)
    prl.zero(model, chosen, units)
    shrunk = prl.shrink(model, x)
    assert [block.attn.num_heads for block in shrunk.model.blocks] == [2, 2]
    assert all(shrunk.removed[name] == mask.sum() for name, mask in chosen.items())
    other = torch.randn(5, 3, 16, 16).double()
    torch.testing.assert_close(shrunk.model(other), model(other), rtol=1e-10, atol=1e-10)
