"""The time of a forward pass through the networks of a suite, in a pass of its own, the machine else idle.

Every architecture that the suite's tables end in is built again, with fresh weights, and all of them are timed in turn,
in PyTorch or in ONNX Runtime. What counts is the time of each over that of the whole network in the same turn.
"""

from __future__ import annotations

import json
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.exported import session
from benchmarks.timing import Step, interleaved, ratios
from experiments._provenance import provenance
from experiments.bench import Bench
from experiments.tables import ENGINES
from pruning_lib.companion.records import MEASURED, Record, Row, architecture, choose, summarize, write_text

BATCH, THREADS = 32, 1
WHOLE = "whole"


def networks(records: list[Record]) -> dict[str, nn.Module]:
    """Return the networks that the chosen rows of a suite end in, by the name of their architecture, and the whole one.

    Raises
    ------
    ValueError
        If there are no records.
    """
    if not records:
        raise ValueError("There are no records to time the networks of; run the suite first.")
    bench = Bench(records[0]["config"], Path())
    layers = list(records[0]["stages"]["trained"]["units"])
    chosen: list[Row] = choose(summarize(records))
    shapes = {architecture(row): dict(zip(layers, row["units"], strict=True)) for row in chosen}
    return {WHOLE: bench.dense()} | {name: bench.narrow(widths) for name, widths in shapes.items()}


def measured(records: list[Record], rounds: int, engine: str = "torch") -> dict[str, Any]:
    """Time the networks of a suite; see `records.measured` for where the result is found."""
    models = networks(records)
    batch = Bench(records[0]["config"], Path()).split.train.inputs[:BATCH]
    torch.set_num_threads(THREADS)
    steps: dict[str, Step]
    if engine == "torch":
        steps = {name: partial(model.eval(), batch) for name, model in models.items()}
    else:
        steps = {name: session(model.eval(), batch, THREADS) for name, model in models.items()}
    with torch.inference_mode():
        seconds = interleaved(steps, rounds)
    found = ratios(seconds, WHOLE)
    del found[WHOLE]
    return {
        "whole_ms": round(1000 * sorted(seconds[WHOLE])[rounds // 2], 4),
        # Median and quartiles of the time left.
        "time_left": {name: [round(value, 4) for value in values] for name, values in found.items()},
        "provenance": provenance() | {"engine": f"{engine} {version(engine)}", "batch": BATCH, "rounds": rounds},
    }


def write(suite: str, record: dict[str, Any], folder: Path, engine: str = "torch") -> None:
    """Write what was measured, a line an architecture."""
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in record["time_left"].items())
    head = {key: value for key, value in record.items() if key != "time_left"}
    text = f'{json.dumps(head)[:-1]},\n"time_left": {{\n{lines}\n}}}}\n'
    write_text(folder / f"{MEASURED}latency-{ENGINES[engine]}{suite}.json", text)
