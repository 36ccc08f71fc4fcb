"""A MobileNetV3 of timm, penalized briefly, cut to half of its multiply-adds, in ONNX Runtime, in INT8.

Run: python examples/deploy_timm.py. No weights are downloaded: the network is trained here, on scikit-learn's digits in
32 × 32 pixels. Your own images and weights come in where it says so.
"""

import copy
import sys
import tempfile
from pathlib import Path

import timm
import torch
from deployment import export, quantize, row, runtime, train
from sklearn.datasets import load_digits

import pruning_lib as prl

torch.manual_seed(0)
torch.set_num_threads(1)
epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 12
folder = Path(tempfile.mkdtemp())  # your own
images, labels = (torch.tensor(part) for part in load_digits(return_X_y=True))  # your own images
images = torch.nn.functional.interpolate(images.float().view(-1, 1, 8, 8) / 16, size=32).repeat(1, 3, 1, 1)
cut = len(images) * 4 // 5
x, y, test_x, test_y = images[:cut], labels[:cut], images[cut:], labels[cut:]

# Your own network with its weights takes the place of these two lines; call dense.eval() then.
dense = timm.create_model("mobilenetv3_small_100", num_classes=10)
train(dense, x, y, epochs=epochs, rate=0.05)

# Recipe: penalize for a few epochs, prune, fine-tune without and with the dense network as teacher, export, quantize.
sparse = copy.deepcopy(dense)
reg = prl.NetworkSlimming(sparse, strength=3e-2)
train(sparse, x, y, epochs=max(1, epochs // 4), rate=0.02, reg=reg)
pruned = prl.prune(sparse, x[:1], macs_left=0.5, data=x, round_to=8)  # blocks of channels
raw, plain, small = pruned.model, copy.deepcopy(pruned.model), copy.deepcopy(pruned.model)
train(plain, x, y, epochs=epochs, rate=0.02)
train(small, x, y, epochs=epochs, rate=0.02, teacher=dense)
export(dense, folder / "dense.onnx", x)
export(small, folder / "small.onnx", x)
quantize(folder / "small.onnx", folder / "int8.onnx", x[:256])
# End of the recipe.

print("| network | kB | ms for one image | accuracy |\n|---|---:|---:|---:|")
for name, net in {
    "dense": dense,
    "pruned, before fine-tuning": raw.eval(),
    "pruned, fine-tuned on labels": plain,
    "pruned, fine-tuned by distillation": small,
}.items():
    row(f"{name}, PyTorch", net, prl.measure(net, x[:1]).bytes, test_x, test_y)
for name, stem in {"dense": "dense", "pruned, distillation": "small", "the same in INT8": "int8"}.items():
    size = sum(file.stat().st_size for file in folder.glob(f"{stem}.onnx*"))
    row(f"{name}, ONNX Runtime", runtime(folder / f"{stem}.onnx"), size, test_x, test_y)
