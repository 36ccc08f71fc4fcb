"""Make networks smaller while they train: penalize, select, shrink, measure.

The library of *Pruning by Regularization*. What the book's chapters and experiments need beside it (data sets, the
papers' networks, plots, records) is `pruning_lib.companion`.
"""

from pruning_lib import regularizers
from pruning_lib._measure import Measurement, measure, recalibrate
from pruning_lib.channels import Plan, Shrunk, find_units, load, save, shrink
from pruning_lib.diagnostics import Dynamics, Field, Trajectory, shrinkage_field
from pruning_lib.regularizers import *  # noqa: F403  a new method is registered there, and nowhere else
from pruning_lib.selection import Hold, hold, importance, iterative, select, threshold_weights, zero
from pruning_lib.training import (
    Callback,
    Evaluation,
    History,
    ThresholdOnPlateau,
    cosine,
    evaluate,
    fit,
    flushed,
    ramp,
    steps,
)
from pruning_lib.units import Group, Member, Units

__version__ = "0.2.0"

__all__ = [
    "Callback",
    "Dynamics",
    "Evaluation",
    "Field",
    "Group",
    "History",
    "Hold",
    "Measurement",
    "Member",
    "Plan",
    "Shrunk",
    "ThresholdOnPlateau",
    "Trajectory",
    "Units",
    "cosine",
    "evaluate",
    "find_units",
    "fit",
    "flushed",
    "hold",
    "importance",
    "iterative",
    "load",
    "measure",
    "ramp",
    "recalibrate",
    "save",
    "select",
    "shrink",
    "shrinkage_field",
    "steps",
    "threshold_weights",
    "zero",
]
__all__ += regularizers.__all__
