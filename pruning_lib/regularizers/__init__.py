"""PENALIZE: every method behind one protocol, one file a method."""

from pruning_lib.regularizers.base import Regularizer
from pruning_lib.regularizers.norms import L1, L2, GroupLasso
from pruning_lib.regularizers.serene import SeReNe

__all__ = ["L1", "L2", "GroupLasso", "Regularizer", "SeReNe"]
