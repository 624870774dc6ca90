"""Inverting A A^T + rho I without iterations, wherever A = M (x) B, M mixing frames and B acting on each frame alike.

- M = U S V^T by a singular value decomposition of a matrix the size of the clip's length.
- B of mirror-symmetric blurs and mean-pools: B B^T is diagonal under the DCT-II, as mirrored edges stay mirrored.
- B of any operators that act on rows and columns apart, B = R (x) C: B B^T = (R R^T) (x) (C C^T), each of which has an
  eigendecomposition the size of a line.
- B a mask: B B^T is diagonal as it stands.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from worker.solver.operators import Chain, Mask, Operator
from worker.solver.spatial import Convolution, Downsample, GaussianBlur
from worker.solver.temporal import Temporal, mix_frames

Rho = float | Tensor  # one for all, or one for each channel, (C, 1, 1)


@dataclass(frozen=True)
class Gram:
    """A A^T = (U S^2 U^T) (x) (Q diag(spectrum) Q^T), to be inverted by rotating, dividing, rotating back.

    frames: U (T', T'). weights: S^2 (T',). spectrum: (T' or 1, 1, H', W'). rows, columns: (H', H') and (W', W'), whose
    Kronecker product is Q^T; None: the identity.
    """

    frames: Tensor | None
    weights: Tensor | None
    spectrum: Tensor
    rows: Tensor | None = None
    columns: Tensor | None = None

    def eigenvalues(self, n: int) -> Tensor:
        """(1, H', W'): those of the n-th of the rotated frames."""
        values: Tensor = self.spectrum[n % len(self.spectrum)]
        return values if self.weights is None else self.weights[n] * values

    def rotate(self, y: Tensor) -> Tensor:
        """(T', C, H', W') -> the same in the coordinates where A A^T is diagonal, which keep white noise white."""
        u = y.clone() if self.frames is None else mix_frames(self.frames.T, y)
        if self.rows is not None and self.columns is not None:
            for n in range(len(u)):  # frame by frame: the transforms then need no second clip
                u[n] = self.rows @ u[n] @ self.columns.T
        return u

    def rotate_back(self, u: Tensor) -> Tensor:
        """Undo `rotate`; u is overwritten."""
        if self.rows is not None and self.columns is not None:
            for n in range(len(u)):
                u[n] = self.rows.T @ u[n] @ self.columns
        return u if self.frames is None else mix_frames(self.frames, u)

    def solve(self, rotated: Tensor, rho: Rho) -> Tensor:
        """(A A^T + rho I)^-1 of what was rotated, rotated back; `rotated` is overwritten."""
        for n in range(len(rotated)):
            rotated[n] /= self.eigenvalues(n) + rho
        return self.rotate_back(rotated)


def closed_form(operators: Chain, measured: Tensor) -> Gram | None:
    """How to invert A A^T for measurements like `measured` in shape, type and device; None if it takes iterations."""
    temporal = [o for o in operators.operators if isinstance(o, Temporal)]
    spatial = [o for o in operators.operators if not isinstance(o, Temporal)]
    masks = [o for o in spatial if isinstance(o, Mask)]
    if masks and (len(spatial) > 1 or (temporal and masks[0].known.shape[0] > 1)):
        return None

    frames = weights = None
    if temporal:
        mix = _frame_mix(temporal, operators.clip_shape(_shape(measured))[0])
        left, singular, _ = torch.linalg.svd(mix, full_matrices=True)
        # Fewer frames may be measured than there are, so there are as many singular values as measured frames.
        frames, weights = left.to(measured), singular.square().to(measured)
    if masks:
        return Gram(frames, weights, masks[0].known.to(measured))
    if all(_keeps_mirrors(o) for o in spatial):
        rows, columns = (dct_matrix(n, measured.dtype, measured.device) for n in measured.shape[-2:])
        return Gram(frames, weights, _dct_spectrum(Chain(spatial), measured), rows, columns)
    if all(isinstance(o, Downsample | GaussianBlur) for o in spatial):
        (down, rows), (across, columns) = (_line_spectrum(spatial, n, measured) for n in measured.shape[-2:])
        return Gram(frames, weights, (down[:, None] * across)[None, None], rows, columns)
    return None


def _shape(x: Tensor) -> tuple[int, int, int, int]:
    t, c, h, w = x.shape
    return t, c, h, w


def _frame_mix(temporal: Sequence[Temporal], frames: int) -> Tensor:
    """(T', T) float64: all that mixes frames, one after the other."""
    mix = torch.eye(frames, dtype=torch.float64)
    for operator in temporal:
        mix = operator.matrix(mix.shape[0], torch.float64, torch.device("cpu")) @ mix
    return mix


def _keeps_mirrors(operator: Operator) -> bool:
    """Whether a frame continued by its mirror images is degraded to one that is so too."""
    match operator:
        case GaussianBlur():
            return True
        case Downsample():
            return operator.filter == "mean_pool"
        case Convolution():
            return operator.mirrored
        case _:
            return False


def _dct_spectrum(spatial: Chain, measured: Tensor) -> Tensor:
    """(1, 1, H', W'): eigenvalues of B B^T, read off its answer to an impulse in the corner, whose DCT has no zero."""
    impulse = torch.zeros(1, 1, *measured.shape[-2:], dtype=torch.float64, device=measured.device)
    impulse[..., 0, 0] = 1
    down, across = (dct_matrix(n, torch.float64, measured.device) for n in measured.shape[-2:])
    answer = spatial.A(spatial.A_adjoint(impulse))
    return ((down @ answer @ across.T) / (down @ impulse @ across.T)).clamp_min(0).to(measured)


def _line_spectrum(spatial: Sequence[Operator], size: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (n,) and rotation (n, n), eigenvectors in rows, of R R^T for a measured line of n pixels."""
    for operator in spatial:
        size *= operator.factor if isinstance(operator, Downsample) else 1
    like64 = torch.zeros((), dtype=torch.float64)
    line = torch.eye(size, dtype=torch.float64)
    for operator in spatial:
        assert isinstance(operator, Downsample | GaussianBlur)
        line = operator.matrix(line.shape[0], like64) @ line
    values, vectors = torch.linalg.eigh(line @ line.T)
    return values.clamp_min(0).to(like), vectors.T.contiguous().to(like)


@lru_cache(maxsize=8)
def dct_matrix(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(size, size): the orthonormal DCT-II of a line."""
    k = torch.arange(size, dtype=torch.float64)
    matrix = torch.cos(math.pi / size * (k + 0.5) * k[:, None]) * math.sqrt(2 / size)
    matrix[0] /= math.sqrt(2)
    return matrix.to(device, dtype)
