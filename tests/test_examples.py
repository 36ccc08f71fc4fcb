"""The scripts in examples/ run, and the page of recipes shows them."""

from __future__ import annotations

import re
import runpy
import shutil
import subprocess
import sys
from typing import Any

import pytest
import sklearn.datasets

from tools import home

EXAMPLES = home.ROOT / "examples"
PAGE = (home.ROOT / "book" / "recipes.md").read_text(encoding="utf-8")
SHARED = {"deployment.py"}  # imported by others
NEEDS = {
    "train_lightning.py": ("lightning",),
    "train_accelerate.py": ("accelerate",),
    "train_trainer.py": ("transformers", "accelerate"),
    "save_and_load.py": ("transformers",),
    "deploy_torchvision.py": ("onnx", "onnxscript", "onnxruntime"),
    "deploy_timm.py": ("timm", "onnx", "onnxscript", "onnxruntime"),
}
SCRIPTS = sorted(path.name for path in EXAMPLES.glob("*.py") if path.name not in SHARED)
ROWS = 7  # of a table: four in PyTorch, three in ONNX Runtime


@pytest.mark.parametrize("name", [*SCRIPTS, *SHARED])
def test_a_script_fits_a_page_and_uses_the_library_alone(name: str) -> None:
    text = (EXAMPLES / name).read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 60
    assert not re.search(r"companion|experiments|tests\b", text)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Return a function that runs a script in this process, which has imported torch already."""

    def go(name: str, *arguments: str) -> str:
        for package in NEEDS.get(name, ()):
            pytest.importorskip(package)
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        monkeypatch.syspath_prepend(str(EXAMPLES))
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return go


def check_smaller(printed: str) -> None:
    """Read what the training scripts print: fewer units, equal outputs, and an accuracy that training explains."""
    left = re.search(r"hidden units 256, 64 → (\d+), (\d+)", printed)
    whole = re.search(r"parameters (\d+) → (\d+)", printed)
    assert left or whole, printed
    if left:
        assert int(left[1]) < 200
        assert int(left[2]) < 64
    if whole:
        assert int(whole[2]) < int(whole[1])
    reached = re.search(r"accuracy on the training images ([\d.]+)%, outputs equal to \de-1\d", printed)
    assert reached, printed
    assert float(reached[1]) > 80


TRAINED = ("accelerate", "accumulation", "amp", "lightning", "penalty")


@pytest.mark.parametrize("name", ["prune_trained.py", *(f"train_{place}.py" for place in TRAINED)])
def test_a_training_makes_a_network_smaller(name: str, run: Any) -> None:
    check_smaller(run(name))


def test_the_trainer_makes_a_vit_smaller(run: Any) -> None:
    check_smaller(run("train_trainer.py"))


def test_two_processes_train_one_network() -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, str(EXAMPLES / "train_ddp.py")],
        capture_output=True,
        text=True,
        check=False,
        cwd=home.ROOT,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    check_smaller(done.stdout)


@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="torch.compile needs a C++ compiler")
def test_a_compiled_model_becomes_smaller(run: Any) -> None:
    check_smaller(run("train_compile.py"))


def test_a_file_holds_a_pruned_network_of_transformers(run: Any) -> None:
    printed = run("save_and_load.py")
    assert re.search(r"parameters \d+ → \d+; the outputs are the same: True", printed), printed


@pytest.mark.slow
@pytest.mark.parametrize("name", ["deploy_timm.py", "deploy_torchvision.py"])
def test_a_network_gets_to_onnx_runtime_in_int8(name: str, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    digits = sklearn.datasets.load_digits(return_X_y=True)
    monkeypatch.setattr(sklearn.datasets, "load_digits", lambda **_: tuple(part[:200] for part in digits))
    rows = re.findall(r"^\| ([^|]+) \| ([\d,]+) \| ([\d.]+) \| ([\d.]+)% \|$", run(name, "1"), re.MULTILINE)
    assert len(rows) == ROWS
    size = {name: int(kilobytes.replace(",", "")) for name, kilobytes, _, _ in rows}
    small, dense, int8 = (
        size[f"{name}, ONNX Runtime"] for name in ("pruned, distillation", "dense", "the same in INT8")
    )
    assert int8 < small / 2 < dense / 2
    accuracy = {name: float(percent) for name, _, _, percent in rows}
    # One example in 40 may lie between two classes.
    assert accuracy["pruned, distillation, ONNX Runtime"] == pytest.approx(
        accuracy["pruned, fine-tuned by distillation, PyTorch"], abs=2.6
    )


def test_the_page_shows_every_script_and_links_it() -> None:
    shown = re.findall(r"^```\{literalinclude\} \.\./examples/(\S+)$", PAGE, re.MULTILINE)
    shown = [name for name in shown if name not in SHARED]
    assert sorted(shown) == SCRIPTS
    linked = re.findall(r"^\[`examples/(\S+)`\]\((\S+)\)$", PAGE, re.MULTILINE)
    assert [name for name, _ in linked] == shown
    assert [link for name, link in linked if link != f"{home.FILES}/examples/{name}"] == []
    assert f"{home.FILES}/examples/deployment.py" in PAGE


@pytest.mark.parametrize("name", SCRIPTS)
def test_what_the_page_shows_are_some_ten_lines(name: str) -> None:
    text = (EXAMPLES / name).read_text(encoding="utf-8")
    (recipe,) = re.findall(r"^# Recipe: [^\n]*\n(.*?)^# End of the recipe\.$", text, re.MULTILINE | re.DOTALL)
    assert 6 <= len(recipe.splitlines()) <= 15
