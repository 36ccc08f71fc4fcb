"""What every method offers, and the few helpers that all of them share.

A method takes part in a training step at two places, so that any loop can use it:

    loss = task + reg.penalty(outputs)      once per backward: a term of the loss, or a look at the graph
    optimizer.step(); reg.update(optimizer) once per step: a proximal map, a decay, a sample
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pruning_lib._arguments import checked, optional
from pruning_lib._model import warn_left_out
from pruning_lib.units import Units, Weighted, check_plain, fitting, is_layer, rows, unwrapped, weighted

FOREIGN = "{} got the state of another network, or none; pass what its state_dict() returned."


class Regularizer(Protocol):
    """The protocol that every method follows. Nothing has to inherit from it: an object with these methods is one.

    Attributes
    ----------
    strength : float
        λ ≥ 0; may be changed while training, for a warm-up or a ramp.
    layers : tuple of str
        Names of the modules that the method works on. `fit` resumes from a checkpoint only where they agree.
    per_step : bool
        Whether λ is a share of each step, as in `SeReNe`, which no learning rate multiplies.

    Examples
    --------
    A method inherits what it does not override.

    >>> import torch
    >>> import pruning_lib as prl
    >>> class SmallBias(prl.Regularizer):
    ...     def __init__(self, layer, strength):
    ...         self.layer, self.strength = layer, strength
    ...
    ...     def penalty(self, outputs):
    ...         return self.strength * self.layer.bias.abs().sum()
    ...
    ...     def importance(self):
    ...         return {"": self.layer.bias.detach().abs()}
    >>> layer = torch.nn.Linear(3, 2)
    >>> _ = torch.nn.init.constant_(layer.bias, 0.5)
    >>> reg = SmallBias(layer, strength=2.0)
    >>> reg.penalty(layer(torch.zeros(1, 3))).item(), reg.state_dict()
    (2.0, {'strength': 2.0})
    """

    strength: float
    per_step: bool = False

    @property
    def layers(self) -> tuple[str, ...]:
        """Return the names of the modules that the method works on, in the order of registration."""
        return ()

    def penalty(self, outputs: Tensor) -> Tensor:
        """Return the term to add to the loss, a scalar; call it once per backward pass.

        Parameters
        ----------
        outputs : Tensor
            The model's outputs of this forward pass, shape (examples, …).
        """
        return nothing(outputs, self)

    def update(self, optimizer: Optimizer) -> None:
        """Change the weights in place after `optimizer.step()`; call it once per step that was taken."""
        # Written out: for a type checker an empty body makes every method without an update abstract.
        return None

    def importance(self) -> dict[str, Tensor]:
        """Return {layer: tensor of shape (units,)}; higher = keep.

        Lengths of rows say little between layers where a BatchNorm divides by them: rank by
        `importance.magnitude(model, units, of="folded")` or `importance.taylor` there (chapter `which-method`).
        """
        ...

    def distance(self) -> dict[str, Tensor]:
        """Return {layer or group: (units,)}: how much pull brings each unit to zero, by methods that pull on all alike.

        A unit at distance d is zero after a pull, rate times strength, of d in all, if the loss does not resist.

        Raises
        ------
        TypeError
            If the method has no such pull.
        """
        raise TypeError(f"{type(self).__name__} does not pull on every unit alike: how far it moves them is not known.")

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs to equal an uninterrupted one."""
        return {"strength": self.strength}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state that `state_dict` returned.

        Raises
        ------
        TypeError, ValueError
            If it is not such a state. Nothing is changed then.
        """
        check_state(state, self, strength=float)
        self.strength = checked_strength(state["strength"], self)


def checked_strength(strength: float, owner: object) -> float:
    """Return `strength` as a float, or raise one sentence if it is no number, negative or not finite."""
    checked(type(owner).__name__, strength=strength)
    return float(strength)


def check_state(state: Mapping[str, Any], owner: object, **kinds: type) -> None:
    """Raise one sentence unless this is a state of the owner's class: all these entries, of these types.

    An int counts as a float; a mapping that is asked for holds tensors or numbers by layer, or another state.
    """
    name = type(owner).__name__
    checked(name, state=state)
    for key, kind in kinds.items():
        value = state.get(key)
        if isinstance(value, bool) or not isinstance(value, (int, float) if kind is float else kind):
            raise ValueError(FOREIGN.format(name))


def nothing(outputs: Tensor, owner: object) -> Tensor:
    """Return the 0 that joins the loss where a method does all its work in `update`."""
    checked(type(owner).__name__, outputs=outputs)
    return outputs.new_zeros(())


def regularized_layers(
    model: nn.Module, units: Units | None, owner: object, *, in_place: bool = False
) -> dict[str, Weighted]:
    """Return the layers a method works on: all linear and convolution layers, or the writers of `units` alone.

    Raises
    ------
    TypeError
        If `model` is not a module, or `units` are none.
    ValueError
        If there is no such layer, `units` were made from another model, or the method works `in_place` and a weight is
        parametrized or masked.
    """
    name = type(owner).__name__
    checked(name, model=model)
    optional(name, units=units)
    model = unwrapped(model)
    layers = weighted(model, foreign=True)
    if units is None:
        warn_left_out(name, model)
    else:
        fitting(model, units.values(), name)
        writers = {member.layer for group in units.values() for member in group.writers}
        # In the order of registration, with layers that somebody wrote.
        layers = {layer: module for layer, module in model.named_modules() if layer in writers and is_layer(module)}
    if not layers:
        raise ValueError(f"{name} found no prunable layer in {type(model).__name__}: it needs a linear or convolution.")
    if in_place:
        check_plain(layers, name)
    return layers


def learning_rates(optimizer: Optimizer, owner: object, weights: Iterable[Tensor]) -> dict[int, float]:
    """Return {id(parameter): learning rate} of everything that `optimizer` trains.

    Raises
    ------
    TypeError
        If it is no optimizer.
    ValueError
        If weights of the method are trained, and this optimizer trains none of them: the slip after `shrink`.
    """
    name = type(owner).__name__
    checked(name, optimizer=optimizer)
    rates = {id(p): float(group["lr"]) for group in optimizer.param_groups for p in group["params"]}
    trained = [id(weight) for weight in weights if weight.requires_grad]
    if trained and rates.keys().isdisjoint(trained):
        raise ValueError(
            f"{name} got an optimizer of another model: it holds none of the weights that {name} works on. Make a new "
            f"{name} for a new network, after `shrink` too."
        )
    return rates


def snap(weight: Tensor) -> None:
    """Set to exactly 0, in place, what is below 1e-30; for methods that shrink by a factor and never arrive.

    Such weights would become denormal, below 1.2e-38, where a CPU may take a hundred times as long over each. No output
    notices 1e-30, and a slope moves a weight from 0 as it does from there. One pass: 0.3 % of a step of VGG-16.
    """
    torch.hardshrink(weight, 1e-30, out=weight)


def incoming_norms(layers: Mapping[str, Weighted]) -> dict[str, Tensor]:
    """Return {layer: ‖incoming weights‖₂ of each unit}, shape (units,), without gradient."""
    return {name: rows(layer).detach().flatten(1).norm(dim=1) for name, layer in layers.items()}
