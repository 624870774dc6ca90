"""The published solver (the authors' code as of January 2025), as other pieces for the same loop.

It follows version 1 of the paper. What it does differently, and why this project does not, stands in docs/algorithm.md;
here it serves to reproduce its numbers: `preset: published` in a job, `tools/parity.py`, and the golden vectors.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from worker.solver.operators import Chain, Operator, Shape
from worker.solver.restore import Sampling
from worker.solver.schedule import Schedule
from worker.solver.spatial import Downsample, GaussianBlur
from worker.solver.stages import Prior, Watch, nobody
from worker.solver.temporal import TemporalAverage

TAPS = 61
STOP = 1e-5  # absolute: conjugate gradients end where the norm of the residual is below


@dataclass(frozen=True)
class ReflectedBlur:
    """A Gaussian of 61 taps, edges reflected about the last pixel; in place of its adjoint stands the identity."""

    sigma: float

    def A(self, x: Tensor) -> Tensor:
        return reflected_lowpass(x, self.sigma)

    def A_adjoint(self, y: Tensor) -> Tensor:
        return y

    def lift(self, y: Tensor) -> Tensor:
        return y

    def clip_shape(self, measured: Shape) -> Shape:
        return measured


@dataclass(frozen=True)
class UnscaledDownsample(Downsample):
    """Mean-pooling; in place of its adjoint and of a bicubic first guess stands nearest upsampling."""

    def A_adjoint(self, y: Tensor) -> Tensor:
        return self.lift(y)

    def lift(self, y: Tensor) -> Tensor:
        return y.repeat_interleave(self.factor, -2).repeat_interleave(self.factor, -1)


def gaussian_taps(sigma: float) -> Tensor:
    """(61,) float64, of sum 1."""
    offsets = torch.arange(TAPS, dtype=torch.float64) - TAPS // 2
    taps = torch.exp(-0.5 * (offsets / sigma) ** 2)
    return taps / taps.sum()


def reflected_lowpass(x: Tensor, sigma: float) -> Tensor:
    """Convolve each frame (T, C, H, W) with a Gaussian of 61 taps; frames need more than 30 pixels a side."""
    if sigma == 0:
        return x
    taps = gaussian_taps(sigma).to(x)
    flat = F.pad(x.flatten(0, 1)[:, None], [TAPS // 2] * 4, mode="reflect")
    flat = F.conv2d(F.conv2d(flat, taps.view(1, 1, -1, 1)), taps.view(1, 1, 1, -1))
    return flat.view(x.shape)


def published_schedule(schedule: Schedule) -> Schedule:
    """The same timesteps in a table of abar shifted by one, a 1 ahead of it."""
    return replace(schedule, abar=torch.cat([schedule.abar.new_ones(1), schedule.abar]))


def published_inversion(prior: Prior, z: Tensor, schedule: Schedule, watch: Watch = nobody) -> Tensor:
    """DDIM inversion that asks for the noise at the timestep it goes to; its first step has no effect.

    z: (1, C, h, w), clean latents. schedule: of `published_schedule`.
    """
    upwards = schedule.timesteps[::-1]
    for t, t_up in zip((upwards[0], *upwards), upwards, strict=False):
        _, eps = prior.predict_noise(z, t_up)
        z0 = (z - schedule.noise(t) * eps) / schedule.signal(t)
        z = schedule.signal(t_up) * z0 + schedule.noise(t_up) * eps
        watch("invert", len(z))
    return z


def published_operators(operators: Sequence[Operator]) -> Chain:
    """The same degradations as the published solver models them; ValueError where it has none."""
    return Chain([published_operator(operator) for operator in operators])


def published_operator(operator: Operator) -> Operator:
    match operator:
        case GaussianBlur(sigma):
            return ReflectedBlur(sigma)
        case Downsample(factor, "mean_pool"):
            return UnscaledDownsample(factor)
        case TemporalAverage(window):
            return TemporalAverage(window, "circular")
        case _:
            raise ValueError(f"the published solver does not know {type(operator).__name__}")


def published_data_step(operator: Chain, y: Tensor, iterations: int) -> Callable[[Tensor, int], Tensor]:
    """Conjugate gradients on A^T A x = A^T y from the estimate, cut short instead of regularised."""
    b = operator.A_adjoint(y)

    def step(x0: Tensor, t: int) -> Tensor:
        x = x0
        r = b - operator.A_adjoint(operator.A(x))
        p, rr = r, r.square().sum()
        for _ in range(iterations):
            q = operator.A_adjoint(operator.A(p))
            alpha = rr / (p * q).sum()
            x, r = x + alpha * p, r - alpha * q
            rr, before = r.square().sum(), rr
            if rr.sqrt() < STOP:
                break
            p = r + (rr / before) * p
        return x

    return step


def published_sampling(sampling: Sampling) -> Sampling:
    """The same steps, eta and low-pass, with the schedule, inversion, filter and result of the published solver."""
    return replace(
        sampling,
        schedule=published_schedule(sampling.schedule),
        init="first_frame",
        final="prior",
        inversion=published_inversion,
        smooth=reflected_lowpass,
    )
