"""What an import brings along: no plots, no data sets, and of the rooms only those below."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = ("IPython", "PIL", "matplotlib", "scipy", "seaborn", "sklearn", "torchvision")
FLOOR = {"_arguments", "_inputs", "_model", "_products", "_types", "units"}
BELOW = {
    "units": set(),
    "_types": set(),
    "_products": set(),
    "_arguments": {"units"},
    "_inputs": {"units"},
    "_model": {"_arguments", "_inputs", "units"},
    "_measure": FLOOR | {"channels"},
    "channels": FLOOR | {"_measure"},
    "regularizers": FLOOR | {"_measure", "channels"},
    "selection": FLOOR | {"_measure", "channels", "regularizers"},
    "training": FLOOR | {"_measure", "channels", "regularizers", "selection"},
    "diagnostics": FLOOR | {"_measure", "channels", "regularizers", "selection", "training"},
    "integrations": set(),  # each bridge by its own name
    "integrations.accelerate": FLOOR
    | {"_measure", "channels", "regularizers", "selection", "training", "integrations"},
}
# A room is imported beneath an empty `pruning_lib`, whose own file would import all of them.
SCRIPT = """
import json, sys, types
from importlib import import_module
from importlib.util import find_spec

folders = find_spec("pruning_lib").submodule_search_locations
loaded = {}
for room in sys.argv[1:]:
    for name in [name for name in sys.modules if name.split(".")[0] == "pruning_lib"]:
        del sys.modules[name]
    package = sys.modules["pruning_lib"] = types.ModuleType("pruning_lib")
    package.__path__ = list(folders)
    import_module(f"pruning_lib.{room}")
    loaded[room] = sorted({name.split(".")[1] for name in sys.modules if name.startswith("pruning_lib.")} - {room})
json.dump(loaded, sys.stdout)
"""


def run(code: str, *arguments: str) -> str:
    return subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("module", ["pruning_lib", "pruning_lib.companion.data, pruning_lib.companion.models"])
def test_what_the_companion_needs_is_imported_where_it_is_used(module: str) -> None:
    code = f"import json, sys, {module}; json.dump([name for name in {HEAVY} if name in sys.modules], sys.stdout)"
    assert json.loads(run(code)) == []


def test_the_library_does_not_import_the_companion() -> None:
    code = "import sys, pruning_lib; print([name for name in sys.modules if name.startswith('pruning_lib.companion')])"
    assert run(code).strip() == "[]"


def test_a_room_imports_those_below_alone() -> None:
    loaded = {room: set(names) for room, names in json.loads(run(SCRIPT, *BELOW)).items()}
    too_high = {room: names - BELOW[room] for room, names in loaded.items() if names - BELOW[room]}
    assert not too_high
