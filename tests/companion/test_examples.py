"""Every public name of data, models, metrics and plotting has examples, and their outputs are exact."""

from __future__ import annotations

import doctest
import inspect
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest

from pruning_lib.companion import data, metrics, models, plotting
from pruning_lib.companion.data import _cifar10, _mnist, _nuclei, _xrays

# What needs files that not everybody may have: where they lie below the root of real data.
REAL = {
    "mnist": _mnist.ARCHIVES["mnist"].folder,
    "fashion_mnist": _mnist.ARCHIVES["fashion-mnist"].folder,
    "chest_xrays": _xrays.FILE,
    "cifar10": _cifar10.FOLDER,
    "nuclei": _nuclei.FILE,
}
SLOW = {"cifar10", "nuclei"}  # 20 s each: six files of xz; clusters
PLAIN = {"DATA_SETS", "PARTS", "Scores"}


def public(module: ModuleType) -> list[str]:
    names = getattr(module, "__all__", None) or [
        name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__
    ]
    return [name for name in names if not name.startswith("_") and name not in PLAIN]


CASES = [
    pytest.param(module, name, id=name, marks=pytest.mark.slow if name in SLOW else ())
    for module in (data, metrics, models, plotting)
    for name in public(module)
]


@pytest.fixture(autouse=True)
def _look() -> Iterator[None]:
    with mpl.rc_context():
        yield
    plt.close("all")


@pytest.mark.parametrize(("module", "name"), CASES)
def test_examples(module: ModuleType, name: str, request: pytest.FixtureRequest) -> None:
    if name in REAL:
        root: Path = request.getfixturevalue("data_root")
        if not (root / REAL[name]).exists():
            pytest.skip(f"{root} holds no {REAL[name]}.")
    value = getattr(module, name)
    home = vars(inspect.getmodule(inspect.unwrap(value)))
    (example,) = doctest.DocTestFinder(recurse=False).find(value, name, globs=dict(home))
    assert example.examples, f"{name} has no examples"
    report: list[str] = []
    result = doctest.DocTestRunner().run(example, out=report.append)
    assert not result.failed, "".join(report)
