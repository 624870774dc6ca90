"""A clean clip degraded as a request says: what a client would have sent, had this happened to it."""

from collections.abc import Callable

import torch
from torch import Tensor

from app import degradations as stated
from app.degradations import Degradation


def sent(y: Tensor, noise_sigma: float, seed: int, first: int) -> Tensor:
    """Measured frames (T', 3, H', W') as a file of 8 bits would hold them, after noise of that standard deviation.

    first: number of the first of them in its clip; a frame has the same noise whichever others are asked for with it.
    """
    if noise_sigma:
        noise = [torch.randn(y.shape[1:], generator=_generator(seed, first + n)) for n in range(len(y))]
        y = y + noise_sigma * torch.stack(noise).to(y)
    return (y.clamp(0, 1) * 255).round() / 255


def random_mask(mask: stated.Mask, height: int, width: int, seed: int) -> Callable[[range], Tensor]:
    """Frames of a mask that is drawn, (T, 1, H, W) of 0 and 1: by their numbers, the same ones each time."""
    share = 0.5 if mask.known is None else mask.known

    def frames(wanted: range) -> Tensor:
        numbers = wanted if mask.moving else [0] * len(wanted)
        drawn = [torch.rand(1, height, width, generator=_generator(seed, -1 - n)) for n in numbers]
        return (torch.stack(drawn) < share).float()

    return frames


def size_at(degradations: list[Degradation], index: int, height: int, width: int) -> tuple[int, int]:
    """Height and width of frames that reach the degradation of that number, of a clip that was so high and wide."""
    for degradation in degradations[:index]:
        if isinstance(degradation, stated.Downsample):
            height, width = height // degradation.factor, width // degradation.factor
    return height, width


def _generator(seed: int, number: int) -> torch.Generator:
    return torch.Generator().manual_seed((seed * 1_000_003 + number) % 2**63)
