"""A network with every kind of pre-activation there is, and its Jacobian by torch: what tests of SeReNe share."""

import numpy as np
import torch
from torch import nn

CLASSES, EXAMPLES = 4, 6


class Net(nn.Module):
    """conv → BatchNorm → in-place ReLU → pool → linear → ReLU → linear: every kind of pre-activation there is."""

    def __init__(self, norm: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3)
        self.norm = nn.BatchNorm2d(3) if norm else nn.Identity()
        self.fc1 = nn.Linear(3 * 9, 5)
        self.fc2 = nn.Linear(5, CLASSES)

    def head(self, p: torch.Tensor) -> torch.Tensor:
        h = nn.functional.max_pool2d(torch.relu(p), 2).flatten(1)
        return self.fc2(torch.relu(self.fc1(h)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        p = nn.functional.relu(self.norm(self.conv(x)), inplace=True)
        return self.fc2(nn.functional.relu(self.fc1(nn.functional.max_pool2d(p, 2).flatten(1)), inplace=True))


def make(norm: bool = False) -> tuple[Net, torch.Tensor]:
    torch.manual_seed(0)
    model = Net(norm).double()
    if norm:
        model.norm.running_mean.normal_()
        model.norm.running_var.uniform_(0.5, 2)
        nn.init.normal_(model.norm.weight)
        nn.init.normal_(model.norm.bias)
        model.eval()
    return model, torch.randn(EXAMPLES, 1, 8, 8, dtype=torch.float64)


def jacobian_of_conv(model: Net, x: torch.Tensor) -> np.ndarray:
    """|∂y_k/∂p| of every example alone: shape (examples, classes, channels, height, width)."""
    slopes = []
    for example in x:
        p = model.norm(model.conv(example[None])).detach()
        slopes.append(torch.autograd.functional.jacobian(lambda q: model.head(q)[0], p)[:, 0])
    return torch.stack(slopes).numpy()
