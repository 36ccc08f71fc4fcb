"""Exact removal of channels: what is provably dead goes, and nothing else."""

from pruning_lib.channels.groups import units

__all__ = ["units"]
