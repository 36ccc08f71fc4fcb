from __future__ import annotations

import os
import stat
import subprocess
import sys

import pytest
import torch
from torch import nn

from pruning_lib._model import atomic_draft, eval_mode


def test_eval_mode_gives_every_module_its_own_mode_back():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Sequential(nn.Dropout(), nn.ReLU()))
    model[1].eval()
    before = [module.training for module in model.modules()]
    with eval_mode(model):
        assert not any(module.training for module in model.modules())
        torch.testing.assert_close(model(torch.ones(1, 2)), model(torch.ones(1, 2)))
    assert [module.training for module in model.modules()] == before


def test_eval_mode_restores_after_an_exception():
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    with pytest.raises(KeyError), eval_mode(model):
        raise KeyError
    assert all(module.training for module in model.modules())


def test_a_draft_replaces_the_file_whole(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with atomic_draft(path) as draft:
        assert draft.parent == tmp_path
        draft.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_draft_vanishes_on_an_error(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail():
        with atomic_draft(path) as draft:
            draft.write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_two_drafts_of_one_file_do_not_meet(tmp_path):
    path = tmp_path / "a.txt"
    with atomic_draft(path) as first, atomic_draft(path) as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"  # it ended last
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
def test_a_draft_obeys_the_umask_without_touching_it(tmp_path):
    code = (
        "import os; from pathlib import Path; from pruning_lib._model import atomic_draft\n"
        "ask = os.umask\n"
        "def refuse(mask): raise AssertionError('the umask was touched')\n"
        "for mask in (0o022, 0o077, 0o002):\n"
        "    os.umask = ask; os.umask(mask); os.umask = refuse\n"
        f"    with atomic_draft(Path({str(tmp_path)!r}, oct(mask))) as draft: draft.write_text('x')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {"0o22": 0o644, "0o77": 0o600, "0o2": 0o664}
