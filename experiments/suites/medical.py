"""Medical images: a small U-Net on nuclei in micrographs, a small network on chest X-rays; never medical evidence."""

from dataclasses import replace

from experiments.suites._papers import READING, STOCHASTIC
from experiments.suites._protocol import Claim, Planned, Protocol, Suite

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
DIAGNOSES = {"balanced_accuracy": "balanced accuracy", "auroc": "AUROC"}

SUITES = (
    Suite(
        protocol=NUCLEI,
        title="Small U-Net on nuclei",
        question="Do 60 % of the channels go at a slight loss, and 80 %, 3 seeds?",
        margin=1.0,
        scores={"dice": "Dice coefficient", "instance_f1": "instance F1"},
    ),
    Suite(
        protocol=XRAYS,
        title="Four convolutions on chest X-rays",
        question="Do half of the channels go at a slight loss, and three quarters, 5 seeds?",
        margin=2.0,
        scores=DIAGNOSES
        | {"auroc_covid": "AUROC, COVID-19 against the rest", "auroc_within": "AUROC within one collection"},
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
)
PLANNED = (
    Planned(
        name="nuclei-deaths",
        title="Small U-Net on nuclei, units that die",
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
    Planned(
        name="covid-deaths",
        title="Four convolutions on chest X-rays, units that die",
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
