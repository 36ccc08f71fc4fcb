"""Small image data as tensors in memory: digits, MNIST, Fashion-MNIST, CIFAR-10, nuclei of cells, chest X-rays.

Archives are looked for under ``root`` if it is given, else under the folder that the environment variable
``PRUNING_LIB_DATA`` names, then under ``~/.cache/pruning_lib``. They are read as they are: a folder may be read-only.
``python -m pruning_lib.companion.data fetch mnist`` puts them there; nuclei and X-rays are built from their originals
by ``python -m pruning_lib.companion.data build nuclei --from FOLDER``. The page `datasets` of the book describes all.

A data set of your own is one file that registers it (`register`); a set of this package is imported below as well.
"""

from pruning_lib._types import TensorPair
from pruning_lib.companion.data._augment import crop_and_flip
from pruning_lib.companion.data._cifar10 import cifar10
from pruning_lib.companion.data._digits import digits
from pruning_lib.companion.data._mnist import fashion_mnist, mnist
from pruning_lib.companion.data._nuclei import look, look_alikes, nuclei
from pruning_lib.companion.data._registry import DATA_SETS, DataSet, Scores, build, fetch, register
from pruning_lib.companion.data._split import PARTS, DetailedSplit, Split
from pruning_lib.companion.data._xrays import chest_xrays

__all__ = [
    "DATA_SETS",
    "PARTS",
    "DataSet",
    "DetailedSplit",
    "Scores",
    "Split",
    "TensorPair",
    "build",
    "chest_xrays",
    "cifar10",
    "crop_and_flip",
    "digits",
    "fashion_mnist",
    "fetch",
    "look",
    "look_alikes",
    "mnist",
    "nuclei",
    "register",
]
