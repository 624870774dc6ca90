"""Degradations that mix frames: each is a small matrix over time, the same for every pixel."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from worker.solver.operators import Shape
from worker.solver.placed import placed

Boundary = Literal["replicate", "circular", "valid"]


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


@dataclass(frozen=True)
class TemporalDownsample:
    """Each measured frame is the mean of `factor` true ones of its own: long exposure at a low frame rate.

    (T, C, H, W) -> (T / factor, C, H, W).
    """

    factor: int

    def matrix(self, frames: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """(T', T): how the measured frames mix the true ones."""
        if frames % self.factor:
            raise ValueError(f"{frames} frames do not divide by {self.factor}")
        eye = torch.eye(frames // self.factor, dtype=dtype, device=device)
        return eye.repeat_interleave(self.factor, 1) / self.factor

    def A(self, x: Tensor) -> Tensor:
        if len(x) % self.factor:
            raise ValueError(f"{len(x)} frames do not divide by {self.factor}")
        return x.reshape(-1, self.factor, *x.shape[1:]).mean(1)

    def A_adjoint(self, y: Tensor) -> Tensor:
        return self.lift(y) / self.factor

    def lift(self, y: Tensor) -> Tensor:
        """Every frame `factor` times."""
        return y.repeat_interleave(self.factor, 0)

    def clip_shape(self, measured: Shape) -> Shape:
        t, c, h, w = measured
        return t * self.factor, c, h, w


@dataclass(frozen=True, eq=False)
class FrameMix:
    """Any mixture of frames: a stretch of a longer clip's, as seen from that stretch alone.

    weights: (T', T) float64. nearest: (T,), the measured frame that stands for each true one at first.
    """

    weights: Tensor
    nearest: Tensor

    def matrix(self, frames: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """(T', T): how the measured frames mix the true ones."""
        return self.weights.to(device, dtype)

    def A(self, x: Tensor) -> Tensor:
        return mix_frames(placed(self.weights, x), x)

    def A_adjoint(self, y: Tensor) -> Tensor:
        return mix_frames(placed(self.weights, y).T, y)

    def lift(self, y: Tensor) -> Tensor:
        return y[self.nearest.to(y.device)]

    def clip_shape(self, measured: Shape) -> Shape:
        _, c, h, w = measured
        return self.weights.shape[1], c, h, w


Temporal = TemporalAverage | TemporalDownsample | FrameMix


def mix_frames(matrix: Tensor, x: Tensor) -> Tensor:
    """Weighted sums of frames: matrix (T', T), x (T, ...) -> (T', ...)."""
    return (matrix @ x.flatten(1)).reshape(len(matrix), *x.shape[1:])


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
