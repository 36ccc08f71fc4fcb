"""The suites, a file a family. Every module here whose name has no underscore is read; a new suite is one file."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from experiments.suites._protocol import Claim, Protocol, Suite

__all__ = ["PAGES", "SUITES", "Claim", "Protocol", "Suite"]

_names = [it.name for it in iter_modules(__path__) if not it.name.startswith("_")]
_families = {name: import_module(f"{__name__}.{name}") for name in _names}
SUITES: dict[str, Suite] = {}
"""Every suite by its name."""
for _suite in (suite for family in _families.values() for suite in family.SUITES):
    if _suite.name in SUITES:
        raise ValueError(f"Two suites are called '{_suite.name}'; give each a name of its own.")
    SUITES[_suite.name] = _suite
PAGES: dict[str, tuple[str, tuple[str, ...]]] = {
    name: (family.PAGE, tuple(suite.name for suite in family.SUITES))
    for name, family in _families.items()
    if hasattr(family, "PAGE")
}
"""{file: (title of its page of tables, its suites)}, of the families that have one."""
