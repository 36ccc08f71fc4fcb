"""Several processes, one model.

Run: torchrun --nproc-per-node 2 examples/train_ddp.py
"""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler

import pruning_lib as prl

dist.init_process_group("gloo")  # "nccl", with one GPU a process
torch.manual_seed(0)
images, labels = (torch.tensor(part) for part in load_digits(return_X_y=True))
images = images.float() / 16
data = TensorDataset(images, labels)
model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 10))

# Recipe: Every process makes its own regularizer; their updates are the same, since the weights are.
parallel = DistributedDataParallel(model)
optimizer = torch.optim.SGD(parallel.parameters(), lr=0.1, momentum=0.9)
reg = prl.GroupLasso(model, strength=0.05)
sampler = DistributedSampler(data)
for epoch in range(8):
    sampler.set_epoch(epoch)
    for x, y in DataLoader(data, batch_size=32, sampler=sampler):
        logits = parallel(x)
        loss = F.cross_entropy(logits, y) + reg.penalty(logits)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        reg.update(optimizer)
# End of the recipe.

total = torch.stack([parameter.detach().sum() for parameter in model.parameters()])
everywhere = [torch.zeros_like(total) for _ in range(dist.get_world_size())]
dist.all_gather(everywhere, total)
assert all(torch.equal(other, total) for other in everywhere), "the processes have different weights"
if dist.get_rank() == 0:
    shrunk = prl.shrink(model, images[:1])
    accuracy = (shrunk.model(images).argmax(1) == labels).float().mean()
    print(f"hidden units 256, 64 → {shrunk.model[0].out_features}, {shrunk.model[2].out_features}")
    print(f"accuracy on the training images {accuracy:.1%}, outputs equal to {shrunk.max_error:.0e}")
dist.destroy_process_group()
