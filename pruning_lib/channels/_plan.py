"""A `Plan` carried out: it cuts the network it was made for, also one that was freshly built."""

from __future__ import annotations

import html
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.optim import Optimizer

from pruning_lib._model import tensors_of
from pruning_lib.channels._constants import Constant
from pruning_lib.channels._graph import PARAMETRIZED
from pruning_lib.channels._schema import Plan as Plan
from pruning_lib.channels._schema import misfits
from pruning_lib.channels._shapes import in_groups
from pruning_lib.units import BatchNorm, inputs_first


@dataclass
class Shrunk:
    """What `shrink` and `prune` return. Print it; a notebook shows it as a table.

    Parameters
    ----------
    model : nn.Module
        A smaller copy, of the same class, in the mode of the model that came in.
    optimizer : Optimizer or None
        A new optimizer over the small model's parameters, its state cut with them. Rebuild schedulers and
        regularizers, which still hold the old one.
    plan : Plan
        The units and indices that stay, and notes on why some that carry nothing stay too.
    removed : dict of str to int
        Units removed from each group.
    max_error : float
        Largest difference of the outputs in float64, relative to the largest output.
    notes : list of str
        What `prune` has to say beside ``plan.notes``.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> import pruning_lib as prl
    >>> model = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1)).double()
    >>> with torch.no_grad():
    ...     _ = model[0].weight[0].zero_()
    ...     _ = model[2].weight[:2].zero_()
    >>> shrunk = prl.shrink(model, torch.ones(1, 2).double())
    >>> print(shrunk)  # doctest: +ELLIPSIS
    2: 2 removed, 2 left
    largest relative error ...
    0: 1 dead unit stays: it feeds `layer_norm`, whose statistics count every channel
    >>> shrunk.widths
    {'2': (4, 2)}
    """

    model: nn.Module
    optimizer: Optimizer | None
    plan: Plan
    removed: dict[str, int]
    max_error: float
    notes: list[str] = field(default_factory=list)

    @property
    def widths(self) -> dict[str, tuple[int, int]]:
        """The units of each group before and after."""
        left = {name: len(self.plan.units[name]) for name in self.removed}
        return {name: (left[name] + count, left[name]) for name, count in self.removed.items()}

    def _repr_html_(self) -> str:
        rows = "".join(
            f'<tr><th scope="row" style="text-align:left">{html.escape(name)}</th><td>{before:,}</td><td>{after:,}</td>'
            f"<td>{after / before:.0%}</td></tr>"
            for name, (before, after) in self.widths.items()
        )
        said = [f"largest relative error {self.max_error:.1e}", *self.notes, *self.plan.notes]
        return (
            "<table><caption>Units of each group</caption><thead><tr>"
            '<th scope="col">group</th><th scope="col">before</th><th scope="col">after</th><th scope="col">left</th>'
            f"</tr></thead><tbody>{rows}</tbody></table><ul>"
            + "".join(f"<li>{html.escape(note)}</li>" for note in said)
            + "</ul>"
        )

    def __str__(self) -> str:
        lines = [f"{name}: {before - after} removed, {after} left" for name, (before, after) in self.widths.items()]
        return "\n".join([*lines, f"largest relative error {self.max_error:.1e}", *self.notes, *self.plan.notes])


def apply(plan: Plan, model: nn.Module, dtype: torch.dtype | None = None) -> None:
    """Cut `model`, in place, as the plan says; checked as a whole before anything changes.

    Every tensor of the model is replaced by a new one, so a copy that shared its tensors stops sharing them.

    Parameters
    ----------
    dtype : torch.dtype, optional
        What floating-point tensors become.

    Raises
    ------
    ValueError
        If the plan was made for another network, or could be for none.
    """
    modules = dict(model.named_modules())
    if misfit := next(misfits(plan, model), None):
        raise ValueError(misfit)
    # Constants first: the tensors of the layers that they replace are not there to be cut.
    for layer, channels in plan.constants.items():
        model.set_submodule(layer, Constant(modules[layer], abs(channels), zero=channels < 0))
    for layer in {*plan.groups} - {*plan.constants}:
        _regroup(modules[layer], plan.groups[layer])
    new: dict[int, Tensor] = {}
    for name, _, _, tensor in tensors_of(model):  # the plan cuts a shared tensor under its first name
        if id(tensor) not in new:
            new[id(tensor)] = cut(tensor, plan.kept.get(name, {}), plan.blocks.get(name, []), dtype)
    replace(model, new)
    # After the cut: a new bias has as many elements as rows are left.
    for layer in plan.created:
        weight = modules[layer].weight
        assert isinstance(weight, Tensor)
        empty = torch.zeros(len(weight), dtype=weight.dtype, device=weight.device)
        modules[layer].register_parameter("bias", nn.Parameter(empty, requires_grad=weight.requires_grad))
    # A parametrized weight lies one module deeper than the layer whose attributes say its size.
    touched = {name.rpartition(".")[0].split(PARAMETRIZED)[0] for name in (*plan.kept, *plan.blocks)}
    for layer in touched | {*plan.groups}:
        _resize(modules[layer])
    for layer, numbers in plan.attributes.items():
        for name, number in numbers.items():
            setattr(modules[layer], name, number)
    _tell(model, plan)


def cast(model: nn.Module, dtype: torch.dtype) -> None:
    """Replace every tensor of `model` by a new one, floating-point ones in another dtype.

    Unlike ``model.to(dtype)``, which changes parameters in place, it leaves alone any model that shares its tensors.
    """
    new: dict[int, Tensor] = {}
    for _, _, _, tensor in tensors_of(model):
        if id(tensor) not in new:
            new[id(tensor)] = cut(tensor, {}, [], dtype)
    replace(model, new)


def cut(
    tensor: Tensor, axes: dict[str, list[int]], blocks: list[list[int]], dtype: torch.dtype | None = None
) -> Tensor:
    """Return a new tensor of the indices that stay; along axis 1, `blocks` may name others for each group of axis 0."""
    small = tensor.detach()
    for axis, index in axes.items():
        small = small.index_select(int(axis), torch.tensor(index, device=tensor.device))
    if blocks:
        split = in_groups(small, len(blocks)).unbind(0)
        indices = [torch.tensor(index, device=tensor.device) for index in blocks]
        small = torch.cat([part.index_select(1, index) for part, index in zip(split, indices, strict=True)])
    # Indexing forgets the layout, and a network in channels-last would pay for it in every convolution.
    if tensor.ndim == 4 and not tensor.is_contiguous() and tensor.is_contiguous(memory_format=torch.channels_last):
        small = small.contiguous(memory_format=torch.channels_last)
    small = small.to(wider(small.dtype, dtype))
    # A tensor that lost nothing is still the dense model's own.
    return small.clone() if small.data_ptr() == tensor.data_ptr() else small


def wider(own: torch.dtype, dtype: torch.dtype | None) -> torch.dtype:
    """Return what a tensor of a dtype becomes in a model of another: whole numbers stay, complex ones stay complex."""
    if dtype is None or not (own.is_floating_point or own.is_complex):
        return own
    return dtype.to_complex() if own.is_complex else dtype


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
    parameters: dict[int, Tensor] = {}
    for _, module, attribute, tensor in list(tensors_of(model)):
        if id(tensor) not in new:
            continue
        if isinstance(tensor, nn.Parameter):
            parameters.setdefault(id(tensor), nn.Parameter(new[id(tensor)], requires_grad=tensor.requires_grad))
            module._parameters[attribute] = parameters[id(tensor)]  # type: ignore[assignment]
        else:
            module._buffers[attribute] = new[id(tensor)]


def _resize(module: nn.Module) -> None:
    """Let a module's attributes say what its tensors are."""
    # Under a mask of `torch.nn.utils.prune` the weight is an attribute, computed when the module is next called.
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
    elif isinstance(module, nn.Embedding | nn.EmbeddingBag) and isinstance(weight, Tensor):
        module.embedding_dim = weight.shape[1]
    elif inputs_first(module) and isinstance(weight, Tensor):
        setattr(module, "nx", weight.shape[0])  # noqa: B010
        setattr(module, "nf", weight.shape[1])  # noqa: B010
    elif isinstance(module, nn.PReLU):
        module.num_parameters = module.weight.numel()
