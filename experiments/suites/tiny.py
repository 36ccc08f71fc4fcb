"""A minute of the protocols on digits, for tests."""

from dataclasses import replace

from experiments.suites._protocol import Matched, Protocol, Suite
from experiments.targets import LOOP

TINY = Protocol(
    suite="digits-tiny",
    data="digits",
    network={"model": "lenet300", "widths": [32, 16]},
    strengths={"dense": (0.0,), "group-lasso": (1e-2,), "serene-sampled": (1e-3,)},
    loop_strengths={"serene-sampled": (1e-3,)},
    sources={"group-lasso": (1e-2,)},
    seeds=(0, 1),
    loop_seeds=(0, 1),
    targets=("fraction-0.5",),
    epochs=6,
    finetune_epochs=1,
    loop_epochs=6,
    batch_size=32,
)
DEATHS = replace(
    TINY,
    suite="digits-tiny-deaths",
    strengths={},
    sources={},
    natural={"dense-long": (0.0,), "stochastic-l2": (3e-2,), "guided-group-lasso": (3e-2,)},
    cuts={"guided-group-lasso": ("epsilon-0.01",)},
    matched=(
        Matched("stochastic-l2", 3e-2),
        Matched("guided-group-lasso", 3e-2, "epsilon-0.01"),
        Matched("serene-sampled", 1e-3, LOOP),
    ),
    seeds=(0,),
    loop_seeds=(0,),
)

SUITES = (
    Suite(
        protocol=TINY,
        title="LeNet of 32 and 16 units on digits",
        question="Does the command line do what it says, within a minute?",
    ),
    Suite(
        protocol=DEATHS,
        title="LeNet of 32 and 16 units on digits, units that die",
        question="Does the recipe of units that die do what it says, within half a minute?",
    ),
)
