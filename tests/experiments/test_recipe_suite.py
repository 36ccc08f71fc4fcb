"""The recipe "a new suite is one file", walked: a file in the package, and every command knows what it says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pruning_lib.companion.records import about, load

ROOT = Path(__file__).parents[2]
TOY = '''
"""A toy."""

from experiments.suites import Claim, Protocol, Suite

SUITES = (
    Suite(
        protocol=Protocol(
            suite="toy",
            data="digits",
            network={"model": "lenet300", "widths": [16, 8]},
            strengths={"dense": (0.0,), "group-lasso": (1e-2,)},
            sources={},
            criteria={"dense": ("random",)},
            seeds=(0, 1, 2),
            targets=("fraction-0.5",),
            epochs=1,
            finetune_epochs=1,
            batch_size=64,
        ),
        title="A toy on digits",
        question="Is one file enough?",
        margin=1.5,
        labels={"group-lasso": "our lasso"},
        claims=(
            Claim(
                paper="0000.00000",
                says="half of the units go",
                method="group-lasso",
                target="fraction-0.5",
                stage="finetuned",
                removed=0.5,
                loss=None,
                slight=1.0,
                departs="It is a toy.",
            ),
        ),
    ),
)
'''


@pytest.mark.slow
def test_one_file_makes_a_suite(tmp_path: Path) -> None:
    house = tmp_path / "house"
    shutil.copytree(ROOT / "experiments", house / "experiments", ignore=shutil.ignore_patterns("records", "work"))
    shutil.copytree(ROOT / "benchmarks", house / "benchmarks")
    (house / "experiments" / "suites" / "toy.py").write_text(TOY)

    def command(*arguments: str) -> str:
        places = ["--records", str(tmp_path / "records"), "--work", str(tmp_path / "work")]
        done = subprocess.run(
            [sys.executable, "-m", "experiments", *places, *arguments],
            cwd=house,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(house), str(ROOT)])},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "toy: A toy on digits. Is one file enough?" in command("run", "--help")
    command("run", "toy")
    assert command("check", "toy") == "9 records agree with their suites.\n"
    assert "| pruned | our lasso | its own importance |" in command("table", "toy")
    line = next(text for text in command("verdicts", "toy").splitlines() if text.startswith("| our lasso |"))
    assert any(word in line for word in ("| met |", "| met at a slight loss |", "| not met |"))
    ledger = command("ledger")
    assert re.search(
        r"\| 0000.00000 \| half of the units go \| A toy on digits \| [^|]+ \| [^|]+ \| 3 \| 50 % \|", ledger
    )
    command("summary", "toy", "--out", str(tmp_path / "shipped"))
    head = about("toy", folder=tmp_path / "none", shipped=tmp_path / "shipped")
    assert (head["title"], head["margin"], head["judged_by"]) == ("A toy on digits", 1.5, "accuracy")
    assert head["claims"][0]["says"] == "half of the units go"
    rows = load("toy", folder=tmp_path / "none", shipped=tmp_path / "shipped")
    assert rows == load("toy", folder=tmp_path / "records")
    assert {head["labels"][row["method"]] for row in rows} == {"no penalty", "our lasso", "uniform width"}
