"""The orthonormal DCT-II of frames, under which blurs with mirrored edges are diagonal."""

import math
from functools import lru_cache

import scipy.fft
import torch
from torch import Tensor


def dct(x: Tensor) -> Tensor:
    """Each frame's, (..., H, W) -> (..., H, W): by FFT on a CPU, elsewhere as products with two small matrices."""
    if x.device.type == "cpu":
        return torch.from_numpy(scipy.fft.dctn(x.numpy(), axes=(-2, -1), norm="ortho", workers=torch.get_num_threads()))
    down, across = (dct_matrix(size, x.dtype, x.device) for size in x.shape[-2:])
    return down @ x @ across.T


def inverse_dct(u: Tensor) -> Tensor:
    """(..., H, W) -> (..., H, W), of what `dct` gave."""
    if u.device.type == "cpu":
        workers = torch.get_num_threads()
        return torch.from_numpy(scipy.fft.idctn(u.numpy(), axes=(-2, -1), norm="ortho", workers=workers))
    down, across = (dct_matrix(size, u.dtype, u.device) for size in u.shape[-2:])
    return down.T @ u @ across


@lru_cache(maxsize=8)
def dct_matrix(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(size, size): that of a line."""
    k = torch.arange(size, dtype=torch.float64)
    matrix = torch.cos(math.pi / size * (k + 0.5) * k[:, None]) * math.sqrt(2 / size)
    matrix[0] /= math.sqrt(2)
    return matrix.to(device, dtype)
