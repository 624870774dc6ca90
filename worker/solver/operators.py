"""What can happen to a clip: linear operators with exact adjoints.

Every operator has
    A          (T, C, H, W) -> (T', C, H', W')   the degradation
    A_adjoint  its exact transpose
    lift       y on the grid of x, brightness kept: a first guess, not the adjoint
    clip_shape the shape of x from that of y

spatial.py has those that act on each frame, temporal.py those that mix frames; here are the mask, and `Chain`, which
composes a list of them. How A A^T is inverted in closed form is the business of closed_form.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from worker.solver.lowpass import gaussian_lowpass

Shape = tuple[int, int, int, int]


class Operator(Protocol):
    """A linear map of clips."""

    def A(self, x: Tensor) -> Tensor: ...

    def A_adjoint(self, y: Tensor) -> Tensor: ...

    def lift(self, y: Tensor) -> Tensor: ...

    def clip_shape(self, measured: Shape) -> Shape: ...


@dataclass(frozen=True, eq=False)
class Mask:
    """Keeps the pixels where `known` is 1 and zeroes the others; its own adjoint.

    known: (1 or T, 1, H, W) of 0 and 1.
    """

    known: Tensor

    def A(self, x: Tensor) -> Tensor:
        return x * self.known.to(x)

    A_adjoint = A

    def lift(self, y: Tensor) -> Tensor:
        """Lost pixels filled with a normalised Gaussian mean of known ones, the nearest that has any to offer."""
        known = self.known.to(y).expand(y.shape[0], -1, -1, -1)
        x, left = y * known, 1 - known
        for sigma in (0.7, 1.5, 3.0, 6.0, 12.0, 24.0, 48.0, 96.0):
            if not left.any():
                break
            weight = gaussian_lowpass(known, sigma)
            enough = left * (weight > 0.05)
            x = x + enough * gaussian_lowpass(y * known, sigma) / weight.clamp_min(1e-6)
            left = left - enough
        return x

    def clip_shape(self, measured: Shape) -> Shape:
        return measured


@dataclass(frozen=True)
class Chain:
    """Operators applied one after the other, the first to the true clip."""

    operators: Sequence[Operator]

    def A(self, x: Tensor) -> Tensor:
        for operator in self.operators:
            x = operator.A(x)
        return x

    def A_adjoint(self, y: Tensor) -> Tensor:
        for operator in reversed(self.operators):
            y = operator.A_adjoint(y)
        return y

    def lift(self, y: Tensor) -> Tensor:
        for operator in reversed(self.operators):
            y = operator.lift(y)
        return y

    def clip_shape(self, measured: Shape) -> Shape:
        for operator in reversed(self.operators):
            measured = operator.clip_shape(measured)
        return measured
