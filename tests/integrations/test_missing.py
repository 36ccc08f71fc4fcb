"""A bridge whose package is missing says so in a sentence; `import pruning_lib` imports none of them."""

from __future__ import annotations

import subprocess
import sys

import pytest

HIDE = """
import importlib.util as util, sys
found = util.find_spec
util.find_spec = lambda name, *rest: None if name.split(".")[0] in {hidden} else found(name, *rest)
"""


@pytest.mark.parametrize(
    ("module", "hidden", "advice"),
    [
        ("lightning", {"lightning", "pytorch_lightning"}, "pip install lightning"),
        ("transformers", {"transformers"}, "pip install transformers accelerate"),
    ],
)
def test_a_missing_package_is_named_in_a_sentence(module: str, hidden: set[str], advice: str) -> None:
    code = HIDE.format(hidden=hidden) + f"import pruning_lib.integrations.{module}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"ModuleNotFoundError: pruning_lib.integrations.{module} needs ")
    assert advice in last


def test_the_library_imports_no_bridge_and_accelerate_not_even_by_its_own() -> None:
    code = (
        "import sys, pruning_lib, pruning_lib.integrations.accelerate;"
        "print([name for name in ('lightning', 'pytorch_lightning', 'accelerate', 'transformers', 'timm')"
        " if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
