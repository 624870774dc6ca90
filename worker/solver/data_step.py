"""The data-consistency step: the clip nearest to x0 that explains the measurement as well as its noise allows.

    prox(x0) = argmin_x ||y - A x||^2 + rho ||x - x0||^2
             = x0 + A^T (A A^T + rho I)^-1 (y - A x0),      rho = sigma_y^2 / r^2

with sigma_y the noise of the measurement and r how far x0 may be off. The published solver leaves rho out and stops
conjugate gradients early; on 8-bit video that diverges (docs/algorithm.md).

Brightness and colour may have a rho each. H.264 keeps colour at half the resolution, while colour of photographs has
little detail to lose, so that there the prior's word counts for more.

A A^T is inverted in closed form wherever A = M (x) B, M mixing frames and B acting on each frame alike:
- M = U S V^T by a singular value decomposition of a matrix the size of the clip's length;
- B of blurs and mean-pools: B B^T is diagonal under the DCT-II, as mirrored edges stay mirrored;
- B a mask: B B^T is diagonal as it stands.
All else goes to conjugate gradients.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

from worker.solver.operators import Chain, Downsample, GaussianBlur, Mask, Operator, TemporalAverage, mix_frames
from worker.solver.schedule import Schedule

# Rows: brightness, red - blue, green - magenta. Orthonormal, so that white noise stays white.
OPPONENT = torch.tensor(
    [[1 / 3**0.5, 1 / 3**0.5, 1 / 3**0.5], [1 / 2**0.5, 0, -1 / 2**0.5], [-1 / 6**0.5, 2 / 6**0.5, -1 / 6**0.5]],
    dtype=torch.float64,
)

Rho = float | Tensor  # one for all, or one for each channel, (C, 1, 1)


class Gram(Protocol):
    """Solves (A A^T + rho I) u = r for u."""

    def solve(self, residual: Tensor, rho: Rho) -> Tensor: ...


def data_step(operator: Operator, gram: Gram | None, x0: Tensor, y: Tensor, rho: Rho) -> Tensor:
    """argmin_x ||y - A x||^2 + rho ||x - x0||^2 over the whole clip.

    x0: (T, C, H, W). y: (T', C, H', W'). rho: > 0. gram: from `closed_form`; None runs conjugate gradients.
    """
    residual = y - operator.A(x0)
    if gram is not None:
        return x0 + operator.A_adjoint(gram.solve(residual, rho))
    return x0 + conjugate_gradients(operator, operator.A_adjoint(residual), rho)


def proximal(
    operator: Chain,
    y: Tensor,
    schedule: Schedule,
    noise: float,
    floor: float = 0.06,
    slope: float = 0.06,
    chroma: float = 1,
) -> Callable[[Tensor, int], Tensor]:
    """The data step at timestep t, with rho_t = (noise / r_t)^2 and r_t = floor + slope * sqrt((1 - abar_t) / abar_t).

    noise: standard deviation of y's noise, > 0, on the [-1, 1] scale of y. floor: how far off the prior's last
    estimate may be; slope: how much of the latents' noise ends up in the estimate; both RMS, on the same scale.
    chroma: how many times rho_t is to be for colour. y: (T', 3, H', W').
    """
    gram = closed_form(operator, y)
    weights = y.new_tensor([1, chroma, chroma]).view(3, 1, 1)
    opponent = None if chroma == 1 else mix_channels(OPPONENT, y)

    def step(x0: Tensor, t: int) -> Tensor:
        rho = (noise / (floor + slope * schedule.noise(t) / schedule.signal(t))) ** 2
        if opponent is None:
            return data_step(operator, gram, x0, y, rho)
        x = data_step(operator, gram, mix_channels(OPPONENT, x0), opponent, rho * weights)
        return mix_channels(OPPONENT.T, x)

    return step


def mix_channels(matrix: Tensor, x: Tensor) -> Tensor:
    """(T, C, H, W) -> (T, C', H, W): the same matrix (C', C) for every pixel."""
    return torch.einsum("ij,tjhw->tihw", matrix.to(x), x)


def conjugate_gradients(
    operator: Operator, b: Tensor, rho: Rho, tolerance: float = 1e-5, max_iterations: int = 300
) -> Tensor:
    """Solve (A^T A + rho I) x = b from x = 0 (Hestenes and Stiefel 1952), to a residual of tolerance * ||b||.

    One step size for the whole clip. The sums run in float64: in float32 they lose the last digits of a long clip. With
    next to no noise stated, the tolerance may be out of float32's reach; after max_iterations x is as near as it got.
    """
    x = torch.zeros_like(b)
    r, p = b.clone(), b.clone()
    rr = _dot(r, r)
    goal = tolerance**2 * rr
    for _ in range(max_iterations):
        if rr <= goal:
            break
        q = operator.A_adjoint(operator.A(p)) + rho * p
        alpha = rr / _dot(p, q)
        x += alpha * p
        r -= alpha * q
        rr, before = _dot(r, r), rr
        p = r + (rr / before) * p
    return x


def _dot(a: Tensor, b: Tensor) -> float:
    return float(sum((one.double() * other.double()).sum() for one, other in zip(a, b, strict=True)))


# --- closed forms --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MixedGram:
    """A A^T = (U S^2 U^T) (x) (Q diag(spectrum) Q^T): rotate, divide, rotate back.

    frames: U (T', T'). weights: S^2 (T',). spectrum: (T' or 1, 1, H', W'). dct: whether Q is the DCT-II (else the
    identity).
    """

    frames: Tensor | None
    weights: Tensor | None
    spectrum: Tensor
    dct: bool

    def solve(self, residual: Tensor, rho: Rho) -> Tensor:
        u = residual.clone() if self.frames is None else mix_frames(self.frames.T, residual)
        for n in range(len(u)):  # frame by frame: the transforms then need no second clip
            weight = 1 if self.weights is None else self.weights[n]
            shrink = 1 / (weight * self.spectrum[n % len(self.spectrum)] + rho)
            u[n] = dct2(dct2(u[n]) * shrink, inverse=True) if self.dct else u[n] * shrink
        return u if self.frames is None else mix_frames(self.frames, u)


def closed_form(operators: Chain, measured: Tensor) -> Gram | None:
    """How to invert A A^T for measurements like `measured` in shape, type and device; None if it takes iterations."""
    temporal = [o for o in operators.operators if isinstance(o, TemporalAverage)]
    spatial = [o for o in operators.operators if not isinstance(o, TemporalAverage)]
    masks = [o for o in spatial if isinstance(o, Mask)]
    if masks and (len(spatial) > 1 or (temporal and masks[0].known.shape[0] > 1)):
        return None
    if any(not isinstance(o, GaussianBlur | Downsample | Mask) for o in spatial):
        return None

    frames = weights = None
    if temporal:
        mix = _frame_mix(temporal, operators.clip_shape(_shape(measured))[0])
        left, singular, _ = torch.linalg.svd(mix, full_matrices=True)
        # `valid` measures fewer frames than there are, so there are as many singular values as measured frames.
        frames, weights = left.to(measured), singular.square().to(measured)
    if masks:
        return MixedGram(frames, weights, masks[0].known.to(measured), dct=False)
    return MixedGram(frames, weights, _dct_spectrum(Chain(spatial), measured), dct=True)


def _shape(x: Tensor) -> tuple[int, int, int, int]:
    t, c, h, w = x.shape
    return t, c, h, w


def _frame_mix(temporal: list[TemporalAverage], frames: int) -> Tensor:
    """(T', T) float64: all averages over time, one after the other."""
    mix = torch.eye(frames, dtype=torch.float64)
    for operator in temporal:
        mix = operator.matrix(mix.shape[0], torch.float64, torch.device("cpu")) @ mix
    return mix


def _dct_spectrum(spatial: Chain, measured: Tensor) -> Tensor:
    """(1, 1, H', W'): eigenvalues of B B^T, read off its answer to an impulse in the corner, whose DCT has no zero."""
    impulse = torch.zeros(1, 1, *measured.shape[-2:], dtype=torch.float64, device=measured.device)
    impulse[..., 0, 0] = 1
    answer = spatial.A(spatial.A_adjoint(impulse))
    return (dct2(answer) / dct2(impulse)).clamp_min(0).to(measured)


def dct2(x: Tensor, inverse: bool = False) -> Tensor:
    """Orthonormal DCT-II of the last two axes, as two matrix products."""
    down = _dct_matrix(x.shape[-2], x.dtype, x.device)
    across = _dct_matrix(x.shape[-1], x.dtype, x.device)
    return down.T @ x @ across if inverse else down @ x @ across.T


@lru_cache(maxsize=8)
def _dct_matrix(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    k = torch.arange(size, dtype=torch.float64)
    matrix = torch.cos(math.pi / size * (k + 0.5) * k[:, None]) * math.sqrt(2 / size)
    matrix[0] /= math.sqrt(2)
    return matrix.to(device, dtype)
