"""A network of two groups, its units and scores written out: what tests of selection share."""

import torch
from torch import nn

from pruning_lib.units import Group, Member, Units


def chain() -> nn.Module:
    """conv(4) → bn → ReLU → pool → flatten → fc1(3) → ReLU → fc2(2), on 1×4×4 images."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten()]
    model = nn.Sequential(*layers, nn.Linear(16, 3), nn.ReLU(), nn.Linear(3, 2))
    nn.init.normal_(model[1].bias)
    return model.eval()


class Lifted(nn.Module):
    """An activation that returns 0.5 at 0, as one with a learned shift behind it does."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.tensor(0.5))

    def forward(self, x):
        return x.relu() + self.shift


def lifted() -> nn.Module:
    """Four convolutions of 8 channels on images of 3, each with such an activation, and one of 1 × 1 behind them."""
    torch.manual_seed(0)
    layers = [[nn.Conv2d(3 if i == 0 else 8, 8, 3, padding=1), nn.BatchNorm2d(8), Lifted()] for i in range(4)]
    return nn.Sequential(*(layer for part in layers for layer in part), nn.Conv2d(8, 3, 1)).eval()


def groups_of_chain() -> Units:
    four, three = torch.arange(4), torch.arange(3)
    conv = Group("0", 4, "inner", (Member("0", four),), (Member("1", four),), (Member("5", four.repeat_interleave(4)),))
    fc1 = Group("5", 3, "inner", (Member("5", three),), (), (Member("7", three),))
    return Units([conv, fc1], {"7": "writes the model's output"}, {"0": 4 * 9 * 16, "5": 48, "7": 6})


SCORES = {"0": torch.tensor([4.0, 1.0, 3.0, 2.0]), "5": torch.tensor([0.5, 9.0, 2.5]), "7": torch.tensor([0.0, 0.0])}


CHOSEN = {"0": torch.tensor([True, False, True, False]), "5": torch.tensor([False, True, False])}


def indices(chosen) -> dict[str, list[int]]:
    return {name: mask.nonzero().flatten().tolist() for name, mask in chosen.items()}
