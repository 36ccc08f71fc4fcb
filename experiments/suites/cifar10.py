"""VGG-16 and ResNets on CIFAR-10: of a quarter of the width on a CPU, in full size, and as a paper's authors ran it."""

from dataclasses import replace

from experiments.suites._papers import READING, RECEDING, STOCHASTIC
from experiments.suites._protocol import Claim, Matched, Protocol, Suite

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
# In full size. Scales of RNI and slimming drift as far as published, Γ = Σ ηλ/(1 − m): 660 and 6.6 over 125,000 steps
# of rates 1 and 0.1 in steps there, over 10,600 under a cosine here. Strengths of the others by the rule above.
# Retrained is as long as trained, and at the same rate; uniform channels are "no penalty" by scales in equal shares.
WHOLE = replace(
    QUARTER,
    suite="cifar10-vgg16",
    network={"model": "vgg16", "width": 1.0},
    strengths={
        "dense": (0.0,),
        "rni": (1.25e-2,),
        "slimming": (1.25e-3,),
        "serene-sampled": (4e-4,),
        "group-lasso": (1.2e-3,),
    },
    natural={"dense-long": (5e-4,), "dense-twice": (5e-4,), "stochastic-decay-scales": (3e-3,)},
    matched=(Matched("stochastic-decay-scales", 3e-3),),
    sources={"rni": (1.25e-2, 1.25e-2, 1.25e-2)},
    criteria={
        "dense": ("random", "scales-local", "scales-local-retrained"),
        "rni": ("own-retrained",),
        "slimming": ("own-retrained",),
    },
    epochs=30,
    finetune_epochs=10,
)
# Published drifts: 66 for RNI with b = 0, and 0.66 for slimming.
RESNET56 = replace(
    WHOLE,
    suite="cifar10-resnet56",
    network={"model": "resnet56"},
    strengths={"dense": (0.0,), "rni": (9.4e-4,), "slimming": (9.4e-5,)},
    natural={"dense-long": (5e-4,)},  # twice the training, which retraining takes, too
    matched=(),
    sources={"rni": (9.4e-4, 9.4e-4)},
    criteria={"dense": ("scales-local",)},
    targets=("fraction-0.5", "fraction-0.9"),
    epochs=40,
    finetune_epochs=40,
    finetune_lr=0.1,
    more=WHOLE.more | INNER,
    own={"rni": {"shift": 0.0}},
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
        criterion="own-retrained",
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
        criterion="own-retrained",
        rival="slimming",
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
SHORTER = "The paper trains for 160 epochs, and retrains as long at the same rate; its network is "
AS_RUN = "bfloat16; the last epoch, where the authors took the best of the test set."
HOLDS = "Do half of the channels go at no loss, and nine of ten at a moderate one"

PAGE = "CIFAR-10"
SUITES = (
    Suite(
        protocol=QUARTER,
        title="VGG-16 of a quarter of the width on CIFAR-10",
        question=f"{HOLDS}, and does it take the method, 3 seeds?",
        margin=1.0,
        departs=dict.fromkeys(("rni", "slimming"), f"{SHORTER}four times as wide."),
    ),
    Suite(
        protocol=RESNET20,
        title="ResNet-20 on CIFAR-10",
        question="Do half of the inner channels go at no loss, and does it take the method, 3 seeds?",
        margin=1.0,
        departs={"rni": f"{SHORTER}ResNet-56, with b = 0.", "slimming": f"{SHORTER}ResNet-56."},
    ),
    Suite(
        protocol=WHOLE,
        title="VGG-16 on CIFAR-10",
        question=f"{HOLDS}, in full size, 3 seeds?",
        claims=VGG16_CLAIMS,
        departs=dict.fromkeys(("rni", "slimming"), f"30 epochs of batches of 128 {DRIFT}"),
        epoch_seconds=475.0,
    ),
    Suite(
        protocol=RESNET56,
        title="ResNet-56 on CIFAR-10",
        question="Do half of the inner channels go at a slight loss, and nine of ten, 3 seeds?",
        claims=(RESNET56_CLAIM,),
        departs=dict.fromkeys(("rni", "slimming"), RESNET56_CLAIM.departs),
    ),
    Suite(
        protocol=PAPER,
        title="VGG-16 on CIFAR-10, by the paper's protocol",
        question="What do receding importances give as their authors ran them, tested by epoch (wants a GPU)?",
        departs=dict.fromkeys(("rni", "slimming"), AS_RUN),
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
        departs=dict.fromkeys(("rni", "slimming"), AS_RUN),
    ),
)
