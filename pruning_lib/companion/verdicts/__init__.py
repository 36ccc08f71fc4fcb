"""What the rows of a suite say on two questions: is a paper's claim met, and is the method the reason.

`claim_met` compares a small network with dense ones, by the paper's own words; `reason` compares it with controls that
anybody could have had instead, by Welch's tests.
"""

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
    is_budget,
    runs_of,
)
from pruning_lib.companion.verdicts._pick import MOST_WORK, SEEDS, pick
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
    "WORSE",
    "Answer",
    "Comparison",
    "Control",
    "Reason",
    "Runs",
    "claim_met",
    "compare",
    "dense_errors",
    "dense_of",
    "holm",
    "is_budget",
    "opponents",
    "pick",
    "reason",
    "runs_of",
]
