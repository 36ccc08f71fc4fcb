"""SeReNe's loop as a callback: threshold the weights whenever the validation loss has stalled."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from pruning_lib._arguments import checked
from pruning_lib.selection import Hold, hold, threshold_weights
from pruning_lib.training._callbacks import Callback, Run


class ThresholdOnPlateau(Callback):
    """SeReNe's loop: train until the validation loss stalls, go back to its best weights, zero the small ones, go on.

    Tartaglione et al. (2021), as released: an epoch is bad if its validation loss is at least (1 + slack) times the
    best; after `patience` bad epochs in a row the best weights return, and all weights and biases of linear and
    convolution layers below one threshold become 0 (`threshold_weights`). From then on zero weights stay 0, and so does
    the zero bias of a neuron without any other weight; in the released code holding is an option. At the end of the
    training the same happens once more, which is ours. Derived in the chapter `serene`.

    Parameters
    ----------
    patience : int
        Bad epochs in a row that make a plateau.
    tolerance : float
        By what share thresholding may raise the validation loss.
    slack : float
        By what share an epoch may be worse than the best without being bad.

    Attributes
    ----------
    log : list of dict
        One entry a thresholding: epoch, threshold, validation loss before and after, weights left.

    Examples
    --------
    >>> import torch
    >>> from pruning_lib._types import TensorPair
    >>> from pruning_lib.training import fit
    >>> model = torch.nn.Linear(4, 2)
    >>> data = TensorPair(torch.eye(4), torch.tensor([0, 0, 1, 1]))
    >>> plateau = ThresholdOnPlateau(patience=5, tolerance=0.1)
    >>> optimizer = torch.optim.SGD(model.parameters(), 0.5)
    >>> _ = fit(model, data, data, epochs=20, optimizer=optimizer, callbacks=[plateau], progress=False)
    >>> [entry["epoch"] for entry in plateau.log]  # no plateau came before the end
    [20]
    """

    def __init__(self, patience: int, tolerance: float, slack: float = 0.01) -> None:
        checked("ThresholdOnPlateau", patience=patience, tolerance=tolerance, slack=slack)
        self.patience, self.tolerance, self.slack = patience, tolerance, slack
        self.log: list[dict[str, float]] = []
        self._bad = 0
        self._best = math.inf
        self._weights: dict[str, Tensor] = {}
        self._hold: Hold | None = None

    def start(self, run: Run) -> None:
        """After a resume, hold what was zero."""
        if self.log:
            self._hold = hold(run.model, run.optimizer)

    def after_epoch(self, run: Run) -> None:
        """Count bad epochs, keep the best weights, threshold on a plateau."""
        loss = run.history.epochs[-1].val_loss
        # Written so that a NaN counts as bad.
        self._bad = 0 if loss < self._best * (1 + self.slack) else self._bad + 1
        if loss < self._best:
            self._best = loss
            self._weights = {name: value.detach().clone() for name, value in run.model.state_dict().items()}
        if self._bad >= self.patience:
            self._threshold(run)

    def finish(self, run: Run) -> None:
        """Threshold once more."""
        if self._weights:
            self._threshold(run)

    def _threshold(self, run: Run) -> None:
        if self._weights:
            run.model.load_state_dict(self._weights)
        # The momentum belongs to the weights that were left behind.
        run.optimizer.state.clear()
        self.close()
        before = run.evaluate().loss
        threshold = threshold_weights(run.model, lambda model: run.evaluate(model).loss, self.tolerance)
        self._hold = hold(run.model, run.optimizer)
        weights = [p for p in run.model.parameters() if p.ndim > 1]
        self.log.append(
            {
                "epoch": run.epoch,
                "threshold": threshold,
                "val_loss_before": before,
                "val_loss_after": run.evaluate().loss,
                "weights_left": sum(int(p.count_nonzero()) for p in weights),
            }
        )
        self._bad, self._best, self._weights = 0, math.inf, {}

    def close(self) -> None:
        """Release the zeros."""
        if self._hold is not None:
            self._hold.remove()
            self._hold = None

    def state_dict(self) -> dict[str, Any]:
        """Return the log, the counters and the best weights."""
        return {"log": self.log, "bad": self._bad, "best": self._best, "weights": self._weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore them.

        Raises
        ------
        KeyError, TypeError, ValueError
            If they are not what `state_dict` returned.
        """
        log, weights = list(state["log"]), dict(state["weights"])
        if not all(isinstance(entry, dict) for entry in log) or not all(
            isinstance(value, Tensor) for value in weights.values()
        ):
            raise TypeError("ThresholdOnPlateau got the state of another callback.")
        self.log, self._bad, self._best = log, int(state["bad"]), float(state["best"])
        self._weights = weights

    def fits(self, run: Run) -> bool:
        """Whether the weights that were restored are those of the run's model."""
        own = {name: (value.shape, value.dtype) for name, value in run.model.state_dict().items()}
        return not self._weights or own == {name: (value.shape, value.dtype) for name, value in self._weights.items()}
