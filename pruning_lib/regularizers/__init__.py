"""PENALIZE: every method behind one protocol, one file a method.

To add one: its file, one line here (which makes it a name of `pruning_lib`, too), and its test.
"""

from pruning_lib.regularizers._base import Regularizer as Regularizer
from pruning_lib.regularizers._bound_batchnorm import bound_batchnorm as bound_batchnorm
from pruning_lib.regularizers._bound_batchnorm import unbind_batchnorm as unbind_batchnorm
from pruning_lib.regularizers._group_hoyer import GroupHoyer as GroupHoyer
from pruning_lib.regularizers._group_lasso import GroupLasso as GroupLasso
from pruning_lib.regularizers._group_sl import GroupSL as GroupSL
from pruning_lib.regularizers._guided import Guided as Guided
from pruning_lib.regularizers._l1 import L1 as L1
from pruning_lib.regularizers._l2 import L2 as L2
from pruning_lib.regularizers._network_slimming import NetworkSlimming as NetworkSlimming
from pruning_lib.regularizers._polarization import Polarization as Polarization
from pruning_lib.regularizers._receding_neurons import RecedingNeurons as RecedingNeurons
from pruning_lib.regularizers._receding_neurons import receding_parameters as receding_parameters
from pruning_lib.regularizers._serene import SeReNe as SeReNe
from pruning_lib.regularizers._stochastic_pruning import StochasticPruning as StochasticPruning
