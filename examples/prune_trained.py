"""A trained network, made smaller in one call, fine-tuned and saved.

Run: python examples/prune_trained.py. The network is trained here, on scikit-learn's digits; yours is trained already.
"""

import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

import pruning_lib as prl

torch.manual_seed(0)
folder = Path(tempfile.mkdtemp())  # your own
images, labels = (torch.tensor(part) for part in load_digits(return_X_y=True))
images = images.float().view(-1, 1, 8, 8) / 16
data = torch.utils.data.TensorDataset(images, labels)
loader = torch.utils.data.DataLoader(data, batch_size=64, shuffle=True)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, epochs: int) -> None:
    """Train as always; nothing here knows of pruning."""
    model.train()
    for _ in range(epochs):
        for x, y in loader:
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.eval()


model = nn.Sequential(
    *(nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)),
    *(nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    nn.Linear(64, 10),
)
train(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), epochs=5)

# Recipe: `train` is your own training loop. The loader gives (inputs, targets); the loss judges the units.
pruned = prl.prune(model, images[:1], macs_left=0.5, data=loader, loss_fn=F.cross_entropy)
print(pruned)  # units before and after, which layers stay, and why
small = pruned.model  # a copy: `model` is as it was

optimizer = torch.optim.SGD(small.parameters(), lr=0.02, momentum=0.9)
train(small, optimizer, epochs=2)  # a new optimizer: the old one holds `model`

print(prl.measure(small, images[:1]))
prl.save(pruned, folder / "small.safetensors")  # with the fine-tuned weights: `small` is in it
# End of the recipe.

accuracy = (small(images).argmax(1) == labels).float().mean()
before, after = (prl.measure(net, images[:1]).parameters for net in (model, small))
print(f"parameters {before} → {after}")
print(f"accuracy on the training images {accuracy:.1%}, outputs equal to {pruned.max_error:.0e}")
