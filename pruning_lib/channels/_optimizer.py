"""Cut an optimizer's state with the weights: momentum of a channel goes with the channel."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pruning_lib._model import check_same_model, tensors_of
from pruning_lib.channels._plan import Plan, cut

# Their update of one element looks at the state of this element alone, so that state can be cut like the weights.
ELEMENTWISE = ("SGD", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop", "Adagrad", "Adadelta")


def check_optimizer(optimizer: Optimizer, model: nn.Module) -> None:
    """Raise one sentence if the optimizer is that of another model, or if its state could not be cut."""
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"The optimizer must be a torch.optim.Optimizer; got {type(optimizer).__name__}.")
    kind = type(optimizer)
    if kind not in [getattr(torch.optim, name) for name in ELEMENTWISE]:
        raise ValueError(
            f"{kind.__name__} keeps state that cannot be cut with the weights, or that mixes them: call `shrink` "
            f"without it and build a new one; {', '.join(ELEMENTWISE)} can be passed."
        )
    check_same_model("shrink", model, optimizer=optimizer)


def cut_optimizer(optimizer: Optimizer, model: nn.Module, small: nn.Module, plan: Plan) -> Optimizer:
    """Return a new optimizer over the small model, its groups as before and its state cut as the weights were."""
    new = {name: tensor for name, _, _, tensor in tensors_of(small)}
    names: dict[int, str] = {}
    for name, _, _, tensor in tensors_of(model):
        names.setdefault(id(tensor), name)
    replaced = {name for name in names.values() if name.rpartition(".")[0] in plan.constants}
    # A bias that was created, also in a constant that stands for a layer, joins the group of that layer's weight.
    created = {f"{layer}.weight": f"{layer}.bias" for layer in (*plan.created, *plan.constants)}
    groups: list[dict[str, Any]] = []
    for group in optimizer.param_groups:
        stay = [p for p in group["params"] if names.get(id(p)) not in replaced]
        params = [new[names[id(p)]] if id(p) in names else p for p in stay]
        added = [new.get(created.get(names.get(id(p), ""), "")) for p in group["params"]]
        params += [each for each in added if isinstance(each, nn.Parameter)]  # a constant of zeros is a buffer
        # Named groups would need a name for each created bias.
        groups.append({key: value for key, value in group.items() if key not in ("params", "param_names")})
        groups[-1]["params"] = params
    accepted = inspect.signature(type(optimizer)).parameters
    defaults = {key: value for key, value in optimizer.defaults.items() if key in accepted}
    fresh = type(optimizer)(groups, **defaults)
    for group in optimizer.param_groups:
        for old in group["params"]:
            name = names.get(id(old), "")
            state = optimizer.state.get(old)
            if state and name not in replaced:
                fresh.state[new.get(name, old)] = {key: _cut_entry(v, old, plan, name) for key, v in state.items()}
    return fresh


def _cut_entry(value: Any, parameter: Tensor, plan: Plan, name: str) -> Any:
    """Cut what the optimizer holds of a parameter if it has one number for each element."""
    if not isinstance(value, Tensor):
        return value
    if value.shape != parameter.shape:
        return value.detach().clone()
    return cut(value, plan.kept.get(name, {}), plan.blocks.get(name, []))
