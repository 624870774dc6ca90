"""The paper's experiments: the same loop with one of its parts changed, by what is handed to it."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from cases import Case, tuned
from torch import Tensor

from app.restoration import SolverSettings
from worker.measures import psnr
from worker.solve import Problem, solve
from worker.solver.data_step import conjugate_gradients
from worker.solver.operators import Mask
from worker.solver.prior import DiffusersPrior
from worker.solver.published import published_data_step, published_operators
from worker.solver.restore import DataStep, ddim_inversion, own_noise

EXPERIMENTS = ("inversion", "tau", "cg", "lowpass", "noise")
TAUS = (0.05, 0.09, 0.15, 0.30, 0.45)
LOWPASSES = (0.0, 0.7, 1.0, 1.41, 2.0)
Variant = tuple[str, Problem, DataStep | None]  # its name, what is to be solved, and the data step if not the usual


def variants(which: str, prior: DiffusersPrior, problem: Problem, settings: SolverSettings) -> Iterator[Variant]:
    """What an experiment compares; the settings of the task, as tuned, for all that it leaves alone."""
    sampling = problem.sampling
    match which:
        case "inversion":
            yield "every_frame", problem, None
            yield "every_frame, all steps", replace(problem, sampling=replace(sampling, inversion=ddim_inversion)), None
            for init in ("first_frame", "random"):
                yield init, replace(problem, sampling=replace(sampling, init=init)), None
        case "tau":
            yield f"{problem.tuning.tau:g} (tuned)", problem, None
            for tau in (0.15, 0.30, 0.45):
                yield f"{tau:g}", tuned(prior, problem, settings, tau=tau), None
        case "lowpass":
            for lowpass in (0, 1, 1.41, 2):
                yield f"{lowpass:g}", tuned(prior, problem, settings, lowpass=lowpass), None
        case "noise":
            yield "shared", problem, None
            yield "independent", replace(problem, sampling=replace(sampling, fresh=own_noise)), None
        case "cg":
            for iterations in (1, 5, 10):
                yield f"CG {iterations}", problem, iterated(problem, iterations)
            if problem.gram is not None:
                yield "exact", replace(problem, gram=problem.gram.remembering([0])), None
                yield "exact, with memory", problem, None
            if not any(isinstance(operator, Mask) for operator in problem.operator.operators):
                stand_in = published_operators(problem.operator.operators)
                yield "published CG 10", problem, published_data_step(stand_in, problem.y, 10)


def iterated(problem: Problem, iterations: int) -> DataStep:
    """The same system as the data step's, cut off after so many conjugate gradients; one rho for all colours."""

    def step(x0: Tensor, t: int) -> Tensor:
        rho = (problem.trust.noise / problem.trust.error(problem.sampling.schedule, t)) ** 2
        b = problem.operator.A_adjoint(problem.y - problem.operator.A(x0))
        return x0 + conjugate_gradients(problem.operator, b, rho, tolerance=0, max_iterations=iterations).x

    return step


def heatmap(
    prior: DiffusersPrior, cases: Sequence[Case], settings: SolverSettings
) -> tuple[Sequence[float], Sequence[float], list[list[float]]]:
    """tau, low-pass, and the mean PSNR over the cases for each of both."""
    problems = [case.posed(prior, settings) for case in cases]
    values = []
    for tau in TAUS:
        line = []
        for lowpass in LOWPASSES:
            clips = [solve(prior, tuned(prior, p, settings, tau=tau, lowpass=lowpass), settings) for p in problems]
            near = [psnr((clip + 1) / 2, case.truth) for clip, case in zip(clips, cases, strict=True)]
            line.append(sum(near) / len(near))
        values.append(line)
    return TAUS, LOWPASSES, values
