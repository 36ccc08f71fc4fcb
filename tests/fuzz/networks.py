"""Random networks with random units at zero: the small network's outputs are those of the large one, for every seed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tests.channels.test_networks import failures
from tests.fuzz.verdict import Try


def fuzz(tries: int, seed: int, folder: Path, only: str = "") -> Iterator[Try]:
    """Try the networks of `tries` seeds, from `seed` on; nothing is written into the folder."""
    for number in range(seed, seed + tries):
        wrong = failures(range(number, number + 1))
        yield Try("random network", "faulty" if wrong else "fine", "; ".join(wrong))
