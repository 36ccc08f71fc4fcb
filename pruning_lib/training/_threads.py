"""The number of threads, and whether they flush denormal numbers: states outside the loop, put back afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event

import torch


@contextmanager
def flushed() -> Iterator[None]:
    """Flush denormal numbers to 0 on this thread while the block runs; for a training loop of your own.

    Weights on their way to 0, their slopes and their momentum pass below 1.2e-38, where some CPUs take a hundred times
    as long over each. `fit` flushes by itself. The state belongs to the thread, and torch's workers inherit it when
    they start: with several threads enter the block before the first computation, or compute with one.

    Examples
    --------
    >>> import torch
    >>> tiny = torch.tensor(1e-30)
    >>> with flushed():
    ...     print((tiny * 1e-10).item())
    0.0
    """
    # torch can set the state but not tell it: 1e-40 is denormal in float32, and 0 where they are flushed.
    before = bool((torch.tensor(1e-30) * torch.tensor(1e-10)).item() == 0)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def compute(body: Callable[[], None], threads: int, abandoned: Event) -> None:
    """Call `body` while torch computes with this many threads, all of which flush denormal numbers.

    Parameters
    ----------
    body : callable
        What to do.
    threads : int
        Where it is 1, the body runs on the calling thread, else on a new one.
    abandoned : Event
        Is set when the caller was interrupted; the body should then come to an end.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        if threads == 1:
            with flushed():
                body()
        else:
            _on_new_thread(body, threads, abandoned)
    finally:
        torch.set_num_threads(before)


def _on_new_thread(body: Callable[[], None], threads: int, abandoned: Event) -> None:
    """Run the body on a thread of its own, whose workers inherit its flushing; those of an old pool cannot be told."""

    def flushing() -> None:
        torch.set_num_threads(threads)
        torch.set_flush_denormal(True)
        body()

    with ThreadPoolExecutor(1) as pool:
        try:
            pool.submit(flushing).result()
        except BaseException:
            # The pool waits for its thread before this goes on, so the thread has to end soon.
            abandoned.set()
            raise
