"""The data step alone, on measurements with noise: ours, with the noise it estimates, beside the published one.

    python bench/consistency.py CLIP [CLIP ...]

Every task on every clip, scaled to 256x160, degraded, and then either rounded to 8 bits or given noise of 1% of the
range. PSNR in dB of what the step starts from, of the published conjugate gradients cut after 10 and 20 iterations, and
of ours with the trust it has at the last step of sampling. No prior takes part.
"""

import argparse
from pathlib import Path

import torch
from cases import SIX, SIZE, scaled
from torch import Tensor

from app.degradations import Task, degradations_of
from app.restoration import SolverSettings
from worker.measures import psnr
from worker.solve import pose
from worker.solver.operators import Mask
from worker.solver.prior import DiffusersPrior, load_prior
from worker.solver.published import published_data_step, published_operators
from worker.stated import operator_of
from worker.video import Beside, read_clip

NOISES = ("8 bits", "1%")


def measured(y: Tensor, noise: str) -> Tensor:
    """y in [0, 1] as a file of 8 bits holds it, or with white noise of 1% of the range, cut off at its ends."""
    if noise == "8 bits":
        return (y * 255).round() / 255
    return (y + 0.01 * torch.randn(y.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)


def row(prior: DiffusersPrior, truth: Tensor, task: Task, noise: str) -> list[float]:
    """PSNR of the start, of the published step after 10 and 20 iterations (NaN: it knows no mask), and of ours."""
    degradations = degradations_of(task)
    mask = (torch.rand(1, 1, *truth.shape[-2:], generator=torch.Generator().manual_seed(0)) > 0.5).float()
    y = measured(operator_of(degradations, Beside(mask), truth.device).A(truth), noise)
    problem = pose(prior, y, degradations, Beside(mask), None, SolverSettings())
    ours = problem.data_step()(problem.lifted, problem.sampling.schedule.timesteps[-1])

    theirs = [ours * torch.nan] * 2
    if not any(isinstance(step, Mask) for step in problem.operator.operators):
        stand_in = published_operators(problem.operator.operators)
        theirs = [published_data_step(stand_in, problem.y, n)(stand_in.lift(problem.y), 1) for n in (10, 20)]
    return [psnr((x.clamp(-1, 1) + 1) / 2, truth) for x in (problem.lifted, *theirs, ours)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--frames", type=int, default=25)
    args = parser.parse_args()
    prior = load_prior()  # for its schedule and its settings; it is not asked
    print("| clip | task | noise | start | published, 10 | published, 20 | ours |")
    print("|---|---|---|---|---|---|---|")
    for path in args.clips:
        truth = scaled(read_clip(path, args.frames), args.frames, SIZE)
        for task in (*map(Task, SIX), Task.temporal_deblur):
            for noise in NOISES:
                cells = [f"{value:.2f}".replace("nan", "-") for value in row(prior, truth, task, noise)]
                print("|", " | ".join([path.stem, task.value, noise, *cells]), "|", flush=True)


if __name__ == "__main__":
    main()
