"""What the rows of a suite say on two questions: is a paper's claim met, and is the method the reason.

`claim_met` compares a small network with dense ones, by the paper's own words; `reason` compares it with controls that
anybody could have had instead, by Welch's tests. `judge` is the older rule, which asks for both at once.
"""

from pruning_lib.companion.records import about, shipped_suites
from pruning_lib.companion.verdicts._claims import (
    MET,
    NOT_MET,
    NOT_TESTED,
    REPORTED,
    SLIGHT,
    SPREADS,
    Answer,
    Runs,
    claim_met,
    dense_errors,
    dense_of,
    runs_of,
)
from pruning_lib.companion.verdicts._judge import (
    FAILS,
    HOLDS,
    IN_PART,
    MOST_WORK,
    SEEDS,
    UNTESTED,
    Verdict,
    above_whole,
    controls,
    judge,
    pick,
    told,
    whole,
)
from pruning_lib.companion.verdicts._reason import (
    BETTER,
    NO_DIFFERENCE,
    UNDECIDED,
    WORSE,
    Control,
    Reason,
    opponents,
    reason,
)
from pruning_lib.companion.verdicts._welch import LEVEL, POWER, Comparison, compare, holm

__all__ = [
    "BETTER",
    "FAILS",
    "HOLDS",
    "IN_PART",
    "LEVEL",
    "MET",
    "MOST_WORK",
    "NOT_MET",
    "NOT_TESTED",
    "NO_DIFFERENCE",
    "POWER",
    "REPORTED",
    "SEEDS",
    "SLIGHT",
    "SPREADS",
    "UNDECIDED",
    "UNTESTED",
    "WORSE",
    "Answer",
    "Comparison",
    "Control",
    "Reason",
    "Runs",
    "Verdict",
    "above_whole",
    "claim_met",
    "compare",
    "controls",
    "dense_errors",
    "dense_of",
    "holm",
    "judge",
    "opponents",
    "pick",
    "reason",
    "runs_of",
    "told",
    "whole",
]


def __getattr__(name: str) -> dict[str, float]:
    """Return `MARGINS`, by suite, for chapters that do not ask `records.about` yet."""
    if name != "MARGINS":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    heads = {suite: about(suite) for suite in shipped_suites()}
    return {suite: head["margin"] for suite, head in heads.items() if head["margin"] is not None}
