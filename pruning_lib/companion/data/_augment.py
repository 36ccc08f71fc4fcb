"""Random changes of training images, for `pruning_lib.fit`'s argument `augment`."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from pruning_lib.companion._arguments import checked, said


def crop_and_flip(inputs: Tensor, generator: torch.Generator, padding: int = 4) -> Tensor:
    """Return each image of a batch at a random place, zeros moving in at the border, and mirrored by a fair coin.

    Parameters
    ----------
    inputs : Tensor
        (n, channels, height, width), on any device.
    generator : torch.Generator
        On the CPU; two equal ones give equal batches on every device.
    padding : int
        By how many pixels an image moves at most, up, down, left and right.

    Examples
    --------
    >>> import torch
    >>> images = torch.arange(8.0).view(1, 1, 2, 4)
    >>> crop_and_flip(images, torch.Generator().manual_seed(2), padding=0)
    tensor([[[[0., 1., 2., 3.],
              [4., 5., 6., 7.]]]])
    >>> crop_and_flip(images, torch.Generator().manual_seed(0), padding=0)
    tensor([[[[3., 2., 1., 0.],
              [7., 6., 5., 4.]]]])
    """
    checked("crop_and_flip", inputs=inputs, generator=generator, padding=padding)
    if inputs.ndim != 4:
        raise ValueError(f"crop_and_flip needs images (n, channels, height, width); got {said('inputs', inputs)}.")
    n, _, height, width = inputs.shape
    down, right = torch.randint(0, 2 * padding + 1, (2, n), generator=generator)
    flip = torch.rand(n, generator=generator) < 0.5
    columns = torch.where(flip.unsqueeze(1), torch.arange(width).flip(0), torch.arange(width))
    y = (down.unsqueeze(1) + torch.arange(height)).to(inputs.device)
    x = (right.unsqueeze(1) + columns).to(inputs.device)
    padded = pad(inputs, (padding,) * 4).permute(0, 2, 3, 1)
    example = torch.arange(n, device=inputs.device)
    return padded[example.view(-1, 1, 1), y.unsqueeze(2), x.unsqueeze(1)].permute(0, 3, 1, 2)
