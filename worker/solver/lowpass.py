"""Gaussian smoothing of frames, with mirrored edges, as two small matrix products."""

from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=32)  # two for each step of a clip, and those of its blur
def gaussian_matrix(size: int, sigma: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(size, size) matrix that convolves a line with a Gaussian cut at 5 sigma.

    The line is mirrored at its edges (half-sample symmetric), which makes the matrix symmetric and diagonal under the
    DCT-II. Rows sum to 1.
    """
    radius = max(1, int(5 * sigma + 0.5))
    taps = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, dtype=torch.float64) / sigma) ** 2)
    taps /= taps.sum()
    row = torch.arange(size)
    matrix = torch.zeros(size, size, dtype=torch.float64)
    for offset, weight in zip(range(-radius, radius + 1), taps, strict=True):
        column = (row + offset) % (2 * size)
        matrix[row, torch.minimum(column, 2 * size - 1 - column)] += weight
    return matrix.to(device, dtype)


def gaussian_lowpass(x: Tensor, sigma: float) -> Tensor:
    """Convolve each frame with an isotropic Gaussian.

    x: (T, C, H, W). sigma: pixels; below 0.1 nothing is done, as no neighbour would weigh 1e-22 or more.
    """
    if sigma < 0.1:
        return x
    down = gaussian_matrix(x.shape[-2], sigma, x.dtype, x.device)
    across = gaussian_matrix(x.shape[-1], sigma, x.dtype, x.device)
    return down @ x @ across
