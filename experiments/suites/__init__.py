"""The suites, a file a family. Every module here whose name has no underscore is read; a new suite is one file."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from experiments.suites._protocol import Claim, Protocol, Suite

__all__ = ["SUITES", "Claim", "Protocol", "Suite"]

_families = [import_module(f"{__name__}.{it.name}") for it in iter_modules(__path__) if not it.name.startswith("_")]
SUITES: dict[str, Suite] = {}
"""Every suite by its name."""
for _suite in (suite for family in _families for suite in family.SUITES):
    if _suite.name in SUITES:
        raise ValueError(f"Two suites are called '{_suite.name}'; give each a name of its own.")
    SUITES[_suite.name] = _suite
