"""VGG-16 and ResNets on CIFAR-10: of a quarter of the width on a CPU, in full size, and as a paper's authors ran it."""

from dataclasses import replace

from experiments.suites._papers import READING, RECEDING, STOCHASTIC
from experiments.suites._protocol import Claim, Protocol, Suite

INNER = {"kinds": ["inner"]}  # of a residual network: what no addition binds

# Strengths: one each and not searched, such that a unit without any gradient would just lose its whole length,
# scale or importance in these 4,200 steps; the published ones are for 112,000.
QUARTER = Protocol(
    suite="cifar10-vgg16-quarter",
    data="cifar10",
    network={"model": "vgg16", "width": 0.25},
    strengths={
        "dense": (0.0,),
        "rni": (3e-2,),
        "slimming": (3e-4,),
        "stochastic-l2": (3e-3,),
        "group-lasso": (3e-3,),
        "guided-group-lasso": (3e-3,),
        "serene-sampled": (1e-3,),
        "polarization": (3e-4,),
    },
    # RNI cuts all layers alike. The unpenalized network loses its late ones: it needs a control that works as much.
    sources={"rni": (3e-2, 3e-2, 3e-2), "dense": (None, 0.0, None)},
    criteria={"dense": ("taylor", "random")},
    seeds=(0, 1, 2),
    targets=("fraction-0.5", "fraction-0.6", "fraction-0.9"),
    epochs=12,
    finetune_epochs=4,
    finetune_lr=0.02,
    batch_size=128,
    more={"weight_decay": 5e-4, "precision": "bfloat16", "augment": True, "shifts": "drop", "floor": 3},
)
# Twice the price an epoch: half of the steps, so twice the strengths by the same rule; fewer comparisons.
RESNET20 = replace(
    QUARTER,
    suite="cifar10-resnet20",
    network={"model": "resnet20"},
    strengths={m: tuple(round(value * 2, 6) for value in values) for m, values in QUARTER.strengths.items()},
    sources={"rni": (6e-2, 6e-2, 6e-2)},
    criteria={"dense": ("random",)},
    epochs=6,
    finetune_epochs=2,
    more=QUARTER.more | INNER,
)
# In full size: five times the steps, a fifth of the strengths. For a GPU.
WHOLE = replace(
    QUARTER,
    suite="cifar10-vgg16",
    network={"model": "vgg16", "width": 1.0},
    strengths={m: tuple(round(value / 5, 6) for value in values) for m, values in QUARTER.strengths.items()},
    sources={"rni": (6e-3, 6e-3, 6e-3), "dense": (None, 0.0, None)},
    epochs=60,
    finetune_epochs=20,
)
# As the authors of 2204.06404 ran it: their strengths, schedule and optimizer, but in bfloat16. What they prune is the
# epoch with the best test accuracy, here it is the last; `test_log` holds all. Uniform channels: dense, "scales-local".
PAPER = Protocol(
    suite="cifar10-vgg16-paper-protocol",
    data="cifar10",
    network={"model": "vgg16", "width": 1.0},
    strengths={"dense": (0.0,), "slimming": (1e-4,), "rni": (1e-3,)},
    sources={},
    criteria={"dense": ("scales-local",)},
    seeds=(0,),
    targets=("fraction-0.5", "fraction-0.9"),
    epochs=160,
    finetune_epochs=160,
    finetune_lr=0.1,
    batch_size=64,
    more={
        "weight_decay": 1e-4,
        "nesterov": True,
        "schedule": "steps",
        "scale": 0.5,
        "precision": "bfloat16",
        "augment": True,
        "shifts": "drop",
        "floor": 3,
        "log_test": True,
    },
)

DRIFT = "under a cosine for 160 of 64 in steps, with the published drift of the scales; weight decay 5e-4 for 1e-4; "
DRIFT += "the last epoch, not the best of the test set; bfloat16."
VGG16_CLAIMS = (
    Claim(
        paper=STOCHASTIC,
        says="60 % of the filters of VGG-16 on CIFAR-10 die at a slight loss",
        method="stochastic-decay-scales",
        target="natural",
        stage="shrunk",
        removed=0.6,
        loss=None,
        slight=1.0,
        departs=READING + " 30 epochs.",
    ),
    Claim(
        paper=RECEDING,
        says="half of the channels of VGG-16 on CIFAR-10 go at no loss",
        method="rni",
        target="fraction-0.5",
        stage="finetuned",
        removed=0.5,
        loss=-0.09,  # 93.67 for 93.58 %, one seed
        slight=0.5,
        departs=f"30 epochs of batches of 128 {DRIFT}",
    ),
    Claim(
        paper=RECEDING,
        says="nine of ten channels of VGG-16 on CIFAR-10 go, and less is lost than by slimming",
        method="rni",
        target="fraction-0.9",
        stage="finetuned",
        removed=0.9,
        loss=2.70,  # 90.88 for 93.58 %, one seed
        slight=1.0,
        departs=f"30 epochs of batches of 128 {DRIFT}",
    ),
)
RESNET56_CLAIM = Claim(
    paper=RECEDING,
    says="half of the inner channels of ResNet-56 on CIFAR-10 go at a slight loss",
    method="rni",
    target="fraction-0.5",
    stage="finetuned",
    removed=0.5,
    loss=0.28,  # 93.26 for 93.54 %, one seed
    slight=0.5,
    departs="40 + 40 epochs; weight decay 5e-4 for 1e-4; the last epoch, not the best of the test set; bfloat16.",
)
HOLDS = "Do half of the channels go at no loss, and nine of ten at a moderate one"

SUITES = (
    Suite(
        protocol=QUARTER,
        title="VGG-16 of a quarter of the width on CIFAR-10",
        question=f"{HOLDS}, and does it take the method, 3 seeds?",
        margin=1.0,
    ),
    Suite(
        protocol=RESNET20,
        title="ResNet-20 on CIFAR-10",
        question="Do half of the inner channels go at no loss, and does it take the method, 3 seeds?",
        margin=1.0,
    ),
    Suite(
        protocol=WHOLE,
        title="VGG-16 on CIFAR-10",
        question=f"{HOLDS}, in full size, 3 seeds (wants a GPU)?",
        claims=VGG16_CLAIMS,
    ),
    Suite(
        protocol=replace(WHOLE, suite="cifar10-resnet56", network={"model": "resnet56"}, more=WHOLE.more | INNER),
        title="ResNet-56 on CIFAR-10",
        question="Do half of the inner channels go at a slight loss, 3 seeds (wants a GPU)?",
        claims=(RESNET56_CLAIM,),
    ),
    Suite(
        protocol=PAPER,
        title="VGG-16 on CIFAR-10, by the paper's protocol",
        question="What do receding importances give as their authors ran them, tested by epoch (wants a GPU)?",
    ),
    Suite(
        protocol=replace(
            PAPER,
            suite="cifar10-resnet56-paper-protocol",
            network={"model": "resnet56"},
            strengths={"dense": (0.0,), "slimming": (1e-5,), "rni": (1e-4,)},
            more=PAPER.more | INNER,
            own={"rni": {"shift": 0.0}},
        ),
        title="ResNet-56 on CIFAR-10, by the paper's protocol",
        question="What do receding importances give as their authors ran them, tested by epoch (wants a GPU)?",
    ),
)
