"""What a training does to the units, epoch by epoch: in the records of every recipe that has a penalty."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from experiments.bench import rounded
from pruning_lib.diagnostics import Dynamics
from pruning_lib.training import Callback, Run
from pruning_lib.units import BatchNorm, Units, weighted

QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)


class Watch(Callback):
    """What a penalty does by epoch: zero weights, dead units, and where the scales of the BatchNorms lie.

    Parameters
    ----------
    units : Units
        Whose deaths are counted: units with a side that is all zero.

    Attributes
    ----------
    log : dict of str to list
        ``zero_weights``, a share; ``dead``, a list of counts, one a group; and where there are BatchNorms ``scales``,
        minimum, quartiles and maximum of all |γ|; an entry an epoch.
    """

    def __init__(self, units: Units) -> None:
        self._units = units
        self.log: dict[str, list[Any]] = {}

    @torch.no_grad()
    def after_epoch(self, run: Run) -> None:
        """Count."""
        weights = [layer.weight for layer in weighted(run.model).values()]
        zeros = sum(int((weight == 0).sum()) for weight in weights) / sum(weight.numel() for weight in weights)
        dynamics = Dynamics(run.model, self._units)
        dynamics.record(run.epoch)
        self._add("zero_weights", rounded(zeros))
        self._add("dead", [int((dynamics[name].state[-1] > 0).sum()) for name in self._units])
        scales = [m.weight.abs().flatten() for m in run.model.modules() if isinstance(m, BatchNorm) and m.affine]
        if scales:
            quantiles = torch.cat(scales).double().cpu().quantile(torch.tensor(QUANTILES, dtype=torch.float64))
            self._add("scales", [rounded(value) for value in quantiles.tolist()])

    def _add(self, name: str, value: Any) -> None:
        self.log.setdefault(name, []).append(value)

    def state_dict(self) -> dict[str, Any]:
        """Return what was logged so far."""
        return {"log": {name: list(values) for name, values in self.log.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore it."""
        self.log = {name: list(values) for name, values in state["log"].items()}
