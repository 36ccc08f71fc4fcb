"""A penalty in a loop of your own, steered toward a size.

Run: python examples/train_penalty.py
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
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
epochs = 15

# Recipe: `TargetSize` sets the strength after every epoch, so that half of the units are left at the end.
units = prl.find_units(model, images[:1])
reg = prl.GroupLasso(model, strength=0.0, units=units)
size = prl.TargetSize(model, reg, optimizer, units, units_left=0.5, epochs=epochs, steps=epochs * len(loader))
for _ in range(epochs):
    for x, y in loader:
        logits = model(x)
        loss = F.cross_entropy(logits, y) + reg.penalty(logits)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        reg.update(optimizer)
    size.step()
size.close()
shrunk = prl.shrink(model, images[:1])
# End of the recipe.

accuracy = (shrunk.model(images).argmax(1) == labels).float().mean()
print(f"hidden units 256, 64 → {shrunk.model[0].out_features}, {shrunk.model[2].out_features}")
print(f"accuracy on the training images {accuracy:.1%}, outputs equal to {shrunk.max_error:.0e}")
