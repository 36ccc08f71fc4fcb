"""SELECT: from importances to units, set to zero and held there."""

from pruning_lib.selection import importance
from pruning_lib.selection._select import Hold, cost, hold, iterative, select, threshold_weights, zero

__all__ = ["Hold", "cost", "hold", "importance", "iterative", "select", "threshold_weights", "zero"]
