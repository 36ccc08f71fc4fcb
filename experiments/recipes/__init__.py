"""What a run does, a file a recipe: prune by a ranking, units that die by themselves, SeReNe's loop, controls."""

from __future__ import annotations

from pathlib import Path

from experiments.bench import Bench
from experiments.methods import Config
from experiments.recipes._loop import run_loop
from experiments.recipes._natural import run_natural
from experiments.recipes._prune import run_prune
from experiments.recipes._scratch import run_scratch
from pruning_lib.companion.records import Record, identifier, read_one
from pruning_lib.training import flushed

RECIPES = {"prune": run_prune, "natural": run_natural, "loop": run_loop}
"""By the names that configurations give them; and ``"control"``, which may need the record of another run."""


class NotYetError(Exception):
    """A run has to wait for the record of another."""


def execute(config: Config, work: Path, records: Path, device: str = "cpu") -> Record:
    """Do one run and return its record without provenance."""
    bench = Bench(config, work, device=device)
    with flushed():  # evaluations meet the denormals that penalties make
        if config["recipe"] == "control":
            return run_scratch(bench, source(config, records))
        return RECIPES[config["recipe"]](bench)


def source(config: Config, records: Path) -> Record | None:
    """Return the record whose architecture a control takes, if it takes one; NotYetError if that is not there."""
    if "source" not in config:
        return None
    path = records / str(config["suite"]) / f"{config['source']}.json"
    if not path.exists():
        raise NotYetError(f"{identifier(config)} waits for {config['source']}")
    return read_one(path)
