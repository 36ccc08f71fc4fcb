"""Accelerate.

Run: accelerate launch examples/train_accelerate.py, or with python
"""

import tempfile

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from sklearn.datasets import load_digits
from torch import nn

import pruning_lib as prl
from pruning_lib.integrations.accelerate import regularize

torch.manual_seed(0)
images, labels = (torch.tensor(part) for part in load_digits(return_X_y=True))
images = images.float() / 16
data = torch.utils.data.TensorDataset(images, labels)
loader = torch.utils.data.DataLoader(data, batch_size=16, shuffle=True)
net = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 10))
folder = tempfile.mkdtemp()  # your own

# Recipe: The penalty is a term of your loss; `regularize` follows the steps, and joins the checkpoints.
accelerator = Accelerator(gradient_accumulation_steps=4)
optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
model, optimizer, loader = accelerator.prepare(net, optimizer, loader)
reg = prl.GroupLasso(net, strength=0.05)
training = regularize(accelerator, reg, model, optimizer, epochs=8)
for _ in training:
    for x, y in loader:
        with accelerator.accumulate(model):
            logits = model(x)
            accelerator.backward(F.cross_entropy(logits, y) + reg.penalty(logits))
            optimizer.step()
            optimizer.zero_grad()
    training.done()
    accelerator.save_state(folder)  # `accelerator.load_state(folder)` before the loop resumes it
# End of the recipe.

net = accelerator.unwrap_model(model).cpu()
shrunk = prl.shrink(net, images[:1])
accuracy = (shrunk.model(images).argmax(1) == labels).float().mean()
accelerator.print(f"hidden units 256, 64 → {shrunk.model[0].out_features}, {shrunk.model[2].out_features}")
accelerator.print(f"accuracy on the training images {accuracy:.1%}, outputs equal to {shrunk.max_error:.0e}")
