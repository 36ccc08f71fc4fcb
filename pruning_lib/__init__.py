"""Make networks smaller while they train: penalize, select, shrink, measure.

The library of *Pruning by Regularization*. What the book's chapters and experiments need beside it (data sets, the
papers' networks, plots, records) is `pruning_lib.companion`.
"""

from pruning_lib._inputs import Inputs, inputs
from pruning_lib._measure import Measurement, measure, recalibrate
from pruning_lib.channels import Plan, Shrunk, find_units, load, save, shrink
from pruning_lib.diagnostics import Dynamics, Field, shrinkage_field
from pruning_lib.regularizers import (
    L1,
    L2,
    GroupHoyer,
    GroupLasso,
    Guided,
    NetworkSlimming,
    Polarization,
    RecedingNeurons,
    Regularizer,
    SeReNe,
    StochasticPruning,
    bound_batchnorm,
    receding_parameters,
    unbind_batchnorm,
)
from pruning_lib.selection import Hold, hold, importance, iterative, select, threshold_weights, zero
from pruning_lib.training import Callback, ThresholdOnPlateau, cosine, evaluate, fit, flushed, ramp, steps
from pruning_lib.units import Group, Member, Units

__version__ = "0.2.0"

__all__ = [
    "L1",
    "L2",
    "Callback",
    "Dynamics",
    "Field",
    "Group",
    "GroupHoyer",
    "GroupLasso",
    "Guided",
    "Hold",
    "Inputs",
    "Measurement",
    "Member",
    "NetworkSlimming",
    "Plan",
    "Polarization",
    "RecedingNeurons",
    "Regularizer",
    "SeReNe",
    "Shrunk",
    "StochasticPruning",
    "ThresholdOnPlateau",
    "Units",
    "bound_batchnorm",
    "cosine",
    "evaluate",
    "find_units",
    "fit",
    "flushed",
    "hold",
    "importance",
    "inputs",
    "iterative",
    "load",
    "measure",
    "ramp",
    "recalibrate",
    "receding_parameters",
    "save",
    "select",
    "shrink",
    "shrinkage_field",
    "steps",
    "threshold_weights",
    "unbind_batchnorm",
    "zero",
]
