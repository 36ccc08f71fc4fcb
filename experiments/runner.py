"""Doing the runs of a suite: each once, each by one process, each resumable."""

from __future__ import annotations

import json
import math
import shutil
import statistics
import sys
import time
from pathlib import Path
from typing import Any, TextIO

from torch import OutOfMemoryError

from experiments._checks import faults
from experiments._files import held, lock, make_folder, move_aside
from experiments._provenance import provenance
from experiments.bench import RestartError
from experiments.recipes import NotYetError, execute, source
from experiments.suites import Suite
from pruning_lib.companion.records import CHECKOUT, Record, read_one, write, write_text

WORK = Path(__file__).parent / "work"
WAIT = 5.0  # seconds between looks at runs that other processes do
FAILURES = (ArithmeticError, ValueError, OSError, MemoryError, OutOfMemoryError)
"""What may go wrong with one run without a fault in the code: the others go on, and nothing is deleted."""


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
        return [name for name in self.configs if held(self.work / f"{name}.lock")]

    def run(self, names: list[str], say: TextIO = sys.stderr) -> list[str]:
        """Do what is left of `names`; return those that failed. Runs that other processes do are waited for."""
        failed: list[str] = []
        waits: dict[str, str] = {}  # why a run cannot begin
        reported: list[str] = []
        idle = 0  # consecutive idle polls; after a single one another process may just have been polling, too
        while (todo := [name for name in self.left(names) if name not in failed]) and idle < 2:
            if any(self._try(name, names, failed, waits, say) for name in todo):
                idle = 0
            elif running := self.running():
                if running != reported:
                    _tell(say, f"Waiting for another process, which is at {', '.join(running)}.")
                reported, idle = running, 0
                time.sleep(WAIT)
            else:
                idle += 1
        for name in (name for name in todo if name in waits):
            _tell(say, f"{waits[name]}; run that first.")
        return failed

    def _try(self, name: str, names: list[str], failed: list[str], waits: dict[str, str], say: TextIO) -> bool:
        """Do one run unless another process has it or its source is not there yet; return whether it was tried."""
        with lock(self.work / f"{name}.lock") as mine:
            if not mine or self.path(name).exists():
                return False
            try:
                self._do(name, names, say)
            except NotYetError as error:
                waits[name] = str(error)
                return False
            except FAILURES as error:
                _tell(say, f"{name} failed: {error or type(error).__name__}")
                failed.append(name)
            return True

    def _do(self, name: str, names: list[str], say: TextIO) -> None:
        source(self.configs[name], self.records)  # before anything is said or left behind
        _tell(say, f"{self.progress(names)}  {name} begins")
        start, made = time.perf_counter(), provenance(self.device)
        folder = self._folder(name, say)
        record = self._execute(name, folder, say)
        seconds = time.perf_counter() - start
        record["provenance"] = made | {"seconds": round(seconds, 1)}
        write(record, self.records)
        shutil.rmtree(folder)
        _tell(say, f"{self.progress(names)}  {name}: {seconds:.0f} s, {accuracies(record)}")

    def _execute(self, name: str, folder: Path, say: TextIO) -> Record:
        while True:  # each time around one checkpoint less is left to stumble over
            try:
                return execute(self.configs[name], folder, self.records, self.device)
            except RestartError as error:
                _tell(say, f"{error} The run begins again where the other checkpoints allow.")

    def _folder(self, name: str, say: TextIO = sys.stderr) -> Path:
        """Return the folder of a run's checkpoints; what was made under other settings is moved aside first."""
        folder = self.work / name
        wanted = json.dumps(self.configs[name], sort_keys=True)
        settings = folder / "config.json"
        if folder.exists() and not (settings.exists() and settings.read_text(encoding="utf-8") == wanted):
            aside = move_aside(folder)
            _tell(say, f"{folder} holds checkpoints of other settings, or of none; it is now {aside}.")
        make_folder(folder)
        write_text(settings, wanted)
        return folder

    def progress(self, names: list[str] | None = None) -> str:
        """Return a line on these runs, or on all: done, running, time left."""
        wanted = list(self.configs) if names is None else names
        left = self.left(wanted)
        done = f"{len(wanted) - len(left)}/{len(wanted)} done"
        if not left:
            return done
        minutes = self.seconds(left) / 60 / max(1, len(self.running()))
        left_over = f"about {minutes:.0f} min left" if math.isfinite(minutes) else "time left not known yet"
        return f"{done}, {len(self.running())} running, {left_over}"

    def seconds(self, names: list[str]) -> float:
        """Estimate from the runs that are done how long these take one after another; NaN if none is."""
        spent: dict[str, list[float]] = {}
        for name, config in self.configs.items():
            if self.path(name).exists():
                seconds = read_one(self.path(name))["provenance"]["seconds"]
                spent.setdefault(config["recipe"], []).append(seconds / config["epochs"])
        if not spent:
            return float("nan")
        # Some runs were suspended for hours.
        usual = {recipe: statistics.median(values) for recipe, values in spent.items()}
        most = max(usual.values())
        wanted = [self.configs[name] for name in names]
        return float(sum(config["epochs"] * usual.get(config["recipe"], most) for config in wanted))

    def faults(self) -> list[str]:
        """Return what is wrong with the suite's records, a sentence each."""
        return faults(self.suite, self.records)


def accuracies(record: dict[str, Any]) -> str:
    """Return the validation accuracies of a run in a few words."""
    parts = [f"val {100 * record['stages']['trained']['val_accuracy']:.2f}"]
    for pruning in record["prunings"]:
        stages = pruning["stages"]
        values = " > ".join(f"{100 * stages[s]['val_accuracy']:.2f}" for s in ("zeroed", "finetuned") if s in stages)
        parts.append(f"{pruning['criterion']} {pruning['target']} {values}")
    return ", ".join(parts)


def _tell(say: TextIO, text: str) -> None:
    say.write(f"{text}\n")
    say.flush()
