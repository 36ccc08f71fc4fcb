"""Seeded damage: to bytes, as disks and copies do it, and to trees of data, as hands and other versions do it."""

from __future__ import annotations

import copy
import random
from typing import Any

import torch
from torch import Tensor

VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 7, 2**31, 2**62, 10**30, 0.5),
    *(float("nan"), float("inf"), "", "0", "é\n", "a" * 999),
    *([], {}, [0], [[]], [0, 0], [1, 0], [-1], [10**9], ["0"], {"0": [0]}, {"": {}}, [{}], [None]),
]


def spoil_bytes(rng: random.Random, raw: bytes) -> bytes:
    """Return bytes with one to three faults of a disk, a copy or an editor."""
    spoilt = bytearray(raw)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        # Headers are short and say the most.
        at = rng.randrange(min(len(spoilt), rng.choice((16, 300, 10**9)))) if spoilt else 0
        size = rng.choice((1, 4, 100))
        match rng.randrange(7):
            case 0 | 1 if spoilt:
                spoilt[at] ^= 1 << rng.randrange(8)
            case 2:
                del spoilt[at:]
            case 3:
                del spoilt[at : at + size]
            case 4:
                spoilt[at:at] = rng.randbytes(size)
            case 5:
                spoilt[at : at + size] = bytes(size)
            case 6:
                spoilt[at : at + size] = spoilt[-size:]
    return bytes(spoilt)


def spoil(rng: random.Random, tree: Any) -> Any:
    """Return a copy of nested dicts, lists and tensors in which one to three places hold something else."""
    spoilt = copy.deepcopy(tree)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = list(_places(spoilt))
        if not places:
            return rng.choice(VALUES)
        owner, key = rng.choice(places)
        value = owner[key]
        match rng.randrange(6):
            case 0:
                del owner[key]
            case 1 if isinstance(owner, dict):
                owner[rng.choice((str(key)[::-1], "more", *owner))] = owner.pop(key)
            case 1 | 2 if isinstance(owner, list):
                owner.insert(key, copy.deepcopy(rng.choice(owner)))
            case 3 if isinstance(value, int):
                owner[key] = value + rng.choice((-1, 1, 2, -value, -2 * value, 10**12))
            case 3 | 4 if isinstance(value, Tensor):
                owner[key] = spoil_tensor(rng, value)
            case _:
                owner[key] = copy.deepcopy(rng.choice([*VALUES, rng.choice(places)[0]]))
    return spoilt


def _places(tree: Any) -> Any:
    for key in tree if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ():
        yield tree, key
        yield from _places(tree[key])


def spoil_tensor(rng: random.Random, tensor: Tensor) -> Tensor:
    """Return a tensor of another shape, dtype or content."""
    match rng.randrange(6):
        case 0:
            return tensor.to(rng.choice((torch.int64, torch.float16, torch.float64, torch.bool, torch.complex64)))
        case 1:
            return tensor.reshape(-1)
        case 2:
            return torch.cat([tensor.reshape(-1), tensor.reshape(-1)[:1]])
        case 3:
            return tensor.clone()[:0] if tensor.ndim else tensor.reshape(1)
        case 4:
            return tensor.unsqueeze(0).clone()
    return torch.full_like(tensor, True if tensor.dtype is torch.bool else 3)
