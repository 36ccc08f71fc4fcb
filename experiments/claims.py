"""What the four papers claim, written down before the runs that test it: the network, how much goes, what it may cost.

Question one, of each: is the published claim met? The error of the small network is compared with that of its own dense
network before the cut, and with that of a dense network trained as long as everything that was done to the small one.
With d the mean difference in points of test error, `loss` the published one and m the margin:

    met                     d ≤ loss + m
    met at a slight loss    d ≤ loss + m + slight
    not met                 else, or if fewer units go than the paper says

Where a paper gives no number, `loss` is 0 and m is twice the standard deviation of dense networks over seeds: ours,
and the same rule for every method. Where it gives one, m is that, too, as its own spread was not published.
"""

from __future__ import annotations

from dataclasses import dataclass

SPREADS = 2.0
"""The margin, in standard deviations of the test error of dense networks over seeds."""


@dataclass(frozen=True)
class Claim:
    """A headline claim.

    Parameters
    ----------
    paper : str
        Its number on arXiv.
    says : str
        In our words.
    suite, method, target : str
        Where it is tested: a budget, or ``"natural"`` where the units die by themselves.
    stage : {"shrunk", "finetuned"}
        The network that the claim is about.
    removed : float or None
        The share of units that goes at least; None where the paper's number could not be read.
    loss : float or None
        Points of test error that the paper's own table loses to a dense network; None where it gives none.
    slight : float
        Points that "slightly less accurate" may mean.
    departs : str
        How our runs depart from the paper's, in a sentence.
    """

    paper: str
    says: str
    suite: str
    method: str
    target: str
    stage: str
    removed: float | None
    loss: float | None
    slight: float
    departs: str


STOCHASTIC, RECEDING, SERENE, GUIDED = "2012.03827", "2204.06404", "2102.03773", "2305.18448"
READING = "The probability of a zero, its temperature and the strength of the decay could not be read: ours."
SHORTER = "30 epochs of batches of 128 under a cosine for 160 of 64 in steps, with the published drift of the scales; "
SHORTER += "weight decay 5e-4 for 1e-4; the last epoch, not the best of the test set; bfloat16."

CLAIMS = (
    Claim(
        STOCHASTIC,
        "half of the nodes of an MLP on MNIST die at a slight loss",
        *("mnist-mlp", "stochastic-l2", "natural", "shrunk"),
        removed=0.5,
        loss=None,
        slight=0.5,
        departs=READING,
    ),
    Claim(
        STOCHASTIC,
        "60 % of the filters of VGG-16 on CIFAR-10 die at a slight loss",
        *("cifar10-vgg16", "stochastic-decay-scales", "natural", "shrunk"),
        removed=0.6,
        loss=None,
        slight=1.0,
        departs=READING + " 30 epochs.",
    ),
    Claim(
        STOCHASTIC,
        "60 % of the channels of a U-Net die at a slight loss",
        *("nuclei-deaths", "stochastic-decay-scales", "natural", "shrunk"),
        removed=0.6,
        loss=None,
        slight=1.0,
        departs=READING + " The paper's cells are another data set.",
    ),
    Claim(
        STOCHASTIC,
        "half of the channels of a CNN on COVID-19 X-rays die at a slight loss",
        *("covid-deaths", "stochastic-decay-scales", "natural", "shrunk"),
        removed=0.5,
        loss=None,
        slight=2.0,
        departs=READING + " The paper's network and images are others.",
    ),
    Claim(
        RECEDING,
        "half of the channels of VGG-16 on CIFAR-10 go at no loss",
        *("cifar10-vgg16", "rni", "fraction-0.5", "finetuned"),
        removed=0.5,
        loss=-0.09,  # 93.67 for 93.58 %, one seed
        slight=0.5,
        departs=SHORTER,
    ),
    Claim(
        RECEDING,
        "nine of ten channels of VGG-16 on CIFAR-10 go, and less is lost than by slimming",
        *("cifar10-vgg16", "rni", "fraction-0.9", "finetuned"),
        removed=0.9,
        loss=2.70,  # 90.88 for 93.58 %, one seed
        slight=1.0,
        departs=SHORTER,
    ),
    Claim(
        RECEDING,
        "half of the inner channels of ResNet-56 on CIFAR-10 go at a slight loss",
        *("cifar10-resnet56", "rni", "fraction-0.5", "finetuned"),
        removed=0.5,
        loss=0.28,  # 93.26 for 93.54 %, one seed
        slight=0.5,
        departs="40 + 40 epochs; " + SHORTER.partition("; ")[2],
    ),
    Claim(
        SERENE,
        "neurons of LeNet-300 on MNIST go, and the error stays",
        *("mnist-mlp", "serene-sampled", "loop", "shrunk"),
        removed=None,
        loss=None,
        slight=0.5,
        departs="One class of the ten is drawn a step instead of all; 300 epochs, and a plateau after 10.",
    ),
    Claim(
        GUIDED,
        "guidance makes whole units go while the network trains, and the error stays without fine-tuning",
        *("mnist-mlp", "guided-group-lasso", "epsilon-0.01", "shrunk"),
        removed=None,
        loss=None,
        slight=0.5,
        departs="Guidance, penalty and the threshold of 0.01 are our reading of an abstract.",
    ),
)
