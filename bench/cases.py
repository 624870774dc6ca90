"""Degraded clips to measure on: scaled, degraded, and sent through real 8-bit H.264, as a client would send them."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from app.degradations import Task, degradations_of
from app.restoration import SolverSettings
from worker.encode import write_clip
from worker.solve import Problem, pose
from worker.solver.prior import DiffusersPrior
from worker.solver.restore import ddim_inversion, straight_inversion
from worker.solver.schedule import Schedule
from worker.stated import operator_of
from worker.tuning import tuning_of
from worker.video import Beside, Clip, read_clip

SIX = ("deblur", "deblur_plus", "inpaint", "inpaint_plus", "super_resolution_x4", "super_resolution_x4_plus")
SIZE = (256, 160)
Size = tuple[int, int] | None  # width and height; None: as the clip is
OUTPUT_CRF = 12  # what a job has if it asks for nothing else


@dataclass(frozen=True)
class Case:
    """A task on a clip: the truth, what came in through H.264, and which pixels are known."""

    task: Task
    clip: Clip
    truth: Tensor
    measured: Tensor
    mask: Tensor | None

    def posed(self, prior: DiffusersPrior, settings: SolverSettings, as_bundled: bool = False) -> Problem:
        """What is to be solved. as_bundled: with the bundled checkpoint's settings, whatever the prior."""
        degradations = degradations_of(self.task)
        problem = pose(prior, self.measured, degradations, Beside(self.mask), None, settings)
        if not as_bundled:
            return problem
        return tuned(prior, problem, settings, **asdict(tuning_of(degradations, bundled=True)))


def tuned(prior: DiffusersPrior, problem: Problem, settings: SolverSettings, **changed: Any) -> Problem:
    """The same problem with other settings of worker.tuning.Tuning."""
    tuning = replace(problem.tuning, **changed)
    schedule = Schedule.leading(prior.abar, settings.steps, tuning.tau)
    sampling = replace(problem.sampling, schedule=schedule, eta=tuning.eta, lowpass=tuning.lowpass)
    sampling = replace(sampling, inversion=straight_inversion if tuning.straight else ddim_inversion)
    return replace(problem, tuning=tuning, sampling=sampling)


def size_of(text: str) -> Size:
    """`256x160` -> (256, 160); `as-is` -> None."""
    if text == "as-is":
        return None
    width, height = map(int, text.split("x"))
    return width, height


def scaled(clip: Clip, frames: int, size: Size) -> Tensor:
    """The first frames at that width and height, the middle cropped, in [0, 1]; as they are where size is None."""
    x = clip.frames[:frames].float()
    if size is None:
        return x
    width, height = size
    scale = max(width / x.shape[-1], height / x.shape[-2])
    if scale != 1:
        x = F.interpolate(
            x, size=(round(x.shape[-2] * scale), round(x.shape[-1] * scale)), mode="bicubic", antialias=True
        )
    top, left = (x.shape[-2] - height) // 2, (x.shape[-1] - width) // 2
    return x[..., top : top + height, left : left + width].clamp(0, 1)


def middle(x: Tensor, side: int) -> Tensor:
    """At most `side` pixels each way out of the middle of frames, even numbers of them."""
    height, width = (min(side, size) // 2 * 2 for size in x.shape[-2:])
    top, left = (x.shape[-2] - height) // 2, (x.shape[-1] - width) // 2
    return x[..., top : top + height, left : left + width]


def through_h264(x: Tensor, like: Clip, crf: int, scratch: Path, full_chroma: bool = False) -> Tensor:
    """What is left of a clip after 8-bit H.264."""
    path = scratch / "clip.mp4"
    write_clip(path, x, like, pts=like.pts[: len(x)], crf=crf, full_chroma=full_chroma)
    return read_clip(path).frames.float()


def degrade(task: Task, clip: Clip, truth: Tensor, crf: int, scratch: Path) -> Case:
    """Degrade a clean clip and send it through H.264: 4:2:0, but 4:4:4 where pixels are lost.

    A mask of single pixels cannot pass 4:2:0, whose chroma mixes known and lost ones.
    """
    degradations = degradations_of(task)
    masked = degradations[-1].kind == "mask"
    mask = None
    if masked:
        generator = torch.Generator().manual_seed(0)
        mask = (torch.rand(1, 1, *truth.shape[-2:], generator=generator) > 0.5).float()
    y = operator_of(degradations, Beside(mask), truth.device).A(truth)
    return Case(task, clip, truth, through_h264(y, clip, crf, scratch, full_chroma=masked), mask)
