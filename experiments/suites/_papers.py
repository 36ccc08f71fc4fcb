"""The papers whose claims are tested, by their numbers on arXiv, and what they claim that no suite here can test."""

from typing import NamedTuple

STOCHASTIC, RECEDING, SERENE, GUIDED = "2012.03827", "2204.06404", "2102.03773", "2305.18448"
READING = "The probability of a zero, its temperature and the strength of the decay could not be read: ours."
"""How every run of stochastic pruning departs from its paper."""


class Absent(NamedTuple):
    """A claim of a paper without a suite.

    Parameters
    ----------
    paper, says : str
        As of `Claim`.
    lacks : str
        What is missing to test it, in sentences: data, hours of computing, or the paper's own number.
    """

    paper: str
    says: str
    lacks: str


DATA = "CIFAR-100 and ImageNet are not among this book's data sets."
ABSENT = (
    Absent(
        STOCHASTIC,
        "half of the channels of MobileNetV2 on CIFAR-10 and of ResNet-56 on CIFAR-100 go at no loss (journal)",
        "No suite trains MobileNetV2. " + DATA,
    ),
    Absent(
        RECEDING,
        "nine of ten channels of VGG-16 on CIFAR-100 go, and less is lost than by slimming; the same on ImageNet",
        DATA,
    ),
    Absent(
        SERENE,
        "neurons of LeNet-5 on MNIST and Fashion-MNIST go, and the error stays",
        "The loop ran for 15 epochs there, not to its end; the paper's share could not be read.",
    ),
    Absent(
        SERENE,
        "neurons of VGG-16 and ResNet-32 on CIFAR-10 go, of AlexNet on CIFAR-100, of ResNets on ImageNet",
        "The loop takes hundreds of epochs: days for a VGG-16 without a GPU. " + DATA,
    ),
    Absent(
        GUIDED,
        "guidance improves penalties that are structured already",
        "The abstract names no network, no data and no number.",
    ),
)
