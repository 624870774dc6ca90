"""How much the solver gives back: every task on every clip named, with real 8-bit H.264 in between.

    python bench/quality.py CLIP [CLIP ...]           # the table of docs/quality.md
    python bench/quality.py app/static/sample.mp4 --tasks deblur inpaint
    python bench/quality.py CLIP --size as-is --tasks deblur

A clip is scaled to 256x160 (middle cropped) or to any other --size, degraded, written as H.264, read back, restored,
written as H.264 and read back again, as a client of the service would see it. Columns, PSNR in dB:

    given   what came in, on the grid of the clip: lost pixels black, small clips enlarged bicubically
    lift    what the solver starts from
    data    the data step alone, with the trust that suits it best (the truth being known, which the solver has not)
    full    the whole loop

then SSIM and sharpness (RMS gradient over the truth's) of the last two.
"""

import argparse
import time
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch.nn.functional as F
from torch import Tensor

from app.degradations import Task, degradations_of
from app.restoration import SolverSettings
from worker.encode import write_clip
from worker.measures import psnr, sharpness, ssim
from worker.solve import Problem, operator_of, pose, solve
from worker.solver.closed_form import closed_form
from worker.solver.data_step import data_step
from worker.solver.prior import DiffusersPrior, load_prior
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


def posed(case: Case, prior: DiffusersPrior, settings: SolverSettings) -> Problem:
    return pose(prior, case.measured, degradations_of(case.task), Beside(case.mask), None, settings, micro_batch=4)


def data_alone(problem: Problem) -> Tensor:
    """The data step from the lifted measurement, with the trust of the solver's last step; in [0, 1]."""
    rho = (2 * problem.noise_sigma / problem.tuning.floor) ** 2
    gram = closed_form(problem.operator, problem.y)
    return (data_step(problem.operator, gram, problem.lifted, problem.y, rho).clamp(-1, 1) + 1) / 2


def best_data_alone(case: Case, problem: Problem) -> Tensor:
    """The data step alone with the trust that suits it best, the truth being known: the strongest rival there is."""
    tries = [
        data_alone(replace(problem, tuning=replace(problem.tuning, floor=floor)))
        for floor in (0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.2, 0.3, 0.5)
    ]
    return max(tries, key=lambda clip: psnr(clip, case.truth))


def row(case: Case, prior: DiffusersPrior, settings: SolverSettings, scratch: Path) -> list[float]:
    """PSNR of given, lift, data, full; SSIM of data, full; sharpness of data, full; seconds a frame."""
    problem = posed(case, prior, settings)
    lifted = ((problem.lifted + 1) / 2).clamp(0, 1)
    given = lifted if case.measured.shape != case.truth.shape else case.measured
    data = through_h264(best_data_alone(case, problem), case.clip, OUTPUT_CRF, scratch)
    started = time.monotonic()
    full = (solve(prior, problem, settings) + 1) / 2
    seconds = (time.monotonic() - started) / len(full)
    full = through_h264(full, case.clip, OUTPUT_CRF, scratch)
    truth = case.truth
    return [
        *(psnr(clip, truth) for clip in (given, lifted, data, full)),
        *(ssim(clip, truth) for clip in (data, full)),
        *(sharpness(clip, truth) for clip in (data, full)),
        seconds,
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--tasks", nargs="+", default=SIX, choices=[task.value for task in Task])
    parser.add_argument("--frames", type=int, default=9)
    parser.add_argument("--crf", type=int, default=10, help="of the degraded clip's H.264")
    parser.add_argument("--size", type=size_of, default=SIZE, help="such as 640x384, or as-is")
    parser.add_argument("--model", default="bundled")
    args = parser.parse_args()

    prior, settings = load_prior(args.model), SolverSettings()
    size = "x".join(map(str, args.size)) if args.size else "their own size"
    print(f"{args.frames} frames of {size}, H.264 crf {args.crf} in, crf {OUTPUT_CRF} out\n")
    print("| clip | task | given | lift | data | full | SSIM data | full | sharp data | full | s/frame |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    with TemporaryDirectory() as directory:
        for path in args.clips:
            clip = read_clip(path, args.frames)
            truth = scaled(clip, args.frames, args.size)
            print(f"| {path.stem} | (autoencoder) | | | | {ceiling(prior, truth):.2f} | | | | | |")
            for task in map(Task, args.tasks):
                case = degrade(task, clip, truth, args.crf, Path(directory))
                values = row(case, prior, settings, Path(directory))
                cells = [*(f"{v:.2f}" for v in values[:4]), *(f"{v:.3f}" for v in values[4:8]), f"{values[8]:.2f}"]
                print("|", " | ".join([path.stem, task.value, *cells]), "|", flush=True)


@torch.inference_mode()
def ceiling(prior: DiffusersPrior, truth: Tensor) -> float:
    """PSNR of the autoencoder's round trip."""
    back = prior.decode(prior.encode(2 * truth - 1), (truth.shape[-2], truth.shape[-1])).clamp(-1, 1)
    return psnr((back + 1) / 2, truth)


if __name__ == "__main__":
    main()
