"""The data sets by the names that configurations and the command line give them.

A data set is one file here: a function that returns a `Split`, and one call of `register` beside it, which says all
that others need to know of it: how it is loaded, fetched or built, and what its task is judged by.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from pruning_lib.companion._arguments import checked, optional, shown
from pruning_lib.companion.data._files import target
from pruning_lib.companion.data._split import Split

Scores = Callable[[Tensor, Tensor, Mapping[str, Tensor]], dict[str, float]]
"""(outputs, targets, the details of their part) → the task's own scores by name, each in 0 … 1."""


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """What is known of a data set.

    Parameters
    ----------
    name : str
        As a configuration gives it: ``"chest-xrays"``.
    title : str
        As a reader knows it: ``"Chest X-rays"``.
    load : callable
        Takes nothing and returns the `Split`.
    scores : callable, optional
        What the task is judged by beside loss and accuracy. Default: nothing else.
    score_names : tuple of str
        The names that `scores` gives, in the order in which tables show them.
    judged_by : str
        The score whose lack to 1 is called the error: one of `score_names`, or ``"accuracy"``.
    fetch : callable, optional
        Takes a root folder, downloads the archives below it, and returns the folder that holds them.
    build : callable, optional
        Takes a folder with the originals and a root folder, writes the data set below the root, and returns its path.

    Raises
    ------
    ValueError
        If `judged_by` names no score.

    Examples
    --------
    >>> nuclei = DATA_SETS["nuclei"]
    >>> nuclei.score_names, nuclei.judged_by
    (('dice', 'instance_f1'), 'dice')
    """

    name: str
    title: str
    load: Callable[[], Split]
    scores: Scores | None = None
    score_names: tuple[str, ...] = ()
    judged_by: str = "accuracy"
    fetch: Callable[[Path], Path] | None = None
    build: Callable[[Path, Path], Path] | None = None

    def __post_init__(self) -> None:
        if self.judged_by not in (*self.score_names, "accuracy"):
            raise ValueError(
                f"The data set '{self.name}' is judged by '{self.judged_by}', which is not one of its scores: "
                f"{', '.join((*self.score_names, 'accuracy'))}."
            )


DATA_SETS: dict[str, DataSet] = {}
"""Every registered data set by its name."""


def register(data_set: DataSet) -> None:
    """Add a data set to `DATA_SETS`.

    Raises
    ------
    ValueError
        If another one has its name.

    Examples
    --------
    >>> from pruning_lib.companion.data import digits
    >>> register(DataSet(name="digits", title="The same digits", load=digits))
    Traceback (most recent call last):
    ValueError: There is a data set 'digits' already; choose another name.
    """
    if data_set.name in DATA_SETS:
        raise ValueError(f"There is a data set '{data_set.name}' already; choose another name.")
    DATA_SETS[data_set.name] = data_set


def fetch(name: str, root: str | Path | None = None) -> Path:
    """Download a data set's archives, verified by checksum, and return the folder that holds them.

    Parameters
    ----------
    name : {"mnist", "fashion-mnist", "cifar10"}
        The data set; an underscore will do for the hyphen.
    root : path, optional
        Below which folder to put it; ``~/.cache/pruning_lib`` by default. Files that are there and whole are not
        downloaded again.

    Raises
    ------
    ConnectionError
        If no mirror gives an archive.
    ValueError
        If nothing of that name can be downloaded.

    Examples
    --------
    >>> fetch("digits")
    Traceback (most recent call last):
    ValueError: There is no data set 'digits' to fetch; there are cifar10, mnist, fashion-mnist.
    """
    optional("fetch", root=root)
    return _offered("fetch", name)(target(root))


def build(name: str, originals: str | Path, root: str | Path | None = None) -> Path:
    """Make a data set from its originals and return the file that was written.

    Parameters
    ----------
    name : {"nuclei", "chest-xrays"}
        The data set; an underscore will do for the hyphen.
    originals : path
        Folder that holds the originals, as the page `datasets` describes them.
    root : path, optional
        Below which folder to write; ``~/.cache/pruning_lib`` by default.

    Raises
    ------
    FileNotFoundError
        If `originals` does not hold what it should; nothing is written then.
    ValueError
        If nothing of that name can be built.

    Examples
    --------
    >>> build("mnist", "originals")
    Traceback (most recent call last):
    ValueError: There is no data set 'mnist' to build; there are nuclei, chest-xrays.
    """
    checked("build", originals=originals)
    optional("build", root=root)
    make, place = _offered("build", name), Path(originals).expanduser()
    if not place.is_dir():
        raise FileNotFoundError(f"There is no folder {place}; name the one that holds the originals of {name}.")
    return make(place, target(root))


def offering(command: str) -> list[str]:
    """Return the names of the data sets that can be fetched, or built."""
    return [name for name, data_set in DATA_SETS.items() if getattr(data_set, command) is not None]


def _offered(command: str, name: str) -> Callable[..., Path]:
    names = offering(command)
    if not isinstance(name, str) or (name := name.replace("_", "-")) not in names:
        raise ValueError(f"There is no data set {shown(name)} to {command}; there are {', '.join(names)}.")
    function: Callable[..., Path] = getattr(DATA_SETS[name], command)
    return function
