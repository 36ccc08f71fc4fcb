"""Save a shrunk network and load it again: weights as safetensors, the plan as JSON in their metadata, no pickle."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from pruning_lib._model import atomic_draft, clone
from pruning_lib.channels._plan import Plan, Shrunk, apply, replace

KEY = "pruning_lib"


def save(shrunk: Shrunk, path: str | os.PathLike[str]) -> None:
    """Write a shrunk network: its weights as safetensors, its plan as JSON in their metadata.

    The file appears whole or not at all: it is written beside its place and moved there. Explained in
    the chapter `from-zeros-to-smaller`.

    Parameters
    ----------
    shrunk : Shrunk
        What `shrink` returned. Its model may have been trained further.
    path : path
        Such as ``"small.safetensors"``; a file there is replaced.

    Raises
    ------
    TypeError
        If `shrunk` is not what `shrink` returned.
    ValueError
        If the model holds state that is not a tensor, or no longer has the shapes of its plan.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import torch
    >>> from torch import nn
    >>> import pruning_lib as prl
    >>> def build():
    ...     return nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> model = build()
    >>> with torch.no_grad():
    ...     _ = model[0].weight[1].zero_()
    >>> shrunk = prl.shrink(model, torch.ones(1, 2))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "small.safetensors")
    ...     prl.save(shrunk, path)
    ...     small = prl.load(build(), path)
    >>> torch.equal(small(torch.ones(4, 2)), shrunk.model(torch.ones(4, 2)))
    True
    """
    if not isinstance(shrunk, Shrunk):
        raise TypeError(f"`save` takes what `shrink` returned; got {type(shrunk).__name__}.")
    tensors = _tensors(shrunk.model)
    # A model that grew or was cut again since would be written with a plan that no longer leads to it.
    sizes = [(name, int(axis), len(index)) for name, axes in shrunk.plan.kept.items() for axis, index in axes.items()]
    sizes += [(name, 1, len(lists[0])) for name, lists in shrunk.plan.blocks.items()]
    for name, axis, count in sizes:
        if name in tensors and tensors[name].shape[axis] != count:
            raise ValueError(
                f"'{name}' has shape {list(tensors[name].shape)}, its plan keeps {count} along axis {axis}: "
                "save the model that `shrink` returned, not another one."
            )
    with atomic_draft(path) as draft:
        save_file(tensors, draft, metadata={KEY: shrunk.plan.to_json()})


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return what a checkpoint of the model holds, shared tensors under their first name."""
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if not isinstance(tensor, Tensor):
            raise ValueError(
                f"'{name}' is a {type(tensor).__name__}, and only tensors are saved: `save` writes no pickle."
            )
        if id(tensor) not in seen:
            seen.add(id(tensor))
            tensors[name] = tensor.detach().cpu().contiguous().clone()
    return tensors


def load(model: nn.Module, path: str | os.PathLike[str]) -> nn.Module:
    """Read what `save` wrote into a copy of a freshly built dense model; nothing is traced, nothing is unpickled.

    Parameters
    ----------
    model : nn.Module
        The network as its class builds it, before shrinking. It is not touched.
    path : path
        A file that `save` wrote.

    Returns
    -------
    nn.Module
        The small network, on the dense model's device and in its mode, in the dtype of the file.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such file, if it is cut or no plan is in it, if it belongs to another model or other shapes.

    Examples
    --------
    The example of `save` reads a file; what is not one is refused:

    >>> from torch import nn
    >>> import pruning_lib as prl
    >>> prl.load(nn.Linear(2, 1), "none.safetensors")
    Traceback (most recent call last):
    FileNotFoundError: There is no file 'none.safetensors': pass the path that `save` was given.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"The model must be a torch.nn.Module; got {type(model).__name__}.")
    if not os.path.isfile(path):
        raise FileNotFoundError(f"There is no file '{os.fspath(path)}': pass the path that `save` was given.")
    text, state = _read(path)
    # The clone shares the dense model's parameters, until `apply` replaces each by what is left of it.
    small = clone(model, share=True)
    try:
        plan = Plan.from_json(text)
        if plan.model != type(model).__name__:
            raise ValueError(f"it was saved from a {plan.model}")
        apply(plan, small)
        _fill(small, state)
    except ValueError as error:
        raise ValueError(
            f"'{os.fspath(path)}' does not fit this {type(model).__name__}: {error}. Build the dense model that was "
            "given to `shrink`, then load again."
        ) from error
    return small


def _read(path: str | os.PathLike[str]) -> tuple[str, dict[str, Tensor]]:
    try:
        with safe_open(os.fspath(path), framework="pt") as file:
            text = (file.metadata() or {}).get(KEY)
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, struct.error, ValueError) as error:
        raise ValueError(
            f"'{os.fspath(path)}' is cut or is not a safetensors file ({error}): write it again with `save`."
        ) from error
    if text is None:
        raise ValueError(f"'{os.fspath(path)}' holds weights but no plan: write it with `save(shrink(...), path)`.")
    return text, state


def _fill(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Replace every tensor of the model by the file's, after all of them were compared."""
    own: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if isinstance(tensor, Tensor) and id(tensor) not in seen:
            seen.add(id(tensor))
            own[name] = tensor
    # Compare all before changing any: a file of another model leaves nothing half-filled.
    for name in _differences(own, state):
        where = "the model has" if name in own else "the file holds"
        raise ValueError(f"{where} a tensor '{name}' that the other does not")
    for name, tensor in own.items():
        if tensor.shape != state[name].shape:
            raise ValueError(f"'{name}' has shape {list(state[name].shape)} in the file, {list(tensor.shape)} here")
    replace(model, {id(tensor): state[name].to(tensor.device) for name, tensor in own.items()})


def _differences(left: dict[str, Any], right: dict[str, Any]) -> Iterator[str]:
    yield from (name for name in left if name not in right)
    yield from (name for name in right if name not in left)
