"""Compare the outputs: in float64, where rounding cannot hide an error, then in the model's own dtype."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from pruning_lib._model import clone
from pruning_lib.channels._plan import cast

TOLERANCE = 1e-9
Args = tuple[Tensor, ...]
Runs = list[tuple[Args, list[Tensor]]]
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
    """

    error: float = 0.0
    difference: str = ""
    raised: Exception | None = None

    @property
    def equal(self) -> bool:
        """Whether the outputs are equal up to rounding."""
        return not self.difference


def compare(model: nn.Module, make: Callable[[torch.dtype | None], nn.Module], args: Args) -> Comparison:
    """Compare a dense model with a small one on all `probes`, in eval mode.

    Parameters
    ----------
    make : callable
        Cuts and compensates the model in a dtype, None for its own. In float64 the constants are added up in float64,
        too: what they lose by rounding is left to the second comparison.
    """
    exact = _run_all(model, args, torch.float64)  # outputs alone are kept: never two models in float64 at once
    worst = 0.0
    if exact is not None:
        wide = _worst(exact, make(torch.float64).eval(), torch.float64)
        if not wide.equal:
            return wide
        worst = wide.error
        if worst > TOLERANCE:
            return Comparison(worst, f"by {worst:.1e} in float64")
    # The model's own dtype: here `compensate` rounds, and what it added must not be worse than rounding elsewhere.
    small = make(None).eval()
    for i, (inputs, expected) in enumerate(_run_all(model, args, None) or []):
        native = _error(expected, small, inputs, None)
        if not native.equal:
            return native
        floats = [leaf.dtype for leaf in expected if leaf.is_floating_point()]
        eps = max((torch.finfo(dtype).eps for dtype in floats), default=0.0)
        # The dense model's own distance from float64 says how much rounding this network does on this input.
        rounding = _distance(exact[i][1], expected) if exact and i < len(exact) else 0.0
        if native.error > max(50 * eps, 20 * rounding, TOLERANCE if eps < TOLERANCE else 0.0):
            return Comparison(native.error, f"by {native.error:.1e} in {floats[0] if floats else 'its own dtype'}")
        worst = worst if exact else max(worst, native.error)
    return Comparison(worst)


def _worst(runs: Runs, small: nn.Module, dtype: torch.dtype) -> Comparison:
    """Return the largest error on any input, or the first failure."""
    worst = Comparison()
    for inputs, expected in runs:
        one = _error(expected, small, inputs, dtype)
        if not one.equal:
            return one
        worst = max(worst, one, key=lambda each: each.error)
    return worst


def _run_all(model: nn.Module, args: Args, dtype: torch.dtype | None) -> Runs | None:
    """Run the dense model on every input that it accepts; None if it does not run in this dtype at all."""
    dense = clone(model, share=True)
    if dtype:
        cast(dense, dtype)
    dense.eval()
    runs: Runs = []
    for i, choices in enumerate(probes(args)):
        for inputs in choices:
            try:
                runs.append((inputs, _run(dense, inputs, dtype)))
                break
            except Exception:  # another size or dtype that the dense model itself refuses
                if not i:
                    return None
    return runs


def probes(args: Args) -> Iterator[list[Args]]:
    """Yield inputs to compare on, each as a list of choices of which the first that the dense model accepts is used.

    The example; random inputs, of another batch size and scale; and images of another size, small if may be.
    """
    yield [args]
    # A generator of its own: the caller's random state is not touched, and two runs compare on the same inputs.
    generator = torch.Generator().manual_seed(0)

    def like(arg: Tensor, scales: list[float], size: Callable[[int], int]) -> Tensor:
        # Words, masks, indices: others than the example's might be out of range.
        if not arg.is_floating_point():
            return arg[torch.arange(len(scales), device=arg.device) % len(arg)]
        shape = [len(scales), *arg.shape[1:]]
        shape[2:] = map(size, shape[2:])
        factors = torch.tensor(scales).reshape(-1, *[1] * (arg.ndim - 1))
        return (factors * torch.randn(shape, generator=generator)).to(arg)

    # Ten times as large: a unit that is silent on small inputs may wake up.
    yield [tuple(like(arg, [1.0, 1.0, 10.0], lambda length: length) for arg in args)]
    # Another size shows what depends on the number of positions: padded borders, sums, literal sizes.
    if any(arg.ndim >= 3 for arg in args):
        yield [tuple(like(arg, [1.0, 10.0], other) for arg in args) for other in (_smaller, _larger)]


def _smaller(length: int) -> int:
    return length // 2 + 5 if length >= 64 else length + 5


def _larger(length: int) -> int:
    return length + 5


@torch.no_grad()
def _run(model: nn.Module, inputs: Args, dtype: torch.dtype | None) -> list[Tensor]:
    """Return the tensors in what a model returns; what is random in it is the same every time."""
    converted = [x.to(dtype) if dtype and x.is_floating_point() else x for x in inputs]
    with torch.random.fork_rng(devices=sorted({x.get_device() for x in inputs if x.is_cuda})):
        torch.manual_seed(0)
        outputs = model(*(x.clone() for x in converted))  # forward may change its inputs in place
    return [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]


def _error(expected: list[Tensor], small: nn.Module, inputs: Args, dtype: torch.dtype | None) -> Comparison:
    try:
        outputs = _run(small, inputs, dtype)
    except Exception as error:
        return Comparison(float("inf"), str(error) or type(error).__name__, error)
    if [leaf.shape for leaf in outputs] != [leaf.shape for leaf in expected]:
        return Comparison(float("inf"), "in shape")
    return Comparison(_distance(expected, outputs))


def _distance(expected: list[Tensor], outputs: list[Tensor]) -> float:
    """Return the largest difference, relative to the largest finite value expected; NaN must meet NaN."""
    worst = 0.0
    for left, right in zip(expected, outputs, strict=True):
        left, right = left.double(), right.double()
        strange = ~left.isfinite()
        if not torch.equal(strange, ~right.isfinite()):  # a NaN that came or went is a difference of any size
            return float("inf")
        left, right = left[~strange], right[~strange]
        if left.numel():
            scale = max(float(left.abs().max()), torch.finfo(torch.float64).tiny)
            worst = max(worst, float((left - right).abs().max()) / scale)
    return worst
