"""Where in frequency each stage of each step mends or harms: spectra of the error of the estimate."""

from dataclasses import dataclass, field, replace

import torch
from cases import Case
from torch import Tensor

from app.restoration import SolverSettings
from worker.solve import Problem, solve
from worker.solver.dct import dct
from worker.solver.prior import DiffusersPrior

BINS = 48


@dataclass
class Step:
    """One timestep. curves: RMS error at each frequency, levels of 255, by stage; totals: over all frequencies."""

    t: int
    curves: dict[str, list[float]] = field(default_factory=dict)
    totals: dict[str, float] = field(default_factory=dict)


@dataclass
class Spectra:
    """frequencies: cycles a pixel. given: the error of what the solver starts from. steps: first to last."""

    frequencies: list[float]
    given: list[float]
    steps: list[Step] = field(default_factory=list)


def spectra(prior: DiffusersPrior, case: Case, problem: Problem, settings: SolverSettings) -> Spectra:
    """Run the loop, and look at its estimate after Tweedie, after the data step, and after the low-pass."""
    truth = 2 * case.truth - 1
    radial = Radial(truth.shape[-2], truth.shape[-1])
    found = Spectra(radial.frequencies, radial.rms(problem.lifted - truth))
    usual = problem.data_step()
    smoothed: list[Tensor] = []

    def note(stage: str, x: Tensor) -> None:
        found.steps[-1].curves[stage] = radial.rms(x - truth)
        found.steps[-1].totals[stage] = 127.5 * float((x - truth).square().mean().sqrt())

    def data_step(x0: Tensor, t: int) -> Tensor:
        found.steps.append(Step(t))
        note("Tweedie", x0)
        x = usual(x0, t)
        note("data step", x)
        return x

    def smooth(x: Tensor, sigma: float) -> Tensor:
        smoothed.append(problem.sampling.smooth(x, sigma))
        if sum(map(len, smoothed)) == len(truth):  # micro-batch by micro-batch
            note("low-pass", torch.cat(smoothed))
            smoothed.clear()
        return problem.sampling.smooth(x, sigma)

    watched = replace(problem, sampling=replace(problem.sampling, smooth=smooth))
    solve(prior, watched, settings, data_step=data_step)
    return found


class Radial:
    """Sorts the DCT-II of frames by the length of its frequency."""

    def __init__(self, height: int, width: int) -> None:
        down, across = torch.arange(height) / (2 * height), torch.arange(width) / (2 * width)
        length = (down[:, None] ** 2 + across**2).sqrt()
        self.bins = (length / 0.5 * BINS).long().flatten()
        self.inside = self.bins < BINS  # the corners beyond half a cycle a pixel are left out
        self.bins = self.bins[self.inside]
        self.count = torch.zeros(BINS).index_add_(0, self.bins, torch.ones(len(self.bins)))
        self.frequencies = [(n + 0.5) / BINS / 2 for n in range(BINS)]

    def rms(self, x: Tensor) -> list[float]:
        """Of a clip (T, 3, H, W) in [-1, 1]: per coefficient, levels of 255."""
        power = dct(x).square().mean((0, 1)).flatten()[self.inside]
        mean = torch.zeros(BINS).index_add_(0, self.bins, power) / self.count
        return [127.5 * value for value in mean.sqrt().tolist()]
