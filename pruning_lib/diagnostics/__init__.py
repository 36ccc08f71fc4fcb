"""LOOK: what a training did to units, and what a penalty does to an importance."""

from pruning_lib.diagnostics._dynamics import Dynamics, Trajectory
from pruning_lib.diagnostics._field import Field, shrinkage_field

__all__ = ["Dynamics", "Field", "Trajectory", "shrinkage_field"]
