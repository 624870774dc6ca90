"""The loop as the published code arranges it, and as this project does, for the same prior, clip and task.

published  both guidance branches, one frame at a time, Gaussians as 61 x 61 convolutions, ten conjugate gradients,
           an encode that is thrown away; its settings: tau 0.30, first-frame inversion
same       the same arithmetic, arranged by this project: one branch, micro-batches, twice 61 taps, no last encode
ours       as a job runs it that asks for nothing else
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from timing import Clock
from torch import Tensor

from app.degradations import Task, degradations_of
from app.restoration import SolverSettings
from worker.solve import PUBLISHED_ITERATIONS, pose
from worker.solver.batches import MicroBatches
from worker.solver.operators import Chain, Mask, Operator
from worker.solver.prior import DiffusersPrior
from worker.solver.published import (
    TAPS,
    ReflectedBlur,
    gaussian_taps,
    published_data_step,
    published_operator,
    published_sampling,
)
from worker.solver.restore import DataStep, Sampling, restore
from worker.solver.schedule import Schedule
from worker.solver.spatial import GaussianBlur
from worker.solver.stages import Prior
from worker.stated import operator_of
from worker.tuning import PAPER
from worker.video import Beside

Arrangement = Callable[[Clock], Tensor]  # the restored clip, (T, 3, H, W) in [-1, 1]


def full_lowpass(x: Tensor, sigma: float) -> Tensor:
    """Convolve each frame (T, C, H, W) with a Gaussian of 61 x 61 taps at once."""
    if sigma == 0:
        return x
    taps = gaussian_taps(sigma)
    kernel = torch.outer(taps, taps).to(x)
    channels = x.shape[1]
    padded = F.pad(x, [TAPS // 2] * 4, mode="reflect")
    return F.conv2d(padded, kernel.expand(channels, 1, TAPS, TAPS), groups=channels)


class FullBlur(ReflectedBlur):
    """The published blur, 61 x 61 taps at once."""

    def A(self, x: Tensor) -> Tensor:
        return full_lowpass(x, self.sigma)


@dataclass(frozen=True)
class BothBranches:
    """A prior that runs the branch of the empty prompt twice, and mixes what comes out with itself."""

    prior: DiffusersPrior

    def encode(self, x: Tensor) -> Tensor:
        return self.prior.encode(x)

    def decode(self, z: Tensor, size: tuple[int, int]) -> Tensor:
        return self.prior.decode(z, size)

    def predict_noise(self, z: Tensor, t: int) -> tuple[Tensor, Tensor]:
        return replace(self.prior, prompt=self.prior.empty).predict_noise(z, t)


def arrangements(prior: DiffusersPrior, task: Task, truth: Tensor, micro_batch: int) -> dict[str, Arrangement]:
    """What is compared; truth: (T, 3, H, W) in [0, 1], which all of them get degraded and rounded to 8 bits."""
    settings, degradations = SolverSettings(), degradations_of(task)
    generator = torch.Generator().manual_seed(0)
    mask = (torch.rand(1, 1, *truth.shape[-2:], generator=generator) > 0.5).float()
    beside = Beside(mask if degradations[-1].kind == "mask" else None)
    stated = operator_of(degradations, beside, truth.device)
    measured = (stated.A(truth) * 255).round().clamp(0, 255) / 255
    own = pose(prior, measured, degradations, beside, None, settings)
    schedule = Schedule.leading(prior.abar, settings.steps, PAPER.tau)
    sampling = published_sampling(Sampling(schedule, PAPER.eta, 2**0.5))
    operators = operator_of(degradations, beside, prior.device).operators
    full, separable = _published(operators, full=True), _published(operators, full=False)
    one_by_one = replace(sampling, smooth=full_lowpass)

    def run(prior: Prior, lifted: Tensor, step: DataStep, sampling: Sampling, clock: Clock, size: int) -> Tensor:
        timed = replace(sampling, smooth=clock.timed("lowpass", sampling.smooth))
        clock.watch("between")
        noise = torch.Generator().manual_seed(0)
        step = clock.timed("data_step", step)
        return restore(prior, lifted, step, timed, noise, clock.watch, MicroBatches(size))

    @torch.inference_mode()
    def published(clock: Clock) -> Tensor:
        step = published_data_step(full, own.y, PUBLISHED_ITERATIONS)
        x = run(BothBranches(prior.as_published()), full.lift(own.y), step, one_by_one, clock, 1)
        for frame in x.chunk(len(x)):
            prior.encode(frame)
            clock.watch("vae_encode")
        return x

    @torch.inference_mode()
    def same(clock: Clock) -> Tensor:
        step = published_data_step(separable, own.y, PUBLISHED_ITERATIONS)
        return run(prior.as_published(), separable.lift(own.y), step, sampling, clock, micro_batch)

    def ours(clock: Clock) -> Tensor:
        return run(prior, own.lifted, own.data_step(), own.sampling, clock, micro_batch)

    return {"published": published, "same": same, "ours": ours}


def _published(operators: Sequence[Operator], full: bool) -> Chain:
    """As the published code models them; it means to know masks, but fails on them."""
    found: list[Operator] = []
    for operator in operators:
        match operator:
            case Mask():
                found.append(operator)
            case GaussianBlur(sigma) if full:
                found.append(FullBlur(sigma))
            case _:
                found.append(published_operator(operator))
    return Chain(found)
