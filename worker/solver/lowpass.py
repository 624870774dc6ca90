"""Gaussian smoothing of frames, with mirrored edges, as products with two banded matrices."""

from functools import lru_cache

import torch
from torch import Tensor

TOGETHER = 4  # frames: what lies between the two products is to stay near the processor
BAND = 128  # rows that go together: fewer make small products, more multiply with zeros


@lru_cache(maxsize=32)  # two for each step of a clip, and those of its blur
def gaussian_matrix(size: int, sigma: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(size, size) matrix that convolves a line with a Gaussian cut at 5 sigma.

    The line is mirrored at its edges (half-sample symmetric), which makes the matrix symmetric and diagonal under the
    DCT-II. Rows sum to 1.
    """
    radius = _reach(sigma)
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
    height, width = x.shape[-2:]
    down, across = (gaussian_matrix(size, sigma, x.dtype, x.device) for size in (height, width))
    y = torch.empty_like(x)
    for given, found in zip(torch.split(x, TOGETHER), torch.split(y, TOGETHER), strict=True):
        rows = torch.empty_like(given)
        for to, of in _bands(height, _reach(sigma)):
            rows[..., to, :] = down[to, of] @ given[..., of, :]
        for to, of in _bands(width, _reach(sigma)):
            found[..., to] = rows[..., of] @ across[of, to]
    return y


def _bands(size: int, reach: int) -> list[tuple[slice, slice]]:
    """Where a matrix that reaches so far beside its diagonal is not zero: rows, and the columns that they have."""
    starts = range(0, size, BAND)
    return [(slice(n, n + BAND), slice(max(0, n - reach), n + BAND + reach)) for n in starts]


def _reach(sigma: float) -> int:
    return max(1, int(5 * sigma + 0.5))
