"""The evidence for how a series of frames came about: the likelihood of a Gaussian model (MacKay 1992)."""

from collections.abc import Sequence

import torch
from torch import Tensor


def autocorrelation(memory: float | Tensor, frames: int) -> Tensor:
    """(..., T, T) float64: memory^|i - j|, that of a process of first order (Yule 1927).

    memory: in [0, 1), one or (..., 1, 1).
    """
    at = torch.arange(frames, dtype=torch.float64)
    return torch.pow(torch.as_tensor(memory, dtype=torch.float64), (at[:, None] - at).abs())  # 0^0 = 1


def energies(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (..., N) of a covariance (..., N, N), 1 on the mean or all 0, and its eigenvectors in columns."""
    energy, modes = torch.linalg.eigh(covariance)
    energy = energy.clamp_min(0)
    return energy / energy.mean(-1, keepdim=True).clamp_min(1e-12), modes


def log_likelihood(
    seen: Tensor, energy: Tensor, modes: Tensor, noises: Sequence[float], amplitudes: Sequence[float]
) -> Tensor:
    """Logarithm of the likelihood of a sample, up to a constant, under the likeliest strength and noise: (...).

    seen: (N, N), the covariance of samples. energy (..., N), modes (..., N, N): of `energies`, what is expected but for
    its strength. noises: variances to choose from. amplitudes: strengths to choose from, times the energy there is.
    """
    total = float(seen.diagonal().mean())
    along = ((modes.mT @ seen) * modes.mT).sum(-1)
    tries = []
    for noise in noises:
        for amplitude in amplitudes:
            expected = amplitude * max(total - noise, 0.01 * noise) * energy + noise
            tries.append(-(expected.log() + along / expected).sum(-1) / 2)
    return torch.stack(tries).amax(0)
