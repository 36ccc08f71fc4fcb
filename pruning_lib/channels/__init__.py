"""Exact removal of channels: what is provably dead goes, and nothing else."""

from pruning_lib.channels.groups import units
from pruning_lib.channels.plan import Plan, load, save
from pruning_lib.channels.shrink import Shrunk, shrink

__all__ = ["Plan", "Shrunk", "load", "save", "shrink", "units"]
