"""Doing the runs of a suite: each once, each by one process, each resumable."""

from __future__ import annotations

import fcntl
import json
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

from experiments.suites import NotYetError, Suite, execute, source
from pruning_lib.companion.records import CHECKOUT, read_one, write, write_text
from pruning_lib.training import CheckpointError

WORK = Path(__file__).parent / "work"
SOURCES = ("pruning_lib/*.py", "experiments/*.py")  # git's globs cross folders
"""What a number of a record hangs on; changes to it since the commit are marked."""
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
        return [name for name in (self.configs if names is None else names) if not self.path(name).exists()]

    def running(self) -> list[str]:
        """Return the runs that some process is at."""
        return [name for name in self.configs if _held(self.work / f"{name}.lock")]

    def run(self, names: list[str], say: TextIO = sys.stderr) -> list[str]:
        """Do what is left of `names`; return those that failed. Runs that other processes do are waited for."""
        failed: list[str] = []
        waits: dict[str, str] = {}  # why a run cannot begin
        said: list[str] = []
        idle = 0  # looks in vain; one alone may have met another process that only looked, too
        while (todo := [name for name in self.left(names) if name not in failed]) and idle < 2:
            if any(self._try(name, names, failed, waits, say) for name in todo):
                idle = 0
            elif running := self.running():
                if running != said:
                    _tell(say, f"Waiting for another process, which is at {', '.join(running)}.")
                said, idle = running, 0
                time.sleep(WAIT)
            else:
                idle += 1
        for name in (name for name in todo if name in waits):
            _tell(say, f"{waits[name]}; run that first.")
        return failed

    def _try(self, name: str, names: list[str], failed: list[str], waits: dict[str, str], say: TextIO) -> bool:
        """Do one run unless another process has it or its source is not there yet; return whether it was tried."""
        with _lock(self.work / f"{name}.lock") as mine:
            if not mine or self.path(name).exists():
                return False
            try:
                self._do(name, names, say)
            except NotYetError as error:
                waits[name] = str(error)
                return False
            except (ArithmeticError, ValueError) as error:
                _tell(say, f"{name} failed: {error}")
                failed.append(name)
            return True

    def _do(self, name: str, names: list[str], say: TextIO) -> None:
        source(self.configs[name], self.records)  # before anything is said or left behind
        _tell(say, f"{self.progress(names)}  {name} begins")
        start, found = time.perf_counter(), provenance(self.device)
        folder = self._folder(name)
        try:
            record = execute(self.configs[name], folder, self.records, self.device)
        except CheckpointError:  # damaged, or of another release
            shutil.rmtree(folder)
            record = execute(self.configs[name], self._folder(name), self.records, self.device)
        seconds = time.perf_counter() - start
        record["provenance"] = found | {"seconds": round(seconds, 1)}
        write(record, self.records)
        shutil.rmtree(folder)
        _tell(say, f"{self.progress(names)}  {name}: {seconds:.0f} s, {accuracies(record)}")

    def _folder(self, name: str) -> Path:
        """Return the folder of a run's checkpoints, empty if they were made under other settings."""
        folder = self.work / name
        wanted = json.dumps(self.configs[name], sort_keys=True)
        settings = folder / "config.json"
        if folder.exists() and not (settings.exists() and settings.read_text(encoding="utf-8") == wanted):
            shutil.rmtree(folder)
        write_text(settings, wanted)
        return folder

    def progress(self, names: list[str] | None = None) -> str:
        """Return a line on these runs, or on all: done, running, time left."""
        wanted = list(self.configs) if names is None else names
        left = self.left(wanted)
        done = f"{len(wanted) - len(left)}/{len(wanted)} done"
        if not left:
            return done
        minutes = self.seconds_left(left) / 60
        left_over = f"about {minutes:.0f} min left" if math.isfinite(minutes) else "time left not known yet"
        return f"{done}, {len(self.running())} running, {left_over}"

    def seconds_left(self, names: list[str]) -> float:
        """Estimate from the runs that are done how long these take on the processes at work now."""
        spent: dict[tuple[str, str], list[float]] = {}
        for name, config in self.configs.items():
            if self.path(name).exists():
                seconds = read_one(self.path(name))["provenance"]["seconds"]
                spent.setdefault((config["recipe"], config["method"]), []).append(seconds)
        if not spent:
            return float("nan")
        mean = {key: statistics.fmean(values) for key, values in spent.items()}
        usual = statistics.fmean(mean.values())
        wanted = [self.configs[name] for name in names]
        total = sum(mean.get((config["recipe"], config["method"]), usual) for config in wanted)
        return total / max(1, len(self.running()))

    def faults(self) -> list[str]:
        """Return what is wrong with records: damaged, incomplete, of other settings or none; a lossy removal."""
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
            found += [f"{path}: {fault}" for fault in [*_missing(record, self.suite.name), *_changed(record)]]
        return found


def provenance(device: str = "cpu") -> dict[str, Any]:
    """Return what the numbers depend on beside the configuration; a commit with a ``+`` had changes to the code."""
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "commit": _git("rev-parse", "--short", "HEAD") + ("+" if _git("diff", "HEAD", "--", *SOURCES) else ""),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "processor": _processor(device),
        "threads": torch.get_num_threads(),
    }


def _git(*arguments: str) -> str:
    command = subprocess.run(
        ["git", *arguments], cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False
    )
    return command.stdout.strip()


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


def _missing(record: dict[str, Any], suite: str) -> list[str]:
    """Return which parts of a whole record are not there."""
    config = record["config"]
    found = [] if record["suite"] == suite else [f"it says that it is of {record['suite']}."]
    if config["recipe"] not in ("prune", "natural"):
        return found
    criteria, targets = config.get("criteria", ["own"]), config.get("targets", config.get("cuts"))
    asked = [(criterion, target) for criterion in criteria for target in targets]
    there = [(pruning["criterion"], pruning["target"]) for pruning in record["prunings"]]
    if asked != there:
        found.append(f"it should have the prunings {asked}, and has {there}.")
    if len(record["history"]) != config["epochs"]:
        found.append(f"it should have {config['epochs']} epochs of history, and has {len(record['history'])}.")
    stages = {"zeroed", "shrunk"} | ({"dropped"} if config["recipe"] == "prune" else set())
    stages |= {"finetuned"} if config["finetune_epochs"] else set()
    return found + [
        f"{pruning['criterion']} {pruning['target']} lacks {', '.join(lacking)}."
        for pruning in record["prunings"]
        if (lacking := sorted(stages - pruning["stages"].keys()))
    ]


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


def _tell(say: TextIO, text: str) -> None:
    say.write(f"{text}\n")
    say.flush()


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
