"""The sensitivity S of a network's outputs to each unit, measured on the graph of one forward pass; for `SeReNe`.

    S_i = 1/C Σ_k E|∂y_k / ∂p_i|

p_i: pre-activation of unit i; y: the C outputs; E: mean over the batch (and over space for a convolution).

The outputs of a segmentation, a sequence or a regression are all the numbers that one example gives: a map of K classes
has C = K·H·W of them. A unit at one place moves few; what counts is the whole channel's reach, its sum over space.

The estimators of S differ in what one step costs:

    exact        C backward passes      S as above; small layers take several outputs in one pass
    sampled      1 backward pass        E|∂y_k / ∂p_i| with an output k drawn for each example: unbiased for S
    lower-bound  1 backward pass        1/C E|Σ_k ∂y_k / ∂p_i| ≤ S; signs cancel, over the places of a map most of all
    local        none                   E|φ′(p_i)|, the unit's own activation φ alone

(All outputs at once with random signs would measure √Σ_k (∂y_k/∂p_i)², which falls the shorter of C·S the more outputs
a unit moves: no S, and no two layers alike.)

One example's slopes are taken while the others stay as they are. A BatchNorm in train mode mixes them; each example
then counts with a random sign, which no |·| notices and which keeps what the others send back from adding up.

Max pooling in windows that do not overlap hands each slope on to one place of p, so that Σ |∂y/∂p| is the same before
and behind it. It is taken behind, where there are fewer numbers: a tenth of the time of an exact step of LeNet-5.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.graph import GradientEdge

from pruning_lib.regularizers._probe import Probe, Seen
from pruning_lib.regularizers._slopes import (
    backward,
    behind_pools,
    first_of,
    place_axes,
    reduce_slopes,
    shape_of,
    unit_axis,
)
from pruning_lib.units import Weighted, rows

AT_ONCE = 1_600_000  # numbers in a layer's slopes, of the outputs that share a pass; with more, convolutions get slower


@dataclass(frozen=True, eq=False)
class Estimator:
    """One way to measure S of every layer.

    Parameters
    ----------
    kind : {"exact", "sampled", "lower-bound", "local"}
        See the top of this file.
    space : {"mean", "sum", "abs-of-sum"} or None
        How the places of p are joined; None decides by the shape of the outputs.
    released : bool
        Divide by the batch size too, as the released code does.
    layers : mapping of str to layer
        Whose units are measured.
    probe : Probe
        Observes the forward passes of their model.
    generator : torch.Generator
        Draws outputs and signs.
    """

    kind: str
    space: str | None
    released: bool
    layers: Mapping[str, Weighted]
    probe: Probe
    generator: torch.Generator

    def measure(self, outputs: Tensor, seen: Seen) -> dict[str, Tensor]:
        """Return {layer: S}, float32 of shape (units,), for the pass that left `outputs` and `seen`."""
        return self._local(outputs, seen) if self.kind == "local" else self._global(outputs, seen)

    def _global(self, outputs: Tensor, seen: Seen) -> dict[str, Tensor]:
        """Return S of every layer, from as many backward passes as the estimator takes."""
        uses = [(name, use.edge) for name, its in seen.items() for use in its]
        edges = [edge for _, edge in uses]
        # Only the last axes of maps are places; a graph whose nodes Python has met is deleted by recursion.
        maps = [
            i for i, (name, edge) in enumerate(uses) if len(shape_of(edge)) == 4 and unit_axis(self.layers[name]) == 1
        ]
        if maps:
            for i, edge in zip(maps, behind_pools([edges[i] for i in maps], outputs.grad_fn), strict=True):
                edges[i] = edge
        at_once, state = self._at_once(outputs, edges), self.generator.get_state()
        try:
            total = self._sum(outputs, uses, edges, at_once)
        except RuntimeError:
            if at_once == 1:
                raise
            # A backward that reads its numbers, by `.item()` or NumPy, takes one output at a time; signs as before.
            self.generator.set_state(state)
            total = self._sum(outputs, uses, edges, 1)
        if not total:
            raise ValueError("SeReNe got outputs that do not come from the model's last forward pass; pass those.")
        share = 1.0 if self.kind == "sampled" else 1 / _numbers(outputs)
        if self.released:
            share /= outputs.shape[0]
        for name in seen.keys() - total.keys():
            # The outputs do not feel a layer that no path leads on from.
            total[name] = torch.zeros(len(rows(self.layers[name])), device=outputs.device)
        return {name: total[name] * share for name in seen}

    def _sum(
        self, outputs: Tensor, uses: list[tuple[str, GradientEdge]], edges: list[GradientEdge], at_once: int
    ) -> dict[str, Tensor]:
        """Return the sum of E|slope| over the seeds, of each layer that an output feels."""
        total: dict[str, Tensor] = {}
        space = self.space or ("mean" if outputs.ndim <= 2 else "sum")
        for seeds in self._seeds(outputs.detach(), at_once):
            for (name, edge), slope in zip(uses, backward(outputs, edges, seeds), strict=True):
                if slope is not None:
                    # A slope is ours to overwrite, unless it is the seed itself, as at the output layer, or its signs
                    # are needed: two layers may share it, as before a sum.
                    mine = slope.data_ptr() != seeds.data_ptr() and space != "abs-of-sum"
                    axis, shape = unit_axis(self.layers[name]), shape_of(edge)
                    places = math.prod(shape[other] for other in place_axes(len(shape), axis))
                    value = len(seeds) * reduce_slopes(slope.flatten(0, 1), space, axis, places, overwrite=mine)
                    total[name] = total[name] + value if name in total else value
        return total

    def _at_once(self, outputs: Tensor, edges: list[GradientEdge]) -> int:
        """Return how many outputs go through one backward pass."""
        if self.kind != "exact" or torch.is_anomaly_enabled():
            return 1
        # Counted at the layers; what lies between them, an upsampling say, may be larger.
        return max(1, AT_ONCE // max(outputs.numel(), *(math.prod(shape_of(edge)) for edge in edges)))

    def _seeds(self, outputs: Tensor, at_once: int) -> Iterator[Tensor]:
        """Yield what backward passes multiply the outputs with, some at once: each of shape (some, *outputs.shape)."""
        examples, count = len(outputs), _numbers(outputs)
        seeds: Iterable[Tensor]
        if self.kind == "lower-bound":
            seeds = [outputs.new_ones(1, examples, count)]
        elif self.kind == "sampled":
            drawn = torch.randint(count, (examples, 1), generator=self.generator).to(outputs.device)
            seeds = [outputs.new_zeros(examples, count).scatter_(1, drawn, 1.0)[None]]
        else:
            # Those of a map, all at once, would take its size squared.
            seeds = (
                _one_hot(numbers, outputs.new_zeros(len(numbers), 1, count)).expand(-1, examples, -1)
                for numbers in torch.split(torch.arange(count, device=outputs.device), at_once)
            )
        signs = None
        if self.probe.mixes_examples():
            signs = 2.0 * torch.randint(2, (examples, 1), generator=self.generator) - 1
        for several in seeds:
            yield (several if signs is None else several * signs.to(several)).reshape(-1, *outputs.shape)

    def _local(self, outputs: Tensor, seen: Seen) -> dict[str, Tensor]:
        """Return E|φ′(p)| of every layer, the mean of its uses; 1 for the layer that writes the outputs."""
        last = first_of({use.edge.node for uses in seen.values() for use in uses}, outputs.grad_fn)
        values: dict[str, list[Tensor]] = {}
        for name, uses in seen.items():
            for use in uses:
                assert use.slope is not None
                values.setdefault(name, []).append(torch.ones_like(use.slope) if use.edge.node is last else use.slope)
        return {name: torch.stack(each).mean(0) for name, each in values.items()}


def _numbers(outputs: Tensor) -> int:
    """Return C, how many numbers one example gives."""
    return math.prod(outputs.shape[1:])


def _one_hot(numbers: Tensor, zeros: Tensor) -> Tensor:
    """Set one number of each row to 1."""
    return zeros.scatter_(-1, numbers[:, None, None], 1.0)


def mean_over_ranks(values: dict[str, Tensor], examples: int) -> tuple[dict[str, Tensor], int]:
    """Average over the processes of `torch.distributed`, by their numbers of examples; return the sum of these too."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return values, examples
    flat = torch.cat(list(values.values()))
    joined = torch.cat([flat * examples, flat.new_tensor([examples])])
    dist.all_reduce(joined)
    parts = torch.split(joined[:-1] / joined[-1], [len(value) for value in values.values()])
    return dict(zip(values, parts, strict=True)), int(joined[-1])
