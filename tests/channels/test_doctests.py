"""The examples in docstrings: every public name has one, and each gives what it says."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

from pruning_lib import channels

MODULES = [channels.__name__, *(m.name for m in pkgutil.walk_packages(channels.__path__, f"{channels.__name__}."))]


@pytest.mark.parametrize("name", MODULES)
def test_examples_give_what_they_say(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


@pytest.mark.parametrize("name", channels.__all__)
def test_every_public_name_has_an_example(name):
    assert any(test.examples for test in doctest.DocTestFinder(recurse=False).find(getattr(channels, name), name))
