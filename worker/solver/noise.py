"""How noisy a measurement is, when nobody says."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from worker.solver.closed_form import OCTAVES, Gram

COMPRESSION = 1.0 / 255  # what H.264 leaves at visually lossless settings; rounding to 8 bits alone leaves 0.29 / 255
ENOUGH = 1000  # responses below which there is nothing to estimate from
SAMPLES = 1 << 20
ROUNDING = 0.29 / 255  # what 8 bits leave
DARK = 1e-6  # eigenvalue of A A^T, below which a picture is a thousandth of itself
LONGEST = 0.95  # memory of noise; beyond it what changes would be all but free of noise
STEEPEST = 1.0  # falling as 1 / f
LOUD = 12 / 255  # H.264 at crf 40 leaves at most 10 under a blur that was made, of clean clips and noisy ones
LASTING = 0.3  # white noise of 0.1 keeps a memory of 0.25 at most up to crf 28 (docs/decisions.md)
BLACK = 0.05  # mean of lost pixels, beyond which they are not taken for black ones with noise


@dataclass(frozen=True)
class Noise:
    """Standard deviation of a measurement's noise, for pixels in [0, 1].

    measured: whether it was read where nothing else is and to a few percent; not stated by somebody, guessed among
    texture, or told from black pixels, which show half of it. memory: its correlation from one frame to the next, in
    [0, 1). rise: how many times sigma it is in each of the OCTAVES of spatial frequency. Where it was not measured
    noise is white: 0 and nothing.
    """

    sigma: float
    measured: bool = False
    memory: float = 0
    rise: Sequence[float] = ()

    @property
    def is_detail(self) -> bool:
        """Whether it is rather a picture, where a blur that was stated and not made would have left nothing."""
        return self.measured and self.sigma > LOUD and self.memory > LASTING


def find_noise(y: Tensor, known: Tensor | None, gram: Gram | None) -> Noise:
    """The noise of a measurement y, (T', 3, H', W') in [0, 1], by whatever shows it best.

    known: (1 or T', 1, H', W') of 0 and 1 where the last thing that happened was a mask. gram: of what happened.
    """
    dark = None if gram is None else noise_in_the_dark(y, gram)
    if dark is not None:
        return dark
    black = 0.0 if known is None else noise_on_black(y, known)
    return Noise(max(estimate_noise(y, known), black))


def estimate_noise(y: Tensor, known: Tensor | None = None, floor: float = COMPRESSION) -> float:
    """Standard deviation of y's noise, on the scale of y; never under `floor`, which is for y in [0, 1].

    A double Laplacian (Immerkaer 1996) leaves noise and texture. Averaged over 2 x 2 pixels, white noise halves, while
    the texture of photographs, whose spectrum falls as 1/f, stays as strong; two scales therefore tell them apart:

        fine^2 = noise^2 + texture^2,    coarse^2 = noise^2 / 4 + texture^2

    Without the second scale a sharp clip reads several times its noise (docs/decisions.md). Where texture outweighs the
    noise the answer is the floor.

    y: (T, 3, H, W). known: (1 or T, 1, H, W) of 0 and 1, or None; only pixels with known surroundings count.
    """
    known = torch.ones_like(y[:1, :1]) if known is None else known.to(y)
    fine = _response(y, known)
    coarse = _response(F.avg_pool2d(y, 2), -F.max_pool2d(-known, 2)) if min(y.shape[-2:]) >= 6 else None
    if fine is None or coarse is None:
        return floor
    return max(floor, math.sqrt(4 / 3 * max(0.0, fine**2 - coarse**2)))


def noise_on_black(y: Tensor, known: Tensor) -> float:
    """Standard deviation of the noise of y in [0, 1], by what a lossy file holds where pixels were lost and sent black.

    Of noise around black one half is cut off, so the root of twice the mean square is meant. 0 where lost pixels are
    not black, or none are lost. A wide hole, black all over, compresses without noise: take it for a lower bound.

    y: (T, 3, H, W). known: (1 or T, 1, H, W) of 0 and 1.
    """
    lost = y.float()[(known == 0).expand_as(y)]
    if len(lost) == 0 or float(lost.mean()) > BLACK:
        return 0.0
    return math.sqrt(2 * float(lost.square().mean()))


def noise_in_the_dark(y: Tensor, gram: Gram) -> Noise | None:
    """The noise of y in [0, 1], read off where the degradation left nothing else.

    A blur of sigma 3 leaves less than a thousandth of what is finer than five pixels: whatever a measurement holds
    there is noise. Of these frequencies the lowest are taken, as noise of lossy files falls with frequency and these
    are next to those where noise and picture are equals. None where nothing is so dark, as of small blurs, or where the
    `gram` does not go by frequency.

    Noise of lossy files lasts: a codec writes nothing where nothing moves, so that the same noise stays for many
    frames, and some of it follows what moves. How it falls is told from what is darker still, and half of that, as
    exponents go, believed: coarse detail may be nearly free of noise, or full of it (docs/decisions.md).

    y: (T', 3, H', W').
    """
    spectrum = gram.spectrum[0, 0]
    dark, darkest = (spectrum < DARK) & (spectrum > DARK / 1000), spectrum <= DARK / 1000
    if gram.rotation is None or len(y) * int(dark.sum()) < ENOUGH:
        return None
    rotated = replace(gram, octaves=()).rotate(y.mean(1, keepdim=True))[:, 0]
    series = rotated[:, dark]
    power = max(1e-12, float(series.square().mean()))
    again = float((series[1:] * series[:-1]).mean()) if len(series) > 1 else 0.0
    fall, at = 0.0, 1.0
    if len(y) * int(darkest.sum()) >= ENOUGH:
        rows, columns = (torch.arange(n, device=y.device) / (2 * n) for n in spectrum.shape)
        frequency = torch.hypot(rows[:, None], columns)
        at, beyond = (float(frequency[where].mean()) for where in (dark, darkest))
        less = max(1e-12, float(rotated[:, darkest].square().mean()))
        fall = min(STEEPEST, max(0.0, math.log(power / less) / (2 * math.log(beyond / at))))
    return Noise(
        max(ROUNDING, math.sqrt(3 * power)),
        measured=True,
        memory=min(LONGEST, max(0.0, again / power)),
        rise=tuple((2 * at / (low + high)) ** (fall / 2) for low, high in pairwise((0, *OCTAVES))),
    )


def _response(y: Tensor, known: Tensor) -> float | None:
    """Strength of the double Laplacian, as the noise that would cause it; None where too few pixels are known.

    Of the absolute values the first decile is taken: edges widen the others.
    """
    kernel = torch.tensor([[1.0, -2, 1], [-2, 4, -2], [1, -2, 1]], device=y.device).view(1, 1, 3, 3) / 6
    response = F.conv2d(y.float().flatten(0, 1)[:, None], kernel).abs()
    response = response.reshape(*y.shape[:2], *response.shape[-2:])
    whole = (-F.max_pool2d(-known, 3, stride=1) > 0).expand(len(y), -1, -1, -1)
    values = response[whole.expand_as(response)]
    if len(values) < ENOUGH:
        return None
    values = values[:: max(1, len(values) // SAMPLES)]
    decile = float(values.kthvalue(len(values) // 10).values)
    return decile / 0.12566  # P(|n| < 0.12566) = 0.1 for a standard normal n
