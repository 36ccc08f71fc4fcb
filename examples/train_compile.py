"""A compiled model (torch.compile needs a C++ compiler).

Run: python examples/train_compile.py
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
loader = torch.utils.data.DataLoader(data, batch_size=64, shuffle=True, drop_last=True)
model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 10))

# Recipe: Train the compiled model; give the library the model itself, and compile the small one anew.
compiled = torch.compile(model)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
reg = prl.GroupLasso(model, strength=0.05)
for _ in range(8):
    for x, y in loader:
        logits = compiled(x)
        loss = F.cross_entropy(logits, y) + reg.penalty(logits)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        reg.update(optimizer)
shrunk = prl.shrink(model, images[:1])
small = torch.compile(shrunk.model)
# End of the recipe.

accuracy = (small(images).argmax(1) == labels).float().mean()
print(f"hidden units 256, 64 → {shrunk.model[0].out_features}, {shrunk.model[2].out_features}")
print(f"accuracy on the training images {accuracy:.1%}, outputs equal to {shrunk.max_error:.0e}")
