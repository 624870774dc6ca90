"""Whether anything of a blur is left that its shape does not explain: what all parts of a frame have in common.

A spectrum deviates from the law of photographs because of what is in the picture, and because the blur is another one.
What is in the picture differs from part to part, the blur does not. So the deviations of the quarters of the frames,
each fitted on its own with the same blur, are alike only where that blur is not the whole of it.
"""

import math

import torch
from torch import Tensor

from worker.solver.blind_space import Shape, binned, fit, transfers, windowed_spectra

PASSED = 0.01  # |K|^2 under which it is pixels more than the shape that say how much
CHANCE = 1.7  # standard deviations of what chance makes of so few bins, that are taken off


def in_common(frames: Tensor, shape: Shape) -> float:
    """Mean correlation of what the blur leaves unexplained in two quarters of the frames, above what may be chance.

    frames: (T, H, W) brightness, H and W even. Only what turns with direction counts, as noise and what a codec did
    have rings in common; nor does what a direction's own power law would explain, to the square of log f, as horizons,
    fences and walls are everywhere in some clips.
    """
    spectra = [binned(windowed_spectra(part).abs().square().mean(0)) for part in _quarters(frames)]
    fits = [fit(spectrum, [shape], transfers([shape], spectrum)) for spectrum in spectra]
    like = spectra[0]
    signal = torch.cat([found.signal for found in fits]).amin(0)
    trust = (signal * (fits[0].transfer[0].exp() / PASSED).clamp_max(1)).sqrt()
    rings, sectors = (torch.nn.functional.one_hot(index).to(trust) for index in (like.ring, like.sector))
    log_f = (like.f / 0.1).log()[:, None]
    known = _basis(torch.cat([rings, sectors, sectors * log_f, sectors * log_f.square()], 1) * trust[:, None])
    left = torch.cat([found.left for found in fits]) * trust
    left = left - (left @ known) @ known.T
    bins = float((trust.square() * (1 - known.square().sum(1))).sum())
    power, total = float(left.square().sum()), float(left.sum(0).square().sum())
    pairs = len(left) * (len(left) - 1) / 2
    return (total - power) / ((len(left) - 1) * power) - CHANCE / math.sqrt(pairs * max(1.0, bins))


def _quarters(frames: Tensor) -> list[Tensor]:
    """All of one size; a row and a column may be left over."""
    h, w = (size // 4 * 2 for size in frames.shape[-2:])
    return [frames[:, top : top + h, left : left + w] for top in (0, h) for left in (0, w)]


def _basis(columns: Tensor) -> Tensor:
    """An orthonormal basis of what columns span, some of which depend on others."""
    basis, sizes, _ = torch.linalg.svd(columns, full_matrices=False)
    kept: Tensor = basis[:, sizes > 1e-4 * sizes[0]]
    return kept
