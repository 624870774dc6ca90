"""Blur kernels: float64 (h, w), h and w odd, centred, not negative, sum 1. Angles in degrees, counterclockwise."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

FINE = 16  # samples a pixel, per axis, where a shape is integrated over pixels


def gaussian_kernel(sigma_x: float, sigma_y: float, angle: float = 0.0) -> Tensor:
    """A Gaussian with these standard deviations, in pixels, along axes that are turned by `angle`; cut at 5 sigma."""
    x, y = _grid(max(1, round(5 * max(sigma_x, sigma_y))))
    along, across = _turned(x, y, angle)
    return _normalised(torch.exp(-0.5 * ((along / sigma_x) ** 2 + (across / sigma_y) ** 2)))


def motion_kernel(length: float, angle: float = 0.0) -> Tensor:
    """A straight, even movement over `length` pixels during the exposure, shared out bilinearly between pixels."""
    radius = math.ceil(length / 2) + 1
    steps = max(2, math.ceil(length * FINE))
    way = ((torch.arange(steps, dtype=torch.float64) + 0.5) / steps - 0.5) * length
    x, y = way * math.cos(math.radians(angle)), -way * math.sin(math.radians(angle))
    kernel = torch.zeros(2 * radius + 1, 2 * radius + 1, dtype=torch.float64)
    left, top = x.floor(), y.floor()
    for down in (0, 1):  # a point between pixels falls on the four around it
        for right in (0, 1):
            weight = (1 - (y - top - down).abs()) * (1 - (x - left - right).abs())
            place = ((top + down).long() + radius, (left + right).long() + radius)
            kernel.index_put_(place, weight, accumulate=True)
    return _normalised(_trimmed(kernel))


def disc_kernel(radius: float) -> Tensor:
    """A lens out of focus: an even disc, pixels at its rim weighing as much of them as it covers."""
    reach = math.ceil(radius + 0.5)
    fine = (torch.arange((2 * reach + 1) * FINE, dtype=torch.float64) + 0.5) / FINE - reach - 0.5
    inside = (fine[:, None] ** 2 + fine**2 <= radius**2).double()
    covered = F.avg_pool2d(inside[None, None], FINE)[0, 0]
    return _normalised(_trimmed(covered))


def convolved(one: Tensor, other: Tensor) -> Tensor:
    """The kernel of one blur after another."""
    down, across = (size - 1 for size in other.shape)
    padded = F.pad(one, (across, across, down, down))
    return _normalised(F.conv2d(padded[None, None], other.flip(0, 1)[None, None])[0, 0])


def _grid(radius: int) -> tuple[Tensor, Tensor]:
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float64)
    return offsets[None], offsets[:, None]


def _turned(x: Tensor, y: Tensor, angle: float) -> tuple[Tensor, Tensor]:
    """Coordinates along and across an axis that points `angle` degrees up from the right; y grows downwards."""
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    return x * c - y * s, x * s + y * c


def _trimmed(kernel: Tensor) -> Tensor:
    """Without the rim where all is zero, the centre kept."""
    while min(kernel.shape) > 1 and _rim(kernel) < 1e-12:
        kernel = kernel[1:-1, 1:-1]
    return kernel


def _rim(kernel: Tensor) -> float:
    return float(kernel.sum() - kernel[1:-1, 1:-1].sum())


def _normalised(kernel: Tensor) -> Tensor:
    return kernel / kernel.sum()
