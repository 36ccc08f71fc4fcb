"""How a method enters the protocol's matrix, and the network, the batches and the loop that its checks share.

A method joins by a list `PROTOCOL` of `Method` in its own test module; `test_protocol.py` finds it there.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from pruning_lib.companion.models import LeNet5
from pruning_lib.regularizers import Regularizer
from pruning_lib.units import Group, Member, Units

CLASSES = 3
WEIGHTS = ("conv1", "conv2", "fc1", "fc2")
NORMS = ("bn1", "bn2", "bn3")


def _as_it_is(model: nn.Module) -> None:
    """Prepare nothing."""


@dataclass(frozen=True)
class Method:
    """One row of the matrix.

    `make(model, strength, units=…)` builds the method, on a model that `prepare` has changed; `strength` is one that
    moves a weight within three steps.
    """

    name: str
    make: Callable[..., Regularizer]
    strength: float = 0.01
    prepare: Callable[[nn.Module], object] = _as_it_is
    reach: tuple[str, ...] = ("conv2.", "bn2.")  # where the units of conv2 are felt
    needs_units: bool = False
    off_at_zero: bool = True  # False: strength is that of a part, as the penalty beside a sampling
    eager_only: bool = False
    draws: bool = False  # what it draws depends on the examples, so that no two ways to batch them agree
    plain_scales: bool = False  # changes scales in place, and refuses those that `bound_batchnorm` computes
    partner: bool = False  # one of each kind: every method is tried together with these

    def build(self, model: nn.Module, strength: float | None = None, units: Units | None = None) -> Regularizer:
        """Return the method on a model that is prepared for it."""
        wanted = ALL if units is None and self.needs_units else units
        return self.make(model, self.strength if strength is None else strength, units=wanted)

    def needs(self, units: Units) -> Units | None:
        """Return the units of another network, if it cannot do without."""
        return units if self.needs_units else None


def modes(method: type[Regularizer]) -> tuple[str, ...]:
    """Return every way to apply a method that its signature offers."""
    annotation = typing.get_type_hints(method.__init__)["apply"]
    choices = typing.get_args(annotation)
    return tuple(mode for part in choices for mode in typing.get_args(part)) or choices


def network(seed: int = 0) -> LeNet5:
    torch.manual_seed(seed)
    model = LeNet5(CLASSES, (1, 8, 8), (4, 6, 8), kernel=3, padding=1, bn=True)
    for norm in (model.bn1, model.bn2, model.bn3):
        assert isinstance(norm, nn.modules.batchnorm._BatchNorm)
        nn.init.uniform_(norm.weight, 0.3, 1.0)
        nn.init.normal_(norm.running_mean)
    return model


def prepared(*methods: Method, seed: int = 0, train: bool = False) -> LeNet5:
    """Return the network as the methods want it; BatchNorm keeps its statistics unless `train`, so that parts of a
    batch do not depend on each other."""
    model = network(seed).train(train)
    for prepare in dict.fromkeys(method.prepare for method in methods):
        prepare(model)
    return model


def group(name: str, norm: str, reader: str, size: int, pixels: int = 1) -> Group:
    every = torch.arange(size)
    member = Member(reader, every.repeat_interleave(pixels))
    return Group(name, size, "inner", (Member(name, every),), (Member(norm, every),), (member,))


GROUPS = (group("conv1", "bn1", "conv2", 4), group("conv2", "bn2", "fc1", 6, 4), group("fc1", "bn3", "fc2", 8))
ALL = Units(GROUPS)


def batches(count: int) -> list[tuple[Tensor, Tensor]]:
    g = torch.Generator().manual_seed(1)
    return [(torch.randn(12, 1, 8, 8, generator=g), torch.randint(CLASSES, (12,), generator=g)) for _ in range(count)]


BATCHES = batches(6)


def sgd(model: nn.Module) -> Optimizer:
    return SGD(model.parameters(), 0.05, momentum=0.9)


def step(model: nn.Module, optimizer: Optimizer, regs: Iterable[Regularizer], batch: tuple[Tensor, Tensor]) -> None:
    x, y = batch
    outputs = model(x)
    loss = F.cross_entropy(outputs, y)
    for reg in regs:
        loss = loss + reg.penalty(outputs)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    for reg in regs:
        reg.update(optimizer)


def trained(
    model: nn.Module, *regs: Regularizer, steps: int = 3, optimizer: Optimizer | None = None
) -> dict[str, Tensor]:
    """Return the state after some steps."""
    optimizer = sgd(model) if optimizer is None else optimizer
    for batch in BATCHES[:steps]:
        step(model, optimizer, regs, batch)
    return state(model)


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    """Whether no bit differs."""
    assert a.keys() == b.keys()
    return all(torch.equal(value, b[name]) for name, value in a.items())


def close(a: Mapping[str, Tensor], b: Mapping[str, Tensor], atol: float = 1e-6) -> bool:
    assert a.keys() == b.keys()
    return all(torch.allclose(value, b[name], rtol=1e-4, atol=atol) for name, value in a.items())
