"""Images of 128 × 128 pixels from originals of any size, each pixel the mean over the area that it covers."""

from __future__ import annotations

import numpy as np

SIDE = 128


def averaged(pixels: np.ndarray) -> np.ndarray:
    """Return an image (height, width, …) as (128, 128, …) means over areas, in floating point."""
    rows, columns = (_weights(size) for size in pixels.shape[:2])
    return np.moveaxis(np.tensordot(np.tensordot(rows, pixels.astype(np.float64), 1), columns, ([1], [1])), -1, 1)


def to_bytes(values: np.ndarray) -> np.ndarray:
    """Return values rounded to the nearest of 0 … 255."""
    return np.asarray(np.rint(values).clip(0, 255), np.uint8)


def _weights(size: int) -> np.ndarray:
    """Return (128, size) the share of each old pixel in each new one; rows sum to 1."""
    edges = np.linspace(0, size, SIDE + 1)
    old = np.arange(size)
    overlap = np.minimum(edges[1:, None], old + 1) - np.maximum(edges[:-1, None], old)
    return np.asarray(overlap.clip(0) * SIDE / size)
