"""Doing the runs of a suite: each once, each by one process, each resumable."""

from __future__ import annotations

import fcntl
import math
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

import torch

from experiments.suites import NotYetError, Suite, execute
from pruning_lib.records import CHECKOUT, read_one, write
from pruning_lib.train import CheckpointError

WORK = Path(__file__).parent / "work"
WAIT = 5.0  # seconds between looks at runs that other processes do


class Runner:
    """What is done and what is left of a suite.

    Parameters
    ----------
    suite : Suite
        What to run.
    records, work : Path
        Where records go, and where locks and checkpoints lie meanwhile.
    device : str
        Where networks and data lie.
    """

    def __init__(self, suite: Suite, records: Path = CHECKOUT, work: Path = WORK, device: str = "cpu") -> None:
        self.suite, self.records, self.device = suite, records, device
        self.work = work / suite.name
        self.configs = suite.by_name()

    def path(self, name: str) -> Path:
        """Return where a run's record lies or will lie."""
        return self.records / self.suite.name / f"{name}.json"

    def left(self, names: list[str] | None = None) -> list[str]:
        """Return the runs without a record, in running order."""
        return [name for name in names or self.configs if not self.path(name).exists()]

    def running(self) -> list[str]:
        """Return the runs that some process is at."""
        return [name for name in self.configs if _held(self.work / f"{name}.lock")]

    def run(self, names: list[str], say: TextIO = sys.stderr) -> list[str]:
        """Do what is left of `names`; return those that failed. Runs that other processes do are waited for."""
        failed: list[str] = []
        while todo := [name for name in self.left(names) if name not in failed]:
            if any(self._try(name, failed, say) for name in todo):
                continue
            if not self.running():
                break
            time.sleep(WAIT)
        return failed

    def _try(self, name: str, failed: list[str], say: TextIO) -> bool:
        """Do one run unless another process has it or its source is not there yet; return whether it was tried."""
        with _lock(self.work / f"{name}.lock") as mine:
            if not mine or self.path(name).exists():
                return False
            try:
                self._do(name, say)
            except NotYetError:
                return False
            except (ArithmeticError, ValueError) as error:
                say.write(f"{name} failed: {error}\n")
                failed.append(name)
            return True

    def _do(self, name: str, say: TextIO) -> None:
        start, when = time.perf_counter(), datetime.now(UTC)
        folder = self.work / name
        folder.mkdir(parents=True, exist_ok=True)
        try:
            record = execute(self.configs[name], folder, self.records, self.device)
        except CheckpointError:  # what an interrupted run left before its settings changed
            shutil.rmtree(folder)
            folder.mkdir()
            record = execute(self.configs[name], folder, self.records, self.device)
        seconds = time.perf_counter() - start
        record["provenance"] = provenance(self.device) | {"seconds": round(seconds, 1), "date": f"{when:%Y-%m-%d}"}
        write(record, self.records)
        shutil.rmtree(folder)
        say.write(f"{self.progress()}  {name}: {seconds:.0f} s, {accuracies(record)}\n")
        say.flush()

    def progress(self) -> str:
        """Return a line: done, running, time left."""
        left = self.left()
        done = f"{len(self.configs) - len(left)}/{len(self.configs)} done"
        if not left:
            return done
        minutes = self.seconds_left() / 60
        left_over = f"about {minutes:.0f} min left" if math.isfinite(minutes) else "time left not known yet"
        return f"{done}, {len(self.running())} running, {left_over}"

    def seconds_left(self) -> float:
        """Estimate from the runs that are done how long the others take on the processes at work now."""
        spent: dict[tuple[str, str], list[float]] = {}
        for name, config in self.configs.items():
            if self.path(name).exists():
                seconds = read_one(self.path(name))["provenance"]["seconds"]
                spent.setdefault((config["recipe"], config["method"]), []).append(seconds)
        if not spent:
            return float("nan")
        mean = {key: statistics.fmean(values) for key, values in spent.items()}
        usual = statistics.fmean(mean.values())
        wanted = [self.configs[name] for name in self.left()]
        total = sum(mean.get((config["recipe"], config["method"]), usual) for config in wanted)
        return total / max(1, len(self.running()))

    def faults(self) -> list[str]:
        """Return what is wrong with the records: damage, another configuration, no such run, removal that changed."""
        found = []
        for path in sorted((self.records / self.suite.name).glob("*.json")):
            try:
                record = read_one(path)
            except ValueError as error:
                found.append(str(error))
                continue
            if path.stem not in self.configs:
                found.append(f"{path} belongs to no run of {self.suite.name}; delete it.")
                continue
            ours, theirs = self.configs[path.stem], record["config"]
            if differs := sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)):
                found.append(f"{path} was made with another {', '.join(differs)}; delete it and run the suite again.")
            found += [f"{path}: {fault}" for fault in _changed(record)]
        return found


def provenance(device: str = "cpu") -> dict[str, Any]:
    """Return what the numbers depend on beside the configuration."""
    git = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return {
        "commit": git.stdout.strip(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "processor": _processor(device),
        "threads": torch.get_num_threads(),
    }


def _processor(device: str) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}" if device == "cpu" else device


def accuracies(record: dict[str, Any]) -> str:
    """Return the validation accuracies of a run in a few words."""
    parts = [f"val {100 * record['stages']['trained']['val_accuracy']:.2f}"]
    for pruning in record["prunings"]:
        stages = pruning["stages"]
        values = " > ".join(f"{100 * stages[s]['val_accuracy']:.2f}" for s in ("zeroed", "finetuned") if s in stages)
        parts.append(f"{pruning['criterion']} {pruning['target']} {values}")
    return ", ".join(parts)


def _changed(record: dict[str, Any]) -> list[str]:
    """Return where removing units changed an accuracy: it must not, but for an answer that was a tie in float32.

    Outputs are compared in float64 when units are removed. Evaluations are in float32, where one answer in thousands
    may hang on the last bit of two equal logits; the loss tells that from a change.
    """
    pairs = [("trained", record["stages"].get("trained"), record["stages"].get("shrunk"))]
    whole = "dropped" if record["config"].get("shifts") == "drop" else "zeroed"
    pairs += [(p["target"], p["stages"].get(whole), p["stages"].get("shrunk")) for p in record["prunings"]]
    return [
        f"removal changed the {key} ({where}) from {before[key]} to {after[key]}."
        for where, before, after in pairs
        if before and after
        for part in ("val", "test")
        if before[key := f"{part}_accuracy"] != after[key] and not _tie(before, after, part)
    ]


def _tie(before: dict[str, Any], after: dict[str, Any], part: str) -> bool:
    """Whether the difference is one answer of thousands at the same loss."""
    one = abs(before[f"{part}_accuracy"] - after[f"{part}_accuracy"]) < 2.5e-4
    return one and math.isclose(before[f"{part}_loss"], after[f"{part}_loss"], rel_tol=5e-6)


@contextmanager
def _lock(path: Path) -> Iterator[bool]:
    """Hold a file's lock, or give False where another process holds it. The kernel frees the locks of the dead."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Nothing below the work folder is worth a commit.
    (path.parent.parent / ".gitignore").write_text("*\n")
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def _held(path: Path) -> bool:
    if not path.exists():
        return False
    with path.open("r") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
