"""Compare the outputs: in float64, where rounding cannot hide an error, then in the model's own dtype."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from pruning_lib._inputs import Inputs, tensors_in
from pruning_lib._model import clone, first_line, place, rewrites_itself, tensors_of
from pruning_lib.channels._double import InDouble, native_dtype
from pruning_lib.channels._plan import cast, wider
from pruning_lib.channels._probes import probes

TOLERANCE = 1e-9
SINGLE = torch.finfo(torch.float32).eps
MANY = 20  # times what rounding does to the dense model's outputs, it may do to the difference of two
Run = tuple[Inputs, list[Tensor]]
"""Inputs, and the tensors in what the dense model returned for them."""


@dataclass(frozen=True)
class Comparison:
    """How the small network's outputs differ from the dense one's.

    Parameters
    ----------
    error : float
        The largest difference, relative to the largest output.
    difference : str
        "" if they are equal up to rounding, else what differs: "in shape", or "by 1.2e-03 in float64".
    raised : Exception or None
        What the small network raised instead of returning; `difference` is its message then.
    training : bool
        Whether they differ in training mode alone.
    inputs : Inputs or None
        On what they differ.
    """

    error: float = 0.0
    difference: str = ""
    raised: Exception | None = None
    training: bool = False
    inputs: Inputs | None = None

    @property
    def equal(self) -> bool:
        """Whether the outputs are equal up to rounding."""
        return not self.difference


@dataclass(frozen=True)
class Reference:
    """What a dense model returns on all probes; computed once, whatever is compared with it.

    Parameters
    ----------
    exact, native : list of (Inputs, list of Tensor)
        In float64, empty if it does not run in it at all, and in its own dtype.
    training : (Inputs, list of Tensor) or None
        In training mode, on one of the probes; None if it refuses that.
    double : InDouble
        How it was run in float64.
    model : nn.Module
        The dense model itself; it is not touched.
    """

    exact: list[Run]
    native: list[Run]
    training: Run | None
    double: InDouble
    model: nn.Module


def refer(model: nn.Module, inputs: Inputs, words: list[int]) -> Reference:
    """Run a dense model in eval mode on every probe that it accepts, and in training mode on one.

    Parameters
    ----------
    words : list of int
        Of each tensor of the inputs, how many numbers may stand in it if it holds the entries of a table, else 0.

    Raises
    ------
    RuntimeError
        If it refuses the example, or changes its own weights.
    """
    _check_example(model, inputs)
    double = InDouble(native_dtype(model))
    exact = _run_all(model, probes(inputs, words), double)
    # In its own dtype the example and the lightest of the others are enough, where float64 sees all.
    choices: Iterator[Iterable[Inputs]] = iter([[each] for each, _ in exact[:2]]) if exact else probes(inputs, words)
    next(choices)
    # No earlier: beside a copy in float64, one in the own dtype would cost a third more memory. Both models see all
    # inputs in the same order, for what they keep in buffers.
    dense = clone(model).eval()
    native = [(inputs, _run(dense, inputs, None))]
    native += (run for run in (_accepted(dense, choice, None) for choice in choices) if run)
    light = native[min(1, len(native) - 1)][0]
    return Reference(exact, native, _accepted(dense.train(), [light, inputs], None), double, model)


def _check_example(model: nn.Module, inputs: Inputs) -> None:
    """Raise RuntimeError if a copy of the dense model refuses the example, or changes its own weights."""
    dense = clone(model).eval()
    try:
        _run(dense, inputs, None)
    except Exception as error:
        raise RuntimeError(
            f"`shrink` could not run {type(model).__name__}.forward on the example of shape {inputs}{place(error)}: "
            f"{first_line(error)}. Nothing was changed. Pass an example that the model accepts, without labels."
        ) from error
    if why := rewrites_itself(model, dense):
        name = f"{type(model).__name__}.forward"
        raise RuntimeError(f"`shrink` cannot follow {name}: {why}. Nothing was changed. Move that out of `forward`.")


def _run_all(model: nn.Module, probes: Iterator[Iterable[Inputs]], double: InDouble) -> list[Run]:
    """Run the dense model in float64 on every probe that it accepts; none if it does not accept the first."""
    dense = _wide(model)
    runs: list[Run] = []
    for choices in probes:
        if run := _accepted(dense, choices, double):
            runs.append(run)
        elif not runs:
            break
    return runs


def _wide(model: nn.Module) -> nn.Module:
    """Return a copy of a model in float64, in eval mode."""
    dense = clone(model, share=True)
    cast(dense, torch.float64)
    return dense.eval()


def _explained(reference: Reference, run: Run, small: nn.Module, error: float, double: InDouble | None) -> float | None:
    """Return how far the outputs are from the dense model's if rounding explains it, else None.

    At least half of the digits have to be right. Where more than that hangs on a last digit of the weights, outputs are
    noise, also the dense model's own, and a tenth of the inputs has to be right instead. If float64 agrees already, all
    that is left to find are stored constants that lost digits, and they show there just as well.
    """
    inputs, expected = run
    most = math.sqrt(min((torch.finfo(leaf.dtype).eps for leaf in expected if leaf.is_floating_point()), default=0.0))
    noise = _noise(reference.model, inputs, expected, double)
    if error <= min(noise, most):
        return error
    if noise <= most or (error > noise and (double or not reference.exact)):
        return None
    dense = _wide(reference.model) if double else clone(reference.model).eval()
    calm = _accepted(dense, [inputs.map(lambda x: x / 10 if x.is_floating_point() else x)], double)
    if calm is None:
        return None
    again = _error(calm[1], small, calm[0], double)
    limit = max(_noise(reference.model, *calm, double), TOLERANCE)
    return again.error if again.equal and again.error <= min(limit, most) else None


@torch.no_grad()
def _noise(model: nn.Module, inputs: Inputs, expected: list[Tensor], double: InDouble | None) -> float:
    """Return what rounding may do to a difference, by how far the outputs move if all weights move by their last digit.

    Where large numbers cancel, outputs are small beside what they are made of, and the order of a sum shows in them.
    """
    dense = _wide(model) if double else clone(model).eval()
    generator = torch.Generator().manual_seed(0)
    for _, _, _, tensor in tensors_of(dense):
        if tensor.is_floating_point() or tensor.is_complex():
            signs = torch.randint(2, tensor.shape, generator=generator).to(tensor) * 2 - 1
            tensor.mul_(1 + signs * torch.finfo(tensor.dtype).eps)
    return MANY * _distance(expected, _run(dense, inputs, double))


def _accepted(model: nn.Module, choices: Iterable[Inputs], double: InDouble | None) -> Run | None:
    """Run a model on the first inputs that it accepts; what the untouched model refuses tells nothing."""
    for inputs in choices:
        try:
            return inputs, _run(model, inputs, double)
        except Exception:  # a size, a batch or a dtype that the model does not take
            continue
    return None


def compare(reference: Reference, make: Callable[[torch.dtype | None], nn.Module]) -> Comparison:
    """Compare a small model with what the dense one returned: eval mode in float64, in its own dtype, training mode.

    Parameters
    ----------
    make : callable
        Cuts and compensates the model in a dtype, None for its own. In float64 the constants are added up in float64,
        too: what they lose by rounding is left to the second comparison.
    """
    exact = reference.exact
    worst = _worst(reference, make(torch.float64).eval()) if exact else Comparison()
    if not worst.equal:
        return worst
    # The model's own dtype: here `compensate` rounds, and what it added must not be worse than rounding elsewhere.
    error, small = worst.error, make(None).eval()
    for i, (inputs, expected) in enumerate(reference.native):
        native = _error(expected, small, inputs, None)
        if not native.equal:
            return replace(native, inputs=inputs)
        floats = [leaf.dtype for leaf in expected if leaf.is_floating_point() or leaf.is_complex()]
        eps = max((torch.finfo(dtype).eps for dtype in floats), default=0.0)
        # The dense model's own distance from float64 says how much rounding this network does on this input.
        rounding = _distance(exact[i][1], expected) if i < len(exact) else 0.0
        limit = max(50 * eps, MANY * rounding, TOLERANCE if eps < TOLERANCE else 0.0)
        # Half precision has no such excuse: its sums are of higher precision than the constants that are stored.
        if native.error > limit and (eps <= SINGLE or not exact):
            explained = _explained(reference, (inputs, expected), small, native.error, None)
            native, limit = (native, limit) if explained is None else (replace(native, error=explained), math.inf)
        if native.error > limit:
            difference = f"by {native.error:.1e} in {floats[0] if floats else 'its own dtype'}"
            return Comparison(native.error, difference, inputs=inputs)
        error = error if exact else max(error, native.error)
    return _training(reference, small) or Comparison(error)


def _training(reference: Reference, small: nn.Module) -> Comparison | None:
    """Return what goes wrong in training mode, if anything: dropout may make other numbers, and no other shapes."""
    if reference.training is None:
        return None
    inputs, expected = reference.training
    result = _error(expected, small.train(), inputs, None)
    return None if result.equal else replace(result, error=float("inf"), training=True, inputs=inputs)


def _worst(reference: Reference, small: nn.Module) -> Comparison:
    """Return the largest error in float64 on any input, or the first that rounding does not explain."""
    worst = Comparison()
    for inputs, expected in reference.exact:
        one = replace(_error(expected, small, inputs, reference.double), inputs=inputs)
        if one.equal and one.error > TOLERANCE:
            explained = _explained(reference, (inputs, expected), small, one.error, reference.double)
            said = f"by {one.error:.1e} in float64"
            one = replace(one, difference=said) if explained is None else replace(one, error=explained)
        if not one.equal:
            return one
        worst = max(worst, one, key=lambda each: each.error)
    return worst


@torch.no_grad()
def _run(model: nn.Module, inputs: Inputs, double: InDouble | None) -> list[Tensor]:
    """Return the tensors in what a model returns; what is random in it is the same every time."""
    devices = sorted({x.get_device() for x in inputs.tensors if x.is_cuda})
    dtype = torch.float64 if double else None
    with torch.random.fork_rng(devices=devices), double or contextlib.nullcontext():
        torch.manual_seed(0)
        # A copy: forward may change its inputs in place.
        return tensors_in(inputs.map(lambda x: x.to(wider(x.dtype, dtype), copy=True)).call(model))


def _error(expected: list[Tensor], small: nn.Module, inputs: Inputs, double: InDouble | None) -> Comparison:
    try:
        outputs = _run(small, inputs, double)
    except Exception as error:
        return Comparison(float("inf"), str(error) or type(error).__name__, error)
    if [leaf.shape for leaf in outputs] != [leaf.shape for leaf in expected]:
        return Comparison(float("inf"), "in shape")
    return Comparison(_distance(expected, outputs))


def _distance(expected: list[Tensor], outputs: list[Tensor]) -> float:
    """Return the largest difference, relative to the largest finite value expected; NaN must meet NaN."""
    worst = 0.0
    for left, right in zip(expected, outputs, strict=True):
        left, right = (torch.view_as_real(each) if each.is_complex() else each for each in (left, right))
        left, right = left.double(), right.double()
        strange = ~left.isfinite()
        if not torch.equal(strange, ~right.isfinite()):  # a NaN that came or went is a difference of any size
            return float("inf")
        left, right = left[~strange], right[~strange]
        if left.numel():
            scale = max(float(left.abs().max()), torch.finfo(torch.float64).tiny)
            worst = max(worst, float((left - right).abs().max()) / scale)
    return worst
