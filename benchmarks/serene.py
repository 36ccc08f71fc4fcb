"""What penalties cost a step of LeNet-5, and how good the sampled sensitivity is: `python -m benchmarks.serene`.

Batch 100, ten classes, MNIST, one thread; a plain step is 1. The last row of steps is LeNet-300's. Targets, of LeNet-5:
sampled ≤ 1.15, exact ≤ 3.2, L1, L2 and group lasso ≤ 1.05; correlation of the sampled running average with the exact
sensitivity of a trained network ≥ 0.99 in the worst hidden layer. While training, the average also lags behind.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.timing import interleaved, ratios
from pruning_lib import L1, L2, GroupLasso, Regularizer, SeReNe
from pruning_lib.companion.data import TensorPair, mnist
from pruning_lib.companion.models import LeNet5, LeNet300

Maker = Callable[[nn.Module], Regularizer]
METHODS: dict[str, Maker] = {
    "L1, loss": lambda m: L1(m, 1e-5, apply="loss"),
    "L1, prox": lambda m: L1(m, 1e-5),
    "L2, loss": lambda m: L2(m, 1e-4),
    "group lasso, loss": lambda m: GroupLasso(m, 1e-4, apply="loss"),
    "group lasso, prox": lambda m: GroupLasso(m, 1e-4),
    "SeReNe local": lambda m: SeReNe(m, estimator="local"),
    "SeReNe sampled": lambda m: SeReNe(m),
    "SeReNe sampled, every=1": lambda m: SeReNe(m, every=1),
    "SeReNe lower-bound": lambda m: SeReNe(m, estimator="lower-bound"),
    "SeReNe exact": lambda m: SeReNe(m, estimator="exact"),
}


class Stepper:
    """One network, its optimizer and its penalty; a call takes one training step."""

    def __init__(
        self, maker: Maker | None, data: TensorPair, batch: int = 100, build: Callable[[], nn.Module] = LeNet5
    ) -> None:
        torch.manual_seed(0)
        self.model = build()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9)
        self.penalty = maker(self.model) if maker else None
        self.batches = list(zip(torch.split(data.inputs, batch), torch.split(data.targets, batch), strict=True))
        self.step = 0

    def __call__(self) -> None:
        x, y = self.batches[self.step % len(self.batches)]
        self.step += 1
        logits = self.model(x)
        loss = F.cross_entropy(logits, y)
        if self.penalty is not None:
            loss = loss + self.penalty.penalty(logits)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        if self.penalty is not None:
            self.penalty.update(self.optimizer)


def correlations(data: TensorPair, steps: int) -> dict[str, dict[str, float]]:
    """Train with the sampled estimator and correlate its running average with the exact S on 2,000 images, by layer.

    Once as training leaves it, once more after twenty batches on which the network stands still.
    """
    stepper = Stepper(lambda m: SeReNe(m, 1e-4), data)
    for _ in range(steps):
        stepper()
    sampled = stepper.penalty
    assert isinstance(sampled, SeReNe)
    training = sampled.sensitivity()
    sampled.remove()
    resting = SeReNe(stepper.model, every=1)
    for x, _ in stepper.batches[-20:]:
        resting.penalty(stepper.model(x))
        average = resting.sensitivity()
    resting.remove()
    exact = SeReNe(stepper.model, estimator="exact")
    exact.penalty(stepper.model(data.inputs[:2000]))
    truth = exact.sensitivity()
    hidden = list(truth)[:-1]
    return {
        "trained": {name: _correlation(average[name], truth[name]) for name in hidden},
        "training": {name: _correlation(training[name], truth[name]) for name in hidden},
    }


def _correlation(a: Tensor, b: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a, b]))[0, 1])


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--steps", type=int, default=550)
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = mnist().train
    steppers = {"plain": Stepper(None, data), **{name: Stepper(maker, data) for name, maker in METHODS.items()}}
    steppers["plain again"] = Stepper(None, data)
    # Three steps a turn: one of them measures when the sampled estimator does so at every third.
    seconds = interleaved(steppers, options.rounds, inner=3)
    print(f"{'LeNet-5, batch 100, plain = 1':<32} median  quartiles      ms")
    for name, (median, lower, upper) in ratios(seconds, "plain").items():
        milliseconds = 1000 * sorted(seconds[name])[len(seconds[name]) // 2]
        print(f"{name:<32} {median:6.3f}  {lower:.3f}–{upper:.3f}  {milliseconds:6.1f}")
    mlp = {name: Stepper(METHODS.get(name), data, build=LeNet300) for name in ("plain", "SeReNe exact")}
    median, lower, upper = ratios(interleaved(mlp, options.rounds, inner=20), "plain")["SeReNe exact"]
    print(f"{'SeReNe exact, LeNet-300':<32} {median:6.3f}  {lower:.3f}–{upper:.3f}")
    print(f"\nsampled running average against exact S after {options.steps} steps: correlation by layer")
    for state, found in correlations(data, options.steps).items():
        layers = "  ".join(f"{name} {value:.4f}" for name, value in found.items())
        print(f"{state:<10} {layers}  worst {min(found.values()):.4f}")


if __name__ == "__main__":
    main()
