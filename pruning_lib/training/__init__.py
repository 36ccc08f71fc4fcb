"""TRAIN: the loop of the book, its schedules, checkpoints and callbacks."""

from pruning_lib._types import Augment, LossFn, TensorPair
from pruning_lib.training._callbacks import Callback, Epoch, History, Run
from pruning_lib.training._checkpoint import CheckpointError
from pruning_lib.training._evaluate import Evaluation, evaluate
from pruning_lib.training._fit import fit
from pruning_lib.training._plateau import ThresholdOnPlateau
from pruning_lib.training._reach import Reach, reach
from pruning_lib.training._schedules import Schedule, constant, cosine, ramp, steps
from pruning_lib.training._target_size import TargetSize
from pruning_lib.training._threads import flushed

__all__ = [
    "Augment",
    "Callback",
    "CheckpointError",
    "Epoch",
    "Evaluation",
    "History",
    "LossFn",
    "Reach",
    "Run",
    "Schedule",
    "TargetSize",
    "TensorPair",
    "ThresholdOnPlateau",
    "constant",
    "cosine",
    "evaluate",
    "fit",
    "flushed",
    "ramp",
    "reach",
    "steps",
]
