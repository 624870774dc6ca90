"""A clean clip degraded as a request says: what a client would have sent, had this happened to it."""

from dataclasses import replace

import torch
from torch import Tensor

from app import degradations as stated
from app.degradations import Degradation
from worker.solve import operator_of
from worker.video import Beside


def simulated(
    truth: Tensor, degradations: list[Degradation], beside: Beside, noise_sigma: float, seed: int
) -> tuple[Tensor, Beside]:
    """The measured clip and what goes with it.

    truth: (T, 3, H, W) in [0, 1]; the result has its device, is (T', 3, H', W') float32 in [0, 1], with noise of that
    standard deviation, and rounded to 8 bits. Where a mask is stated and none given, a random one is drawn. Raises
    ValueError where the degradations do not fit the clip.
    """
    generator = torch.Generator().manual_seed(seed)
    x = truth.float()
    for degradation in degradations:
        if isinstance(degradation, stated.Mask) and beside.mask is None:
            beside = replace(beside, mask=random_mask(degradation, x, generator))
        x = operator_of([degradation], beside, x.device).A(x)
    if noise_sigma:
        x = x + noise_sigma * torch.randn(x.shape, generator=generator).to(x.device)
    return (x.clamp(0, 1) * 255).round() / 255, beside


def random_mask(mask: stated.Mask, x: Tensor, generator: torch.Generator) -> Tensor:
    """(1 or T, 1, H, W) of 0 and 1 for a clip x (T, C, H, W)."""
    share = 0.5 if mask.known is None else mask.known
    shape = (len(x) if mask.moving else 1, 1, *x.shape[-2:])
    return (torch.rand(shape, generator=generator) < share).float()
