"""Run by the release, in an environment that has the wheel and what it requires, and nothing else."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import torch
from torch import nn

import pruning_lib as prl

assert Path(prl.__file__).is_relative_to(sys.prefix), f"{prl.__file__} is not the installed library"
for extra in ("matplotlib", "sklearn", "scipy", "seaborn", "torchvision"):
    assert importlib.util.find_spec(extra) is None, f"{extra} is here: the environment is not empty"

model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)).eval()
example = torch.randn(4, 8)
with torch.no_grad():
    model[0].weight[:6] = 0
    model[0].bias[:6] = 0
small = prl.shrink(model, example).model
assert prl.measure(small, example).macs == 8 * 10 + 10 * 3
torch.testing.assert_close(small(example), model(example))
print(f"pruning_lib {prl.__version__} with torch {torch.__version__} works.")
