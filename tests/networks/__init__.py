"""Small networks of every topology that `shrink` should follow, random ones made of them, and how to kill units.

A case is made by a function of no arguments under `@case(shape, …)`; its name is the function's. Weights are drawn
under the caller's seed, and everything is float64. Importing a file of cases enters them into `CASES`.
"""

from tests.networks import layers, maps, movements, own, sequences, streams  # noqa: F401
from tests.networks.activations import ACTIVATIONS
from tests.networks.cases import CASES, Case
from tests.networks.drawn import random_network
from tests.networks.zeros import leaf, plant, planted, randomize

__all__ = ["ACTIVATIONS", "CASES", "Case", "leaf", "plant", "planted", "random_network", "randomize"]
