"""The command lines, with damaged records and with words they do not know: an exit status, and no traceback."""

from __future__ import annotations

import contextlib
import io
import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

from experiments.__main__ import main
from pruning_lib.companion.data.__main__ import main as data_main
from pruning_lib.companion.records import CHECKOUT
from tests.fuzz.verdict import Try, tried
from tests.mutations import spoil, spoil_bytes

SUITE = "marks-lenet300"
COMMANDS = ("check", "status", "table", "verdicts", "summary", "figure", "ledger")
WORDS = [
    *("run", "status", "check", "table", "verdicts", "figure", "summary", "latency", "ledger", SUITE, "no-suite", ""),
    *("--seeds", "--method", "--recipe", "--device", "--out", "--against", "--rounds", "--records", "--work", "--help"),
    *(
        "0-300000000",
        "5-1",
        "-1",
        "a,b",
        "1e9",
        "0",
        "cuda:77",
        "abacus",
        "nowhere",
        "/proc/none",
        "a\0b",
        "é",
        "x" * 5000,
    ),
]
DATA_WORDS = [  # none of them is a set that can be fetched
    *("fetch", "build", "nuclei", "chest-xrays", "digits", "--from", "--root", "nowhere", "", "/proc/none"),
    *("a\0b", "é", "--help", "x" * 5000, "-1"),
]


def folder_of(folder: Path, count: int = 6) -> Path:
    """Return a folder with a few records of a suite."""
    records = folder / "records"
    shutil.rmtree(records, ignore_errors=True)
    (records / SUITE).mkdir(parents=True)
    for path in sorted((CHECKOUT / SUITE).glob("*.json"))[:count]:
        shutil.copy(path, records / SUITE)
    return records


def damaged(rng: random.Random, records: Path) -> None:
    """Damage one of the records."""
    path = rng.choice(sorted((records / SUITE).glob("*.json")))
    if rng.random() < 0.4:
        path.write_bytes(spoil_bytes(rng, path.read_bytes()))
    else:
        path.write_text(json.dumps(spoil(rng, json.loads(path.read_text(encoding="utf-8")))), encoding="utf-8")


def run(command: list[str], what: str) -> Try:
    """Run a command line; leaving with a status is right, whatever it says."""
    said = io.StringIO()

    def call() -> None:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), contextlib.suppress(SystemExit):
            (data_main if what == "data" else main)(command)

    result = tried(what, " ".join(word[:40] for word in command), call, {}, most=200)
    if result.outcome == "accepted" and "Traceback" in said.getvalue():
        return Try(what, "faulty", f"{result.text}: {said.getvalue()}")
    return result


def fuzz(number: int, seed: int, folder: Path, only: str = "") -> Iterator[Try]:
    """Try `number` command lines."""
    rng = random.Random(seed)
    records = folder_of(folder)
    for command in COMMANDS:  # whatever is slow once is slow here
        run(_on(command, records, folder), "warm")
    for i in range(number):
        if i % 3 == 0:
            records = folder_of(folder)
            damaged(rng, records)
            yield run(_on(rng.choice(COMMANDS[:5]), records, folder), "records")
        elif i % 3 == 1:
            yield run(["--records", str(records), *_harmless(rng)], "words")
        else:
            yield run(rng.choices(DATA_WORDS, k=rng.randrange(6)), "data")


def _on(command: str, records: Path, folder: Path) -> list[str]:
    more = {"summary": ["--out", str(folder)], "figure": ["--out", str(folder / "f.png")]}.get(command, [])
    return ["--records", str(records), command, *([] if command == "ledger" else [SUITE]), *more]


def _harmless(rng: random.Random) -> list[str]:
    """Return words of which none would train or time a network, or write into the package."""
    words = rng.choices(WORDS, k=rng.randrange(1, 6))
    return ["check" if word in ("run", "latency", "summary") and SUITE in words else word for word in words]
