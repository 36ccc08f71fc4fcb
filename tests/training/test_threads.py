"""Denormal numbers are flushed on every thread that computes, and nothing global stays changed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD

from pruning_lib.training import Callback, Run, fit, flushed
from tests.training.runs import TRAIN, VAL, network


def denormals_survive() -> bool:
    return bool((torch.full((100_000,), 1e-30) * 1e-10).ne(0).all())


def test_nothing_global_is_left_changed() -> None:
    model = network().eval()
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    fit(model, TRAIN, VAL, epochs=1, optimizer=SGD(model.parameters(), 0.1), progress=False, threads=2)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(m.training for m in model.modules())
    assert denormals_survive()


class Watched(nn.Sequential):
    """Notes, while it computes, whether all of a tensor's denormals are flushed: each thread has its part of it."""

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(16, 3))
        self.flushed: list[bool] = []

    def note(self, _: object = None) -> None:
        self.flushed.append(bool((torch.full((1_000_000,), 1e-30) * 1e-10).eq(0).all()))

    def forward(self, x: Tensor) -> Tensor:
        self.note()
        y: Tensor = super().forward(x)
        if y.requires_grad:
            y.register_hook(self.note)  # type: ignore[no-untyped-call]
        return y


def test_a_loop_of_ones_own_can_flush_and_leaves_the_state_as_found() -> None:
    with flushed():
        assert (torch.full((2,), 1e-30) * 1e-10).eq(0).all()
        with flushed():
            pass
        assert (torch.full((2,), 1e-30) * 1e-10).eq(0).all()
    assert denormals_survive()
    with pytest.raises(KeyError), flushed():
        raise KeyError
    assert denormals_survive()


@pytest.mark.parametrize("threads", [1, 2])
def test_denormals_are_flushed_on_every_thread_and_the_state_is_put_back(threads: int) -> None:
    torch.set_num_threads(2)
    try:
        assert denormals_survive()  # starts the pool of two threads, without flushing
        model = Watched()
        fit(model, TRAIN, VAL, epochs=1, optimizer=SGD(model.parameters(), 0.1), progress=False, threads=threads)
        assert len(model.flushed) == 3, "a step forward, its way back, the validation"
        assert all(model.flushed)
        assert denormals_survive()
        torch.set_flush_denormal(True)
        fit(model, TRAIN, VAL, epochs=1, optimizer=SGD(model.parameters(), 0.1), progress=False)
        assert (torch.tensor(1e-30) * torch.tensor(1e-10)).item() == 0
    finally:
        torch.set_flush_denormal(False)
        torch.set_num_threads(1)


@pytest.mark.parametrize("asked", [None, 2])
def test_one_thread_computes_unless_more_are_asked_for(asked: int | None) -> None:
    counts: list[int] = []

    class Counts(Callback):
        def after_epoch(self, run: Run) -> None:
            counts.append(torch.get_num_threads())

    torch.set_num_threads(2)
    try:
        model, more = network(), {} if asked is None else {"threads": asked}
        optimizer = SGD(model.parameters(), 0.1)
        fit(model, TRAIN, VAL, epochs=1, optimizer=optimizer, callbacks=[Counts()], progress=False, **more)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert counts == [asked or 1]


def test_threads_do_not_change_what_is_learned() -> None:
    results = []
    for threads in (1, 2):
        model = network()
        history = fit(
            model, TRAIN, VAL, epochs=2, optimizer=SGD(model.parameters(), 0.1), progress=False, threads=threads
        )
        results.append(history["val_loss"])
    assert results[0] == pytest.approx(results[1], rel=1e-4)
