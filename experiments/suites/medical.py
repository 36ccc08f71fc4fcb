"""Medical images: a small U-Net on nuclei in micrographs, a small network on chest X-rays; never medical evidence."""

from dataclasses import replace

from experiments.suites._papers import READING, STOCHASTIC
from experiments.suites._protocol import Claim, Matched, Protocol, Suite

# Strengths by the rule of CIFAR-10. What some methods cannot rank none may prune: the transposed convolutions have
# no BatchNorm.
NUCLEI = Protocol(
    suite="nuclei-unet",
    data="nuclei",
    network={"model": "unet", "channels": 8},
    strengths={
        "dense": (0.0,),
        "rni": (1e-1,),
        "slimming": (1e-3,),
        "stochastic-l2": (1e-2,),
        "group-lasso": (1e-2,),
        "guided-group-lasso": (1e-2,),
        "serene-sampled": (1e-2,),
        "polarization": (1e-3,),
    },
    sources={"group-lasso": (1e-2, 1e-2)},
    criteria={"dense": ("random",)},
    seeds=(0, 1, 2),
    targets=("fraction-0.6", "fraction-0.8"),
    epochs=20,
    finetune_epochs=8,
    finetune_lr=0.03,
    batch_size=16,
    more={"shifts": "drop", "precision": "bfloat16", "normalized": True},
)
XRAYS = Protocol(
    suite="covid-cnn",
    data="chest-xrays",
    network={"model": "convnet", "widths": [16, 32, 64, 64]},
    strengths={
        "dense": (0.0,),
        "rni": (3e-1,),
        "slimming": (3e-3,),
        "stochastic-l2": (3e-2,),
        "group-lasso": (3e-2,),
        "guided-group-lasso": (3e-2,),
        "serene-sampled": (1e-2,),
        "polarization": (3e-3,),
    },
    sources={"group-lasso": (3e-2, 3e-2)},
    criteria={"dense": ("random",)},
    targets=("fraction-0.5", "fraction-0.75"),
    epochs=30,
    finetune_epochs=10,
    lr=0.02,
    batch_size=32,
    more={"shifts": "drop", "augment": True, "precision": "bfloat16"},
)
# Units that die by themselves, trained three and two times as long as above, beside those that are chosen. Strengths of
# the chosen ones: those above over the factor by which the trainings are longer.
NUCLEI_DEATHS = replace(
    NUCLEI,
    suite="nuclei-deaths",
    strengths={"dense": (0.0,), "rni": (3e-2,), "group-lasso": (3e-3,)},
    natural={"dense-long": (0.0, 1e-3), "decay": (3e-3,), "stochastic-decay-scales": (1e-3, 3e-3, 1e-2)},
    matched=(Matched("stochastic-decay-scales", 3e-3),),
    sources={"group-lasso": (3e-3, 3e-3)},
    targets=("fraction-0.5", "fraction-0.6"),
    epochs=60,
    finetune_epochs=30,
)
XRAYS_DEATHS = replace(
    XRAYS,
    suite="covid-deaths",
    strengths={"dense": (0.0,), "rni": (1.5e-1,), "group-lasso": (1.5e-2,)},
    natural={"dense-long": (0.0, 1e-3), "decay": (3e-3,), "stochastic-decay-scales": (1e-3, 3e-3, 1e-2)},
    matched=(Matched("stochastic-decay-scales", 3e-3),),
    sources={"group-lasso": (1.5e-2, 1.5e-2)},
    seeds=(0, 1, 2),
    targets=("fraction-0.5", "fraction-0.6"),
    epochs=60,
    finetune_epochs=30,
)
MAPS = {"dice": "Dice coefficient", "instance_f1": "instance F1"}
DIAGNOSES = {"balanced_accuracy": "balanced accuracy", "auroc": "AUROC"}
BY_SOURCE = DIAGNOSES | {
    "auroc_covid": "AUROC, COVID-19 against the rest",
    "auroc_within": "AUROC within one collection",
}

PAGE = "Medical images"
SUITES = (
    Suite(
        protocol=NUCLEI,
        title="Small U-Net on nuclei",
        question="Do 60 % of the channels go at a slight loss, and 80 %, 3 seeds?",
        margin=1.0,
        scores=MAPS,
    ),
    Suite(
        protocol=XRAYS,
        title="Four convolutions on chest X-rays",
        question="Do half of the channels go at a slight loss, and three quarters, 5 seeds?",
        margin=2.0,
        scores=BY_SOURCE,
    ),
    # The control: images of the first collection alone, where the source gives nothing away.
    Suite(
        protocol=replace(
            XRAYS,
            suite="covid-cnn-within",
            data="chest-xrays-within",
            strengths={"dense": (0.0,), "group-lasso": (3e-2,)},
            sources={},
            criteria={},
            targets=("fraction-0.5",),
            epochs=60,
            finetune_epochs=20,
        ),
        title="Four convolutions on chest X-rays of one collection",
        question="What is left of the diagnosis where no source gives it away, 5 seeds?",
        scores=DIAGNOSES,
    ),
    Suite(
        protocol=NUCLEI_DEATHS,
        title="Small U-Net on nuclei, units that die",
        question="Do 60 % of the channels die by themselves at a slight loss, and does it take the sampling, 3 seeds?",
        scores=MAPS,
        claims=(
            Claim(
                paper=STOCHASTIC,
                says="60 % of the channels of a U-Net die at a slight loss",
                method="stochastic-decay-scales",
                target="natural",
                stage="shrunk",
                removed=0.6,
                loss=None,
                slight=1.0,
                departs=READING + " The paper's cells are another data set.",
            ),
        ),
    ),
    Suite(
        protocol=XRAYS_DEATHS,
        title="Four convolutions on chest X-rays, units that die",
        question="Do half of the channels die by themselves at a slight loss, and does it take the sampling, 3 seeds?",
        scores=BY_SOURCE,
        claims=(
            Claim(
                paper=STOCHASTIC,
                says="half of the channels of a CNN on COVID-19 X-rays die at a slight loss",
                method="stochastic-decay-scales",
                target="natural",
                stage="shrunk",
                removed=0.5,
                loss=None,
                slight=2.0,
                departs=READING + " The paper's network and images are others.",
            ),
        ),
    ),
)
