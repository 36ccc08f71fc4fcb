"""By what units are ranked, by the names that configurations give it, when it is not the method's own importance.

A name is a basis and endings: ``"folded-isomorphic"``, ``"fluctuation-standardized"``, ``"own-retrained"``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn

from pruning_lib.companion.data import TensorPair
from pruning_lib.selection import importance
from pruning_lib.units import Units

OWN = "own"
LOCAL, ISOMORPHIC, NORMALIZED, STANDARDIZED, RETRAINED = (
    "-local",
    "-isomorphic",
    "-normalized",
    "-standardized",
    "-retrained",
)
LABELS = {
    OWN: "its own importance",
    "magnitude": "length",
    "scales": "scale",
    "folded": "length times scale",
    "taylor": "Taylor",
    "fluctuation": "fluctuation",
    "wanda": "Wanda",
    "random": "random units",
    LOCAL: "equal shares",
    ISOMORPHIC: "among layers of one structure",
    NORMALIZED: "over the layer's mean",
    STANDARDIZED: "standardized by layer",
    RETRAINED: "retrained as long",
}
"""What people call bases and endings. Retrained: as long as the network was trained, at the same rate."""
SCOPES = {LOCAL: "local", ISOMORPHIC: "isomorphic"}
Shift = Literal["keep", "drop", "mean"]
Ranks = dict[str, Tensor]
BASES: dict[str, Callable[[nn.Module, Units, TensorPair, int], Ranks]] = {
    "magnitude": lambda model, units, examples, seed: _lengths(model, units),
    "scales": lambda model, units, examples, seed: importance.magnitude(model, units, of="scales"),
    "folded": lambda model, units, examples, seed: importance.magnitude(model, units, of="folded"),
    "taylor": lambda model, units, examples, seed: importance.taylor(model, units, examples),
    "fluctuation": lambda model, units, examples, seed: importance.fluctuation(model, units, examples),
    "wanda": lambda model, units, examples, seed: importance.wanda(model, units, examples),
    "random": lambda model, units, examples, seed: importance.random(units, seed),
}


def _lengths(model: nn.Module, units: Units) -> Ranks:
    """Return the lengths of all rows, also in front of a BatchNorm: suites compare with them on purpose."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*BatchNorm divides")
        return importance.magnitude(model, units, of="weights")


def parts(criterion: str) -> list[str]:
    """Return the basis and the endings of a criterion, in their order.

    Examples
    --------
    >>> parts("scales-local-retrained")
    ['scales', '-local', '-retrained']
    """
    basis, *endings = criterion.split("-")
    return [basis, *(f"-{ending}" for ending in endings)]


def label(criterion: str) -> str:
    """Return what people call a criterion."""
    return ", ".join(LABELS[part] for part in parts(criterion))


def ranks(criterion: str, model: nn.Module, units: Units, examples: TensorPair, seed: int) -> Ranks:
    """Return the importance of every unit by a criterion, {group: shape (units,)}; `examples` are training data."""
    basis, *endings = parts(criterion)
    found = BASES[basis](model, units, examples, seed)
    if NORMALIZED in endings:
        return {name: score / score.mean() for name, score in found.items()}
    if STANDARDIZED in endings:
        # A layer of equal units has no deviation; they all stand at its mean.
        return {
            name: (score - score.mean()) / score.std(correction=0).clamp(min=1e-30) for name, score in found.items()
        }
    return found


def scope(criterion: str, otherwise: str) -> str:
    """Return over what a criterion ranks: within each layer, among layers of one structure, or as the suite does."""
    return next((SCOPES[part] for part in parts(criterion) if part in SCOPES), otherwise)


def shift(criterion: str, otherwise: Shift) -> Shift:
    """Return what zeroed units emit: of FLAP's criterion their mean, which is its bias; else as the suite does."""
    return "mean" if parts(criterion)[0] == "fluctuation" else otherwise
