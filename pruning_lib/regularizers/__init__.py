"""PENALIZE: every method behind one protocol, one file a method."""

from pruning_lib.regularizers._base import Regularizer
from pruning_lib.regularizers._batchnorm import NetworkSlimming, Polarization
from pruning_lib.regularizers._guided import Guided
from pruning_lib.regularizers._norms import L1, L2, GroupLasso
from pruning_lib.regularizers._receding import RecedingNeurons, bound_batchnorm, receding_parameters, unbind_batchnorm
from pruning_lib.regularizers._serene import SeReNe
from pruning_lib.regularizers._sparsity import GroupHoyer
from pruning_lib.regularizers._stochastic import StochasticPruning

__all__ = [
    "L1",
    "L2",
    "GroupHoyer",
    "GroupLasso",
    "Guided",
    "NetworkSlimming",
    "Polarization",
    "RecedingNeurons",
    "Regularizer",
    "SeReNe",
    "StochasticPruning",
    "bound_batchnorm",
    "receding_parameters",
    "unbind_batchnorm",
]
