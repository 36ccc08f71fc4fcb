"""SHRINK: find the units of a network, and remove exactly what is provably dead."""

from pruning_lib.channels._find import find_units
from pruning_lib.channels._plan import Plan, load, save
from pruning_lib.channels._shrink import Shrunk, shrink

__all__ = ["Plan", "Shrunk", "find_units", "load", "save", "shrink"]
