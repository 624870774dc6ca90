"""Degradations that act on each frame alike: shrinking and blurring."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from worker.solver.lowpass import gaussian_lowpass, gaussian_matrix
from worker.solver.operators import Shape

Filter = Literal["mean_pool", "bilinear", "bicubic"]


@dataclass(frozen=True)
class Downsample:
    """Frames shrunk by a whole factor: (T, C, H, W) -> (T, C, H/f, W/f).

    filter: `mean_pool`, each measured pixel the mean of a factor x factor block; `bilinear` and `bicubic` as Pillow and
    torch do it with antialiasing, the filter `factor` times as wide, cut off at the edges.
    """

    factor: int
    filter: Filter = "mean_pool"

    def A(self, x: Tensor) -> Tensor:
        self._check(x.shape[-2], x.shape[-1])
        if self.filter == "mean_pool":
            return F.avg_pool2d(x, self.factor)
        return self.matrix(x.shape[-2], x) @ x @ self.matrix(x.shape[-1], x).T

    def A_adjoint(self, y: Tensor) -> Tensor:
        if self.filter == "mean_pool":
            return y.repeat_interleave(self.factor, -2).repeat_interleave(self.factor, -1) / self.factor**2
        h, w = y.shape[-2] * self.factor, y.shape[-1] * self.factor
        return self.matrix(h, y).T @ y @ self.matrix(w, y)

    def lift(self, y: Tensor) -> Tensor:
        """Bicubic upsampling."""
        return F.interpolate(y, scale_factor=self.factor, mode="bicubic", align_corners=False)

    def clip_shape(self, measured: Shape) -> Shape:
        t, c, h, w = measured
        return t, c, h * self.factor, w * self.factor

    def matrix(self, size: int, like: Tensor) -> Tensor:
        """(size / factor, size): what happens to a line of `size` pixels; of the type and on the device of `like`."""
        return _resize_matrix(size, self.factor, self.filter, like.dtype, like.device)

    def _check(self, height: int, width: int) -> None:
        if height % self.factor or width % self.factor:
            raise ValueError(f"frames of {width}x{height} do not divide by {self.factor}")


@lru_cache(maxsize=16)
def _resize_matrix(size: int, factor: int, filter: Filter, dtype: torch.dtype, device: torch.device) -> Tensor:
    line = torch.eye(size, dtype=torch.float64)
    if filter == "mean_pool":
        shrunk = F.avg_pool2d(line[None, None], (factor, 1))
    else:
        shrunk = F.interpolate(line[None, None], size=(size // factor, size), mode=filter, antialias=True)
    return shrunk[0, 0].to(device, dtype)


@dataclass(frozen=True)
class GaussianBlur:
    """Every frame convolved with an isotropic Gaussian, edges mirrored; symmetric, so its own adjoint."""

    sigma: float

    def A(self, x: Tensor) -> Tensor:
        return gaussian_lowpass(x, self.sigma)

    A_adjoint = A

    def lift(self, y: Tensor) -> Tensor:
        return y

    def clip_shape(self, measured: Shape) -> Shape:
        return measured

    def matrix(self, size: int, like: Tensor) -> Tensor:
        """(size, size): what happens to a line of `size` pixels; of the type and on the device of `like`."""
        return gaussian_matrix(size, self.sigma, like.dtype, like.device)


@dataclass(frozen=True, eq=False)
class Convolution:
    """Every frame convolved with the same kernel, edges mirrored.

    kernel: (h, w) with sum 1, of any size; its centre is at (h // 2, w // 2). kernel[i, j] is the share of a pixel's
    light that falls i - h // 2 rows below and j - w // 2 columns to the right of it.
    """

    kernel: Tensor

    @property
    def mirrored(self) -> bool:
        """Whether the kernel is its own mirror image left to right and top to bottom."""
        k = self.kernel
        if k.shape[0] % 2 == 0 or k.shape[1] % 2 == 0:
            return False
        return all(torch.allclose(k, k.flip(axis), rtol=0, atol=1e-9) for axis in (0, 1))

    def A(self, x: Tensor) -> Tensor:
        y = torch.empty_like(x)
        h, w = x.shape[-2:]
        transfer = _transfer(self, h, w, x.dtype, x.device)
        for n, frame in enumerate(x):
            mirrored = torch.cat([frame, frame.flip(-2)], -2)
            mirrored = torch.cat([mirrored, mirrored.flip(-1)], -1)
            y[n] = torch.fft.irfft2(torch.fft.rfft2(mirrored) * transfer, s=(2 * h, 2 * w))[:, :h, :w]
        return y

    def A_adjoint(self, y: Tensor) -> Tensor:
        x = torch.empty_like(y)
        h, w = y.shape[-2:]
        transfer = _transfer(self, h, w, y.dtype, y.device).conj()
        for n, frame in enumerate(y):
            spread = torch.fft.irfft2(torch.fft.rfft2(frame, s=(2 * h, 2 * w)) * transfer, s=(2 * h, 2 * w))
            folded = spread[:, :h] + spread[:, h:].flip(-2)
            x[n] = folded[..., :w] + folded[..., w:].flip(-1)
        return x

    def lift(self, y: Tensor) -> Tensor:
        return y

    def clip_shape(self, measured: Shape) -> Shape:
        return measured


@lru_cache(maxsize=4)
def _transfer(blur: Convolution, height: int, width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(2H, W + 1) complex: the kernel's spectrum on the frame continued by its mirror images."""
    kernel = blur.kernel.double().cpu()
    rows = (torch.arange(kernel.shape[0]) - kernel.shape[0] // 2) % (2 * height)
    columns = (torch.arange(kernel.shape[1]) - kernel.shape[1] // 2) % (2 * width)
    laid = torch.zeros(2 * height, 2 * width, dtype=torch.float64)
    laid.index_put_((rows[:, None], columns[None]), kernel, accumulate=True)
    spectrum: Tensor = torch.fft.rfft2(laid)
    return spectrum.to(device, torch.complex128 if dtype == torch.float64 else torch.complex64)
