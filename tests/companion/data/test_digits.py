"""Digits: every image once, split by the seed alone."""

from __future__ import annotations

import torch

from pruning_lib.companion.data import digits


def test_digits_are_all_there_once() -> None:
    from sklearn.datasets import load_digits

    split = digits()
    assert [len(pair.targets) for pair in (split.train, split.val, split.test)] == [1077, 360, 360]
    joined = torch.cat([pair.inputs for pair in (split.train, split.val, split.test)]).flatten(1)
    expected = torch.from_numpy(load_digits().data / 16).float()
    assert sorted(map(tuple, joined.tolist())) == sorted(map(tuple, expected.tolist()))


def test_digits_split_depends_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first, again, other = digits(), digits(), digits(seed=1)
    assert torch.equal(first.test.inputs, again.test.inputs)
    assert not torch.equal(first.test.inputs, other.test.inputs)
    assert torch.equal(state, torch.get_rng_state())
