"""Records of experiments: one JSON file a training run, checked when written and when read.

A record holds what was asked for, what came of it at each stage, and where it ran:

    {"suite", "config": {"recipe", "method", "strength", "seed", …}, "stages": {"trained": {…}, …},
     "prunings": [{"criterion", "target", "stages": {"zeroed": {…}, "shrunk": {…}, …}}],
     "history": [[training loss, validation loss, validation accuracy, lr], …], "provenance": {…}}

`load` gives rows, one for each pruning of each run, from the checkout's records or else from the summary that ships
with the package, with the same result; `about` says what a suite asks and what people call its methods.
"""

from pruning_lib.companion.records._files import (
    CHECKOUT,
    MEASURED,
    SHIPPED,
    about,
    load,
    measured,
    read,
    read_one,
    shipped_suites,
    summary_text,
    write,
    write_text,
)
from pruning_lib.companion.records._rows import Row, architecture, choose, judged_by, summarize
from pruning_lib.companion.records._schema import STAGES, Record, identifier, validate
from pruning_lib.companion.records._statistics import interval, paired

__all__ = [
    "CHECKOUT",
    "MEASURED",
    "SHIPPED",
    "STAGES",
    "Record",
    "Row",
    "about",
    "architecture",
    "choose",
    "identifier",
    "interval",
    "judged_by",
    "load",
    "measured",
    "paired",
    "read",
    "read_one",
    "shipped_suites",
    "summarize",
    "summary_text",
    "validate",
    "write",
    "write_text",
]
