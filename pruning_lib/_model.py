"""What every room of the library does to a model: check it, copy it, list its tensors, say where it failed."""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import itertools
import logging
import os
import sysconfig
import traceback
import uuid
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils import _pytree as pytree

from pruning_lib._arguments import a_, said, shown
from pruning_lib._inputs import Batch, Inputs, read
from pruning_lib.units import BatchNorm, Units, in_groups, is_layer, unit_axis, unwrapped, weighted

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def tensors_of(model: nn.Module) -> Iterator[tuple[str, nn.Module, str, Tensor]]:
    """Yield (full name, owner, attribute, tensor) for each registered tensor, once for every name it has."""
    for prefix, module in model.named_modules(remove_duplicate=True):
        for attribute, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None:
                yield f"{prefix}.{attribute}" if prefix else attribute, module, attribute, tensor


def check(model: nn.Module, example: Any, *, prunable: bool = True) -> Inputs:
    """Return the example as arguments of forward, or raise one sentence if model and example do not fit together.

    Parameters
    ----------
    prunable : bool
        Whether the model needs a layer that can be pruned. One whose layers `shrink` replaced by constants does not.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"The model must be a torch.nn.Module; got {type(model).__name__}.")
    call = read(example)
    lazy = [name for name, _, _, tensor in tensors_of(model) if nn.parameter.is_lazy(tensor)]
    if lazy:
        raise ValueError(f"'{lazy[0]}' has no shape yet: run the model once on the example, then try again.")
    layers = [*weighted(model).values(), *(module for module in model.modules() if is_layer(module))]
    if not layers and prunable:
        raise ValueError(
            f"{type(model).__name__} has no prunable layer: no nn.Linear and no convolution was found in it."
        )
    if prunable and (empty := [name for name, layer in weighted(model).items() if not layer.weight.numel()]):
        raise ValueError(f"'{empty[0]}' has a weight of no numbers: a layer of width 0 has no units. Leave it out.")
    # What is registered: a `weight` that hooks compute is stale until forward has run.
    registered = [tensor for layer in layers for tensor in layer.parameters()]
    own = next(iter(registered), None) if layers else next((t for _, _, _, t in tensors_of(model)), None)
    floating = [tensor for tensor in call.tensors if tensor.is_floating_point()]
    if own is None:
        return call
    for tensor in call.tensors:
        if tensor.device != own.device:
            raise ValueError(
                f"The example is on {tensor.device}, the model on {own.device}: move the example there first."
            )
    if floating and layers and all(tensor.dtype != own.dtype for tensor in floating):
        raise ValueError(
            f"The example is {floating[0].dtype}, the model {own.dtype}: convert the example, "
            f"as in example.to({own.dtype})."
        )
    return call


def check_same_model(owner: str, model: nn.Module, **parts: object) -> None:
    """Raise ValueError if an optimizer or a regularizer holds none of a model's parameters: it would train nothing."""
    own = {id(parameter) for parameter in model.parameters()}
    for name, part in parts.items():
        held = {id(parameter) for parameter in parameters_in(part)}
        # A method of the reader's own may hold none where this can see it.
        if held and own and own.isdisjoint(held):
            raise ValueError(
                f"{owner} got the {name} of another model: it holds none of this one's parameters. Make a new one, "
                "after `shrink` too."
            )


def parameters_in(part: object, depth: int = 5) -> Iterator[Tensor]:
    """Yield the parameters that an object holds, in modules, containers and objects of its own."""
    if isinstance(part, nn.Parameter):
        yield part
    elif isinstance(part, nn.Module):
        yield from part.parameters()
    elif isinstance(part, Optimizer):
        yield from (parameter for group in part.param_groups for parameter in group["params"])
    elif depth and not isinstance(part, str | bytes | Tensor | type | Callable):
        inner = part.values() if isinstance(part, Mapping) else part if isinstance(part, list | tuple) else None
        for each in vars(part).values() if inner is None and hasattr(part, "__dict__") else inner or ():
            yield from parameters_in(each, depth - 1)


def before_batchnorm(model: nn.Module, layers: Iterable[str], units: Units | None = None) -> str | None:
    """Return the first of these layers whose rows a BatchNorm divides by their length, if there is one.

    Without units the BatchNorm is taken to be that which the model registers right behind the layer.
    """
    wanted = set(layers)
    if units is not None:
        normed = (group for group in units.values() if group.norms)
        return next((m.layer for group in normed for m in group.writers if m.layer in wanted), None)
    leaves: list[tuple[str, nn.Module]]
    leaves = [(name, module) for name, module in unwrapped(model).named_modules() if not any(module.children())]
    for (name, layer), (_, behind) in itertools.pairwise(leaves):
        if (
            name in wanted
            and is_layer(layer)
            and isinstance(behind, BatchNorm)
            and behind.num_features == layer.weight.shape[unit_axis(layer)]
        ):
            return name
    return None


def clone(model: nn.Module, share: bool = False) -> nn.Module:
    """Deep-copy the model without the hooks that this library's observers have put on it; `share` its parameters."""
    memo: dict[int, Any] = {id(p): p for p in model.parameters()} if share else {}
    for module in model.modules():
        for name in HOOKS:
            hooks = getattr(module, name, None)
            if hooks and any(_observes(hook) for hook in hooks.values()):
                memo[id(hooks)] = OrderedDict((k, copy.deepcopy(h)) for k, h in hooks.items() if not _observes(h))
        for value in module.__dict__.values():
            if isinstance(value, Tensor) and value.grad_fn is not None:  # what forward stored; torch copies leaves only
                memo[id(value)] = value.detach().clone()
    try:
        return copy.deepcopy(model, memo)
    except (RuntimeError, TypeError) as error:
        raise RuntimeError(
            f"{type(model).__name__} cannot be copied ({first_line(error)}): detach what its modules store or "
            "remove its hooks, then try again."
        ) from error


def rewrites_itself(model: nn.Module, ran: nn.Module) -> str:
    """Say which weight of its own a model changes, "" if none; `ran` is a copy of it whose forward has run."""
    after = {name: tensor for name, _, _, tensor in tensors_of(ran)}
    for name, _, _, before in tensors_of(model):
        if not isinstance(before, nn.Parameter):
            continue
        now = after.get(name)
        if now is None or not torch.equal(before.detach().nan_to_num(), now.detach().nan_to_num()):
            return f"it changes its own weight '{name}'"
    return ""


def _observes(hook: Any) -> bool:
    """Whether this library has put a hook on a module: it belongs to the original, which it watches.

    Told by where its code stands, which, unlike a marker on every hook, no author of a hook can forget.
    """
    while isinstance(hook, functools.partial):
        hook = hook.func
    return str(getattr(hook, "__module__", "")).startswith("pruning_lib.")


REFUSALS = (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError, NotImplementedError)
"""What a forward or a loss raises on what it was not made for."""


def run(model: nn.Module, inputs: Inputs, owner: str, advice: str = "") -> Any:
    """Return what forward makes of inputs, or raise RuntimeError with one sentence that says what it would not take."""
    if not advice and inputs.taken:
        advice = (
            f"The '{inputs.taken}' of the batch were taken as targets, and forward does not get them: if the model "
            "makes inputs from them, put those into the batch, too (decoder_input_ids in Transformers)."
        )
    try:
        return inputs.call(model)
    except torch.OutOfMemoryError:
        raise
    except REFUSALS as error:
        raise RuntimeError(
            f"`{owner}` could not run {type(model).__name__}.forward on inputs of shape {inputs}{place(error)}: "
            f"{first_line(error)}. {advice or 'Pass inputs that the model accepts.'}"
        ) from error


def warn_left_out(owner: str, model: nn.Module) -> None:
    """Name the layer that a method passes over although it multiplies by weights."""
    for name, module in model.named_modules():
        if in_groups(module):
            warnings.warn(
                f"{owner} leaves out '{name}': weights of a transposed convolution in groups have no axis of units.",
                stacklevel=_level_of_user(),
            )
            return


def _level_of_user() -> int:
    """Return the stack level, seen from the caller, of the first frame outside of the library."""
    frame, level = inspect.currentframe(), 0
    while frame is not None and frame.f_globals.get("__name__", "").startswith("pruning_lib"):
        frame, level = frame.f_back, level + 1
    return level


def first_name(module: nn.Module, keywords: Mapping[str, Any]) -> str:
    """Return the name of what a module reads, of what it was called with by name."""
    if "input" in keywords:
        return "input"
    return next(name for name in (*inspect.signature(module.forward).parameters, *keywords) if name in keywords)


def first_read(module: nn.Module, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Any:
    """Return what a module reads, by place or by name, as a hook sees it."""
    return arguments[0] if arguments else keywords[first_name(module, keywords)]


def at_least_float(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype in which sums over a network of this one neither vanish nor overflow."""
    return torch.promote_types(dtype, torch.float32)


def check_outside_inference(owner: str) -> None:
    """Raise RuntimeError under ``torch.inference_mode``, whose tensors can never be trained."""
    if torch.is_inference_mode_enabled():
        raise RuntimeError(
            f"{owner} was called under torch.inference_mode(), in which every new tensor is barred from training for "
            "good: call it outside, or under torch.no_grad()."
        )


@torch.enable_grad()
def loss_on(model: nn.Module, batch: Batch, loss_fn: Callable[[Any, Any], Any], owner: str) -> Tensor:
    """Return the loss of a batch that holds targets, or raise one sentence."""
    if batch.targets is None:
        raise ValueError(f"{owner} needs targets beside the inputs: pass (inputs, targets), or batches of such pairs.")
    call = batch.inputs.to(model)
    targets = pytree.tree_map_only(Tensor, lambda tensor: tensor.to(call.tensors[0].device), batch.targets)
    outputs = run(model, call, owner)
    outputs = getattr(outputs, "logits", outputs)  # as networks of Transformers return them, beside others
    return loss_of(loss_fn, outputs, targets, owner)


def loss_of(loss_fn: Callable[[Any, Any], Any], outputs: Any, targets: Any, owner: str) -> Tensor:
    """Return the loss, a tensor of one real number, or raise ValueError with one sentence."""
    try:
        loss = loss_fn(outputs, targets)
    except torch.OutOfMemoryError:
        raise
    except REFUSALS as error:
        raise ValueError(
            f"{owner} cannot compute the loss: {first_line(error)}{place(error)}; loss_fn was given {_form(outputs)} "
            f"as outputs and {_form(targets)} as targets, and may take them apart."
        ) from error
    if not isinstance(loss, Tensor) or loss.numel() != 1 or loss.is_complex():
        raise ValueError(f"{owner} got {said('the loss', loss)} from loss_fn; it needs the mean loss, a scalar tensor.")
    return loss


def _form(value: Any) -> str:
    """Say what a loss was given: a shape, or a type with its keys."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return f"{a_(value)} of {shown(list(value))}" if isinstance(value, Mapping) else a_(value)


@contextlib.contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put a model in eval mode, and every module back into its own mode afterwards, whatever happens in between.

    One flag for the whole model would not do: a user may have frozen single BatchNorms with ``norm.eval()``.
    """
    training = {module: module.training for module in model.modules()}
    try:
        model.eval()
        yield
    finally:
        for module, flag in training.items():
            module.training = flag


@contextlib.contextmanager
def atomic_draft(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield the path of an empty draft in the same folder; it replaces `path` at the end, or vanishes on an error.

    Readers see the old file or the whole new one, also after a crash: the draft reaches the disk before its new name.
    A writer that appends a suffix of its own, as `numpy.savez` does, has to be given an open file.
    """
    target = Path(path)
    try:
        draft = target.with_name(f".{target.name}.{uuid.uuid4().hex[:12]}.part")
        # The system applies the process's umask to 0o666 itself. Asking for the umask in Python means to set it for a
        # moment, for all threads; a file from `tempfile` would be readable by its owner alone.
        os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except OSError as error:
        raise OSError(error.errno, f"Nothing can be written here ({error.strerror})", str(target)) from error
    except ValueError as error:
        raise ValueError(f"{str(target)!r} names no file ({error}).") from error
    try:
        yield draft
        handle = os.open(draft, os.O_RDWR)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
        os.replace(draft, target)
    except BaseException as error:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(draft)
        if isinstance(error, OSError) and error.errno:  # a full disk, for example: say it of the file, not of its draft
            raise OSError(error.errno, f"This file was not written ({error.strerror})", str(target)) from error
        raise


def first_line(error: BaseException) -> str:
    line = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    return line.removesuffix(", but expected one of:").rstrip(".")  # torch lists its signatures below


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the exporter's log out of the caller's: what matters comes back as an exception."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), open(os.devnull, "w") as sink:
            warnings.simplefilter("ignore")
            with contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
                yield
    finally:
        logging.disable(level)


def place(error: BaseException) -> str:
    """Name the innermost line of the user's code in an exception's traceback, as " (model.py, line 41)"."""
    frame = next(user_frames(error), None)
    return f" ({os.path.basename(frame[0])}, line {frame[1]})" if frame else ""


def user_frames(error: BaseException) -> Iterator[tuple[str, int]]:
    """Yield file and line of every frame outside torch and this package, from the innermost outwards."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.lineno and of_user(frame.filename):
            yield frame.filename, frame.lineno


def of_user(file: str) -> bool:
    """Whether a source file belongs neither to Python, nor to torch, nor to this package."""
    roots = (os.path.dirname(torch.__file__), os.path.dirname(os.path.abspath(__file__)))
    shipped = file.startswith(sysconfig.get_path("stdlib")) and "site-packages" not in file
    return not shipped and not file.startswith((*(root + os.sep for root in roots), "<frozen", "<string"))
