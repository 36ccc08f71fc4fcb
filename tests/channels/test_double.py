"""Types that a forward names itself: the comparison in float64 measures no rounding of theirs."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pruning_lib.channels import find_units, shrink
from pruning_lib.channels._double import InDouble
from pruning_lib.selection import zero
from tests.channels.helpers import seeded

HALF = torch.bfloat16


class HalfBody(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3, padding=1, dtype=HALF), nn.Conv2d(16, 8, 3, padding=1, dtype=HALF)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        return self.head(F.relu(self.b(F.relu(self.a(x.to(HALF))))).mean((2, 3)).float())


class StoredInHalf(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 8, 1), nn.Linear(8, 4)

    def forward(self, x):
        y = F.relu(self.a(x)).half().float().type_as(x)
        return self.head(F.relu(self.b(y.to(x.dtype))).mean((2, 3), dtype=torch.float32))


class RootMeanSquare(nn.Module):
    """Statistics in float32, as language models take them, in a network of another type."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.scale = nn.Linear(8, 16), nn.Linear(16, 8), nn.Parameter(torch.rand(8))

    def forward(self, x):
        y = x.to(torch.float32)
        y = self.scale * (y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype)
        return x + self.b(F.silu(self.a(y)))


IMAGE, WORDS = torch.randn(2, 3, 8, 8), torch.randn(2, 5, 8)
KINDS = {
    "half body": (HalfBody, IMAGE.to(HALF)),
    "stored in half": (StoredInHalf, IMAGE),
    "statistics in float32": (lambda: RootMeanSquare().double(), WORDS.double()),
    "statistics of bfloat16 in float32": (lambda: RootMeanSquare().to(HALF), WORDS.to(HALF)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shift", ["keep", "drop"])
def test_types_inside_are_no_reason_to_refuse(kind, shift):
    build, example = KINDS[kind]
    model = seeded(build).eval()
    units = find_units(model, example)
    nn.init.uniform_(model.a.bias, 0.1, 1)
    zero(model, {name: torch.arange(group.size) < group.size // 2 for name, group in units.items()}, units, shift=shift)
    shrunk = shrink(model, example)
    assert shrunk.max_error < 1e-12
    border = shift == "keep" and kind == "half body"  # there one constant stands for the others
    assert shrunk.removed["a"] == 8 - border


def numbers(native):
    x = torch.zeros(2, dtype=native)
    with InDouble(native):
        wide = x.double() if native != torch.float64 else x
        return {
            "cast": wide.half(),
            "named": wide.to(torch.float32),
            "by keyword": wide.sum(dtype=torch.float32),
            "of integers": torch.arange(3) / 2,
            "written": torch.full((1,), 0.1, dtype=wide.dtype),
            "written in float32": torch.full((1,), 0.1, dtype=torch.float32),
        }


@pytest.mark.parametrize("native", [torch.float32, torch.float64])
def test_everything_is_double_and_numbers_are_as_traced(native):
    found = numbers(native)
    assert {tensor.dtype for tensor in found.values()} == {torch.float64}
    assert found["written"].item() == torch.tensor(0.1, dtype=native).double().item()
    assert found["written in float32"].item() == torch.tensor(0.1).double().item()


class Written(nn.Module):
    def __init__(self, number):
        super().__init__()
        self.a, self.b, self.number = nn.Linear(3, 8), nn.Linear(8, 4), number

    def forward(self, x):
        return self.b(F.relu(self.a(x)) * self.number(x))


WRITTEN = {
    "full": lambda x: torch.full((1,), 0.1, dtype=x.dtype),
    "full in float32": lambda x: torch.full((1,), 0.1),
    "scalar": lambda x: torch.scalar_tensor(0.1, dtype=x.dtype),
    "tensor": lambda x: torch.tensor(0.1, dtype=x.dtype),
    "new": lambda x: x.new_full((1,), 0.1),
}


@pytest.mark.parametrize("native", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", WRITTEN)
def test_numbers_written_in_forward_fold_exactly(name, native):
    model = seeded(lambda: Written(WRITTEN[name])).to(native)
    with torch.no_grad():
        model.a.weight[:7] = 0
        model.a.bias[:7] = torch.linspace(-1, 1, 7)
    shrunk = shrink(model, torch.randn(2, 3, dtype=native))
    assert shrunk.removed == {"a": 7}
    assert shrunk.max_error < 1e-14
