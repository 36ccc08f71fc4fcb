"""The Trainer of Transformers, with a small ViT.

Run: python examples/train_trainer.py
"""

import tempfile

import torch
from sklearn.datasets import load_digits
from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification

import pruning_lib as prl
from pruning_lib.integrations.transformers import regularize

torch.manual_seed(0)
images, labels = (torch.tensor(part) for part in load_digits(return_X_y=True))
images = images.float().view(-1, 1, 8, 8) / 16
data = [{"pixel_values": image, "labels": int(label)} for image, label in zip(images, labels, strict=True)]
config = ViTConfig(
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=64,
    image_size=8,
    patch_size=2,
    num_channels=1,
    num_labels=10,
)
model = ViTForImageClassification(config)  # or .from_pretrained("your/model")
folder = tempfile.mkdtemp()  # your own

# Recipe: One line after the Trainer is made: penalty, update and checkpoints.
units = prl.find_units(model, {"pixel_values": images[:1]})
reg = prl.GroupLasso(model, strength=3.0, units=units)  # large, as the learning rates of the few steps sum to little
arguments = TrainingArguments(
    folder, num_train_epochs=12, per_device_train_batch_size=64, learning_rate=3e-3, report_to="none", disable_tqdm=True
)
trainer = Trainer(model, arguments, train_dataset=data)
regularize(trainer, reg)
trainer.train()
# End of the recipe.

model.cpu()
shrunk = prl.shrink(model, {"pixel_values": images[:1]})
accuracy = (shrunk.model(images).logits.argmax(1) == labels).float().mean()
print(f"parameters {model.num_parameters()} → {shrunk.model.num_parameters()}")
print(f"accuracy on the training images {accuracy:.1%}, outputs equal to {shrunk.max_error:.0e}")
