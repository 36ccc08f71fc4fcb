"""Networks that people have, small and with random weights: what `benchmarks.zoo` shrinks.

A network is made by a function of no arguments. Its example is an image, a clip, or a mapping of forward's arguments;
`others` are inputs of other batches, lengths and sides, of which those count that the network accepts.
"""

from benchmarks.networks._network import Network
from benchmarks.networks._timm import timm_networks
from benchmarks.networks._torchvision import torchvision_networks
from benchmarks.networks._transformers import transformers_networks

__all__ = ["Network", "networks"]


def networks() -> dict[str, Network]:
    """Return all networks by name; a library comes before the name, as in ``"timm/levit_128s"``."""
    return {**torchvision_networks(), **timm_networks(), **transformers_networks()}
