"""Make networks smaller while they train: penalize, select, shrink, measure.

The library of *Pruning by Regularization*; every public name is derived in one of its chapters.
"""

from pruning_lib import importance, metrics
from pruning_lib.channels import Plan, Shrunk, load, save, shrink, units
from pruning_lib.dynamics import Dynamics
from pruning_lib.field import shrinkage_field
from pruning_lib.measure import Measurement, measure, recalibrate
from pruning_lib.models import VGG16, ConvNet, LeNet5, LeNet300, ResNet, UNet
from pruning_lib.regularizers import (
    L1,
    L2,
    GroupHoyer,
    GroupLasso,
    Guided,
    NetworkSlimming,
    Polarization,
    RecedingNeurons,
    Regularizer,
    SeReNe,
    StochasticPruning,
    bound_batchnorm,
    receding_parameters,
    unbind_batchnorm,
)
from pruning_lib.select import Hold, hold, iterative, select, threshold_weights, zero
from pruning_lib.train import ThresholdOnPlateau, evaluate, fit, flushed

__version__ = "0.2.0"

__all__ = [
    "L1",
    "L2",
    "VGG16",
    "ConvNet",
    "Dynamics",
    "GroupHoyer",
    "GroupLasso",
    "Guided",
    "Hold",
    "LeNet5",
    "LeNet300",
    "Measurement",
    "NetworkSlimming",
    "Plan",
    "Polarization",
    "RecedingNeurons",
    "Regularizer",
    "ResNet",
    "SeReNe",
    "Shrunk",
    "StochasticPruning",
    "ThresholdOnPlateau",
    "UNet",
    "bound_batchnorm",
    "evaluate",
    "fit",
    "flushed",
    "hold",
    "importance",
    "iterative",
    "load",
    "measure",
    "metrics",
    "recalibrate",
    "receding_parameters",
    "save",
    "select",
    "shrink",
    "shrinkage_field",
    "threshold_weights",
    "unbind_batchnorm",
    "units",
    "zero",
]
