"""Ablations: one choice of a protocol changed, all else as in the suite that it is taken from."""

from dataclasses import replace

from experiments.methods import GUIDANCES, KERNELS, SPACES
from experiments.suites import cifar10, mnist
from experiments.suites._protocol import Protocol, Suite
from experiments.suites.lenet5 import PLAIN, lenet5

LENET5 = lenet5("mnist", bn=False)
PENALIZED: dict[str, tuple[float, ...]] = {  # the middle strengths of mnist-lenet300 and its twin
    "dense": (0.0,),
    "l2": (1e-3,),
    "group-lasso": (1e-2,),
    "slimming": (1e-3,),
    "polarization": (1e-3,),
    "rni": (3e-2,),
    "stochastic-l2": (3e-3,),
    "guided-group-lasso": (3e-2,),
    "serene-sampled": (3e-3,),
}
RANKED = ("dense", "l2", "group-lasso", "stochastic-l2", "guided-group-lasso", "serene-sampled")
ALL_CRITERIA = ("magnitude", "scales", "folded", "taylor", "random")

# One epoch of fine-tuning: what is compared is the choice.
CRITERIA = Protocol(
    suite="ablation-criteria",
    data="mnist",
    network={"model": "lenet300-bn", "widths": [300, 100]},
    strengths=PENALIZED,
    sources={},
    criteria=dict.fromkeys(PENALIZED, ALL_CRITERIA),
    seeds=(0, 1, 2),
    targets=("fraction-0.5", "macs-0.25"),
    finetune_epochs=1,
    finetune_lr=0.03,
    more={"averaged": True},
)
PRECISION = replace(
    LENET5,
    suite="ablation-precision",
    strengths={method: PLAIN[method] for method in ("dense", "group-lasso", "stochastic-l2")},
    sources={},
    decays=(0.0,),
    criteria={},
    more=LENET5.more | {"precision": "float32"},
)
# One epoch of fine-tuning again.
RANKING = replace(
    LENET5,
    suite="ablation-ranking",
    strengths={method: PLAIN[method] for method in RANKED},
    sources={},
    decays=(0.0,),
    criteria=dict.fromkeys(RANKED, ("magnitude-local", "taylor", "random")),
    targets=("macs-0.25",),
    finetune_epochs=1,
)
MAPS = Protocol(
    suite="ablation-spaces",
    data="mnist",
    network={"model": "lenet5"},
    strengths={f"serene-{space}": (1e-3, 3e-3) for space in SPACES},
    sources={},
    seeds=(0, 1, 2),
    targets=("fraction-0.5", "macs-0.10"),
    epochs=6,
    finetune_epochs=2,
    lr=0.05,
    finetune_lr=0.02,
    more=LENET5.more,
)
READINGS = Protocol(
    suite="ablation-readings",
    data="mnist",
    network={"model": "lenet300", "widths": [300, 100]},
    strengths={
        **{f"guided-group-lasso-{guidance}": (1e-2, 3e-2) for guidance in GUIDANCES},
        **{f"stochastic-l2-{kernel}": (1e-3, 3e-3) for kernel in KERNELS},
    },
    sources={},
    seeds=(0, 1, 2),
)
# Controls of mnist-lenet300 keep their weight decay to the end. Methods alone.
FINETUNING = Protocol(
    suite="ablation-finetuning",
    data="mnist",
    network={"model": "lenet300", "widths": [300, 100]},
    strengths={
        "l2": (1e-3, 3e-3),
        "l1": (1e-3, 3e-3),
        "group-lasso": (1e-2, 3e-2),
        "serene-sampled": (1e-3, 3e-3),
        "stochastic-l2": (3e-3,),
    },
    sources={},
    criteria={},
    decays=(),
    more={"finetune": {"weight_decay": 1e-3}},
)
SHARES = replace(
    lenet5("fashion-mnist", bn=False),
    suite="ablation-shares",
    strengths={method: PLAIN[method] for method in RANKED},
    sources={},
    decays=(),
    criteria=dict.fromkeys(RANKED, ("magnitude-local",)),
    targets=("macs-0.25",),
)
# RNI's strength on VGG-16 was set by rule and costs the whole network five points.
THIRD = replace(
    cifar10.QUARTER, suite="ablation-receding", strengths={"rni": (1e-2,)}, sources={}, criteria={}, decays=()
)
TEMPERATURE = replace(
    mnist.MLP,
    suite="ablation-mlp-temperature",
    strengths={},
    natural={"stochastic-l2-cool": (3e-3, 5e-3), "stochastic-l2-warm": (3e-3, 5e-3)},
    matched=(),
    loop_strengths={},
    decays=(),
    seeds=(0, 1, 2),
)

PAGE = "Ablations"
SUITES = (
    Suite(
        protocol=CRITERIA,
        title="LeNet-300 with BatchNorm on MNIST, penalties by criteria",
        question="Which ranking goes with which penalty, and what becomes of the shift β, 3 seeds?",
    ),
    Suite(
        protocol=PRECISION,
        title="LeNet-5 on MNIST in float32",
        question="Does the lower precision of the other runs change an order, 3 seeds?",
    ),
    Suite(
        protocol=RANKING,
        title="LeNet-5 on MNIST, rankings",
        question="What is lost to a ranking of lengths across layers, and what else could rank, 3 seeds?",
    ),
    Suite(
        protocol=MAPS,
        title="LeNet-5 on MNIST, SeReNe's sum over positions",
        question="What should SeReNe make of a map: the mean, the sum or the |sum| over positions, 3 seeds?",
    ),
    Suite(
        protocol=READINGS,
        title="LeNet-300 on MNIST, readings",
        question="Do families of guidance and kernels of sampling matter, 3 seeds?",
    ),
    Suite(
        protocol=FINETUNING,
        title="LeNet-300 on MNIST, weight decay in fine-tuning",
        question="What if fine-tuning has a weight decay, as the controls have, 5 seeds?",
    ),
    Suite(
        protocol=SHARES,
        title="LeNet-5 on Fashion-MNIST, equal shares",
        question="Whom do equal shares of all layers help, and are they enough to beat the controls, 3 seeds?",
    ),
    Suite(
        protocol=THIRD,
        title="VGG-16 of a quarter of the width on CIFAR-10, weaker receding",
        question="What does a third of the strength of receding importances cost and leave, 3 seeds?",
    ),
    Suite(
        protocol=TEMPERATURE,
        title="LeNet-300 on MNIST, 60 epochs, other temperatures",
        question="Do half and twice the temperature change how many units die, 3 seeds?",
    ),
)
