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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from worker.solver.dct import dct
from worker.solver.evidence import autocorrelation
from worker.solver.operators import Chain, Mask, Operator
from worker.solver.rotation import Cosines, Lines, Rotation
from worker.solver.spatial import Convolution, Downsample, GaussianBlur
from worker.solver.temporal import Temporal, mix_frames

OCTAVES = (0.02, 0.04, 0.08, 0.16, 0.32, 0.5)  # up to these cycles a measured pixel

Rectangles = tuple[tuple[slice, slice], ...]
Rho = float | Tensor  # one for all, or one for each channel, (C, 1, 1)
WHOLE: Rectangles = ((slice(None), slice(None)),)


@dataclass(frozen=True)
class Octave:
    """A part of the spectrum whose errors have one memory over time: W M K M^T W^T = U diag(weights) U^T.

    memory: c. where: rectangles of the spectrum. forth: U^T W (T', T'). seen: U^T W M (T', T). weights: (T',). back:
    K M^T W^T U (T, T').
    """

    memory: float
    where: Rectangles
    forth: Tensor
    seen: Tensor
    weights: Tensor
    back: Tensor


@dataclass(frozen=True)
class Gram:
    """A K A^T = (M K M^T) (x) (Q diag(spectrum) Q^T) in noise of N: inverted by rotating, dividing, rotating back.

    spatial: B. spectrum: (T' or 1, 1, H', W'), the eigenvalues of B B^T. rotation: Q^T; None: the identity. gains:
    those of B itself, where it is Q diag(gains) Q^T; else None. mix: M (T', T) float64; None where none are mixed,
    and there are no octaves then.
    """

    spatial: Chain
    spectrum: Tensor
    rotation: Rotation | None = None
    gains: Tensor | None = None
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

    def fitted(self, operator: Chain, x0: Tensor, y: Tensor, rho_of: Callable[[Tensor], Rho]) -> Tensor:
        """x0 + K A^T (A K A^T + rho N)^-1 (y - A x0), (T, C, H, W); x0 and y are overwritten.

        operator: A. rho_of: tells rho from y - A x0, as `rotate` gives it.
        """
        if self.gains is None:
            rotated = self.rotate(y.sub_(operator.A(x0)))
            return x0.add_(self.correction(rotated, rho_of(rotated)))
        # All of it goes by frequency: two transforms forth and one back, and no blur.
        u, r, gains = self._forth(x0), self._forth(y), self.gains
        if self.mix is None:
            r.addcmul_(gains, u, value=-1)
        for octave in self.octaves:
            for rows, columns in octave.where:
                seen = mix_frames(octave.seen, gains[..., rows, columns] * u[..., rows, columns])
                r[..., rows, columns] = mix_frames(octave.forth, r[..., rows, columns]).sub_(seen)
        self._divide(r, rho_of(r))
        if self.mix is None:
            u.addcmul_(gains, r)
        for octave in self.octaves:
            for rows, columns in octave.where:
                off = mix_frames(octave.back, r[..., rows, columns])
                u[..., rows, columns].addcmul_(gains[..., rows, columns], off)
        return self._back(u)

    def rotate(self, y: Tensor) -> Tensor:
        """(T', C, H', W') -> the same in the coordinates where A K A^T is diagonal and the noise is white.

        y is overwritten.
        """
        u = self._forth(y)
        for octave in self.octaves:
            for rows, columns in octave.where:
                u[..., rows, columns] = mix_frames(octave.forth, u[..., rows, columns])
        return u

    def correction(self, rotated: Tensor, rho: Rho) -> Tensor:
        """K A^T (A K A^T + rho N)^-1 of what was rotated, (T, C, H, W); `rotated` is overwritten."""
        u = self._divide(rotated, rho)
        if self.mix is not None:
            frames = self.mix.shape[1]
            u = rotated if frames == len(rotated) else rotated.new_empty(frames, *rotated.shape[1:])
            for octave in self.octaves:
                for rows, columns in octave.where:
                    u[..., rows, columns] = mix_frames(octave.back, rotated[..., rows, columns])
        return self.spatial.A_adjoint(self._back(u))

    def _forth(self, x: Tensor) -> Tensor:
        """Q^T of each frame, where it is: the transforms then need no second clip."""
        if self.rotation is not None:
            for n in range(len(x)):
                x[n] = self.rotation.forth(x[n])
        return x

    def _back(self, u: Tensor) -> Tensor:
        """Q of each frame, where it is."""
        if self.rotation is not None:
            for n in range(len(u)):
                u[n] = self.rotation.back(u[n])
        return u

    def _divide(self, rotated: Tensor, rho: Rho) -> Tensor:
        """(A K A^T + rho N)^-1 in these coordinates, where it is."""
        for n in range(len(rotated)):
            rotated[n] /= self.eigenvalues(n) + rho
        return rotated


def closed_form(operators: Chain, measured: Tensor, like: Gram | None = None) -> Gram | None:
    """How to invert A A^T for measurements like `measured` in shape, type and device; None if it takes iterations.

    like: one whose operators do the same to each frame, of such measurements, from which that is taken.
    """
    temporal = [o for o in operators.operators if isinstance(o, Temporal)]
    spatial = [o for o in operators.operators if not isinstance(o, Temporal)]
    masks = [o for o in spatial if isinstance(o, Mask)]
    whole = Chain(spatial)
    if masks and (len(spatial) > 1 or (temporal and masks[0].known.shape[0] > 1)):
        return None

    mix = _frame_mix(temporal, operators.clip_shape(_shape(measured))[0]) if temporal else None
    rotation: Rotation | None = None
    gains = None
    if like is not None:
        rotation, gains, spectrum = like.rotation, like.gains, like.spectrum
    elif masks:
        spectrum = masks[0].known.to(measured)
    elif all(_keeps_mirrors(o) for o in spatial):
        rotation = Cosines()
        if any(isinstance(o, Downsample) for o in spatial):
            spectrum = _dct_response(lambda x: whole.A(whole.A_adjoint(x)), measured).clamp_min(0).to(measured)
        else:
            gains = _dct_response(whole.A, measured)
            gains, spectrum = gains.to(measured), gains.square().to(measured)
    elif all(isinstance(o, Downsample | GaussianBlur) for o in spatial):
        (down, rows), (across, columns) = (_line_spectrum(spatial, n, measured) for n in measured.shape[-2:])
        rotation, spectrum = Lines(rows, columns), (down[:, None] * across)[None, None]
    else:
        return None
    return Gram(whole, spectrum, rotation, gains, mix).remembering([0])


def whitening(covariance: Tensor) -> Tensor:
    """W (N, N) with W covariance W^T = I."""
    values, vectors = torch.linalg.eigh(covariance)
    white: Tensor = vectors.T / values.sqrt()[:, None]
    return white


def _octave(memory: float, where: Rectangles, mix: Tensor, white: Tensor, like: Tensor) -> Octave:
    seen = white @ mix
    back = autocorrelation(memory, mix.shape[1]) @ seen.T
    weights, frames = torch.linalg.eigh(seen @ back)
    found = (frames.T @ white, frames.T @ seen, weights.clamp_min(0), back @ frames)
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


def _dct_response(operator: Callable[[Tensor], Tensor], like: Tensor) -> Tensor:
    """(1, 1, H', W') float64: eigenvalues of what is diagonal under the DCT, for frames like these.

    Read off its answer to an impulse in the corner, whose DCT has no zero.
    """
    impulse = torch.zeros(1, 1, *like.shape[-2:], dtype=torch.float64, device=like.device)
    impulse[..., 0, 0] = 1
    return dct(operator(impulse)) / dct(impulse)


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
