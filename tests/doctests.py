"""Examples in docstrings are run, and every public name has one: what the collectors of several rooms share."""

from __future__ import annotations

import doctest
import inspect
import pkgutil
from importlib import import_module
from types import ModuleType


def modules_of(package: ModuleType) -> list[ModuleType]:
    """Return a package's modules, private ones included."""
    return [import_module(f"{package.__name__}.{module.name}") for module in pkgutil.iter_modules(package.__path__)]


def check(module: ModuleType) -> None:
    """Run the examples of a module: each has to print exactly what it says."""
    failures, _ = doctest.testmod(module)
    assert failures == 0, f"an example of {module.__name__} prints something else; see the captured output"


def without_example(package: ModuleType) -> list[str]:
    """Return the public functions and classes of a package whose docstring has no example."""
    public = {name: value for name, value in vars(package).items() if not name.startswith("_")}
    return [
        name
        for name, value in public.items()
        if (inspect.isfunction(value) or inspect.isclass(value)) and ">>>" not in (value.__doc__ or "")
    ]
