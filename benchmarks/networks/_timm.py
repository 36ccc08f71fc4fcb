"""Timm: a small network of every family, with fewer blocks where its configuration allows."""

from __future__ import annotations

from functools import partial
from typing import Any

import timm
from torch import nn

from benchmarks.networks._network import Network, images

CONVOLUTIONAL = """
resnet10t resnet26d resnetblur18 resnetaa34d seresnet18 legacy_seresnet18 ecaresnet26t skresnet18 resnest14d
resnext26ts seresnext26d_32x4d gcresnext26ts resnetv2_18 res2net50_14w_8s res2next50 nf_resnet26 nf_regnet_b0
eca_nfnet_l0 regnetx_002 regnety_002 regnetz_b16 dla34 dla46_c hrnet_w18_small cspresnet50 cspdarknet53 darknet17
cs3darknet_s vgg11_bn densenet121 dpn48b xception41 selecsls42 vovnet39a ese_vovnet19b_dw hardcorenas_a fbnetc_100
spnasnet_100 mnasnet_small semnasnet_075 mobilenetv2_050 mobilenetv3_small_050 mobilenetv4_conv_small_050 lcnet_050
tinynet_e mixnet_s efficientnet_b0 efficientnet_lite0 tf_efficientnet_b0 tf_efficientnetv2_b0 ghostnet_050
ghostnetv2_100 repghostnet_050 rexnet_100 tresnet_m repvgg_a0 mobileone_s0 repvit_m0_9 hgnetv2_b0 starnet_s1
rdnet_tiny convnext_atto convnextv2_atto inception_next_atto mambaout_femto focalnet_tiny_srf fasternet_t0
"""
"""Names, at 64 pixels."""
OTHERS: dict[str, tuple[int, dict[str, Any]]] = {
    "inception_v4": (96, {}),
    "inception_resnet_v2": (96, {}),
    "convmixer_768_32": (64, {}),
    "poolformer_s12": (64, {}),
    "poolformerv2_s12": (64, {}),
    "convformer_s18": (64, {}),
    "caformer_s18": (64, {}),
    "mixer_s32_224": (64, {"img_size": 64}),
    "resmlp_12_224": (64, {"img_size": 64}),
    "gmlp_ti16_224": (64, {"img_size": 64}),
    "sequencer2d_s": (64, {"img_size": 64, "layers": (1, 1, 1, 1)}),
    "vit_tiny_patch16_224": (64, {"img_size": 64, "depth": 2}),
    "vit_relpos_small_patch16_224": (64, {"img_size": 64, "depth": 2, "embed_dim": 64, "num_heads": 2}),
    "vit_small_patch16_18x2_224": (64, {"img_size": 64, "depth": 1, "embed_dim": 64, "num_heads": 2}),
    "flexivit_small": (64, {"img_size": 64, "depth": 2, "embed_dim": 64, "num_heads": 2}),
    "deit_tiny_distilled_patch16_224": (64, {"img_size": 64, "depth": 2}),
    "deit3_small_patch16_224": (64, {"img_size": 64, "depth": 2, "embed_dim": 64, "num_heads": 2}),
    "beit_base_patch16_224": (64, {"img_size": 64, "depth": 2, "embed_dim": 64, "num_heads": 2}),
    "beitv2_base_patch16_224": (64, {"img_size": 64, "depth": 2, "embed_dim": 64, "num_heads": 2}),
    "eva02_tiny_patch14_224": (56, {"img_size": 56, "depth": 2}),
    "cait_xxs24_224": (64, {"img_size": 64, "depth": 2}),
    "xcit_nano_12_p16_224": (64, {"depth": 2}),
    "levit_128s": (224, {}),
    "levit_conv_128s": (224, {}),
    "edgenext_xx_small": (64, {}),
    "mobilevit_xxs": (64, {}),
    "mobilevitv2_050": (64, {}),
    "mobilenetv4_hybrid_medium": (64, {}),
    "fastvit_t8": (64, {}),
    "efficientformer_l1": (224, {}),
    "efficientformerv2_s0": (64, {"img_size": 64}),
    "efficientvit_b0": (64, {}),
    "efficientvit_m0": (224, {}),
    "swiftformer_xs": (64, {}),
    "visformer_tiny": (64, {"img_size": 64, "depth": (1, 1, 1)}),
    "nest_tiny": (64, {"img_size": 64}),
    "volo_d1_224": (64, {"img_size": 64}),
    "tiny_vit_5m_224": (64, {}),
    "coat_lite_tiny": (64, {"img_size": 64, "serial_depths": (1, 1, 1, 1)}),
    "coat_tiny": (64, {"img_size": 64, "serial_depths": (1, 1, 1, 1), "parallel_depth": 1}),
    "crossvit_tiny_240": (240, {"depth": ((1, 1, 0), (1, 1, 0), (1, 1, 0))}),
    "pvt_v2_b0": (64, {"depths": (1, 1, 1, 1)}),
    "twins_pcpvt_small": (64, {"img_size": 64, "depths": (1, 1, 1, 1)}),
    "twins_svt_small": (64, {"img_size": 64, "depths": (1, 1, 1, 1)}),
    "swin_tiny_patch4_window7_224": (64, {"img_size": 64, "window_size": 4, "depths": (2, 2), "num_heads": (3, 6)}),
    "swinv2_tiny_window8_256": (64, {"img_size": 64, "window_size": 4, "depths": (2, 2), "num_heads": (3, 6)}),
    "swinv2_cr_tiny_224": (64, {"img_size": 64, "depths": (2, 2), "num_heads": (3, 6)}),
    "maxvit_rmlp_pico_rw_256": (64, {"img_size": 64}),
    "coatnet_pico_rw_224": (64, {"img_size": 64}),
    "coatnext_nano_rw_224": (64, {"img_size": 64}),
    "hiera_tiny_224": (64, {"img_size": 64}),
    "davit_tiny": (64, {"depths": (1, 1, 1, 1)}),
    "gcvit_xxtiny": (64, {"img_size": 64}),
    "mvitv2_tiny": (64, {"img_size": 64}),
    "pit_ti_224": (64, {"img_size": 64}),
    "pit_s_distilled_224": (64, {"img_size": 64}),
    "tnt_s_legacy_patch16_224": (64, {"img_size": 64, "depth": 2}),
    "convit_tiny": (64, {"img_size": 64, "depth": 4, "local_up_to_layer": 2}),
    "botnet26t_256": (64, {"img_size": 64}),
    "halonet26t": (256, {}),
    "lambda_resnet26t": (64, {"img_size": 64}),
    "eca_botnext26ts_256": (64, {"img_size": 64}),
    "nextvit_small": (64, {"depths": (1, 1, 5, 1)}),
    "shvit_s1": (64, {}),
    "csatv2": (64, {}),
    "vitamin_small_224": (64, {"img_size": 64}),
}
"""Side of the image, and what makes the network small."""


def _build(name: str, options: dict[str, Any]) -> nn.Module:
    model: nn.Module = timm.create_model(name, num_classes=10, **options)
    return model


def timm_networks() -> dict[str, Network]:
    """Return the networks by name."""
    chosen = {**{name: (64, {}) for name in CONVOLUTIONAL.split()}, **OTHERS}
    return {f"timm/{name}": images(partial(_build, name, options), side) for name, (side, options) in chosen.items()}
