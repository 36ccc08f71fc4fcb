"""The examples in the docstrings of the modules that belong to no room."""

import pytest

from pruning_lib import _measure, units
from tests.doctests import check


@pytest.mark.parametrize("module", [units, _measure], ids=lambda module: module.__name__)
def test_examples_print_what_they_say(module):
    check(module)


@pytest.mark.parametrize("public", [units.Group, units.Member, units.Units, _measure.Measurement, _measure.measure,
                                    _measure.recalibrate], ids=lambda public: public.__name__)  # fmt: skip
def test_every_public_name_has_an_example(public):
    assert ">>>" in public.__doc__
