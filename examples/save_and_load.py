"""Write a pruned network and read it again, also one of Transformers.

Run: python examples/save_and_load.py
"""

import tempfile
from pathlib import Path

import torch
from transformers import BertConfig, BertForSequenceClassification

import pruning_lib as prl

torch.manual_seed(0)
folder = Path(tempfile.mkdtemp())  # your own
config = BertConfig(
    vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, num_labels=3
)
tokens = {"input_ids": torch.randint(100, (4, 12))}
model = BertForSequenceClassification(config).eval()  # or .from_pretrained("your/model")
units = prl.find_units(model, tokens)
chosen = prl.select(prl.importance.magnitude(model, units), units, fraction=0.5, scope="local", kinds=["inner"])
prl.zero(model, chosen, units)
shrunk = prl.shrink(model, tokens)

# Recipe: The file holds the small weights and the plan that led to them; the class builds the network.
prl.save(shrunk, folder / "small.safetensors")
config.save_pretrained(folder)

dense = BertForSequenceClassification(BertConfig.from_pretrained(folder))
small = prl.load(dense, folder / "small.safetensors")
small.eval()  # it is in the mode of the network that it was built from
# End of the recipe.

same = torch.equal(small(**tokens).logits, shrunk.model(**tokens).logits)
print(f"parameters {model.num_parameters()} → {small.num_parameters()}; the outputs are the same: {same}")
