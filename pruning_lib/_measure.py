"""MEASURE: what removal bought. A MAC is one multiply-add; parameters, zeros, bytes and time are counted apart.

Used first in the chapter `from-zeros-to-smaller`.
"""

from __future__ import annotations

import copy
import statistics
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from pruning_lib._arguments import checked
from pruning_lib._inputs import Inputs, batches, joined, tensors_in
from pruning_lib._model import at_least_float, check, clone, eval_mode, first_read, run, tensors_of
from pruning_lib._products import Counter, warn_uncounted
from pruning_lib.units import BatchNorm, unwrapped

FEW = "`recalibrate` needs at least two samples, since one has no variance: pass more data."
ALONE = "One sample has no variance: pass batches of two or more, by a larger batch_size or drop_last=True."


@dataclass(frozen=True)
class Measurement:
    """The cost of a network.

    Parameters
    ----------
    parameters : int
        Elements of all parameters, shared ones once.
    nonzero : int
        Those that differ from 0.
    macs : int
        Multiply-adds for one sample, in eval mode.
    bytes : int
        Of parameters and buffers.
    latency_ms : float or None
        Median time of one forward pass on the whole example, if asked for.

    Examples
    --------
    >>> import pruning_lib as prl
    >>> print(prl.Measurement(parameters=17, nonzero=9, macs=16, bytes=68))
    parameters  17
    nonzero      9
    MACs        16
    bytes       68
    """

    parameters: int
    nonzero: int
    macs: int
    bytes: int
    latency_ms: float | None = None

    def __str__(self) -> str:
        rows = [
            ("parameters", f"{self.parameters:,}"),
            ("nonzero", f"{self.nonzero:,}"),
            ("MACs", f"{self.macs:,}"),
            ("bytes", f"{self.bytes:,}"),
        ]
        if self.latency_ms is not None:
            rows.append(("latency", f"{self.latency_ms:.3f} ms"))
        width = max(len(value) for _, value in rows)
        return "\n".join(f"{name:<10}  {value:>{width}}" for name, value in rows)


def measure(
    model: nn.Module, example: Any, *, latency: bool = False, repeats: int = 30, threads: int = 1
) -> Measurement:
    """Count parameters, nonzero ones, multiply-adds for one sample, and bytes; time a forward pass if asked.

    Parameters
    ----------
    model : nn.Module
        It is not touched, and comes back in its mode. Of a wrapper (DataParallel, DistributedDataParallel,
        torch.compile) the module inside is measured.
    example : Tensor, tuple, mapping or Inputs
        What forward takes, as `pruning_lib.inputs` says, on the model's device and of its dtype, the batch first.
    latency : bool
        Time the forward pass too, in eval mode, on the whole example.
    repeats : int
        Timed passes, after five that are not. To compare two networks, call `measure` on them in turn.
    threads : int
        Threads of the CPU while timing.

    Returns
    -------
    Measurement

    Raises
    ------
    TypeError, ValueError
        If model and example do not fit, or a number of repeats or threads is below 1.
    RuntimeError
        If forward raises on the example.

    Warns
    -----
    UserWarning
        If an operator that is not torch's own may multiply matrices, and has no formula: it counts as nothing.

    Examples
    --------
    >>> import torch
    >>> import pruning_lib as prl
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.ReLU(), torch.nn.Linear(4, 3))
    >>> cost = prl.measure(model, torch.zeros(1, 8))
    >>> cost.macs, cost.parameters, cost.bytes
    (44, 51, 204)
    """
    checked("measure", model=model, latency=latency, repeats=repeats, threads=threads)
    model = unwrapped(model)
    inputs = check(model, example, prunable=False)
    # The counter asks every tensor that wants a gradient for its history; a view that forward takes here has none.
    probe, inputs = clone(model).eval().requires_grad_(False), inputs.map(Tensor.detach)
    parameters = list(probe.parameters())
    held = {id(tensor): tensor for _, _, _, tensor in tensors_of(probe)}.values()
    counter = Counter()
    with torch.no_grad(), _unfused(), counter:
        outputs = run(probe, inputs, "measure")
    _check_batched(inputs, outputs)
    warn_uncounted("measure", counter.uncounted)
    return Measurement(
        sum(parameter.numel() for parameter in parameters),
        sum(int(parameter.count_nonzero()) for parameter in parameters),
        counter.macs // inputs.batch,
        sum(tensor.numel() * tensor.element_size() for tensor in held),
        _latency(probe, inputs, int(repeats), int(threads)) if latency else None,
    )


def _check_batched(inputs: Inputs, outputs: Any) -> None:
    """Raise ValueError if the example seems to be one sample without a batch axis."""
    flat = all(tensor.ndim == 1 and tensor.is_floating_point() for tensor in inputs.tensors)
    if flat and all(tensor.shape[:1] != (inputs.batch,) for tensor in tensors_in(outputs)):
        raise ValueError(
            f"The example of shape {inputs} has no batch axis, so the multiply-adds for one sample are not known: pass "
            "`example[None]`."
        )


@contextmanager
def _unfused() -> Iterator[None]:
    """Run attention and LSTMs by the operators that are counted, not by the fused ones of eval mode, which are not."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of missing hardware the first time it is asked
            with (
                torch.backends.mkldnn.flags(enabled=False),
                torch.backends.cudnn.flags(enabled=False),
                sdpa_kernel(SDPBackend.MATH),  # torch 2.8 has no formula for the CPU's fused attention
            ):
                yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@torch.no_grad()
def _latency(model: nn.Module, inputs: Inputs, repeats: int, threads: int) -> float:
    """Return the median time of a forward pass in milliseconds, after five that warm up."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    times: list[float] = []
    try:
        for i in range(repeats + 5):
            _wait(inputs.tensors[0])
            start = time.perf_counter()
            inputs.call(model)
            _wait(inputs.tensors[0])
            if i >= 5:
                times.append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(before)
    return 1e3 * statistics.median(times)


def _wait(tensor: Tensor) -> None:
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)


@torch.no_grad()
def recalibrate(model: nn.Module, inputs: Any, batch_size: int = 256) -> None:
    """Compute the running statistics of every BatchNorm anew from data, in place; nothing else changes.

    Each batch counts by its samples, so that the means are those of the data. Zeroing units moves what later layers
    see; this brings the statistics back in step without a label.

    Parameters
    ----------
    model : nn.Module
        Networks without BatchNorm are left alone, as are layers that the data do not reach. Dropout stays off.
    inputs : Tensor or iterable of batches
        (samples, …), or batches as a DataLoader gives them; labels are not needed, and not looked at. Where forward
        itself takes ``labels`` or ``label``, as a conditional network, wrap a batch in `pruning_lib.inputs`: a plain
        mapping loses them. A last batch of one sample, which has no variance, joins the one before.
    batch_size : int
        Samples a batch, at least 2. Variances are averaged over batches: larger is closer to the data's. An iterable
        has batches of its own.

    Raises
    ------
    TypeError, ValueError
        If the data are of another kind, if there are fewer than two samples or the batch size is below 2, or if the new
        statistics are not finite. They are then as before.
    RuntimeError
        If forward raises on a batch, as on one sample where a BatchNorm sees one value of each channel.

    Examples
    --------
    >>> import torch
    >>> import pruning_lib as prl
    >>> model = torch.nn.Sequential(torch.nn.BatchNorm1d(1))
    >>> prl.recalibrate(model, torch.tensor([[1.0], [2.0], [6.0]]))
    >>> model[0].running_mean, model[0].running_var
    (tensor([3.]), tensor([7.]))
    """
    checked("recalibrate", model=model, batch_size=batch_size)
    model = unwrapped(model)
    norms = [module for module in model.modules() if isinstance(module, BatchNorm) and module.track_running_stats]
    if not norms:
        return
    if isinstance(inputs, Tensor) and inputs.shape[:1].numel() < 2:
        raise ValueError(FEW)
    before = {norm: (norm.momentum, copy.deepcopy(norm._buffers)) for norm in norms}
    seen = {norm: _Statistics() for norm in norms}
    handles: list[Any] = []
    try:
        with eval_mode(model):
            for norm in norms:
                norm.reset_running_stats()
                norm.train()
                norm.momentum = 1.0  # each call leaves its own statistics
                handles.append(norm.register_forward_hook(seen[norm].add, with_kwargs=True))
            for call in _in_company(batch.inputs.to(model) for batch in batches(inputs, int(batch_size))):
                run(model, call, "recalibrate", advice=ALONE if call.batch < 2 else "")
        for norm, statistics in seen.items():
            statistics.write(norm)
        if not all(tensor.isfinite().all() for norm in norms for tensor in norm.buffers()):
            raise ValueError("`recalibrate` got data whose statistics are NaN or infinite; they are as before.")
        _restore({norm: buffers for norm, (_, buffers) in before.items() if not seen[norm].samples})
    except BaseException:
        _restore({norm: buffers for norm, (_, buffers) in before.items()})
        raise
    finally:
        for handle in handles:
            handle.remove()
        for norm, (momentum, _) in before.items():
            norm.momentum = momentum


def _in_company(calls: Iterable[Inputs]) -> Iterator[Inputs]:
    """Join one sample to the batch before it, or a first one to the next, where they fit; one batch is held back."""
    held, several = None, False
    for call in calls:
        together = joined(held, call) if held and (held.batch < 2) != (call.batch < 2) else None
        if held:
            several = True
            yield together or held
        held = None if together else call.map(Tensor.clone)  # its loader may fill the same memory again
    if held:
        if held.batch < 2 and not several:
            raise ValueError(FEW)
        yield held


def _restore(buffers: dict[BatchNorm, dict[str, Any]]) -> None:
    for norm, held in buffers.items():
        for name, tensor in held.items():
            if tensor is not None:
                getattr(norm, name).copy_(tensor)


class _Statistics:
    """The mean of a BatchNorm's statistics over all its calls, each by its samples.

    Sums are at least in single precision. A running average in half would forget: an update of 1/n is rounded away.
    """

    def __init__(self) -> None:
        self.samples = 0
        self._sums: dict[str, Tensor] = {}

    def add(self, norm: BatchNorm, arguments: tuple[Any, ...], keywords: dict[str, Any], output: Tensor) -> None:
        """Take what a call left, as a forward hook."""
        samples = len(first_read(norm, arguments, keywords))
        self.samples += samples
        for name in ("running_mean", "running_var"):
            value = getattr(norm, name)
            self._sums[name] = self._sums.get(name, 0) + samples * value.to(at_least_float(value.dtype))

    def write(self, norm: BatchNorm) -> None:
        """Leave the mean in the BatchNorm."""
        for name, total in self._sums.items():
            getattr(norm, name).copy_(total / self.samples)
