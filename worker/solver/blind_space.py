"""The shape and size of a blur, from the power spectrum of what it left.

Photographs have the power A(angle) f^-gamma at frequency f, gamma near 2 (Field 1987), near 2.6 in video. A blur of
transfer K multiplies it by |K|^2, noise and what a codec left are added:

    S(f) = A(angle) |K(f)|^2 f^-gamma + N exp(-b f)

Every candidate K is fitted to the measured spectrum. The Wiener filter of a candidate leaves a residual whose spectrum,
once each frequency is divided by what is expected of it, is P / S: white if and only if the candidate is right. The fit
minimises how far log(P / S) is from zero, so its score is the whiteness of the residual.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

Kind = Literal["gaussian", "disc", "motion"]

SECTORS = 12
RING = 0.0115  # width of a ring of frequencies, cycles a pixel
DEVIATION = 0.25  # RMS of log P about any such law, for clips that have it
TOGETHER = 10  # bins that err alike, and so count as one
LEAK = 1e-4  # what movements and lenses that are not ideal leave of a zero of |K|^2
OUTLIER = 1.5  # standard deviations beyond which a bin pulls no harder
# A, gamma, one offset for each sector; then log N and b: mean and standard deviation of what is expected of them.
GAMMA, SECTOR, SLOPE = (2.6, 0.5), (0.0, 0.5), (1.0, 0.5)


@dataclass(frozen=True)
class Shape:
    """A blur. size: sigma, radius or length in pixels; angle: of a movement, in degrees, counterclockwise.

    softness: sigma of a Gaussian that came besides, in pixels.
    """

    kind: Kind
    size: float
    angle: float = 0.0
    softness: float = 0.0


@dataclass(frozen=True)
class Spectrum:
    """Mean power in bins of frequency and direction. log_power, f, ring, sector: (bins,). cells: frequencies in each.

    place: the bin of every frequency that has one; fy, fx: those frequencies, cycles a pixel, y downwards.
    """

    log_power: Tensor
    f: Tensor
    ring: Tensor
    sector: Tensor
    cells: Tensor
    place: Tensor
    fy: Tensor
    fx: Tensor


@dataclass(frozen=True)
class Fit:
    """How well each candidate explains a spectrum. cost: (candidates,), negative logarithm of its probability.

    shapes: none where the candidate is a free kernel. transfer: as `fit` was given it.
    left: (candidates, bins), log(P / S) in units of what is expected of it. signal: (candidates, bins), its share of P.
    noise: (candidates, 2), log N and b.
    """

    shapes: list[Shape]
    transfer: Tensor
    cost: Tensor
    left: Tensor
    signal: Tensor
    noise: Tensor

    @property
    def misfit(self) -> Tensor:
        """(candidates,): mean squared deviation; 1 is as good as sharp clips are."""
        return self.left.square().mean(1)


def windowed_spectra(frames: Tensor) -> Tensor:
    """(T, H, W) -> (T, H, W // 2 + 1) complex, of frames without their mean under a Blackman window.

    White noise of variance v has the mean power v. The window keeps edges, mirrored or not, from mattering.
    """
    window = _blackman(frames.shape[-2])[:, None] * _blackman(frames.shape[-1])
    mean = (frames * window).sum((-2, -1), keepdim=True) / window.sum()
    spectra: Tensor = torch.fft.rfft2((frames - mean) * window) / window.square().sum().sqrt()
    return spectra


def frequencies(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Vertical and horizontal frequency, cycles a pixel, of `rfft2`; (H, W // 2 + 1) each."""
    fy, fx = torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None]
    return fy.expand(height, width // 2 + 1), fx.expand(height, width // 2 + 1)


def binned(power: Tensor) -> Spectrum:
    """Rings and sectors of a mean power spectrum, (H, W // 2 + 1) as from `windowed_spectra`."""
    height, width = power.shape[0], 2 * (power.shape[1] - 1)
    fy, fx = frequencies(height, width)
    f = (fy.square() + fx.square()).sqrt()
    step, lowest = max(1.5 / min(height, width), RING), 2 / min(height, width)
    ring = ((f - lowest) / step).floor().long()
    sector = (torch.atan2(-fy, fx) / math.pi * SECTORS).round().long() % SECTORS
    within = (f >= lowest) & (f < 0.5)
    numbers, place = torch.unique((ring * SECTORS + sector)[within], return_inverse=True)
    cells = torch.bincount(place).float()
    mean = _per_bin(torch.stack([power[within], f[within]]), place, cells)
    rings, sectors = numbers // SECTORS, numbers % SECTORS
    return Spectrum(mean[0].clamp_min(1e-20).log(), mean[1], rings, sectors, cells, place, fy[within], fx[within])


def transfers(shapes: list[Shape], spectrum: Spectrum) -> Tensor:
    """(candidates, bins): log of the mean |K|^2 in each bin."""
    return torch.stack([_transfer(shape, spectrum) for shape in shapes])


def free_transfer(power: Tensor, spectrum: Spectrum) -> Tensor:
    """(1, bins): as `transfers`, of a kernel whose |K|^2 is `power`, (H, W // 2 + 1)."""
    height, width = power.shape[0], 2 * (power.shape[1] - 1)
    cells = power[(spectrum.fy * height).round().long(), (spectrum.fx * width).round().long()]
    return (_per_bin(cells[None], spectrum.place, spectrum.cells) + LEAK).log()


def _transfer(shape: Shape, spectrum: Spectrum) -> Tensor:
    fy, fx = spectrum.fy, spectrum.fx

    def gaussian(sigma: float) -> Tensor:
        return torch.exp(-((2 * math.pi * sigma) ** 2) * (fy.square() + fx.square()))

    match shape.kind:
        case "gaussian":
            power = gaussian(shape.size)
        case "disc":
            x = 2 * math.pi * shape.size * (fy.square() + fx.square()).sqrt()
            power = (2 * torch.special.bessel_j1(x) / x).square() + LEAK
        case "motion":
            angle = math.radians(shape.angle)
            power = torch.sinc(shape.size * (fx * math.cos(angle) - fy * math.sin(angle))).square() + LEAK
    if shape.softness:
        power = power * gaussian(shape.softness)
    return _per_bin(power[None], spectrum.place, spectrum.cells)[0].clamp_min(1e-30).log()


def fit(spectrum: Spectrum, shapes: list[Shape], transfer: Tensor, iterations: int = 25) -> Fit:
    """Levenberg and Marquardt's method on all candidates at once; deviations beyond OUTLIER count linearly (Huber).

    transfer: from `transfers` or `free_transfer`. The unknowns of each candidate are log A, gamma, the offsets of the
    sectors, log N, b.
    """
    log_power, f = spectrum.log_power, spectrum.f
    weight = 1 / (TOGETHER * (DEVIATION**2 + 1.6 / spectrum.cells))
    one, log_f = torch.ones_like(f), (f / 0.1).log()
    sectors = torch.nn.functional.one_hot(spectrum.sector, SECTORS).to(f)
    signal = torch.cat([torch.stack([one, -log_f], 1), sectors], 1)
    noise = torch.stack([one, -f / 0.5], 1)
    expected, spread = _expected(log_power, f)

    def evaluate(p: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        of_signal, of_noise = p[:, :-2] @ signal.T + transfer, p[:, -2:] @ noise.T
        both = torch.logaddexp(of_signal, of_noise)
        error = log_power - both
        z = error.abs() * weight.sqrt()
        pull = weight * (OUTLIER / z.clamp_min(OUTLIER))
        loss = torch.where(z < OUTLIER, z.square() / 2, OUTLIER * z - OUTLIER**2 / 2).sum(1)
        return loss + ((p - expected) / spread).square().sum(1) / 2, error, pull, (of_signal - both).exp()

    p = expected.repeat(len(transfer), 1)
    damping = torch.full((len(transfer),), 1e-2)
    cost, error, pull, share = evaluate(p)
    for _ in range(iterations):
        slope = torch.cat([share[..., None] * signal, (1 - share)[..., None] * noise], 2)
        pulled = (slope * pull[..., None]).transpose(1, 2)
        hessian = pulled @ slope + torch.diag(spread**-2)
        gradient = (pulled @ error[..., None])[..., 0] - (p - expected) / spread**2
        damped = hessian + torch.diag_embed(damping[:, None] * hessian.diagonal(dim1=1, dim2=2))
        tried = p + torch.linalg.solve(damped, gradient).clamp(-2, 2)
        then = evaluate(tried)
        better = then[0] < cost
        p = torch.where(better[:, None], tried, p)
        cost = torch.where(better, then[0], cost)
        error, pull, share = (
            torch.where(better[:, None], new, old) for new, old in zip(then[1:], (error, pull, share), strict=True)
        )
        damping = torch.where(better, damping * 0.3, damping * 5).clamp(1e-6, 1e4)
    return Fit(shapes, transfer, cost, error * (weight * TOGETHER).sqrt(), share, p[:, -2:])


def _expected(log_power: Tensor, f: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the unknowns before the fit; next to nothing is known of log A and log N."""
    middle, top = log_power[(f - 0.06).abs() < 0.03], log_power[f > 0.4]
    means = [float(middle.mean()) - 1, GAMMA[0], *[SECTOR[0]] * SECTORS, float(top.mean()) + 0.5, SLOPE[0]]
    spreads = [100.0, GAMMA[1], *[SECTOR[1]] * SECTORS, 100.0, SLOPE[1]]
    return torch.tensor(means), torch.tensor(spreads)


def _per_bin(values: Tensor, place: Tensor, cells: Tensor) -> Tensor:
    """(n, frequencies) -> (n, bins): means."""
    return values.new_zeros(len(values), len(cells)).index_add_(1, place, values) / cells


@lru_cache(maxsize=8)
def _blackman(size: int) -> Tensor:
    t = 2 * math.pi * (torch.arange(size) + 0.5) / size
    return 0.42 - 0.5 * torch.cos(t) + 0.08 * torch.cos(2 * t)
