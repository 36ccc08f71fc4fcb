"""The shrinkage field: how fast a regularizer alone reduces a unit's importance, against that importance.

    x = I(unit), the importance in the method's own coordinate        y = −dI/d(step), per unit of strength

What the penalties of this book have in common and what tells them apart, in one picture. With one step of plain
gradient descent that sees no loss, a method gives

    L2                  y = x                                  proportional
    GroupLasso          y = 1                                  constant; the unit arrives
    L1                  y = ‖w‖₁ / ‖w‖₂                        between the two, 1 … √n
    NetworkSlimming     y = 1                                  constant in |γ|
    Polarization        y = t − sign(γ − γ̄) + const            two constants, to either side of the mean
    RecedingNeurons     y = α(1 − α) · −s(1 − s) log s         α = σ(γ), s = σ(γ + b): only the middle
    SeReNe              y = max(0, 1 − S) x                    a line for each sensitivity S
    Guided              y = g times that of its base           a family over the guidance g
    StochasticPruning   y = x − E‖w ∘ kept‖                    an expected rate, of a step

per unit of learning rate too, but for SeReNe and sampling, whose steps do not know it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import SGD

from pruning_lib._arguments import checked
from pruning_lib._inputs import Inputs
from pruning_lib._model import check_same_model, run
from pruning_lib.regularizers import Regularizer

Unit = Literal["lr × strength", "strength", "step"]


@dataclass(frozen=True, eq=False)
class Field:
    """Points of a shrinkage field, float64 of shape (units,), one for each unit of every layer the method ranks.

    Parameters
    ----------
    importance : Tensor
        x, in the method's own coordinate.
    rate : Tensor
        y: what one step takes from x, divided by what `per` names; negative where the importance grows.
    per : {"lr × strength", "strength", "step"}
        Whether the pull goes with learning rate and strength, with the strength alone (SeReNe), or is a step's own
        (sampling, also where a penalty is added to it).
    layer : list of str
        The layer of each unit.

    Examples
    --------
    >>> import torch
    >>> import pruning_lib as prl
    >>> field = prl.Field(torch.tensor([0.5, 2.0]), torch.tensor([1.0, 1.0]), "lr × strength", ["fc1", "fc1"])
    >>> dict(zip(field.importance.tolist(), field.rate.tolist()))
    {0.5: 1.0, 2.0: 1.0}
    """

    importance: Tensor
    rate: Tensor
    per: Unit
    layer: list[str]


def shrinkage_field(
    regularizer: Regularizer, model: nn.Module, inputs: Tensor, *, lr: float = 1e-4, repeats: int = 1
) -> Field:
    """Measure the shrinkage field of a regularizer at the model's weights, which come back bit-identical.

    Takes one step of gradient descent on the penalty alone, in float64, then the regularizer's own update, and reads
    its importance before and after. A second trial without learning rate tells pulls that know it from those that do
    not. Derived in the chapter `what-a-penalty-does`.

    Parameters
    ----------
    regularizer : Regularizer
        Any method of the protocol, built on `model`; its state comes back too.
    model : nn.Module
        Of one floating dtype; it runs in the mode that it is in.
    inputs : Tensor
        A batch that the model accepts, (examples, …): SeReNe's field depends on it, the others' does not.
    lr : float
        Learning rate of the step; small, as the field is a slope.
    repeats : int
        Steps to average over, each from the same weights: for methods that draw at random. What `StochasticPruning`
        masks would stay masked from step to step; measure it under ``mode="regrow"``, whose single step is the same.

    Returns
    -------
    Field

    Raises
    ------
    ValueError
        If `lr` or `repeats` is not positive, the model mixes dtypes, or nothing pulls: strength 0 and no sampling.

    Examples
    --------
    Under L2 decay a row is shortened in proportion to its length, under the group lasso by the same amount.

    >>> import torch
    >>> import pruning_lib as prl
    >>> layer = torch.nn.Linear(2, 3, bias=False)
    >>> _ = layer.weight.detach().copy_(torch.tensor([[3.0, 4.0], [0.0, 2.0], [1.0, 0.0]]))
    >>> for method in (prl.L2, prl.GroupLasso):
    ...     prl.shrinkage_field(method(layer, strength=0.1), layer, torch.zeros(1, 2)).rate.round(decimals=3).tolist()
    [5.0, 2.0, 1.0]
    [1.0, 1.0, 1.0]
    """
    checked("shrinkage_field", regularizer=regularizer, model=model, inputs=inputs, lr=lr, repeats=repeats)
    check_same_model("shrinkage_field", model, regularizer=regularizer)
    strength = regularizer.strength
    with _in_float64(model):
        before = _flat(regularizer.importance())
        still, moved = (_fall(regularizer, model, inputs, rate, repeats, before) for rate in (0.0, lr))
        layer = [name for name, values in regularizer.importance().items() for _ in values]
    knows_rate = not still.any()
    if knows_rate and strength == 0:
        raise ValueError(f"Nothing pulls: {type(regularizer).__name__} has strength 0. Give it a strength.")
    if knows_rate:
        return Field(before, moved / (lr * strength), "lr × strength", layer)
    if torch.equal(still, moved) and strength > 0:
        return Field(before, still / strength, "strength", layer)
    return Field(before, moved, "step", layer)


def _fall(
    regularizer: Regularizer, model: nn.Module, inputs: Tensor, lr: float, repeats: int, before: Tensor
) -> Tensor:
    """Return the mean fall of the importances in one step, from the same weights and state each time."""
    weights, state = _copy(model.state_dict()), _copy(regularizer.state_dict())
    optimizer = SGD([p for p in model.parameters() if p.requires_grad], lr)
    falls = torch.zeros_like(before)
    try:
        with torch.random.fork_rng(devices=[]):
            for _ in range(repeats):
                optimizer.zero_grad()
                penalty = regularizer.penalty(run(model, Inputs((inputs.to(torch.float64),)), "shrinkage_field"))
                if penalty.requires_grad:
                    penalty.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                regularizer.update(optimizer)
                falls += before - _flat(regularizer.importance())
                model.load_state_dict(weights)
    finally:
        optimizer.zero_grad()
        regularizer.load_state_dict(state)
    return falls / repeats


@contextmanager
def _in_float64(model: nn.Module) -> Iterator[None]:
    """Compute with a model in float64 for a while; its weights, buffers and gradients are then what they were."""
    dtypes = {p.dtype for p in model.parameters()}
    if len(dtypes) != 1 or not (dtype := dtypes.pop()).is_floating_point:
        raise ValueError("shrinkage_field needs a model whose parameters have one floating dtype.")
    weights, gradients = _copy(model.state_dict()), {p: p.grad for p in model.parameters()}
    buffers = [(m, name, b.dtype) for m in model.modules() for name, b in m._buffers.items() if b is not None]
    for parameter in gradients:
        parameter.grad = None
    try:
        model.double()
        yield
    finally:
        model.to(dtype)
        for module, name, own in buffers:  # one that was float64 before stays it
            setattr(module, name, getattr(module, name).to(own))
        model.load_state_dict(weights)
        for parameter, gradient in gradients.items():
            parameter.grad = gradient


def _copy(state: Any) -> Any:
    """Return nested dictionaries with tensors of their own."""
    if isinstance(state, Tensor):
        return state.detach().clone()
    return {key: _copy(value) for key, value in state.items()} if isinstance(state, dict) else state


def _flat(importance: dict[str, Tensor]) -> Tensor:
    return torch.cat([values.detach().double().flatten() for values in importance.values()])
