"""Transformers: a small network of every architecture, from a configuration alone; caches are switched off."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import transformers
from torch import nn

from benchmarks.networks._network import Network

WORDS = 99
TOKENS = 12
SMALL: dict[str, Any] = {
    "vocab_size": WORDS,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# Architecture, head, and what differs from `SMALL`.
ENCODERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bert": ("Bert", "ForMaskedLM", {}),
    "bert-classifier": ("Bert", "ForSequenceClassification", {}),
    "distilbert": ("DistilBert", "ForMaskedLM", {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48}),
    "albert": ("Albert", "ForMaskedLM", {"embedding_size": 16}),
    "electra": ("Electra", "ForPreTraining", {"embedding_size": 16}),
    "roberta": ("Roberta", "ForMaskedLM", {}),
    "xlm-roberta": ("XLMRoberta", "ForTokenClassification", {}),
    "camembert": ("Camembert", "ForQuestionAnswering", {}),
    "mobilebert": ("MobileBert", "ForMaskedLM", {"embedding_size": 32, "intra_bottleneck_size": 32, "hidden_size": 64}),
    "deberta": ("Deberta", "ForMaskedLM", {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}),
    "deberta-v2": ("DebertaV2", "ForMaskedLM", {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}),
    "mpnet": ("MPNet", "ForMaskedLM", {}),
    "squeezebert": ("SqueezeBert", "ForMaskedLM", {"embedding_size": 32}),
    "layoutlm": ("LayoutLM", "ForMaskedLM", {}),
    "longformer": ("Longformer", "ForMaskedLM", {"attention_window": 4}),
    "fnet": ("FNet", "ForMaskedLM", {}),
    "convbert": ("ConvBert", "ForMaskedLM", {"embedding_size": 32}),
    "modernbert": ("ModernBert", "ForMaskedLM", {"global_attn_every_n_layers": 2, "local_attention": 8}),
    "nystromformer": ("Nystromformer", "ForMaskedLM", {"num_landmarks": 12, "segment_means_seq_len": 12}),
    "rembert": ("RemBert", "ForMaskedLM", {"input_embedding_size": 16, "output_embedding_size": 16}),
    "roformer": ("RoFormer", "ForMaskedLM", {"embedding_size": 32}),
    "ibert": ("IBert", "ForMaskedLM", {}),
}
DECODERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "gpt2": ("GPT2", "LMHeadModel", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}),
    "gpt-neo": (
        "GPTNeo",
        "ForCausalLM",
        {"num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]]},
    ),
    "gpt-neox": ("GPTNeoX", "ForCausalLM", {}),
    "gptj": ("GPTJ", "ForCausalLM", {"n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4, "n_positions": 64}),
    "gpt-bigcode": ("GPTBigCode", "ForCausalLM", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}),
    "opt": ("OPT", "ForCausalLM", {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    "bloom": ("Bloom", "ForCausalLM", {"n_layer": 2, "n_head": 4}),
    "codegen": (
        "CodeGen",
        "ForCausalLM",
        {"n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4, "n_positions": 64},
    ),
    "falcon": ("Falcon", "ForCausalLM", {}),
    "mpt": ("Mpt", "ForCausalLM", {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 64}),
    "xglm": ("XGLM", "ForCausalLM", {"d_model": 32, "num_layers": 2, "attention_heads": 4, "ffn_dim": 48}),
    "biogpt": ("BioGpt", "ForCausalLM", {}),
    "llama": ("Llama", "ForCausalLM", {"num_key_value_heads": 2}),
    "mistral": ("Mistral", "ForCausalLM", {"num_key_value_heads": 2, "sliding_window": 8}),
    "qwen2": ("Qwen2", "ForCausalLM", {"num_key_value_heads": 2}),
    "qwen3": ("Qwen3", "ForCausalLM", {"num_key_value_heads": 2, "head_dim": 8}),
    "gemma": ("Gemma", "ForCausalLM", {"num_key_value_heads": 2, "head_dim": 8}),
    "gemma2": ("Gemma2", "ForCausalLM", {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 8}),
    "gemma3": ("Gemma3Text", "Gemma3ForCausalLM", {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 8}),
    "phi": ("Phi", "ForCausalLM", {}),
    "phi3": ("Phi3", "ForCausalLM", {}),
    "stablelm": ("StableLm", "ForCausalLM", {"num_key_value_heads": 2}),
    "starcoder2": ("Starcoder2", "ForCausalLM", {"num_key_value_heads": 2}),
    "olmo": ("Olmo", "ForCausalLM", {}),
    "olmo2": ("Olmo2", "ForCausalLM", {}),
    "cohere": ("Cohere", "ForCausalLM", {}),
    "granite": ("Granite", "ForCausalLM", {}),
    "glm": ("Glm", "ForCausalLM", {"num_key_value_heads": 2, "head_dim": 8}),
    "smollm3": ("SmolLM3", "ForCausalLM", {"num_key_value_heads": 2}),
    "mixtral": ("Mixtral", "ForCausalLM", {"num_key_value_heads": 2, "num_local_experts": 4}),
    "qwen2-moe": (
        "Qwen2Moe",
        "ForCausalLM",
        {
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 24,
            "shared_expert_intermediate_size": 24,
            "num_key_value_heads": 2,
        },
    ),
    "olmoe": ("Olmoe", "ForCausalLM", {"num_experts": 4, "num_experts_per_tok": 2}),
    "mamba": ("Mamba", "ForCausalLM", {"state_size": 4}),
    "rwkv": ("Rwkv", "ForCausalLM", {"attention_hidden_size": 32, "context_length": 64}),
}
D_MODEL = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "decoder_start_token_id": 2,
}
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0}
PAIRS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "t5": ("T5", "ForConditionalGeneration", T5),
    "t5-gated": ("T5", "ForConditionalGeneration", {**T5, "feed_forward_proj": "gated-gelu"}),
    "mt5": ("MT5", "ForConditionalGeneration", T5),
    "bart": ("Bart", "ForConditionalGeneration", D_MODEL),
    "mbart": ("MBart", "ForConditionalGeneration", D_MODEL),
    "pegasus": ("Pegasus", "ForConditionalGeneration", D_MODEL),
    "marian": ("Marian", "MTModel", D_MODEL),
    "m2m100": ("M2M100", "ForConditionalGeneration", D_MODEL),
}
IMAGE = {"image_size": 32, "patch_size": 8, "num_labels": 5, "hidden_size": 32, "num_hidden_layers": 2}
PYRAMID = {"depths": [1, 1, 1, 1], "num_labels": 5}
IMAGES: dict[str, tuple[str, str, int, dict[str, Any]]] = {
    "vit": ("ViT", "ForImageClassification", 32, IMAGE),
    "deit": ("DeiT", "ForImageClassification", 32, IMAGE),
    "beit": ("Beit", "ForImageClassification", 32, {**IMAGE, "use_relative_position_bias": True}),
    "data2vec-vision": ("Data2VecVision", "ForImageClassification", 32, IMAGE),
    "dinov2": ("Dinov2", "ForImageClassification", 32, {**IMAGE, "mlp_ratio": 2}),
    "swin": (
        "Swin",
        "ForImageClassification",
        32,
        {
            "image_size": 32,
            "patch_size": 2,
            "embed_dim": 16,
            "depths": [2, 2],
            "num_heads": [2, 4],
            "window_size": 4,
            "num_labels": 5,
        },
    ),
    "swinv2": (
        "Swinv2",
        "ForImageClassification",
        32,
        {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4},
    ),
    "segformer": (
        "Segformer",
        "ForSemanticSegmentation",
        64,
        {**PYRAMID, "hidden_sizes": [16, 16, 32, 32], "decoder_hidden_size": 32},
    ),
    "pvt": (
        "Pvt",
        "ForImageClassification",
        64,
        {**PYRAMID, "image_size": 64, "hidden_sizes": [16, 16, 32, 32], "num_attention_heads": [1, 2, 2, 2]},
    ),
    "convnext": ("ConvNext", "ForImageClassification", 64, {**PYRAMID, "hidden_sizes": [16, 16, 32, 32]}),
    "convnextv2": ("ConvNextV2", "ForImageClassification", 64, {**PYRAMID, "hidden_sizes": [16, 16, 32, 32]}),
    "resnet": (
        "ResNet",
        "ForImageClassification",
        64,
        {**PYRAMID, "embedding_size": 16, "hidden_sizes": [16, 16, 32, 32]},
    ),
    "regnet": (
        "RegNet",
        "ForImageClassification",
        64,
        {**PYRAMID, "embedding_size": 16, "hidden_sizes": [16, 16, 32, 32], "groups_width": 8},
    ),
    "mobilenet-v1": ("MobileNetV1", "ForImageClassification", 64, {"depth_multiplier": 0.25, "num_labels": 5}),
    "mobilenet-v2": ("MobileNetV2", "ForImageClassification", 64, {"depth_multiplier": 0.35, "num_labels": 5}),
    "mobilevit": (
        "MobileViT",
        "ForImageClassification",
        64,
        {"hidden_sizes": [16, 24, 32], "num_labels": 5, "neck_hidden_sizes": [8, 8, 16, 16, 24, 32, 64]},
    ),
    "levit": (
        "Levit",
        "ForImageClassification",
        224,
        {
            "hidden_sizes": [32, 48, 64],
            "num_labels": 5,
            "depths": [1, 1, 1],
            "num_attention_heads": [2, 3, 4],
            "key_dim": [8, 8, 8],
        },
    ),
    "poolformer": ("PoolFormer", "ForImageClassification", 64, {**PYRAMID, "hidden_sizes": [16, 16, 32, 32]}),
    "efficientnet": (
        "EfficientNet",
        "ForImageClassification",
        64,
        {"width_coefficient": 0.25, "depth_coefficient": 0.25, "hidden_dim": 320, "num_labels": 5},
    ),
    "glpn": (
        "GLPN",
        "ForDepthEstimation",
        64,
        {
            "depths": [1, 1, 1, 1],
            "hidden_sizes": [16, 16, 32, 32],
            "num_attention_heads": [1, 2, 2, 4],
            "decoder_hidden_size": 32,
        },
    ),
    "focalnet": ("FocalNet", "ForImageClassification", 64, {**PYRAMID, "embed_dim": 16, "image_size": 64}),
    "bit": (
        "Bit",
        "ForImageClassification",
        64,
        {**PYRAMID, "embedding_size": 16, "hidden_sizes": [32, 32, 64, 64], "num_groups": 4},
    ),
    "siglip-vision": ("SiglipVision", "Model", 32, {**IMAGE, "num_attention_heads": 4}),
    "vit-mae": ("ViTMAE", "Model", 32, {**IMAGE, "mask_ratio": 0.0, "num_attention_heads": 4}),
}
AUDIO: dict[str, tuple[str, str, dict[str, Any]]] = {
    "wav2vec2": ("Wav2Vec2", "ForCTC", {}),
    "hubert": ("Hubert", "ForCTC", {}),
    "wavlm": ("WavLM", "ForCTC", {}),
    "data2vec-audio": ("Data2VecAudio", "ForCTC", {}),
}


def _build(kind: str, head: str, options: dict[str, Any]) -> nn.Module:
    """Build a network; what its configuration does not know is left out of `options`."""
    config = getattr(transformers, f"{kind}Config")
    name = head if hasattr(transformers, head) else kind + head
    config = config(**options)
    for key in ("use_cache", "output_router_logits", "apply_spec_augment"):
        if hasattr(config, key):
            setattr(config, key, False)
    model: nn.Module = getattr(transformers, name)(config)
    return model


def _text(kind: str, head: str, options: dict[str, Any]) -> Network:
    shapes = {"input_ids": (TOKENS,), "attention_mask": (TOKENS,)}
    return Network(partial(_build, kind, head, {**SMALL, **options}), shapes, {"input_ids": WORDS}, (TOKENS,))


def _pair(kind: str, head: str, options: dict[str, Any]) -> Network:
    shapes = {"input_ids": (TOKENS,), "attention_mask": (TOKENS,), "decoder_input_ids": (7,)}
    words = {"input_ids": WORDS, "decoder_input_ids": WORDS}
    return Network(partial(_build, kind, head, {**SMALL, **options}), shapes, words, (TOKENS, 7))


def _image(kind: str, head: str, side: int, options: dict[str, Any]) -> Network:
    small = {key: SMALL[key] for key in ("num_attention_heads", "intermediate_size")} if options is IMAGE else {}
    return Network(partial(_build, kind, head, {**small, **options}), {"pixel_values": (3, side, side)}, {}, (side,))


def _audio(kind: str, head: str, options: dict[str, Any]) -> Network:
    layers = {
        "conv_dim": (16, 16, 16),
        "conv_stride": (4, 4, 2),
        "conv_kernel": (8, 4, 2),
        "num_conv_pos_embeddings": 4,
    }
    build = partial(_build, kind, head, {**SMALL, **layers, "num_conv_pos_embedding_groups": 2, **options})
    return Network(build, {"input_values": (800,)}, {}, (800,))


def _others() -> dict[str, Network]:
    """Return the networks that take more than one kind of input."""
    text = {key: SMALL[key] for key in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")}
    text |= {"intermediate_size": 48, "max_position_embeddings": 64, "projection_dim": 16, "eos_token_id": 2}
    clip = {"text_config": text, "vision_config": {**IMAGE, "num_attention_heads": 4, "intermediate_size": 48}}
    both = {"input_ids": (TOKENS,), "attention_mask": (TOKENS,), "pixel_values": (3, 32, 32)}
    whisper = {**SMALL, **D_MODEL, "num_mel_bins": 8, "max_source_positions": 20, "max_target_positions": 30}
    return {
        "clip": Network(partial(_build, "CLIP", "Model", {**clip, "projection_dim": 16}), both, {"input_ids": WORDS}),
        "siglip": Network(partial(_build, "Siglip", "Model", clip), both, {"input_ids": WORDS}, (TOKENS,)),
        "whisper": Network(
            partial(_build, "Whisper", "ForConditionalGeneration", whisper),
            {"input_features": (8, 40), "decoder_input_ids": (TOKENS,)},
            {"decoder_input_ids": WORDS},
            (TOKENS,),
        ),
        "speech-to-text": Network(
            partial(
                _build,
                "Speech2Text",
                "ForConditionalGeneration",
                {
                    **SMALL,
                    **D_MODEL,
                    "input_feat_per_channel": 8,
                    "max_source_positions": 64,
                    "max_target_positions": 30,
                    "conv_channels": 16,
                },
            ),
            {"input_features": (40, 8), "decoder_input_ids": (TOKENS,)},
            {"decoder_input_ids": WORDS},
            (TOKENS, 40),
        ),
        "audio-spectrogram": Network(
            partial(
                _build,
                "AST",
                "ForAudioClassification",
                {**IMAGE, "num_attention_heads": 4, "intermediate_size": 48, "max_length": 32, "num_mel_bins": 16},
            ),
            {"input_values": (32, 16)},
            {},
            (32,),
        ),
    }


def transformers_networks() -> dict[str, Network]:
    """Return the networks by name."""
    found: dict[str, Network] = {}
    makers: list[tuple[dict[str, Any], Callable[..., Network]]] = [
        (ENCODERS, _text),
        (DECODERS, _text),
        (PAIRS, _pair),
        (IMAGES, _image),
        (AUDIO, _audio),
    ]
    for table, make in makers:
        found |= {name: make(*arguments) for name, arguments in table.items()}
    return {f"transformers/{name}": network for name, network in {**found, **_others()}.items()}
