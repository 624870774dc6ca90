"""The data-consistency step: the clip nearest to x0 that explains the measurement as well as its noise allows.

    prox(x0) = argmin_x (y - A x)^T N^-1 (y - A x) + rho (x - x0)^T K^-1 (x - x0)
             = x0 + K A^T (A K A^T + rho N)^-1 (y - A x0),      rho = sigma_y^2 / r^2

with sigma_y the noise of the measurement and r how far x0 is off. Noise goes together from frame to frame as N says,
errors of x0 as K: I where frames are on their own, and where they were mixed as noise.py and memory.py find. The
published solver leaves rho out and stops conjugate gradients early; on 8-bit video that diverges (docs/algorithm.md).

What x0 fails to explain tells how far it is off: y - A x0 is likeliest under N(0, r^2 A K A^T + sigma_y^2 N) for one r.
Where that is less than the settings of a task allow, r is two thirds of the way there (docs/decisions.md).

Brightness and colour may have a rho each. H.264 keeps colour at half the resolution, while colour of photographs has
little detail to lose, so that there the prior's word counts for more.

A K A^T + rho N is inverted in closed form wherever A's structure allows (closed_form.py); all else goes to conjugate
gradients, with K = N = I.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from worker.solver.closed_form import Gram, Rho
from worker.solver.operators import Chain, Operator
from worker.solver.placed import placed
from worker.solver.schedule import Schedule

# Rows: brightness, red - blue, green - magenta. Orthonormal, so that white noise stays white.
OPPONENT = torch.tensor(
    [[1 / 3**0.5, 1 / 3**0.5, 1 / 3**0.5], [1 / 2**0.5, 0, -1 / 2**0.5], [-1 / 6**0.5, 2 / 6**0.5, -1 / 6**0.5]],
    dtype=torch.float64,
)
RGB, BRIGHTNESS = OPPONENT.T, OPPONENT[:1]

EIGENVALUE_BINS = 181  # twenty to a decade
LEAST_ERROR = 1e-4  # of pixels in [-1, 1]
TOWARDS_LIKELY = 2 / 3  # from what is allowed, as factors go
NOISES = (1.0, 1.4, 2.0, 2.8, 4.0, 5.7, 8.0)  # times what was taken for it
USUAL = 0.4  # likely error of a first guess at frames that were mixed; more of what moves fast only
FURTHEST = 4.0  # times as far off as usual
TOLERANCE = 1e-5  # of conjugate gradients, relative to what they start from
MOST_ITERATIONS = 500


def data_step(operator: Chain, gram: Gram | None, x0: Tensor, y: Tensor, rho: Rho) -> Tensor:
    """argmin_x (y - A x)^T N^-1 (y - A x) + rho (x - x0)^T K^-1 (x - x0) over the whole clip.

    x0: (T, C, H, W). y: (T', C, H', W'). rho: > 0. gram: from `closed_form`, knows K and N; None runs conjugate
    gradients, with K = N = I.
    """
    if gram is not None:
        return gram.fitted(operator, x0.clone(), y.clone(), lambda _: rho)
    return x0 + conjugate_gradients(operator, operator.A_adjoint(y - operator.A(x0)), rho).x


@dataclass(frozen=True)
class Trust:
    """How far to trust the measurement against the prior: rho_t = (noise / r_t)^2, r_t <= floor + slope * sigma_t.

    sigma_t = sqrt((1 - abar_t) / abar_t). noise: standard deviation of the measurement's noise, > 0. floor: how far off
    the prior's last estimate may be; slope: how much of the latents' noise ends up in the estimate. All three are RMS,
    for pixels in [-1, 1]. chroma: how many times rho_t is to be for colour. known: whether the noise is known well
    enough to tell r_t from what the estimate fails to explain; else it is at its most.
    """

    noise: float
    floor: float = 0.06
    slope: float = 0.06
    chroma: float = 1
    known: bool = False

    def error(self, schedule: Schedule, t: int) -> float:
        """How far the estimate at timestep t may be off: the most that r_t is."""
        return self.floor + self.slope * schedule.noise(t) / schedule.signal(t)


class Proximal:
    """The data step of a measurement y, (T', 3, H', W') in [-1, 1], at any timestep of a schedule.

    y may also be what gives it, at each step anew. gram: from `closed_form`; None runs conjugate gradients, with r_t at
    its most, and they ask the device how far they are. iterations, unsolved: how many of those each step took, and what
    was left of the residual that they start from.
    """

    def __init__(
        self, operator: Chain, gram: Gram | None, y: Tensor | Callable[[], Tensor], schedule: Schedule, trust: Trust
    ) -> None:
        self.operator, self.gram, self.schedule, self.trust = operator, gram, schedule, trust
        self._rhos: list[float | Tensor] = []
        self.iterations: list[int] = []
        self.unsolved: list[float] = []
        self._y = mix_channels(OPPONENT, y) if isinstance(y, Tensor) else y

    @property
    def rho(self) -> list[float]:
        """What it has been, step by step."""
        return [float(rho) for rho in self._rhos]

    @property
    def history(self) -> dict[str, list[Any]]:
        """What it can tell of its steps so far, ready for JSON."""
        return {"rho": self.rho, "iterations": self.iterations, "unsolved": self.unsolved}

    def go_on(self, history: dict[str, list[Any]]) -> None:
        """These steps were taken by another for the same measurement."""
        self._rhos, self.iterations, self.unsolved = (list(history[n]) for n in ("rho", "iterations", "unsolved"))

    def __call__(self, x0: Tensor, t: int) -> Tensor:
        """Fit the estimate x0 (T, 3, H, W) made at timestep t to the measurement, where it is."""
        mix_channels(OPPONENT, x0, x0)
        error = self.trust.error(self.schedule, t)
        weights = _weights(self.trust.chroma, x0.dtype, x0.device)
        if self.gram is None:
            rho, b = self._rho(error), self.operator.A_adjoint(self._measured().sub_(self.operator.A(x0)))
            found = conjugate_gradients(self.operator, b, rho * weights)
            self.iterations.append(found.iterations)
            self.unsolved.append(found.residual)
            return mix_channels(RGB, x0.add_(found.x), x0)

        gram, trust = self.gram, self.trust

        def rho_of(residual: Tensor) -> Tensor:
            off: float | Tensor = error
            if trust.known:  # not all the way, as x0 was fitted to y before and looks nearer than it is
                likely = likely_error(gram, residual[:, :1], trust.noise).clamp_max(error)
                off = error ** (1 - TOWARDS_LIKELY) * likely**TOWARDS_LIKELY
            return self._rho(off) * weights

        return mix_channels(RGB, gram.fitted(self.operator, x0, self._measured(), rho_of), x0)

    def _measured(self) -> Tensor:
        """A clip of its own, to be overwritten."""
        if isinstance(self._y, Tensor):
            return self._y.clone()
        y = self._y()
        return mix_channels(OPPONENT, y, y)

    def _rho(self, error: float | Tensor) -> float | Tensor:
        self._rhos.append((self.trust.noise / error) ** 2)
        return self._rhos[-1]


@lru_cache(maxsize=8)
def _weights(chroma: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor([1, chroma, chroma], dtype=dtype, device=device).view(3, 1, 1)


def likely_error(gram: Gram, rotated: Tensor, noise: float) -> Tensor:
    """The r under which a residual is likeliest: the maximum of Whittle's likelihood of N(0, r^2 A K A^T + noise^2 N).

    rotated: y - A x0 in the gram's coordinates. Coefficients of about one eigenvalue are summed up first. Nobody waits
    for the device: r stays there.
    """
    return _likeliest(*_by_eigenvalue(gram, rotated), noise)


def _by_eigenvalue(gram: Gram, rotated: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Squares of coefficients summed up, how many they are, and their eigenvalue; for each of the bins."""
    device = rotated.device
    power, count = (torch.zeros(EIGENVALUE_BINS, dtype=torch.float64, device=device) for _ in range(2))
    for n, frame in enumerate(rotated):
        place = ((gram.eigenvalues(n).double().clamp(1e-9, 1).log() / math.log(1e-9)) * (EIGENVALUE_BINS - 1)).round()
        place = place.long().expand_as(frame).flatten()
        power.index_add_(0, place, frame.double().square().flatten())
        count.index_add_(0, place, torch.ones_like(place, dtype=torch.float64))
    value = 1e-9 ** (torch.arange(EIGENVALUE_BINS, dtype=torch.float64, device=device) / (EIGENVALUE_BINS - 1))
    return power, count, value


def _likeliest(power: Tensor, count: Tensor, value: Tensor, noise: float) -> Tensor:
    """The r under which `power` is likeliest, with `noise` beside it."""
    low, high = (power.new_full((), edge) for edge in (math.log(LEAST_ERROR), 0.0))
    for _ in range(20):  # halvings, down to 1e-5 of r
        middle = (low + high) / 2
        variance = (2 * middle).exp() * value + noise**2
        further = ((power - count * variance) * value / variance.square()).sum() > 0
        low, high = torch.where(further, middle, low), torch.where(further, high, middle)
    return high.exp()


def further_off(gram: Gram, residual: Tensor, noise: float) -> float:
    """How many times further off than usual estimates are to be taken, from what the first guess fails to explain.

    Where frames were mixed that move fast, the first guess is likely to be further off than the usual, and the best r_t
    grows about with the square of that (docs/decisions.md). residual: y - A lift(y), (T', 3, H', W'). noise: standard
    deviation of that of y, on its scale, or less: what mixing wiped out tells the likeliest.
    """
    power, count, value = _by_eigenvalue(gram, gram.rotate(mix_channels(BRIGHTNESS, residual)))
    tries = []
    for factor in NOISES:
        error = _likeliest(power, count, value, factor * noise)
        variance = error**2 * value + (factor * noise) ** 2
        tries.append((-float((count * variance.log() + power / variance).sum()), float(error)))
    return min(FURTHEST, max(1.0, max(tries)[1] / USUAL) ** 2)


def mix_channels(matrix: Tensor, x: Tensor, into: Tensor | None = None) -> Tensor:
    """(T, C, H, W) -> (T, C', H, W): the same matrix (C', C) for every pixel. into: where it is to be, which may be x.

    A second clip in memory would cost more time than the products do.
    """
    mixed = x.new_empty(len(x), len(matrix), *x.shape[2:]) if into is None else into
    matrix = placed(matrix, x)
    for frame, made in zip(x, mixed, strict=True):
        made.copy_((matrix @ frame.flatten(1)).view_as(made))
    return mixed


class Solution(NamedTuple):
    """Of a linear system. residual: what is left, relative to ||b||."""

    x: Tensor
    iterations: int
    residual: float


def conjugate_gradients(
    operator: Operator, b: Tensor, rho: Rho, tolerance: float = TOLERANCE, max_iterations: int = MOST_ITERATIONS
) -> Solution:
    """Solve (A^T A + rho I) x = b from x = 0 (Hestenes and Stiefel 1952), to a residual of tolerance * ||b||.

    One step size for the whole clip. The sums run in float64: in float32 they lose the last digits of a long clip. It
    ends after max_iterations, whatever is left then.
    """
    x = torch.zeros_like(b)
    r, p = b.clone(), b.clone()
    rr = _dot(r, r)
    start = max(rr, torch.finfo(torch.float32).tiny)
    iterations = 0
    while iterations < max_iterations and rr > tolerance**2 * start:
        q = operator.A_adjoint(operator.A(p)) + rho * p
        alpha = rr / _dot(p, q)
        x += alpha * p
        r -= alpha * q
        rr, before = _dot(r, r), rr
        p = r + (rr / before) * p
        iterations += 1
    return Solution(x, iterations, math.sqrt(rr / start))


def _dot(a: Tensor, b: Tensor) -> float:
    return float(sum((one.double() * other.double()).sum() for one, other in zip(a, b, strict=True)))
