"""The data-consistency step: the clip nearest to x0 that explains the measurement as well as its noise allows.

    prox(x0) = argmin_x ||y - A x||^2 + rho ||x - x0||^2
             = x0 + A^T (A A^T + rho I)^-1 (y - A x0),      rho = sigma_y^2 / r^2

with sigma_y the noise of the measurement and r how far x0 may be off. The published solver leaves rho out and stops
conjugate gradients early; on 8-bit video that diverges (docs/algorithm.md).

Brightness and colour may have a rho each. H.264 keeps colour at half the resolution, while colour of photographs has
little detail to lose, so that there the prior's word counts for more.

A A^T is inverted in closed form wherever its structure allows (closed_form.py); all else goes to conjugate gradients.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from worker.solver.closed_form import Gram, Rho, closed_form
from worker.solver.operators import Chain, Operator
from worker.solver.schedule import Schedule

# Rows: brightness, red - blue, green - magenta. Orthonormal, so that white noise stays white.
OPPONENT = torch.tensor(
    [[1 / 3**0.5, 1 / 3**0.5, 1 / 3**0.5], [1 / 2**0.5, 0, -1 / 2**0.5], [-1 / 6**0.5, 2 / 6**0.5, -1 / 6**0.5]],
    dtype=torch.float64,
)


def data_step(operator: Operator, gram: Gram | None, x0: Tensor, y: Tensor, rho: Rho) -> Tensor:
    """argmin_x ||y - A x||^2 + rho ||x - x0||^2 over the whole clip.

    x0: (T, C, H, W). y: (T', C, H', W'). rho: > 0. gram: from `closed_form`; None runs conjugate gradients.
    """
    residual = y - operator.A(x0)
    if gram is not None:
        return x0 + operator.A_adjoint(gram.solve(residual, rho))
    return x0 + conjugate_gradients(operator, operator.A_adjoint(residual), rho)


@dataclass(frozen=True)
class Trust:
    """How far to trust the measurement against the prior: rho_t = (noise / r_t)^2, r_t = floor + slope * sigma_t.

    sigma_t = sqrt((1 - abar_t) / abar_t). noise: standard deviation of the measurement's noise, > 0. floor: how far off
    the prior's last estimate may be; slope: how much of the latents' noise ends up in the estimate. All three are RMS,
    for pixels in [-1, 1]. chroma: how many times rho_t is to be for colour.
    """

    noise: float
    floor: float = 0.06
    slope: float = 0.06
    chroma: float = 1

    def rho(self, schedule: Schedule, t: int) -> float:
        """For brightness, at timestep t."""
        return (self.noise / (self.floor + self.slope * schedule.noise(t) / schedule.signal(t))) ** 2


def proximal(operator: Chain, y: Tensor, schedule: Schedule, trust: Trust) -> Callable[[Tensor, int], Tensor]:
    """The data step at timestep t. y: (T', 3, H', W') in [-1, 1]."""
    gram = closed_form(operator, y)
    weights = y.new_tensor([1, trust.chroma, trust.chroma]).view(3, 1, 1)
    opponent = None if trust.chroma == 1 else mix_channels(OPPONENT, y)

    def step(x0: Tensor, t: int) -> Tensor:
        rho = trust.rho(schedule, t)
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
