"""What was kept, as plain data: it slices a freshly built network, and travels as JSON beside the weights."""

from __future__ import annotations

import contextlib
import json
import os
import struct
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm

from pruning_lib._model import clone, tensors_of
from pruning_lib.channels import _shapes as shapes
from pruning_lib.channels._constant import Constant
from pruning_lib.units import BatchNorm

if TYPE_CHECKING:
    from pruning_lib.channels._shrink import Shrunk

FORMATS = (1, 2)
KEY = "pruning_lib"


@dataclass(frozen=True)
class Plan:
    """How a network was made smaller.

    Parameters
    ----------
    model : str
        Class of the network.
    shapes : dict of str to list of int
        The dense shape of each tensor that was cut.
    kept : dict of str to dict of str to list of int
        For each tensor that was cut, the indices that stay along each axis that was cut.
    units : dict of str to list of int
        For each group, the units that stay.
    created : list of str
        Layers that got a bias, to hold constants that were removed in front of them.
    groups : dict of str to int
        Grouped convolutions and GroupNorms, and their new number of groups.
    blocks : dict of str to list of list of int
        For the weights of grouped convolutions, the indices that stay along axis 1, for each group that stays.
    constants : dict of str to int
        Layers that no input can change, and how many channels of constants stand in their place; negative where all
        of them are 0.
    notes : list of str
        Why channels that carry nothing stayed.
    """

    model: str
    shapes: dict[str, list[int]] = field(default_factory=dict)
    kept: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    units: dict[str, list[int]] = field(default_factory=dict)
    created: list[str] = field(default_factory=list)
    groups: dict[str, int] = field(default_factory=dict)
    blocks: dict[str, list[list[int]]] = field(default_factory=dict)
    constants: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> str:
        """Return the plan as one line of JSON."""
        return json.dumps({"format": FORMATS[-1], **asdict(self)}, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read a plan; a ValueError says what is wrong with it."""
        try:
            data = json.loads(text)
            if (number := data.pop("format")) not in FORMATS:
                raise ValueError(f"it has format {number}, this version reads {' and '.join(map(str, FORMATS))}")
            plan = cls(**data)
            for name in (*plan.kept, *plan.blocks):
                cuts = [(int(axis), index) for axis, index in plan.kept.get(name, {}).items()]
                cuts += [(1, index) for index in plan.blocks.get(name, [])]
                if not all(_fits(index, plan.shapes[name][axis]) for axis, index in cuts):
                    raise ValueError(f"the indices kept of '{name}' do not fit its shape")
                if len({len(index) for index in plan.blocks.get(name, [])}) > 1:
                    raise ValueError(f"the groups of '{name}' keep different numbers of channels")
        except (KeyError, TypeError, AttributeError, IndexError, json.JSONDecodeError) as error:
            raise ValueError(f"the plan is not what `save` writes ({type(error).__name__})") from error
        return plan


def _fits(index: list[int], size: int) -> bool:
    return bool(index) and index == sorted(set(index)) and 0 <= index[0] <= index[-1] < size


def apply(plan: Plan, model: nn.Module, dtype: torch.dtype | None = None) -> None:
    """Cut `model`, in place, as the plan says; checked as a whole before anything changes.

    Every tensor of the model is replaced by a new one, so that a copy which shares its tensors does no longer.

    Parameters
    ----------
    dtype : torch.dtype, optional
        What floating-point tensors become.

    Raises
    ------
    ValueError
        If a tensor of the plan is missing or has another shape than the plan was made for.
    """
    tensors = {name: tensor for name, _, _, tensor in tensors_of(model)}
    for name, shape in plan.shapes.items():
        if name not in tensors:
            raise ValueError(f"the plan cuts '{name}', which {type(model).__name__} does not have")
        if list(tensors[name].shape) != shape:
            raise ValueError(f"'{name}' has shape {list(tensors[name].shape)}, the plan was made for {shape}")
    modules = dict(model.named_modules())
    missing = [layer for layer in (*plan.created, *plan.groups, *plan.constants) if layer not in modules]
    if missing:
        raise ValueError(f"the plan changes '{missing[0]}', which {type(model).__name__} does not have")
    for layer, channels in plan.constants.items():
        model.set_submodule(layer, Constant(modules[layer], abs(channels), zero=channels < 0))
    for layer in {*plan.groups} - {*plan.constants}:
        _regroup(modules[layer], plan.groups[layer])
    new: dict[int, Tensor] = {}
    for name, _, _, tensor in tensors_of(model):  # the plan cuts a shared tensor under its first name
        if id(tensor) not in new:
            new[id(tensor)] = cut(tensor, plan.kept.get(name, {}), plan.blocks.get(name, []), dtype)
    replace(model, new)
    for layer in plan.created:
        weight = modules[layer].weight
        assert isinstance(weight, Tensor)
        empty = torch.zeros(len(weight), dtype=weight.dtype, device=weight.device)
        modules[layer].register_parameter("bias", nn.Parameter(empty, requires_grad=weight.requires_grad))
    touched = {name.rpartition(".")[0].split(".parametrizations.")[0] for name in (*plan.kept, *plan.blocks)}
    for layer in touched | {*plan.groups}:
        _resize(modules[layer])
    _tell(model, plan)


def cut(
    tensor: Tensor, axes: dict[str, list[int]], blocks: list[list[int]], dtype: torch.dtype | None = None
) -> Tensor:
    """Return a new tensor of the indices that stay; along axis 1, `blocks` may name others for each group of axis 0."""
    small = tensor.detach()
    for axis, index in axes.items():
        small = small.index_select(int(axis), torch.tensor(index, device=tensor.device))
    if blocks:
        split = shapes.parts(small, len(blocks)).unbind(0)
        indices = [torch.tensor(index, device=tensor.device) for index in blocks]
        small = torch.cat([part.index_select(1, index) for part, index in zip(split, indices, strict=True)])
    if tensor.ndim == 4 and not tensor.is_contiguous() and tensor.is_contiguous(memory_format=torch.channels_last):
        small = small.contiguous(memory_format=torch.channels_last)
    small = small.to(dtype) if dtype and small.is_floating_point() else small
    return small.clone() if small.data_ptr() == tensor.data_ptr() else small


def _regroup(module: nn.Module, count: int) -> None:
    if isinstance(module, nn.GroupNorm):
        module.num_channels = module.num_channels // module.num_groups * count
        module.num_groups = count
    else:
        setattr(module, "groups", count)  # noqa: B010


def _tell(model: nn.Module, plan: Plan) -> None:
    """Let modules that define `after_shrink` adapt what their forward says literally."""
    for prefix, module in model.named_modules():
        if callable(told := getattr(module, "after_shrink", None)):
            start = f"{prefix}." if prefix else ""
            told(
                {
                    name.removeprefix(start): {int(axis): list(index) for axis, index in axes.items()}
                    for name, axes in plan.kept.items()
                    if name.startswith(start)
                }
            )


def replace(model: nn.Module, new: dict[int, Tensor]) -> None:
    """Put new tensors in the place of old ones, by id, under every name that an old one has."""
    made: dict[int, Tensor] = {}
    for _, module, attribute, tensor in list(tensors_of(model)):
        if id(tensor) not in new:
            continue
        if isinstance(tensor, nn.Parameter):
            made.setdefault(id(tensor), nn.Parameter(new[id(tensor)], requires_grad=tensor.requires_grad))
            module._parameters[attribute] = made[id(tensor)]  # type: ignore[assignment]
        else:
            module._buffers[attribute] = new[id(tensor)]


def _resize(module: nn.Module) -> None:
    """Let a module's attributes say what its tensors are."""
    weight = getattr(module, "weight_orig", None)
    weight = getattr(module, "weight", None) if weight is None else weight
    if isinstance(module, nn.Linear) and isinstance(weight, Tensor):
        module.out_features, module.in_features = weight.shape
    elif isinstance(module, _ConvNd) and isinstance(weight, Tensor):
        sides = weight.shape[0], weight.shape[1] * module.groups
        module.out_channels, module.in_channels = sides[:: -1 if module.transposed else 1]
    elif isinstance(module, BatchNorm | _InstanceNorm):
        vector = weight if isinstance(weight, Tensor) else module.running_mean
        assert vector is not None
        module.num_features = len(vector)
    elif isinstance(module, nn.Embedding) and isinstance(weight, Tensor):
        module.embedding_dim = weight.shape[1]
    elif isinstance(module, nn.PReLU):
        module.num_parameters = module.weight.numel()


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
        If the model holds state that is no tensor, or no longer has the shapes of its plan.
    """
    if not hasattr(shrunk, "plan") or not hasattr(shrunk, "model"):
        raise TypeError(f"`save` takes what `shrink` returned; got {type(shrunk).__name__}.")
    state = _state(shrunk.model)
    kept = [(name, int(axis), len(index)) for name, axes in shrunk.plan.kept.items() for axis, index in axes.items()]
    kept += [(name, 1, len(lists[0])) for name, lists in shrunk.plan.blocks.items()]
    for name, axis, count in kept:
        if name in state and state[name].shape[axis] != count:
            raise ValueError(
                f"'{name}' has shape {list(state[name].shape)}, its plan keeps {count} along axis {axis}: "
                "save the model that `shrink` returned, not another one."
            )
    target = Path(path)
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
    os.close(handle)
    try:
        save_file(state, temporary, metadata={KEY: shrunk.plan.to_json()})
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _state(model: nn.Module) -> dict[str, Tensor]:
    """Return what a checkpoint of the model holds, shared tensors under their first name."""
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if not isinstance(tensor, Tensor):
            raise ValueError(
                f"'{name}' is a {type(tensor).__name__}, and only tensors are saved: `save` writes no pickle."
            )
        if id(tensor) not in seen:
            seen.add(id(tensor))
            found[name] = tensor.detach().cpu().contiguous().clone()
    return found


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
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"The model must be a torch.nn.Module; got {type(model).__name__}.")
    if not os.path.isfile(path):
        raise FileNotFoundError(f"There is no file '{os.fspath(path)}': pass the path that `save` was given.")
    text, state = _read(path)
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
            f"'{os.fspath(path)}' is cut or is no safetensors file ({error}): write it again with `save`."
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
