"""The examples in the docstrings of `pruning_lib.diagnostics`."""

import pytest

from pruning_lib import diagnostics
from tests.doctests import check, modules_of, without_example


@pytest.mark.parametrize("module", modules_of(diagnostics), ids=lambda module: module.__name__)
def test_examples_print_what_they_say(module):
    check(module)


def test_every_public_name_has_an_example():
    assert without_example(diagnostics) == []
