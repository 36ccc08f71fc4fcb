"""Every public name of the room has examples, and their outputs are exact."""

from __future__ import annotations

import doctest
import inspect

import pytest

from pruning_lib import training

# Plain data and type aliases, which the functions' examples use.
WITHOUT = {"Augment", "CheckpointError", "Epoch", "LossFn", "Run", "Schedule"}
PUBLIC = {name: getattr(training, name) for name in training.__all__ if name not in WITHOUT}


@pytest.mark.parametrize("name", PUBLIC)
def test_examples(name: str) -> None:
    home = vars(inspect.getmodule(inspect.unwrap(PUBLIC[name])))
    (example,) = doctest.DocTestFinder(recurse=False).find(PUBLIC[name], name, globs=dict(home))
    assert example.examples, f"{name} has no examples"
    report: list[str] = []
    result = doctest.DocTestRunner().run(example, out=report.append)
    assert not result.failed, "".join(report)
