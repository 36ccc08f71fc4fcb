"""Gradients accumulated over several batches in a loop of your own.

Run: python examples/train_accumulation.py
"""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

import pruning_lib as prl

torch.manual_seed(0)
images, labels = (torch.tensor(part) for part in load_digits(return_X_y=True))
images = images.float() / 16
data = torch.utils.data.TensorDataset(images, labels)
loader = torch.utils.data.DataLoader(data, batch_size=16, shuffle=True)

model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
reg = prl.GroupLasso(model, strength=0.05)

# Recipe: Each batch brings its share of the penalty; the update follows the step, not the batch.
batches = 4
for _ in range(8):
    for i, (x, y) in enumerate(loader, start=1):
        logits = model(x)
        loss = F.cross_entropy(logits, y) + reg.penalty(logits)
        (loss / batches).backward()
        if i % batches == 0 or i == len(loader):
            optimizer.step()
            reg.update(optimizer)
            optimizer.zero_grad()
# End of the recipe.

shrunk = prl.shrink(model, images[:1])
accuracy = (shrunk.model(images).argmax(1) == labels).float().mean()
print(f"hidden units 256, 64 → {shrunk.model[0].out_features}, {shrunk.model[2].out_features}")
print(f"accuracy on the training images {accuracy:.1%}, outputs equal to {shrunk.max_error:.0e}")
