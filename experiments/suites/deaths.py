"""On VGG-16 of a quarter of the width: under which reading of 2012.03827 do filters die by themselves? No verdict."""

from dataclasses import replace

from experiments.methods import DEATHS
from experiments.suites._protocol import Protocol, Suite

WITH_BATCHNORM = Protocol(
    suite="ablation-deaths",
    data="cifar10",
    network={"model": "vgg16", "width": 0.25},
    strengths={},
    sources={},
    natural={"decay": (3e-3,), **{f"stochastic-decay-{reading}": (3e-3, 1e-3) for reading in DEATHS}},
    decays=(),
    seeds=(0,),
    epochs=15,
    finetune_epochs=0,
    batch_size=128,
    more={"precision": "bfloat16", "augment": True},
)
UNSCALED = tuple(reading for reading, (_, settings) in DEATHS.items() if not settings["scales"])

PAGE = "Stochastic pruning: when do filters die?"
SUITES = (
    Suite(
        protocol=WITH_BATCHNORM,
        title="VGG-16 of a quarter of the width on CIFAR-10, readings of stochastic pruning",
        question="Under which reading of the paper do filters die by themselves, seed 0?",
    ),
    # At a tenth of the learning rate, which such a network needs.
    Suite(
        protocol=replace(
            WITH_BATCHNORM,
            suite="ablation-deaths-plain",
            network={"model": "vgg16-plain", "width": 0.25},
            natural={"decay": (3e-3,), **{f"stochastic-decay-{reading}": (3e-3, 1e-3) for reading in UNSCALED}},
            lr=0.01,
        ),
        title="The same network without BatchNorm, readings of stochastic pruning",
        question="Under which reading of the paper do filters die where no BatchNorm hides their lengths, seed 0?",
    ),
)
