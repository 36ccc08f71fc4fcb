"""Save a shrunk network and load it again: weights as safetensors, the plan as JSON in their metadata, no pickle."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Container, Iterator, Mapping
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from pruning_lib._arguments import checked
from pruning_lib._model import atomic_draft, clone, first_line
from pruning_lib.channels._plan import Plan, Shrunk, apply, replace
from pruning_lib.channels._schema import quoted

KEY = "pruning_lib"
CHECKSUM = "pruning_lib.sha256"  # of the plan and every tensor
UNSUMMED = (1, 2)  # formats of plans that were saved without one
BESIDE = "buffer:"  # begins the names of what no state_dict holds, and `zero` and `shrink` change all the same


def save(shrunk: Shrunk, path: str | os.PathLike[str]) -> None:
    """Write a shrunk network: its weights as safetensors, its plan as JSON in their metadata.

    Buffers that no checkpoint holds (``persistent=False``) are among the weights: `zero` and `shrink` change them, too.
    The file appears whole or not at all: it is written beside its place and moved there. Explained in
    the chapter `from-zeros-to-smaller`.

    Parameters
    ----------
    shrunk : Shrunk
        What `shrink` or `prune` returned. Its model may have been trained further.
    path : path
        Such as ``"small.safetensors"``; a file there is replaced.

    Raises
    ------
    TypeError
        If `shrunk` is not what `shrink` or `prune` returned, or `path` is none.
    ValueError
        If the model holds state that is not a tensor, or no longer has the shapes of its plan.
    OSError
        If nothing can be written there; a file of that name is left as it was.

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
        raise TypeError(
            f"`save` takes what `shrink` or `prune` returned; got {type(shrunk).__name__}. A small network that was "
            "tuned apart goes into it first: shrunk.model = network."
        )
    checked("save", path=path)
    tensors = _tensors(shrunk.model)
    # A model that grew or was cut again since would be written with a plan that no longer leads to it.
    sizes = [(name, int(axis), len(index)) for name, axes in shrunk.plan.kept.items() for axis, index in axes.items()]
    sizes += [(name, 1, len(lists[0])) for name, lists in shrunk.plan.blocks.items()]
    for name, axis, count in sizes:
        if name in tensors and tensors[name].shape[axis] != count:
            raise ValueError(
                f"'{name}' has shape {list(tensors[name].shape)}, its plan keeps {count} along axis {axis}: "
                "save the model that `shrink` or `prune` returned, not another one."
            )
    text = shrunk.plan.to_json()
    with atomic_draft(path) as draft:
        mode = draft.stat().st_mode
        try:
            save_file(tensors, draft, metadata={KEY: text, CHECKSUM: _checksum(text, tensors)})
            draft.chmod(mode)  # safetensors 0.8 puts a file in its place that its owner alone can read
        except SafetensorError as error:  # a full disk, for example, is no OSError to its writer
            raise OSError(f"'{os.fspath(path)}' was not written: {first_line(error)}.") from error


def _checksum(text: str, tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of a plan and of names, dtypes, shapes and bytes of tensors, on the CPU."""
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name!r} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return what a checkpoint of the model holds, and its other buffers; shared tensors under their first name."""
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if not isinstance(tensor, Tensor):
            raise ValueError(
                f"'{name}' is a {type(tensor).__name__}, and only tensors are saved: `save` writes no pickle."
            )
        if id(tensor) not in seen:
            seen.add(id(tensor))
            tensors[name] = tensor
    tensors |= {BESIDE + name: buffer for name, buffer in _beside(model, seen)}
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}


def _beside(model: nn.Module, seen: Container[int]) -> Iterator[tuple[str, Tensor]]:
    """Yield the buffers of numbers that no checkpoint holds (``persistent=False``), by name."""
    for name, buffer in model.named_buffers():
        if id(buffer) not in seen and buffer.is_floating_point():
            yield name, buffer


def load(model: nn.Module, path: str | os.PathLike[str]) -> nn.Module:
    """Read what `save` wrote into a copy of a freshly built dense model; nothing is traced, nothing is unpickled.

    A checksum over plan and tensors notices a file that was changed or damaged since. Files that a version before 0.2
    wrote have none: what is wrong with their plans is noticed, other numbers in their tensors are not.

    Parameters
    ----------
    model : nn.Module
        The network as its class builds it, before `shrink` or `prune`. It is not touched.
    path : path
        A file that `save` wrote.

    Returns
    -------
    nn.Module
        The small network, on the dense model's device and in its mode, in the dtype of the file.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such file, if it is damaged or no plan is in it, if it belongs to another model or other shapes.
    OSError
        If it cannot be read at the moment, for lack of permission or memory, for example.

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
    checked("load", path=path)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"There is no file '{os.fspath(path)}': pass the path that `save` was given.")
    metadata, state = _read(path)
    try:
        small = _filled(model, metadata, state)
    except ValueError as error:
        raise ValueError(
            f"'{os.fspath(path)}' does not fit this {type(model).__name__}: {str(error).rstrip('.')}. Build the "
            "dense model that was given to `shrink` or `prune`, then load again."
        ) from error
    return small


def _read(path: str | os.PathLike[str]) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return a file's metadata and its tensors, whose memory is the file itself."""
    try:
        with open(path, "rb"):  # says what hinders it, and that this is no damage
            pass
    except OSError as error:
        raise OSError(error.errno, f"This file cannot be read ({error.strerror})", os.fspath(path)) from error
    try:
        with safe_open(os.fspath(path), framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except MemoryError:
        raise
    except Exception as error:  # a damaged header raises whatever its reader stumbles over
        raise ValueError(
            f"'{os.fspath(path)}' is cut or is not a safetensors file ({first_line(error)}): write it again with "
            "`save`."
        ) from error
    if KEY not in metadata:
        raise ValueError(f"'{os.fspath(path)}' holds weights but no plan: write it with `save(shrink(...), path)`.")
    if metadata.get(CHECKSUM, sought := _checksum(metadata[KEY], state)) != sought:
        raise ValueError(f"'{os.fspath(path)}' was changed after `save` wrote it, or is damaged: write it again.")
    return metadata, state


def _filled(model: nn.Module, metadata: Mapping[str, str], state: Mapping[str, Tensor]) -> nn.Module:
    """Return a copy of the dense model, cut and filled, or raise ValueError with what does not fit."""
    plan = Plan.from_json(metadata[KEY])
    vouched = CHECKSUM in metadata
    if not vouched and json.loads(metadata[KEY])["format"] not in UNSUMMED:
        raise ValueError("its checksum is missing")
    if plan.model != type(model).__name__:
        raise ValueError(f"it was saved from a {quoted(plan.model)[1:-1]}")
    # The clone shares the dense model's parameters, until `apply` replaces each by what is left of it.
    small = clone(model, share=True)
    apply(plan, small)
    _fill(small, state, vouched)
    return small


def _fill(model: nn.Module, state: Mapping[str, Tensor], vouched: bool) -> None:
    """Replace every tensor of the model by the file's, after all of them were compared."""
    own: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if isinstance(tensor, Tensor) and id(tensor) not in seen:
            seen.add(id(tensor))
            own[name] = tensor
    # An older file has no such buffers, and a model may make its own, or other ones, when it is called.
    for name, buffer in _beside(model, seen):
        if (saved := state.get(BESIDE + name)) is not None and saved.shape == buffer.shape:
            own[BESIDE + name] = buffer
    state = {name: tensor for name, tensor in state.items() if name in own or not name.startswith(BESIDE)}
    # Compare all before changing any: a file of another model leaves nothing half-filled.
    for name in _differences(own, state):
        where = "the model has" if name in own else "the file holds"
        raise ValueError(f"{where} a tensor {quoted(name)} that the other does not")
    became: dict[torch.dtype, torch.dtype] = {}
    for name, tensor in own.items():
        now, before = state[name], tensor.dtype
        if tensor.shape != now.shape:
            raise ValueError(f"{quoted(name)} has shape {list(now.shape)} in the file, {list(tensor.shape)} here")
        floating = before.is_floating_point and now.dtype.is_floating_point
        alike = floating or (before.is_complex and now.dtype.is_complex) or before == now.dtype
        # A network may hold several dtypes. Where no checksum vouches for them, the dense one has to hold them, too.
        if not alike or not (vouched or became.setdefault(before, now.dtype) == now.dtype):
            raise ValueError(f"{quoted(name)} is {now.dtype} in the file, {before} here, unlike the others")
    # Copies, because the file's tensors are the file: who writes into it later would write into the model.
    replace(model, {id(tensor): state[name].to(tensor.device, copy=True) for name, tensor in own.items()})


def _differences(left: Mapping[str, Any], right: Mapping[str, Any]) -> Iterator[str]:
    yield from (name for name in left if name not in right)
    yield from (name for name in right if name not in left)
