"""SeReNe's loop: plateaus by script, zeros that stay, settings in words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD

from pruning_lib.regularizers import L2
from pruning_lib.training import Callback, Epoch, Run, ThresholdOnPlateau, _plateau, fit
from tests.training.runs import TRAIN, VAL, network


class Losses(Callback):
    """Plays given validation losses to the callbacks that follow, and notes the weights of each epoch."""

    def __init__(self, losses: list[float]) -> None:
        self.losses, self.weights = losses, [torch.empty(0)]

    def after_epoch(self, run: Run) -> None:
        entry = vars(run.history.epochs[-1]) | {"val_loss": self.losses[run.epoch - 1]}
        run.history.epochs[-1] = Epoch(**entry)
        self.weights.append(run.model.state_dict()["fc1.weight"].clone())


def test_a_plateau_is_patience_bad_epochs_in_a_row_beyond_the_slack(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bad means ≥ 1.01 × best: 1.009 is not, 1.02 is; the second plateau counts from its own start."""
    restored: list[Tensor] = []

    def thresholding(model: nn.Module, loss_fn: Any, tolerance: float) -> float:
        restored.append(model.state_dict()["fc1.weight"].clone())
        return 0.0

    monkeypatch.setattr(_plateau, "threshold_weights", thresholding)
    model = network()
    script = Losses([1.0, 1.02, 1.009, 1.02, 1.02, 3.0, math.nan, 5.0, 2.0])
    plateau = ThresholdOnPlateau(patience=2, tolerance=0.0)
    fit(
        model, TRAIN, VAL, epochs=9, optimizer=SGD(model.parameters(), 0.1), callbacks=[script, plateau], progress=False
    )
    assert [entry["epoch"] for entry in plateau.log] == [5, 8, 9]
    for weights, epoch in zip(restored, (1, 6, 9), strict=True):
        assert torch.equal(weights, script.weights[epoch])


def test_what_was_thresholded_stays_zero_and_is_released_at_the_end() -> None:
    model = network()
    optimizer = SGD(model.parameters(), 0.3, momentum=0.9)
    zeros: list[Mapping[str, Tensor]] = []

    class Notes(Callback):
        def after_epoch(self, run: Run) -> None:
            zeros.append({name: p.detach() == 0 for name, p in run.model.named_parameters() if p.ndim > 1})

    plateau = ThresholdOnPlateau(patience=1, tolerance=0.5, slack=0.0)
    fit(
        model, TRAIN, VAL, epochs=12, optimizer=optimizer, regularizer=L2(model, 1e-2), callbacks=[plateau, Notes()],
        batch_size=30, progress=False,
    )  # fmt: skip
    assert len(plateau.log) > 1
    assert all(entry["val_loss_after"] <= 1.5 * entry["val_loss_before"] + 1e-9 for entry in plateau.log)
    for earlier, later in pairwise(zeros):
        assert all((later[name] | ~mask).all() for name, mask in earlier.items())
    left = sum(int(p.count_nonzero()) for p in model.parameters() if p.ndim > 1)
    assert left == plateau.log[-1]["weights_left"] < 12 * 16 + 8 * 12 + 3 * 8
    fit(model, TRAIN, VAL, epochs=1, optimizer=optimizer, progress=False)
    assert sum(int(p.count_nonzero()) for p in model.parameters() if p.ndim > 1) > left


def test_thresholding_settings_out_of_range_are_named() -> None:
    with pytest.raises(ValueError, match="patience=0; it needs a whole number, 1 or more"):
        ThresholdOnPlateau(patience=0, tolerance=0.1)
    with pytest.raises(ValueError, match="tolerance=nan"):
        ThresholdOnPlateau(patience=1, tolerance=math.nan)
