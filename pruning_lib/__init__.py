"""Make networks smaller while they train: penalize, select, shrink, measure.

The library of *Pruning by Regularization*; every public name is derived in one of its chapters.
"""

from pruning_lib.regularizers import L1, L2, GroupLasso, Regularizer, SeReNe
from pruning_lib.select import Hold, hold, select, threshold_weights, zero

__all__ = ["L1", "L2", "GroupLasso", "Hold", "Regularizer", "SeReNe", "hold", "select", "threshold_weights", "zero"]
