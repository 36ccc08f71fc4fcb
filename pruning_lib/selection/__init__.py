"""SELECT: from importances to units, set to zero and held there; explained in the chapter `choosing-what-to-zero`.

Statistics decide here *what* to zero; what may then be removed is logic, and lives in `pruning_lib.channels`. `prune`
alone calls both.
"""

from pruning_lib.selection import importance as importance
from pruning_lib.selection._budgets import cost as cost
from pruning_lib.selection._budgets import expected_cost as expected_cost
from pruning_lib.selection._hold import Hold as Hold
from pruning_lib.selection._hold import hold as hold
from pruning_lib.selection._iterative import iterative as iterative
from pruning_lib.selection._prune import prune as prune
from pruning_lib.selection._select import select as select
from pruning_lib.selection._threshold_weights import threshold_weights as threshold_weights
from pruning_lib.selection._zero import zero as zero
