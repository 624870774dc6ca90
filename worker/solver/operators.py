"""What can happen to a clip: linear operators with exact adjoints.

Every operator has
    A          (T, C, H, W) -> (T', C, H', W')   the degradation
    A_adjoint  its exact transpose
    lift       y on the grid of x, brightness kept: a first guess, not the adjoint
    clip_shape the shape of x from that of y

`Chain` composes a list of them. How A A^T is inverted in closed form is the business of data_step.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from worker.solver.lowpass import gaussian_lowpass

Shape = tuple[int, int, int, int]
Boundary = Literal["replicate", "circular", "valid"]


class Operator(Protocol):
    """A linear map of clips."""

    def A(self, x: Tensor) -> Tensor: ...

    def A_adjoint(self, y: Tensor) -> Tensor: ...

    def lift(self, y: Tensor) -> Tensor: ...

    def clip_shape(self, measured: Shape) -> Shape: ...


@dataclass(frozen=True)
class Downsample:
    """Each measured pixel is the mean of a factor x factor block: (T, C, H, W) -> (T, C, H/f, W/f)."""

    factor: int

    def A(self, x: Tensor) -> Tensor:
        if x.shape[-2] % self.factor or x.shape[-1] % self.factor:
            raise ValueError(f"frames of {x.shape[-1]}x{x.shape[-2]} do not divide by {self.factor}")
        return F.avg_pool2d(x, self.factor)

    def A_adjoint(self, y: Tensor) -> Tensor:
        return y.repeat_interleave(self.factor, -2).repeat_interleave(self.factor, -1) / self.factor**2

    def lift(self, y: Tensor) -> Tensor:
        """Bicubic upsampling."""
        return F.interpolate(y, scale_factor=self.factor, mode="bicubic", align_corners=False)

    def clip_shape(self, measured: Shape) -> Shape:
        t, c, h, w = measured
        return t, c, h * self.factor, w * self.factor


@dataclass(frozen=True)
class GaussianBlur:
    """Every frame convolved with a Gaussian, edges mirrored; symmetric, so its own adjoint."""

    sigma: float

    def A(self, x: Tensor) -> Tensor:
        return gaussian_lowpass(x, self.sigma)

    A_adjoint = A

    def lift(self, y: Tensor) -> Tensor:
        return y

    def clip_shape(self, measured: Shape) -> Shape:
        return measured


@dataclass(frozen=True)
class TemporalAverage:
    """Each measured frame is the mean of `window` frames around it.

    Frame n averages n - window // 2 ... n - window // 2 + window - 1, so an even window leans half a frame back.
    boundary: what lies beyond the ends: the end frame again (`replicate`), the other end (`circular`), or nothing
    (`valid`: T - window + 1 frames are measured).
    """

    window: int
    boundary: Boundary = "replicate"

    def matrix(self, frames: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """(T', T): how the measured frames mix the true ones."""
        return _temporal_matrix(self.window, self.boundary, frames, dtype, device)

    def A(self, x: Tensor) -> Tensor:
        return mix_frames(self.matrix(x.shape[0], x.dtype, x.device), x)

    def A_adjoint(self, y: Tensor) -> Tensor:
        frames = self.clip_shape((y.shape[0], 0, 0, 0))[0]
        return mix_frames(self.matrix(frames, y.dtype, y.device).T, y)

    def lift(self, y: Tensor) -> Tensor:
        """The measured frame at the same place in time, or the nearest one."""
        before, after = self.grows()
        return torch.cat([y[:1].expand(before, -1, -1, -1), y, y[-1:].expand(after, -1, -1, -1)])

    def grows(self) -> tuple[int, int]:
        """How many frames x has before the first and after the last measured one."""
        if self.boundary != "valid":
            return 0, 0
        return self.window // 2, (self.window - 1) // 2

    def clip_shape(self, measured: Shape) -> Shape:
        t, c, h, w = measured
        return t + sum(self.grows()), c, h, w


@dataclass(frozen=True, eq=False)
class Mask:
    """Keeps the pixels where `known` is 1 and zeroes the others; its own adjoint.

    known: (1 or T, 1, H, W) of 0 and 1.
    """

    known: Tensor

    def A(self, x: Tensor) -> Tensor:
        return x * self.known.to(x)

    A_adjoint = A

    def lift(self, y: Tensor) -> Tensor:
        """Lost pixels filled with a normalised Gaussian mean of known ones, the nearest that has any to offer."""
        known = self.known.to(y).expand(y.shape[0], -1, -1, -1)
        x, left = y * known, 1 - known
        for sigma in (0.7, 1.5, 3.0, 6.0, 12.0, 24.0, 48.0, 96.0):
            if not left.any():
                break
            weight = gaussian_lowpass(known, sigma)
            enough = left * (weight > 0.05)
            x = x + enough * gaussian_lowpass(y * known, sigma) / weight.clamp_min(1e-6)
            left = left - enough
        return x

    def clip_shape(self, measured: Shape) -> Shape:
        return measured


@dataclass(frozen=True)
class Chain:
    """Operators applied one after the other, the first to the true clip."""

    operators: Sequence[Operator]

    def A(self, x: Tensor) -> Tensor:
        for operator in self.operators:
            x = operator.A(x)
        return x

    def A_adjoint(self, y: Tensor) -> Tensor:
        for operator in reversed(self.operators):
            y = operator.A_adjoint(y)
        return y

    def lift(self, y: Tensor) -> Tensor:
        for operator in reversed(self.operators):
            y = operator.lift(y)
        return y

    def clip_shape(self, measured: Shape) -> Shape:
        for operator in reversed(self.operators):
            measured = operator.clip_shape(measured)
        return measured


def mix_frames(matrix: Tensor, x: Tensor) -> Tensor:
    """Weighted sums of frames: matrix (T', T), x (T, ...) -> (T', ...)."""
    return (matrix @ x.flatten(1)).reshape(-1, *x.shape[1:])


@lru_cache(maxsize=32)
def _temporal_matrix(window: int, boundary: Boundary, frames: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    measured = frames - window + 1 if boundary == "valid" else frames
    if measured < 1:
        raise ValueError(f"a window of {window} frames does not fit a clip of {frames}")
    matrix = torch.zeros(measured, frames, dtype=torch.float64)
    for n in range(measured):
        for offset in range(window):
            source = n + offset - (0 if boundary == "valid" else window // 2)
            source = source % frames if boundary == "circular" else min(max(source, 0), frames - 1)
            matrix[n, source] += 1 / window
    return matrix.to(device, dtype)
