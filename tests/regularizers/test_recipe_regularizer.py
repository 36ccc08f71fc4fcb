"""The recipe for a new regularizer, walked on a toy: a class of ten lines, an entry of one, and it does everything.

In the library the class is a file of `pruning_lib/regularizers/`, its name a line of that folder's `__init__.py`, and
its entry stands in `PROTOCOL` of its test. That is all: `pruning_lib` and the protocol's matrix find it by themselves.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import pruning_lib as prl
from pruning_lib import regularizers
from pruning_lib.companion.data import TensorPair
from pruning_lib.regularizers._base import checked_strength, incoming_norms, regularized_layers
from tests.regularizers import test_protocol as protocol
from tests.regularizers.protocol import BATCHES, Method, network


class LogLengths(prl.Regularizer):
    """R = λ Σ_i log(1 + ‖w_i‖₂): the shorter a row is, the harder it is pulled."""

    def __init__(self, model, strength, *, units=None):
        self.strength = checked_strength(strength, self)
        self._layers = regularized_layers(model, units, self)

    def penalty(self, outputs):
        lengths = torch.cat([layer.weight.flatten(1).norm(dim=1) for layer in self._layers.values()])
        return self.strength * lengths.log1p().sum()

    def importance(self):
        return incoming_norms(self._layers)


TOY = Method("LogLengths", LogLengths)

CHECKS = {
    name: check
    for name, check in vars(protocol).items()
    if name.startswith("test_") and list(inspect.signature(check).parameters) == ["method"]
}
"""Those of one method in one process, that take nothing else."""


def applies(check: Callable[[Method], None]) -> bool:
    """Whether the matrix has the check for methods such as this one."""
    (mark,) = [mark for mark in check.pytestmark if mark.name == "parametrize"]  # type: ignore[attr-defined]
    return any(not (row.values[0].eager_only or row.values[0].draws) for row in mark.args[1])


@pytest.mark.parametrize("name", [name for name, check in CHECKS.items() if applies(check)])
def test_the_toy_keeps_the_protocol(name: str) -> None:
    CHECKS[name](TOY)


def test_the_matrix_is_not_empty() -> None:
    assert len(CHECKS) > 12


def test_the_toy_trains_ranks_zeroes_and_shrinks() -> None:
    model, x = network(), torch.cat([x for x, _ in BATCHES])
    data = TensorPair(x, torch.cat([y for _, y in BATCHES]))
    units = prl.find_units(model, x[:2])
    reg = LogLengths(model, 0.01, units=units)
    before = reg.penalty(x[:0]).item()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    prl.fit(model, data, data, epochs=2, optimizer=optimizer, regularizer=reg, batch_size=24, progress=False)
    assert reg.penalty(x[:0]).item() < before, "the rows are shorter"
    chosen = prl.select(reg.importance(), units, fraction=0.5, scope="local")
    prl.zero(model, chosen, units, optimizer=optimizer)
    shrunk = prl.shrink(model, x[:2])
    assert [group.size for group in prl.find_units(shrunk.model, x[:2]).values()] == [2, 3, 4]
    outputs: Tensor = model.eval()(x)
    assert torch.allclose(shrunk.model.eval()(x), outputs, atol=1e-5)


def test_a_name_of_the_folder_is_a_name_of_the_library() -> None:
    names = {name: value for name, value in vars(regularizers).items() if not name.startswith("_")}
    assert {"L1", "SeReNe", "bound_batchnorm"} <= names.keys()
    assert all(getattr(prl, name) is value for name, value in names.items())
