"""Which ranking is safe? Dense networks, ranked in ten ways, cut to the same multiply-adds, and trained on.

The rule that names the winner is in `experiments.rankings`, and older than the first of these runs. Networks, training
and fine-tuning are those of the suites that they are taken from; no group has a floor, so that a collapse is seen.
"""

from __future__ import annotations

from dataclasses import replace

from experiments.suites import cifar10, medical, mnist
from experiments.suites._protocol import Protocol, Suite
from experiments.suites.lenet5 import lenet5

RANKED = (
    "folded",
    "taylor",
    "fluctuation-standardized",  # as FLAP's paper compares layers
    "folded-local",
    "taylor-local",
    "folded-isomorphic",
    "taylor-isomorphic",
    "folded-normalized",
    "random-local",
)
RAW = {"own": "length"}
"""The own importance of a network that nobody penalized; without BatchNorm "length times scale" is the same."""


def ranked(of: Protocol, name: str) -> Protocol:
    """Return a protocol's dense networks, ranked in every way."""
    return replace(
        of,
        suite=name,
        strengths={"dense": (0.0,)},
        loop_strengths={},
        sources={},
        decays=(),
        criteria={"dense": RANKED},
        targets=("macs-0.5", "macs-0.3"),
        more={key: value for key, value in of.more.items() if key != "floor"},
    )


def suite(of: Protocol, name: str, title: str, scores: dict[str, str] | None = None) -> Suite:
    """Return the suite of a protocol's dense networks."""
    return Suite(
        protocol=ranked(of, name),
        title=f"{title}, rankings",
        question=f"Which ranking cuts to half and to 30 % of the multiply-adds safely, {len(of.seeds)} seeds?",
        scores=scores or {},
        labels=RAW,
    )


SUITES = (
    suite(mnist.LENET300, "rankings-mnist-lenet300", "LeNet-300 on MNIST"),
    suite(replace(mnist.LENET300, data="fashion-mnist"), "rankings-fashion-lenet300", "LeNet-300 on Fashion-MNIST"),
    suite(lenet5("mnist", bn=False), "rankings-mnist-lenet5", "LeNet-5 on MNIST"),
    suite(lenet5("fashion-mnist", bn=False), "rankings-fashion-lenet5", "LeNet-5 on Fashion-MNIST"),
    suite(cifar10.QUARTER, "rankings-vgg16-quarter", "VGG-16 of a quarter of the width on CIFAR-10"),
    suite(cifar10.RESNET20, "rankings-resnet20", "ResNet-20 on CIFAR-10"),
    suite(medical.NUCLEI, "rankings-nuclei", "Small U-Net on nuclei", medical.MAPS),
    suite(
        replace(medical.XRAYS, seeds=(0, 1, 2)),
        "rankings-xrays",
        "Four convolutions on chest X-rays",
        medical.BY_SOURCE,
    ),
)
