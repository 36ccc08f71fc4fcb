"""Mixed precision in a loop of your own.

Run: python examples/train_amp.py
"""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

import pruning_lib as prl

torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"
images, labels = (torch.tensor(part).to(device) for part in load_digits(return_X_y=True))
images = images.float() / 16
data = torch.utils.data.TensorDataset(images, labels)
loader = torch.utils.data.DataLoader(data, batch_size=64, shuffle=True)

model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 10)).to(device)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
reg = prl.GroupLasso(model, strength=0.05)

# Recipe: float16 needs a scaler, which skips steps that overflow; bfloat16 needs none.
dtype = torch.float16 if device == "cuda" else torch.bfloat16
scaler = torch.amp.GradScaler(device, enabled=dtype == torch.float16)
for _ in range(8):
    for x, y in loader:
        with torch.autocast(device, dtype):
            logits = model(x)
        loss = F.cross_entropy(logits.float(), y) + reg.penalty(logits.float())  # in full precision
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scale = scaler.get_scale()
        scaler.step(optimizer)
        scaler.update()
        if scaler.get_scale() >= scale:  # the step was taken
            reg.update(optimizer)
# End of the recipe.

shrunk = prl.shrink(model, images[:1])
accuracy = (shrunk.model(images).argmax(1) == labels).float().mean()
print(f"hidden units 256, 64 → {shrunk.model[0].out_features}, {shrunk.model[2].out_features}")
print(f"accuracy on the training images {accuracy:.1%}, outputs equal to {shrunk.max_error:.0e}")
