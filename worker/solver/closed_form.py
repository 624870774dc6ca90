"""Inverting A K A^T + rho N without iterations, wherever A = M (x) B, M mixing frames and B acting on each frame alike.

K and N are how errors and noise of different frames go together, c^|i - j|: errors with a memory c for each octave of
spatial frequency, noise with one for all but a strength for each, as noise of lossy files lasts and is mostly coarse.

- W M K M^T W^T = U S U^T with W N W^T = I, by an eigendecomposition of a matrix the size of the clip's length.
- B of mirror-symmetric blurs and mean-pools: B B^T is diagonal under the DCT-II, as mirrored edges stay mirrored.
- B of any operators that act on rows and columns apart, B = R (x) C: B B^T = (R R^T) (x) (C C^T), each of which has an
  eigendecomposition the size of a line.
- B a mask: B B^T is diagonal as it stands.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from worker.solver.dct import dct, inverse_dct
from worker.solver.evidence import autocorrelation
from worker.solver.operators import Chain, Mask, Operator
from worker.solver.spatial import Convolution, Downsample, GaussianBlur
from worker.solver.temporal import Temporal, mix_frames

OCTAVES = (0.02, 0.04, 0.08, 0.16, 0.32, 0.5)  # up to these cycles a measured pixel

Rectangles = tuple[tuple[slice, slice], ...]
Rho = float | Tensor  # one for all, or one for each channel, (C, 1, 1)
WHOLE: Rectangles = ((slice(None), slice(None)),)


@dataclass(frozen=True)
class Octave:
    """A part of the spectrum whose errors have one memory over time: W M K M^T W^T = U diag(weights) U^T.

    memory: c. where: rectangles of the spectrum. forth: U^T W (T', T'). weights: (T',). back: K M^T W^T U (T, T').
    """

    memory: float
    where: Rectangles
    forth: Tensor
    weights: Tensor
    back: Tensor


class Rotation(Protocol):
    """Q^T, which takes a frame to the coordinates where B B^T is diagonal, the coarsest first."""

    def forth(self, frame: Tensor) -> Tensor:
        """(C, H', W') -> (C, H', W')."""

    def back(self, frame: Tensor) -> Tensor:
        """The inverse, which is Q."""


class Cosines:
    """The DCT."""

    def forth(self, frame: Tensor) -> Tensor:
        return dct(frame)

    def back(self, frame: Tensor) -> Tensor:
        return inverse_dct(frame)


@dataclass(frozen=True)
class Lines:
    """A rotation of rows and one of columns, (H', H') and (W', W')."""

    rows: Tensor
    columns: Tensor

    def forth(self, frame: Tensor) -> Tensor:
        return self.rows @ frame @ self.columns.T

    def back(self, frame: Tensor) -> Tensor:
        return self.rows.T @ frame @ self.columns


@dataclass(frozen=True)
class Gram:
    """A K A^T = (M K M^T) (x) (Q diag(spectrum) Q^T) in noise of N: inverted by rotating, dividing, rotating back.

    spatial: B. spectrum: (T' or 1, 1, H', W'), the eigenvalues of B B^T. rotation: Q^T; None: the identity. mix:
    M (T', T) float64; None where frames are not mixed, and there are no octaves then.
    """

    spatial: Chain
    spectrum: Tensor
    rotation: Rotation | None = None
    mix: Tensor | None = None
    octaves: tuple[Octave, ...] = ()

    def remembering(self, memories: Sequence[float], noise: float = 0, rise: Sequence[float] = ()) -> "Gram":
        """The same for errors of these memories c, 0 <= c < 1, one for each of `parts`, or one for all.

        noise: the memory of the measurement's noise. rise: how strong it is in each of them; 1 if nothing is given.
        """
        if self.mix is None:
            return self
        parts = [WHOLE] if len(memories) == 1 else self.parts()
        white = whitening(autocorrelation(noise, len(self.mix)))
        octaves = [
            _octave(memory, where, self.mix, white / strength, self.spectrum)
            for where, memory, strength in zip(parts, memories, rise or [1.0] * len(parts), strict=True)
        ]
        return replace(self, octaves=tuple(octaves))

    @property
    def mixes_spectra(self) -> bool:
        """Whether frames are mixed, and their coefficients go by frequency."""
        return self.mix is not None and self.rotation is not None

    def parts(self) -> list[Rectangles]:
        """Octaves of the spectrum from the coarsest on, as rectangles; all of it where it does not go by frequency."""
        if self.rotation is None:
            return [WHOLE]
        height, width = self.spectrum.shape[-2:]
        found: list[Rectangles] = []
        top = left = 0
        for edge in OCTAVES:
            bottom, right = (math.ceil(2 * size * edge) for size in (height, width))
            found.append(((slice(top, bottom), slice(0, right)), (slice(0, top), slice(left, right))))
            top, left = bottom, right
        return found

    def eigenvalues(self, n: int) -> Tensor:
        """(1, H', W'): those of the n-th of the rotated frames."""
        values: Tensor = self.spectrum[n % len(self.spectrum)]
        if self.octaves:
            values = values.clone()
            for octave in self.octaves:
                for rows, columns in octave.where:
                    values[:, rows, columns] *= octave.weights[n]
        return values

    def rotate(self, y: Tensor) -> Tensor:
        """(T', C, H', W') -> the same in the coordinates where A K A^T is diagonal and the noise is white."""
        u = y.clone()
        if self.rotation is not None:
            for n in range(len(u)):  # frame by frame: the transforms then need no second clip
                u[n] = self.rotation.forth(u[n])
        for octave in self.octaves:
            for rows, columns in octave.where:
                u[..., rows, columns] = mix_frames(octave.forth, u[..., rows, columns])
        return u

    def correction(self, rotated: Tensor, rho: Rho) -> Tensor:
        """K A^T (A K A^T + rho N)^-1 of what was rotated, (T, C, H, W); `rotated` is overwritten."""
        for n in range(len(rotated)):
            rotated[n] /= self.eigenvalues(n) + rho
        u = rotated
        if self.mix is not None:
            frames = self.mix.shape[1]
            u = rotated if frames == len(rotated) else rotated.new_empty(frames, *rotated.shape[1:])
            for octave in self.octaves:
                for rows, columns in octave.where:
                    u[..., rows, columns] = mix_frames(octave.back, rotated[..., rows, columns])
        if self.rotation is not None:
            for n in range(len(u)):
                u[n] = self.rotation.back(u[n])
        return self.spatial.A_adjoint(u)


def closed_form(operators: Chain, measured: Tensor) -> Gram | None:
    """How to invert A A^T for measurements like `measured` in shape, type and device; None if it takes iterations."""
    temporal = [o for o in operators.operators if isinstance(o, Temporal)]
    spatial = [o for o in operators.operators if not isinstance(o, Temporal)]
    masks = [o for o in spatial if isinstance(o, Mask)]
    if masks and (len(spatial) > 1 or (temporal and masks[0].known.shape[0] > 1)):
        return None

    mix = _frame_mix(temporal, operators.clip_shape(_shape(measured))[0]) if temporal else None
    rotation: Rotation | None = None
    if masks:
        spectrum = masks[0].known.to(measured)
    elif all(_keeps_mirrors(o) for o in spatial):
        rotation = Cosines()
        spectrum = _dct_spectrum(Chain(spatial), measured)
    elif all(isinstance(o, Downsample | GaussianBlur) for o in spatial):
        (down, rows), (across, columns) = (_line_spectrum(spatial, n, measured) for n in measured.shape[-2:])
        rotation, spectrum = Lines(rows, columns), (down[:, None] * across)[None, None]
    else:
        return None
    return Gram(Chain(spatial), spectrum, rotation, mix).remembering([0])


def whitening(covariance: Tensor) -> Tensor:
    """W (N, N) with W covariance W^T = I."""
    values, vectors = torch.linalg.eigh(covariance)
    white: Tensor = vectors.T / values.sqrt()[:, None]
    return white


def _octave(memory: float, where: Rectangles, mix: Tensor, white: Tensor, like: Tensor) -> Octave:
    seen = white @ mix
    back = autocorrelation(memory, mix.shape[1]) @ seen.T
    weights, frames = torch.linalg.eigh(seen @ back)
    found = (frames.T @ white, weights.clamp_min(0), back @ frames)
    return Octave(memory, where, *(part.to(like) for part in found))


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
    answer = spatial.A(spatial.A_adjoint(impulse))
    return (dct(answer) / dct(impulse)).clamp_min(0).to(measured)


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
    # What a blur keeps best is coarsest: turned round, these go by frequency, as those of the DCT do.
    return values.clamp_min(0).flip(0).to(like), vectors.T.flip(0).contiguous().to(like)
