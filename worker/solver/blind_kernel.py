"""A blur of no known shape: kernel and sharp picture found in turns.

    x given k:  argmin ||y - k * x||^2 + lambda ||grad x||_0      (Xu, Zheng and Jia 2013; half-quadratic splitting)
    k given x:  argmin ||grad y - k * grad x||^2 + gamma ||k||^2, then not negative, small, of sum 1, centred

A power spectrum cannot tell the phase of k. Edges can: of two kernels with one spectrum, the wrong one leaves echoes
beside every edge, which cost `total_variation`. All frames have the same kernel, so k is fitted to all of them at once.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

SIDE = 320  # pixels of the middle that are looked at
FRAMES, HELD_OUT = 3, 2
SUPPORT = 19  # rows and columns of the kernel
TURNS = 50
TRUST = 4e-4  # lambda: how much a pixel with a gradient costs, for pixels in [0, 1]
GRADIENTS = [0.4 * (0.04 / 0.4) ** (n / 4) for n in range(5)]  # weaker ones are taken for none, in turn
DAMPING = 1e-2  # gamma, in units of the mean power of gradients
SPECK = 0.05  # of the largest weight, under which a weight is taken for none
ENERGY_TRUST = 1e-4
ENERGY_GRADIENTS = [0.03 * 0.6**n for n in range(6)]


@dataclass(frozen=True)
class Patches:
    """Frames cut to what is looked at, faded to zero at the edges. spectra: (T, h, w // 2 + 1) complex, `rfft2`."""

    spectra: Tensor
    height: int
    width: int


def split(frames: Tensor) -> tuple[Patches, Patches]:
    """Frames to learn from, and others to judge by. (T, H, W) brightness in [0, 1], T of 2 or more."""
    count = len(frames)
    learned = [n * (count - 1) // (FRAMES - 1) for n in range(FRAMES)] if count > FRAMES else [0]
    rest = [n for n in range(count) if n not in learned]
    judged = rest[len(rest) // 4 :: max(1, len(rest) // HELD_OUT)][:HELD_OUT]
    return _patches(frames[learned]), _patches(frames[judged])


def alternate(patches: Patches, start: Tensor) -> Tensor:
    """The kernel, (SUPPORT, SUPPORT), at which turns beginning with `start`, (h, w) odd, end."""
    kernel = _fitted(start)
    for _ in range(TURNS):
        kernel = _kernel_step(_edges(patches, kernel), patches)
    return kernel


def total_variation(patches: Patches, kernel: Tensor, phase: bool = True) -> float:
    """min_x ||y - k * x||^2 / 2 + lambda ||grad x||_1 a pixel, in millionths; lower where x needs fewer echoes.

    phase: False drops that of k, which leaves its power spectrum as it is.
    """
    h, w = patches.height, patches.width
    transfer, slopes = transfer_of(kernel, h, w), _slopes(h, w)
    if not phase:
        transfer = transfer.abs() + 0j
    y, back, gain = patches.spectra, transfer.conj() * patches.spectra, transfer.abs().square()
    steep = slopes.abs().square().sum(0)
    x = back / (gain + 5 * ENERGY_TRUST * steep).clamp_min(1e-9)
    for weak in ENERGY_GRADIENTS:
        gradient = torch.fft.irfft2(slopes[:, None] * x, s=(h, w))
        size = gradient.square().sum(0).sqrt()
        shrunk = torch.fft.rfft2(gradient * ((size - weak).clamp_min(0) / size.clamp_min(1e-9)))
        beta = ENERGY_TRUST / weak
        x = (back + beta * (slopes.conj()[:, None] * shrunk).sum(0)) / (gain + beta * steep).clamp_min(1e-9)
    left = torch.fft.irfft2(transfer * x - y, s=(h, w)).square().mean()
    gradient = torch.fft.irfft2(slopes[:, None] * x, s=(h, w)).square().sum(0).sqrt().mean()
    return 1e6 * float(left / 2 + ENERGY_TRUST * gradient)


def similarity(one: Tensor, other: Tensor) -> float:
    """Largest normalised cross-correlation of two kernels over shifts by whole pixels; 1 where they are the same."""
    size = [a + b for a, b in zip(one.shape, other.shape, strict=True)]
    spectra = [torch.fft.rfft2(kernel.double(), s=size) for kernel in (one, other)]
    correlation = torch.fft.irfft2(spectra[0] * spectra[1].conj(), s=size)
    return float(correlation.max() / (one.double().norm() * other.double().norm()))


def _edges(patches: Patches, kernel: Tensor) -> Tensor:
    """(2, T, h, w // 2 + 1): spectra of the strong gradients, to the right and downwards, of the sharp picture."""
    h, w = patches.height, patches.width
    transfer, slopes = transfer_of(kernel, h, w), _slopes(h, w)
    back, gain, steep = transfer.conj() * patches.spectra, transfer.abs().square(), slopes.abs().square().sum(0)
    x = back / (gain + 0.02 * math.sqrt(TRUST) * steep + 0.1 * TRUST)
    edges = torch.zeros_like(x)
    for weak in GRADIENTS:
        gradient = torch.fft.irfft2(slopes[:, None] * x, s=(h, w))
        edges = torch.fft.rfft2(gradient * (gradient.square().sum(0) > weak**2))
        beta = TRUST / weak**2
        x = (back + beta * (slopes.conj()[:, None] * edges).sum(0)) / (gain + beta * steep + 1e-8)
    return edges


def _kernel_step(edges: Tensor, patches: Patches) -> Tensor:
    """Regularised least squares over all frames, projected."""
    h, w = patches.height, patches.width
    agreement = (edges.conj() * _slopes(h, w)[:, None] * patches.spectra).sum((0, 1))
    power = edges.abs().square().sum((0, 1))
    weights = torch.fft.irfft2(agreement / (power + DAMPING * power.mean()).clamp_min(1e-20), s=(h, w))
    reach = SUPPORT // 2
    return centred(weights.roll((reach, reach), (0, 1))[:SUPPORT, :SUPPORT])


def centred(weights: Tensor) -> Tensor:
    """Without specks and what is negative, of sum 1, its centre of mass in the middle; a point if none is left."""
    kernel = weights.clamp_min(0)
    kernel = torch.where(kernel < SPECK * kernel.max(), torch.zeros_like(kernel), kernel)
    total = float(kernel.sum())
    if not total > 0:
        return _fitted(torch.ones(1, 1))
    kernel = kernel / total
    offsets = torch.arange(len(kernel)) - len(kernel) // 2
    down, right = round(float(kernel.sum(1) @ offsets.float())), round(float(kernel.sum(0) @ offsets.float()))
    moved = F.pad(kernel, (len(kernel),) * 4).roll((-down, -right), (0, 1))
    moved = moved[len(kernel) : -len(kernel), len(kernel) : -len(kernel)]
    return moved / moved.sum()


def _fitted(kernel: Tensor) -> Tensor:
    """A kernel of odd sides on SUPPORT x SUPPORT, cut or filled with zeros."""
    down, right = ((SUPPORT - size) // 2 for size in kernel.shape)
    kernel = F.pad(kernel.float(), (right, right, down, down))
    return kernel / kernel.sum()


def _patches(frames: Tensor) -> Patches:
    for axis in (-2, -1):
        kept = min(SIDE, frames.shape[axis] // 2 * 2)
        frames = frames.narrow(axis, (frames.shape[axis] - kept) // 2, kept)
    h, w = frames.shape[-2:]
    fade = _fade(h, min(h, w) // 6)[:, None] * _fade(w, min(h, w) // 6)
    mean = (frames * fade).sum((-2, -1), keepdim=True) / fade.sum()
    return Patches(torch.fft.rfft2((frames - mean) * fade), h, w)


def _fade(size: int, over: int) -> Tensor:
    place = torch.arange(size) + 0.5
    return 0.5 - 0.5 * torch.cos(math.pi * (torch.minimum(place, size - place) / over).clamp_max(1))


def transfer_of(kernel: Tensor, height: int, width: int) -> Tensor:
    """(height, width // 2 + 1) complex: `rfft2` of a kernel (h, w) of odd sides, its middle at the origin."""
    laid = F.pad(kernel.float(), (0, width - kernel.shape[1], 0, height - kernel.shape[0]))
    spectrum: Tensor = torch.fft.rfft2(laid.roll((-(kernel.shape[0] // 2), -(kernel.shape[1] // 2)), (0, 1)))
    return spectrum


def _slopes(height: int, width: int) -> Tensor:
    """(2, h, w // 2 + 1): transfers of the differences to the right and downwards."""
    fy = torch.fft.fftfreq(height)[:, None].expand(height, width // 2 + 1)
    fx = torch.fft.rfftfreq(width)[None].expand(height, width // 2 + 1)
    return torch.exp(2j * math.pi * torch.stack([fx, fy])) - 1
