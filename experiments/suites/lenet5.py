"""LeNet-5 on MNIST and on Fashion-MNIST, each with a twin that has BatchNorm."""

from __future__ import annotations

from experiments.suites._protocol import Protocol, Suite

PLAIN: dict[str, tuple[float, ...]] = {  # one of those of LeNet-300 each, not searched
    "dense": (0.0,),
    "l2": (1e-3,),
    "l1": (1e-3,),
    "group-lasso": (1e-2,),
    "group-hoyer": (1e-3,),
    "stochastic": (0.1,),
    "stochastic-l2": (1e-3,),
    "stochastic-l1": (3e-4,),
    "guided-l2": (3e-3,),
    "guided-l1": (1e-3,),
    "guided-group-lasso": (1e-2,),
    "serene-sampled": (1e-3,),
    "serene-lower-bound": (1e-3,),
    "serene-local": (3e-3,),
}
NORMALIZED: dict[str, tuple[float, ...]] = {
    "dense": (0.0,),
    "l2": (1e-3,),
    "group-lasso": (3e-3,),
    "slimming": (3e-4,),
    "polarization": (3e-4,),
    "rni": (3e-2,),
}


def lenet5(data: str, *, bn: bool) -> Protocol:
    """Return LeNet-5's protocol on a data set."""
    twin = "-bn" if bn else ""
    strengths = NORMALIZED if bn else PLAIN
    source = "rni" if bn else "group-lasso"
    return Protocol(
        suite=f"{data.removesuffix('-mnist')}-lenet5{twin}",
        data=data,
        network={"model": f"lenet5{twin}"},
        strengths=strengths,
        sources={source: strengths[source] * 2},
        decays=(0.0,) if bn else (0.0, *strengths["l2"]),
        seeds=(0, 1, 2),
        targets=("fraction-0.5", "macs-0.25"),
        finetune_epochs=4,
        lr=0.05,
        finetune_lr=0.02,
        more={"precision": "bfloat16", "floor": 3},
    )


def longer(data: str) -> Protocol:
    """Return the protocol of the main methods, trained longer, with equal shares of all layers: no list across them.

    Strengths are those above; what acts once a step, whatever the rate, is divided by the factor of 2.5 in steps.
    """
    return Protocol(
        suite=f"{data.removesuffix('-mnist')}-lenet5-shares",
        data=data,
        network={"model": "lenet5"},
        strengths={
            "dense": (0.0,),
            "l2": (1e-3,),
            "group-lasso": (4e-3,),
            "stochastic-l2": (1e-3,),
            "guided-group-lasso": (4e-3,),
            "serene-sampled": (4e-4,),
        },
        natural={"dense-long": (0.0, 1e-3)},
        sources={"group-lasso": (4e-3, 4e-3)},
        criteria={"dense": ("taylor", "random")},
        decays=(0.0, 1e-3),
        targets=("fraction-0.5", "macs-0.25"),
        epochs=20,
        finetune_epochs=10,
        lr=0.05,
        finetune_lr=0.02,
        more={"precision": "bfloat16", "floor": 3, "scope": "local"},
    )


ESTIMATORS = {"serene-sampled": "SeReNe, sampled"}  # beside its other estimators
WHICH = "Which penalties on weights leave units to spare in a convolutional network, 3 seeds?"
SCALES = "Do penalties on the scales of BatchNorm do better than those on weights, 3 seeds?"

PAGE = "LeNet-5 on MNIST and Fashion-MNIST"
SUITES = (
    Suite(
        protocol=lenet5("mnist", bn=False),
        title="LeNet-5 on MNIST",
        question=WHICH,
        margin=0.2,
        labels=ESTIMATORS,
    ),
    Suite(
        protocol=lenet5("mnist", bn=True),
        title="LeNet-5 with BatchNorm on MNIST",
        question=SCALES,
        margin=0.2,
    ),
    Suite(
        protocol=lenet5("fashion-mnist", bn=False),
        title="LeNet-5 on Fashion-MNIST",
        question=WHICH,
        margin=0.5,
        labels=ESTIMATORS,
    ),
    Suite(
        protocol=lenet5("fashion-mnist", bn=True),
        title="LeNet-5 with BatchNorm on Fashion-MNIST",
        question=SCALES,
        margin=0.5,
    ),
    Suite(
        protocol=longer("mnist"),
        title="LeNet-5 on MNIST, equal shares",
        question="Does a penalty choose better widths where no list across layers ruins the network, 5 seeds?",
    ),
    Suite(
        protocol=longer("fashion-mnist"),
        title="LeNet-5 on Fashion-MNIST, equal shares",
        question="Does a penalty choose better widths where no list across layers ruins the network, 5 seeds?",
    ),
)
