"""By what units are ranked, by the names that configurations give it, when it is not the method's own importance."""

from __future__ import annotations

import warnings

from torch import Tensor, nn

from pruning_lib.companion.data import TensorPair
from pruning_lib.selection import importance
from pruning_lib.units import Units

OWN = "own"
LOCAL, RETRAINED = "-local", "-retrained"
"""Endings: each layer loses the same share; networks are retrained as long as they were trained, at the same rate."""
LABELS = {
    OWN: "its own importance",
    "magnitude": "length",
    "scales": "scale",
    "folded": "length times scale",
    "taylor": "Taylor",
    "random": "random units",
}
"""What people call them."""


def label(criterion: str) -> str:
    """Return what people call a criterion."""
    basis = criterion.removesuffix(RETRAINED)
    words = [LABELS[basis.removesuffix(LOCAL)]]
    words += ["equal shares"] if basis.endswith(LOCAL) else []
    words += ["retrained as long"] if criterion.endswith(RETRAINED) else []
    return ", ".join(words)


def ranks(criterion: str, model: nn.Module, units: Units, examples: TensorPair, seed: int) -> dict[str, Tensor]:
    """Return the importance of every unit by a criterion, {layer: shape (units,)}; `examples` are for Taylor's."""
    basis = criterion.removesuffix(RETRAINED).removesuffix(LOCAL)
    if basis == "random":
        return importance.random(units, seed)
    if basis == "taylor":
        return importance.taylor(model, units, examples)
    if basis == "magnitude":
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*BatchNorm divides")  # suites compare with it on purpose
            return importance.magnitude(model, units, of="weights")
    if basis == "scales":
        return importance.magnitude(model, units, of="scales")
    return importance.magnitude(model, units, of="folded")


def scope(criterion: str, otherwise: str) -> str:
    """Return over what a criterion ranks: within each layer, or as the suite does."""
    return "local" if criterion.removesuffix(RETRAINED).endswith(LOCAL) else otherwise
