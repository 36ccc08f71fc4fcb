"""What goes into a network: one reader of examples, and one of data, for every room of the library."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils.data import Dataset

LABELS = ("labels", "label")
"""The names under which a mapping may hold targets; forward does not get them."""
DATA = (
    "Data must be a tensor of samples, a tuple (inputs, targets) of tensors, whose inputs may be a mapping of them, or "
    "an iterable of batches such as a DataLoader, each a tensor, a tuple (inputs, targets) or a mapping of forward's "
    "arguments, which may hold labels"
)


@dataclass(frozen=True)
class Inputs:
    """The arguments of one call of forward; made by `pruning_lib.inputs`.

    Parameters
    ----------
    args : tuple
        The positional ones: tensors, or containers of tensors, numbers and None.
    kwargs : dict
        Those by name.
    taken : str
        The name under which a batch held targets, which forward does not get; "" if it held none so.
    """

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    taken: str = field(default="", repr=False, compare=False)

    @property
    def tensors(self) -> list[Tensor]:
        """Every tensor in the arguments, in their order."""
        return [leaf for leaf in pytree.tree_leaves((self.args, self.kwargs)) if isinstance(leaf, Tensor)]

    @property
    def batch(self) -> int:
        """The number of samples: the size of the first axis of the first tensor that has one."""
        return next((len(tensor) for tensor in self.tensors if tensor.ndim), 0)

    def map(self, function: Callable[[Tensor], Tensor]) -> Inputs:
        """Return the same arguments with another tensor in the place of each."""
        args, kwargs = pytree.tree_map_only(Tensor, function, (self.args, self.kwargs))
        return dataclasses.replace(self, args=args, kwargs=kwargs)

    def to(self, model: nn.Module) -> Inputs:
        """Return the arguments on the device of a model."""
        home = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), None)
        return self if home is None else self.map(lambda tensor: tensor.to(home))

    def call(self, model: nn.Module) -> Any:
        """Return what the model returns."""
        return model(*self.args, **self.kwargs)

    def __str__(self) -> str:
        return " and ".join(str(tuple(tensor.shape)) for tensor in self.tensors)


def inputs(*args: Any, **kwargs: Any) -> Inputs:
    """Write down a call of forward, to be used as an example where some arguments have names.

    Wherever the library takes an example, a tuple goes to ``forward(*example)``, a mapping to ``forward(**example)``,
    and anything else is the one argument. This is for the calls that are neither.

    Parameters
    ----------
    *args, **kwargs
        As forward takes them: tensors, or containers of tensors, numbers and None. The first axis of the first tensor
        counts samples.

    Returns
    -------
    Inputs

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> import pruning_lib as prl
    >>> layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    >>> prl.find_units(layer, prl.inputs(torch.ones(2, 5, 8), src_key_padding_mask=torch.zeros(2, 5)))["linear1"]
    Group(name='linear1', size=16, kind='inner', ...)
    """
    return Inputs(args, kwargs)


def read(example: Any) -> Inputs:
    """Return an example as the arguments of forward.

    Raises
    ------
    TypeError
        If it holds no tensor.
    ValueError
        If a tensor is empty, or none has a batch axis.
    """
    if isinstance(example, Inputs):
        call = example
    elif isinstance(example, tuple):
        call = Inputs(tuple(example))
    elif isinstance(example, Mapping):
        call = Inputs(kwargs={str(name): value for name, value in example.items()})
    else:
        call = Inputs((example,))
    tensors = call.tensors
    if not tensors:
        raise TypeError(
            "The example must hold a tensor: one, a tuple of forward's arguments, or a mapping of them by name; got "
            f"{type(example).__name__}."
        )
    if not call.batch or any(tensor.numel() == 0 for tensor in tensors):
        raise ValueError("The example must hold at least one sample in every tensor; it is empty or has no batch axis.")
    return call


def paired(call: Inputs) -> Inputs:
    """Repeat a batch of one: traced at one, an axis of size one and a broadcast axis would look the same."""
    if call.batch != 1:
        return call
    return call.map(lambda tensor: torch.cat([tensor, tensor]) if tensor.ndim and len(tensor) == 1 else tensor)


def tensors_in(outputs: Any) -> list[Tensor]:
    """Return the tensors in what forward returned, in order, whatever holds them.

    A key-value cache is none of them: what it holds is for the network that wrote it, to read at its next step.
    """
    return list(_tensors_in(outputs, set()))


def _tensors_in(value: Any, seen: set[int]) -> Iterator[Tensor]:
    for leaf in pytree.tree_leaves(value, is_leaf=_is_cache):
        if isinstance(leaf, Tensor):
            yield leaf
        elif id(leaf) not in seen and not (_is_cache(leaf) or isinstance(leaf, nn.Module | type | torch.Generator)):
            # Of a type that torch does not know: a data class, a distribution, a mapping of another library.
            seen.add(id(leaf))
            held = list(leaf.values()) if isinstance(leaf, Mapping) else list(getattr(leaf, "__dict__", {}).values())
            if dataclasses.is_dataclass(leaf):
                held = [getattr(leaf, each.name) for each in dataclasses.fields(leaf)]
            yield from _tensors_in(held, seen) if held else ()


def _is_cache(value: Any) -> bool:
    return type(value).__name__.endswith("Cache")


class Batch(NamedTuple):
    """Inputs of forward and their targets, None where the data hold none."""

    inputs: Inputs
    targets: Any


def batches(data: Any, batch_size: int = 256) -> Iterator[Batch]:
    """Read data of every kind that the library takes, batch by batch.

    Parameters
    ----------
    data : Tensor, tuple, mapping or iterable of batches
        A tensor (samples, …), a mapping of tensors or a tuple (inputs, targets) of one of these and a tensor is a whole
        data set, and is split. Anything else that can be iterated gives batches: tensors, pairs (inputs, targets),
        mappings of forward's arguments in which ``labels`` or ``label`` are targets, or `pruning_lib.inputs`. The
        inputs of such a pair may be an example of any kind.
    batch_size : int
        Samples a batch, of data that are split here.

    Raises
    ------
    TypeError
        If the data are of no such kind.
    ValueError
        If there is no sample, or inputs and targets differ in number.

    Examples
    --------
    >>> import torch
    >>> [(batch.inputs.batch, batch.targets) for batch in batches(torch.zeros(5, 2), batch_size=2)]
    [(2, None), (2, None), (1, None)]
    >>> loader = [(torch.zeros(2, 3), torch.tensor([0, 1]))]
    >>> next(batches(loader)).targets
    tensor([0, 1])
    """
    if _is_set(data):
        yield from _split(_batch(data), batch_size)
        return
    if not isinstance(data, Iterable) or isinstance(data, str | bytes):
        samples = ", which gives single samples: wrap it in a DataLoader" if isinstance(data, Dataset) else ""
        raise TypeError(f"{DATA}; got {type(data).__name__}{samples}.")
    empty = True
    for batch in data:
        empty = False
        yield _batch(batch)
    if empty:
        raise ValueError(f"{DATA}; these hold no sample.")


def begun(data: Any, batch_size: int = 256) -> tuple[Batch, Any]:
    """Return the first batch, and data that still begin with it: what can be read only once has lost nothing."""
    if _is_set(data) or not isinstance(data, Iterable):
        return next(batches(data, batch_size)), data
    rest = iter(data)
    first = list(itertools.islice(rest, 1))
    return next(batches(first)), itertools.chain(first, rest)


def joined(first: Inputs, second: Inputs) -> Inputs | None:
    """Return two calls as one with the samples of both, or None where anything but the samples differs."""
    (left, form), (right, other) = (pytree.tree_flatten((call.args, call.kwargs)) for call in (first, second))
    if form != other:
        return None
    leaves: list[Any] = []
    for a, b in zip(left, right, strict=True):
        if not isinstance(a, Tensor) or not isinstance(b, Tensor):
            alike = a is b or (isinstance(a, int | float | str) and type(a) is type(b) and a == b)
        elif a.ndim and b.ndim and (len(a), len(b)) == (first.batch, second.batch):
            alike = a.shape[1:] == b.shape[1:] and a.dtype == b.dtype
            a = torch.cat([a, b]) if alike else a
        else:  # it does not count samples
            alike = a is b or (a.dtype == b.dtype and torch.equal(a, b))
        if not alike:
            return None
        leaves.append(a)
    args, kwargs = pytree.tree_unflatten(leaves, form)
    return dataclasses.replace(first, args=args, kwargs=kwargs)


def _is_set(data: Any) -> bool:
    """Whether data are a whole data set, not batches: of those that a tuple holds all would be of one kind."""
    if not isinstance(data, tuple):
        return isinstance(data, Tensor | Mapping | Inputs)
    if len(data) == 2 and isinstance(data[0], Mapping | Inputs):
        return isinstance(data[1], Tensor)
    return bool(data) and all(isinstance(part, Tensor) for part in data)


def _batch(batch: Any) -> Batch:
    """Read one batch; a list of two is a pair, too, as a DataLoader collates them."""
    targets, taken = None, ""
    if isinstance(batch, tuple | list) and not isinstance(batch, Inputs):
        if not 1 <= len(batch) <= 2:
            raise TypeError(f"{DATA}; got a batch that is a {type(batch).__name__} of {len(batch)}.")
        batch, targets = batch[0], batch[1] if len(batch) == 2 else None
    if isinstance(batch, Mapping):
        taken = next((name for name in LABELS if name in batch), "")
        targets = batch[taken] if taken else targets
        batch = {name: value for name, value in batch.items() if name not in LABELS}
    try:
        call = read(batch)
    except TypeError:
        raise TypeError(f"{DATA}; got a batch that is a {type(batch).__name__}.") from None
    except ValueError:
        raise ValueError(f"{DATA}; these hold no sample, or a tensor without a batch axis.") from None
    if any(tensor.is_meta for tensor in pytree.tree_leaves((call.tensors, targets)) if isinstance(tensor, Tensor)):
        raise ValueError(f"{DATA}; these are on the meta device, which holds no numbers.")
    if isinstance(targets, Tensor) and targets.ndim and len(targets) != call.batch:
        raise ValueError(f"{DATA}; these are {call.batch} inputs and {len(targets)} targets.")
    return Batch(dataclasses.replace(call, taken=taken), targets)


def _split(whole: Batch, size: int) -> Iterator[Batch]:
    """Split a data set; tensors that do not count samples go with every batch."""
    targets = [whole.targets] if isinstance(whole.targets, Tensor) else []
    if any(tensor.layout is not torch.strided for tensor in (*whole.inputs.tensors, *targets)):
        raise TypeError(f"{DATA}; a sparse tensor cannot be split, so pass batches.")
    count = whole.inputs.batch
    for start in range(0, count, size):

        def part(tensor: Tensor, start: int = start) -> Tensor:
            return tensor[start : start + size] if tensor.ndim and len(tensor) == count else tensor

        yield Batch(whole.inputs.map(part), part(whole.targets) if isinstance(whole.targets, Tensor) else whole.targets)
