"""How many frames each measured frame is the mean of, from how its changes correlate over time.

Of a mean over w frames, the change from one frame to the next is that of two true frames, w apart:

    y[n+1] - y[n] = (x[n+b] - x[n-a]) / w,      a + b = w,

so that the autocorrelation of changes is 2 r(t) - r(t - w) - r(t + w), r being that of the true frames: a lobe around
zero, and half of it upside down around w. Fine detail that moves gives narrow lobes, which nothing but a mean explains.

For each w the r is sought that explains the changes best, among all sums of decays and of what uniform movement gives
(a Bessel function of the way gone). One frame, w = 1, explains the most, so that others have to be clearly better.
"""

import math

import torch
from torch import Tensor

from worker.solver.blind_space import frequencies

WINDOWS = range(1, 17)
BANDS = ((0.02, 0.05), (0.05, 0.08), (0.08, 0.12), (0.12, 0.17), (0.17, 0.23), (0.23, 0.30))  # cycles a pixel
LAGS = 16
DEVIATION = 0.04  # of a correlation about what the true window explains, however much there is to see
TOGETHER = 3  # neighbouring coefficients that tell the same
MOST = 8.0  # what one band may say against a window
ABOVE_NOISE = 4.0  # power of changes over that of noise, from which a band is heard
FULLY = 100.0  # weight of the correlation at lag 0, which is 1
THRICE = 3  # a window is told by so many times its frames: in fewer, one movement forth and back looks like it


def window_costs(spectra: Tensor, noise: Tensor) -> Tensor | None:
    """(16,): what speaks against each of WINDOWS, as negative logarithms; None where nothing moves beyond the noise.

    spectra: (T, H, W // 2 + 1) complex, of frames. noise: power of noise in each of BANDS, (6,), on the same scale.
    """
    height, width = spectra.shape[-2], 2 * (spectra.shape[-1] - 1)
    fy, fx = frequencies(height, width)
    f = (fy.square() + fx.square()).sqrt()
    costs = torch.zeros(len(WINDOWS))
    heard = False
    for (low, high), floor in zip(BANDS, noise.tolist(), strict=True):
        band = spectra[:, (f >= low) & (f < high)]
        changes = band[1:] - band[:-1]
        if len(changes) == 0 or float(changes.abs().square().mean()) < ABOVE_NOISE * 2 * floor:
            continue
        heard = True
        seen = _autocorrelation(changes)
        pairs = len(changes) - torch.arange(len(seen))
        deviation = ((DEVIATION**2 + TOGETHER / band.shape[1]) * len(changes) / pairs).sqrt()
        misfits = _misfits(seen, (low + high) / 2, deviation)
        costs += (misfits - misfits.min()).clamp_max(MOST)
    return costs if heard else None


def _autocorrelation(changes: Tensor) -> Tensor:
    """(lags + 1,) float64, 1 at lag 0. changes: (T, coefficients) complex."""
    gram = (changes @ changes.conj().T).real.double()
    strength = gram.diagonal().sqrt().clamp_min(1e-30)
    correlation = gram / (strength[:, None] * strength)
    lags = range(min(LAGS, max(0, len(changes) - 2)) + 1)  # of more, less than two pairs of frames tell
    return torch.stack([correlation.diagonal(lag).mean() for lag in lags])


def _misfits(seen: Tensor, f: float, deviation: Tensor) -> Tensor:
    """(16,): half the squared error with which each window explains a correlation, in units of its deviation."""
    lag = torch.arange(len(seen))
    weight = 1 / deviation.to(seen)
    weight[0] = FULLY
    still = _lobes(f, len(seen) + max(WINDOWS))
    noise = torch.zeros_like(seen)
    noise[:2] = torch.tensor([1, -0.5])[: len(noise)]
    misfits = []
    for window in WINDOWS:
        changes = 2 * still[:, lag] - still[:, (lag - window).abs()] - still[:, lag + window]
        changes = changes[changes[:, 0] > 1e-6]
        explained = torch.cat([changes / changes[:, :1], noise[None]])
        left = non_negative((explained * weight).T, seen * weight)
        misfits.append(float(left.square().sum()) / 2)
    return torch.tensor(misfits)


def _lobes(f: float, lags: int) -> Tensor:
    """(shapes, lags) float64: autocorrelations of detail of frequency f, of which all others are made."""
    lag = torch.arange(lags, dtype=torch.float64)
    times = [0.4, 0.6, 0.8, 1.1, 1.5, 2, 2.8, 4, 5.6, 8, 11, 16, 22, 32, 45, 64]
    speeds = [0.15, 0.2, 0.3, 0.4, 0.55, 0.75, 1, 1.3, 1.8, 2.4, 3.2, 4.2]  # pixels a frame
    decays = [torch.exp(-((lag / time) ** power)) for power in (0.7, 1.0, 1.5, 2.0) for time in times]
    moving = [
        torch.special.bessel_j0(2 * math.pi * f * speed * lag) * torch.exp(-((lag / time) ** power))
        for power in (1.0, 2.0)
        for time in (2, 4, 8, 16, 32)
        for speed in speeds
    ]
    return torch.stack(decays + moving)


def non_negative(matrix: Tensor, target: Tensor, iterations: int = 60) -> Tensor:
    """What is left of `target` (m,) by the nearest sum of columns of `matrix` (m, n) that are not weighted below zero.

    The active-set method of Lawson and Hanson (1974), float64.
    """
    weights = target.new_zeros(matrix.shape[1])
    used: list[int] = []
    left = target.clone()
    for _ in range(iterations):
        gain = matrix.T @ left
        gain[used] = 0
        best = int(gain.argmax())
        if gain[best] < 1e-6 * float(target.norm()):
            break
        used.append(best)
        solved = _least_squares(matrix[:, used], target)
        while float(solved.min()) <= 0:
            now = weights[used]
            falling = solved <= 0
            step = (now[falling] / (now[falling] - solved[falling]).clamp_min(1e-300)).min()
            now = now + step * (solved - now)
            used = [column for column, weight in zip(used, now.tolist(), strict=True) if weight > 1e-12]
            weights = torch.zeros_like(weights)
            if not used:
                return target
            weights[used] = now[now > 1e-12]
            solved = _least_squares(matrix[:, used], target)
        weights = torch.zeros_like(weights)
        weights[used] = solved
        left = target - matrix[:, used] @ solved
    return left


def _least_squares(columns: Tensor, target: Tensor) -> Tensor:
    gram = columns.T @ columns
    gram.diagonal().add_(1e-8 * float(gram.diagonal().max()))
    solution: Tensor = torch.linalg.solve(gram, columns.T @ target)
    return solution
