"""SHRINK: find the units of a network, and remove exactly what is provably dead.

How a network walks through this room, one module a step:

    _trace        the forward becomes a static `Graph` of ATen operators
    rules/        what each family of operators does to channels; `_state` holds what they say
    _solve        from that: which channels are the same, which are constant, which are read, and so what stays
<<<<<<< HEAD
    _find         for `find_units`: the classes of channels as groups of units, those that are bound (`_binding`) as one
                  choice, with what they cost (`_costs`); `_listing` tries a cut, since forward may count channels
=======
    _find         for `find_units`: the classes of channels as groups of units
    _heads        modules that count their heads in attributes, which follow
>>>>>>> refs/heads/heads
    _planning     for `shrink`: what stays of every tensor, as a `Plan`, which `_plan` carries out
    _compensate   where removed constants go
    _verify       are the outputs equal? if not, `_suspects` names the literal sizes that may be to blame
    _optimizer    the optimizer's state is cut like its weights
    _files        save and load
"""

from pruning_lib.channels._constants import Constant
from pruning_lib.channels._files import load, save
from pruning_lib.channels._listing import find_units
from pruning_lib.channels._plan import Plan, Shrunk
from pruning_lib.channels._shrink import shrink

__all__ = ["Constant", "Plan", "Shrunk", "find_units", "load", "save", "shrink"]
