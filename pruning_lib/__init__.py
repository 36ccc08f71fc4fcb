"""Make networks smaller while they train: penalize, select, shrink, measure.

The library of *Pruning by Regularization*. What the book's chapters and experiments need beside it (data sets, the
papers' networks, plots, records) is `pruning_lib.companion`.
"""

from pruning_lib._inputs import Inputs as Inputs
from pruning_lib._inputs import inputs as inputs
from pruning_lib._measure import Measurement as Measurement
from pruning_lib._measure import measure as measure
from pruning_lib._measure import recalibrate as recalibrate
from pruning_lib.channels import Plan as Plan
from pruning_lib.channels import Shrunk as Shrunk
from pruning_lib.channels import find_units as find_units
from pruning_lib.channels import load as load
from pruning_lib.channels import save as save
from pruning_lib.channels import shrink as shrink
from pruning_lib.diagnostics import Dynamics as Dynamics
from pruning_lib.diagnostics import Field as Field
from pruning_lib.diagnostics import Trajectory as Trajectory
from pruning_lib.diagnostics import shrinkage_field as shrinkage_field
from pruning_lib.regularizers import *  # noqa: F403  a new method is registered there, and nowhere else
from pruning_lib.selection import Hold as Hold
from pruning_lib.selection import hold as hold
from pruning_lib.selection import importance as importance
from pruning_lib.selection import iterative as iterative
from pruning_lib.selection import prune as prune
from pruning_lib.selection import select as select
from pruning_lib.selection import threshold_weights as threshold_weights
from pruning_lib.selection import zero as zero
from pruning_lib.training import Callback as Callback
from pruning_lib.training import Evaluation as Evaluation
from pruning_lib.training import History as History
from pruning_lib.training import Reach as Reach
from pruning_lib.training import TargetSize as TargetSize
from pruning_lib.training import ThresholdOnPlateau as ThresholdOnPlateau
from pruning_lib.training import cosine as cosine
from pruning_lib.training import evaluate as evaluate
from pruning_lib.training import fit as fit
from pruning_lib.training import flushed as flushed
from pruning_lib.training import ramp as ramp
from pruning_lib.training import reach as reach
from pruning_lib.training import steps as steps
from pruning_lib.units import Group as Group
from pruning_lib.units import Member as Member
from pruning_lib.units import Units as Units

__version__ = "0.2.0"
