"""The dynamics of death: how both sides of a unit fade, when its weights die, and when it does.

Derived in the chapter `weights-die-then-nodes`. ``w_i·`` writes unit i, ``w_·i`` reads it:

    in_i = ‖w_i·‖₂ |γ_i|        out_i = ‖w_·i‖₂        lag_i = t(out_i = 0) − t(in_i = 0)

γ_i: the scale of its normalization, where there is one. A unit with in_i = 0 is constant and one with out_i = 0 is
read by nobody: it is dead on one side. On the other side only a penalty still acts, and the loss as far as a constant
feels it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pruning_lib._arguments import checked
from pruning_lib.training import Callback, Run
from pruning_lib.units import Group, Member, Units, fitting, grouped_view

ALIVE = -1


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Both sides of one group's units over time: the axes of a phase portrait, and what follows from them.

    Parameters
    ----------
    times : Tensor
        float64 of shape (records,), rising: the steps or epochs that were recorded.
    incoming, outgoing : Tensor
        float64 of shape (records, units): the norms in_i and out_i.
    threshold : float
        A side whose norm is at most this counts as dead.

    Examples
    --------
    Unit 0 stays; of unit 1 the incoming side is dead from time 1 on, and the outgoing side from time 3 on.

    >>> import torch
    >>> import pruning_lib as prl
    >>> times = torch.arange(4.0, dtype=torch.float64)
    >>> incoming = torch.tensor([[1.0, 0.5], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    >>> outgoing = torch.tensor([[1.0, 0.5], [1.0, 0.4], [1.0, 0.2], [1.0, 0.0]], dtype=torch.float64)
    >>> fade = prl.Trajectory(times, incoming, outgoing)
    >>> fade.death.tolist(), fade.lag.tolist()
    ([nan, 1.0], [nan, 2.0])
    >>> fade.state[:, 1].tolist()
    [0, 1, 1, 3]
    """

    times: Tensor
    incoming: Tensor
    outgoing: Tensor
    threshold: float = 0.0

    @property
    def state(self) -> Tensor:
        """int64 (records, units): 0 alive, 1 dead on the incoming side alone, 2 on the outgoing side alone, 3 both."""
        return (self.incoming <= self.threshold).long() + 2 * (self.outgoing <= self.threshold)

    @property
    def incoming_death(self) -> Tensor:
        """float64 (units,): the time since when the incoming side has been dead; NaN while it is alive."""
        return self._death(self.incoming)

    @property
    def outgoing_death(self) -> Tensor:
        """float64 (units,): the time since when the outgoing side has been dead; NaN while it is alive."""
        return self._death(self.outgoing)

    @property
    def death(self) -> Tensor:
        """float64 (units,): the time since when one side at least has been dead; NaN while both are alive."""
        return torch.fmin(self.incoming_death, self.outgoing_death)

    @property
    def lag(self) -> Tensor:
        """float64 (units,): outgoing minus incoming death, negative where readers left first; NaN unless both died."""
        return self.outgoing_death - self.incoming_death

    def _death(self, norms: Tensor) -> Tensor:
        dead = norms <= self.threshold
        # Records in a row that are dead, counted back from the last one.
        lasting = dead.flip(0).long().cumprod(0).sum(0)
        return _times_at(torch.where(lasting > 0, len(dead) - lasting, ALIVE), self.times)


class Dynamics(Callback):
    """Record the norms of both sides of every unit, and when each weight died.

    In a loop of your own call ``record(step)`` when you like; as a callback of `fit` it records before the first epoch
    and after each. ``dynamics["fc1"]`` is the `Trajectory` of that group. The model is only read. Beside the norms it
    keeps one int32 a weight.

    Parameters
    ----------
    model : nn.Module
        The network that is trained.
    units : Units
        From `pruning_lib.find_units(model, example)`.
    threshold : float
        A norm of at most this counts as dead; above 0 for penalties whose weights never are exactly 0.

    Raises
    ------
    ValueError
        If `units` belong to another model, or `threshold` is negative.

    Notes
    -----
    |γ_i| counts for inner units. In a residual stream several layers write a unit, and some readers may bypass a
    normalization: there in_i is the norm of all writers' weights.

    Examples
    --------
    >>> import torch
    >>> import pruning_lib as prl
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2, bias=False), torch.nn.Linear(2, 1, bias=False))
    >>> _ = model[0].weight.detach().copy_(torch.tensor([[3.0, 4.0], [0.0, 2.0]]))
    >>> dynamics = prl.Dynamics(model, prl.find_units(model, torch.zeros(1, 2)))
    >>> dynamics.record(0)
    >>> _ = model[0].weight.detach()[1].zero_()
    >>> dynamics.record(1)
    >>> dynamics["0"].incoming.tolist(), dynamics["0"].death.tolist()
    ([[5.0, 2.0], [5.0, 0.0]], [nan, 1.0])
    """

    def __init__(self, model: nn.Module, units: Units, *, threshold: float = 0.0) -> None:
        checked("Dynamics", model=model, units=units, threshold=threshold)
        self.threshold = float(threshold)
        self._units = units
        self._modules = fitting(model, units.values(), "Dynamics", reading=True)
        weighing = {member.layer: None for group in units.values() for member in (*group.writers, *group.readers)}
        self._times: list[float] = []
        self._norms: dict[str, list[Tensor]] = {name: [] for name in units}  # (2, units) a record
        self._died = {
            layer: torch.full_like(self._modules[layer].weight, ALIVE, dtype=torch.int32, requires_grad=False)
            for layer in weighing
        }

    @torch.no_grad()
    def record(self, time: float) -> None:
        """Note the norms, and which weights are 0.

        Parameters
        ----------
        time : float
            Number of the step, or of the epoch; it must rise from record to record.

        Raises
        ------
        ValueError
            If `time` does not rise, or a layer has changed its shape. Nothing is recorded then.
        """
        checked("Dynamics", time=time)
        if self._times and not time > self._times[-1]:
            raise ValueError(f"Dynamics got time {time} after {self._times[-1]}; it must rise from record to record.")
        for layer, died in self._died.items():
            if died.shape != self._modules[layer].weight.shape:
                raise ValueError(f"'{layer}' has changed its shape, as shrink does; go on with a new Dynamics.")
        for name, group in self._units.items():
            self._norms[name].append(torch.stack([self._incoming(group), self._length(group, group.readers, _read)]))
        for layer, died in self._died.items():
            dead = self._modules[layer].weight == 0
            died.masked_fill_(dead & (died == ALIVE), len(self._times)).masked_fill_(~dead, ALIVE)
        self._times.append(float(time))

    def __getitem__(self, group: str) -> Trajectory:
        """Return what was recorded of a group; any of its writers or normalizations names it."""
        name = self._units.translate(group)
        empty = torch.zeros(2, self._units[name].size, dtype=torch.float64)
        norms = torch.stack([empty, *self._norms[name]])[1:]
        return Trajectory(self.times, norms[:, 0], norms[:, 1], self.threshold)

    @property
    def times(self) -> Tensor:
        """float64 (records,): what `record` was given."""
        return torch.tensor(self._times, dtype=torch.float64)

    def weight_deaths(self) -> dict[str, Tensor]:
        """Return {layer: the time since when each weight has been 0}, shaped as the weights; NaN while it is alive."""
        return {layer: _times_at(died.cpu().long(), self.times) for layer, died in self._died.items()}

    def start(self, run: Run) -> None:
        """Record the beginning, which a resumed run has already."""
        if not self._times:
            self.record(run.epoch)

    def after_epoch(self, run: Run) -> None:
        """Record the epoch."""
        self.record(run.epoch)

    def state_dict(self) -> dict[str, Any]:
        """Return everything recorded so far."""
        return {
            "times": list(self._times),
            "norms": {name: list(norms) for name, norms in self._norms.items()},
            "died": {layer: died.clone() for layer, died in self._died.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned.

        Raises
        ------
        ValueError
            If it belongs to another network. Nothing is changed then.
        """
        theirs = {layer: died.shape for layer, died in state.get("died", {}).items()}
        if theirs != {layer: died.shape for layer, died in self._died.items()}:
            raise ValueError("Dynamics got the state of another network, or none; pass what its state_dict() returned.")
        self._times = list(state["times"])
        self._norms = {name: list(norms) for name, norms in state["norms"].items()}
        for layer, died in state["died"].items():
            self._died[layer].copy_(died)

    def _incoming(self, group: Group) -> Tensor:
        """Return in_i, float64 (units,)."""
        norm = self._length(group, group.writers, _written)
        scales = [member for member in group.norms if self._modules[member.layer].weight is not None]
        return norm * self._length(group, scales, _scaled) if group.kind == "inner" and scales else norm

    def _length(self, group: Group, members: Iterable[Member], squares: Callable[[Any], Tensor]) -> Tensor:
        """Return the norm over all members' channels that belong to each unit, float64 (units,)."""
        total = torch.zeros(group.size, dtype=torch.float64)
        for member in members:
            index = member.index.cpu()
            total.index_add_(0, index[index >= 0], squares(self._modules[member.layer])[index >= 0])
        return total.sqrt()


# Squares in float64: those of a float32 weight cannot underflow there, so that only a true 0 looks dead.
def _written(layer: Any) -> Tensor:
    return grouped_view(layer, layer.weight).cpu().double().square().flatten(2).sum(2).flatten()


def _read(layer: Any) -> Tensor:
    return grouped_view(layer, layer.weight).cpu().double().square().transpose(1, 2).flatten(2).sum(2).flatten()


def _scaled(norm: Any) -> Tensor:
    weight: Tensor = norm.weight
    return weight.cpu().double().square()


def _times_at(records: Tensor, times: Tensor) -> Tensor:
    """Return the time of each record's number, NaN for `ALIVE`."""
    return torch.cat([times, times.new_full((1,), torch.nan)])[records]
