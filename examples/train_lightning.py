"""Lightning.

Run: python examples/train_lightning.py
"""

import lightning
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

import pruning_lib as prl
from pruning_lib.integrations.lightning import RegularizerCallback

lightning.seed_everything(0)
images, labels = (torch.tensor(part) for part in load_digits(return_X_y=True))
images = images.float() / 16
data = torch.utils.data.TensorDataset(images, labels)
loader = torch.utils.data.DataLoader(data, batch_size=16, shuffle=True)


class Classifier(lightning.LightningModule):
    """Your own module stays as it is."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 10))

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self.net(x), y)

    def configure_optimizers(self):
        return torch.optim.SGD(self.net.parameters(), lr=0.1, momentum=0.9)


# Recipe: The callback adds the penalty to what training_step returns, and follows the steps that are taken.
module = Classifier()
reg = prl.GroupLasso(module.net, strength=0.05)
trainer = lightning.Trainer(
    max_epochs=8, accelerator="cpu", accumulate_grad_batches=4, callbacks=[RegularizerCallback(reg, module.net)],
    logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
)  # fmt: skip
trainer.fit(module, loader)
# End of the recipe.

shrunk = prl.shrink(module.net, images[:1])
accuracy = (shrunk.model(images).argmax(1) == labels).float().mean()
print(f"hidden units 256, 64 → {shrunk.model[0].out_features}, {shrunk.model[2].out_features}")
print(f"accuracy on the training images {accuracy:.1%}, outputs equal to {shrunk.max_error:.0e}")
