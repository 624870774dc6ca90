"""From what a client states to what the solver takes: operators, noise, and the settings each task does best with."""

from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from app import contract
from worker.solver.data_step import proximal
from worker.solver.noise import estimate_noise
from worker.solver.operators import Chain, Downsample, GaussianBlur, Mask, Operator, TemporalAverage
from worker.solver.prior import DiffusersPrior
from worker.solver.restore import Sampling, Watch, nobody, restore
from worker.solver.schedule import Schedule


@dataclass(frozen=True)
class Tuning:
    """What a task does best with, chosen on clips that are neither trained on nor reported (docs/quality.md).

    tau, eta, lowpass as in SolverSettings; floor and slope as in `proximal`.
    """

    tau: float = 0.15
    eta: float = 0.2
    lowpass: float = 1.41
    floor: float = 0.06
    slope: float = 0.06


TUNED: dict[str, Tuning] = {}


@dataclass(frozen=True)
class Solution:
    """A restored clip and how it came about; sigma and residuals (RMS of y - A x) on the scale of pixels in [0, 1]."""

    clip: Tensor  # (T, 3, H, W) in [0, 1]
    lifted: Tensor  # what the solver started from, likewise
    noise_sigma: float
    residual_before: float
    residual: float
    settings: dict[str, float | int | str]


def operator_of(degradations: list[contract.Degradation], mask: Tensor | None) -> Chain:
    """The operators a client's list stands for. mask: (1 or T, 1, H, W) of 0 and 1."""
    operators: list[Operator] = []
    for degradation in degradations:
        match degradation:
            case contract.Downsample():
                operators.append(Downsample(degradation.factor))
            case contract.GaussianBlur():
                operators.append(GaussianBlur(degradation.sigma))
            case contract.TemporalAverage():
                operators.append(TemporalAverage(degradation.window, degradation.boundary))
            case contract.Mask():
                if mask is None:
                    raise ValueError("a mask is stated but none is given")
                operators.append(Mask(mask))
    return Chain(operators)


def solve(
    prior: DiffusersPrior,
    measured: Tensor,
    degradations: list[contract.Degradation],
    mask: Tensor | None,
    noise_sigma: float | None,
    settings: contract.SolverSettings,
    micro_batch: int,
    watch: Watch = nobody,
) -> Solution:
    """Restore one segment.

    measured: (T', 3, H', W') in [0, 1]. mask: (1 or T', 1, H', W') of 0 and 1. noise_sigma: on the same scale; None
    estimates it.
    """
    operator = operator_of(degradations, mask)
    tuned = TUNED.get(contract.task_of(degradations), Tuning())
    tau = tuned.tau if settings.tau is None else settings.tau
    sampling = Sampling(
        Schedule.leading(prior.abar, settings.steps, tau),
        eta=tuned.eta if settings.eta is None else settings.eta,
        lowpass=tuned.lowpass if settings.lowpass is None else settings.lowpass,
        init=settings.init,
        final=settings.final,
        micro_batch=micro_batch,
    )
    last = operator.operators[-1]
    known = last.known if isinstance(last, Mask) else None
    sigma = max(noise_sigma, 1e-4) if noise_sigma is not None else estimate_noise(measured, known)
    y = 2 * measured.float().to(prior.device) - 1
    if known is not None:
        y = y * known.to(y)  # whatever the file holds where pixels are lost, it is no measurement
    lifted = operator.lift(y)
    data_step = proximal(operator, y, sampling.schedule, 2 * sigma, tuned.floor, tuned.slope)
    generator = torch.Generator().manual_seed(settings.seed)
    x = restore(
        prior.prompted(settings.prompt, settings.guidance), lifted, data_step, sampling, generator, watch
    ).clamp(-1, 1)

    def residual(clip: Tensor) -> float:
        return float((y - operator.A(clip)).square().mean().sqrt()) / 2

    return Solution(
        clip=(x + 1) / 2,
        lifted=((lifted + 1) / 2).clamp(0, 1),
        noise_sigma=sigma,
        residual_before=residual(lifted),
        residual=residual(x),
        settings=settings.model_dump() | asdict(tuned) | {"tau": tau, "eta": sampling.eta, "lowpass": sampling.lowpass},
    )


def timesteps(prior: DiffusersPrior, degradations: list[contract.Degradation], settings: contract.SolverSettings) -> int:
    """How many sampler steps `solve` will take."""
    tau = settings.tau or TUNED.get(contract.task_of(degradations), Tuning()).tau
    return len(Schedule.leading(prior.abar, settings.steps, tau).timesteps)
