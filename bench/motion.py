"""What a mean over time costs and gives back at every speed, across a cut, and where it was not made at all.

    python bench/motion.py CLIP [CLIP ...]

A window of 256x160 moves over the first frame of each clip (mirrored at its edges) by so many pixels a frame. 25
frames, a mean of 7, a blur of sigma 3, H.264 at crf 10, and then the data step. PSNR in dB, of all frames and of the
worst one:

    given    what came in
    with     the mean over time undone
    without  only the blur undone
    auto     the mean undone but for the frames that do not fit one, as the service does
    full     the same with the whole loop

warp is the warp error of `full` along its own motion and along the true one, `dropped` the frames that did not fit. The
statement is right; wrong in part (six frames that were not averaged) or altogether; or there is a cut to another
picture, with the mean made within each scene or across it, and each scene is solved for itself (found) or not (missed).
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from cases import SIZE, through_h264
from quality import data_alone
from torch import Tensor

from app.degradations import Task, degradations_of
from app.restoration import SolverSettings
from worker.encode import write_clip
from worker.measures import psnr, warp_errors
from worker.scenes import scan
from worker.solve import Problem, setup, solve
from worker.solver.misfit import misfits
from worker.solver.prior import DiffusersPrior, load_prior
from worker.solver.segments import Part, Timeline, without_mixing
from worker.solver.spatial import GaussianBlur
from worker.solver.temporal import TemporalAverage
from worker.video import Beside, Clip, read_clip

SPEEDS = (0, 1, 4, 16, 32, 64)
FRAMES, CUT, WINDOW = 25, 12, 7
ODD = range(10, 16)
average, blur = TemporalAverage(WINDOW), GaussianBlur(3.0)


def pan(picture: Tensor, speed: int, first: int = 0) -> Tensor:
    """(FRAMES, 3, 160, 256) of a picture (3, H, W): to the right, and a quarter as fast down."""

    def mirrored(start: int, count: int, size: int) -> Tensor:
        at = (torch.arange(count) + start) % (2 * size)
        return torch.minimum(at, 2 * size - 1 - at)

    frames = []
    for n in range(FRAMES):
        rows = mirrored(first + n * speed // 4, SIZE[1], picture.shape[1])
        columns = mirrored(first + n * speed, SIZE[0], picture.shape[2])
        frames.append(picture[:, rows][:, :, columns])
    return torch.stack(frames)


class Bench:
    """Prints rows of the table."""

    def __init__(self, prior: DiffusersPrior, like: Clip, scratch: Path) -> None:
        self.prior, self.like, self.scratch, self.settings = prior, like, scratch, SolverSettings()
        self.setup = setup(prior, degradations_of(Task.deblur_plus), Beside(), self.settings, SIZE[0] * SIZE[1])

    def sent(self, averaged: Tensor) -> Tensor:
        """What a client of the service would have of a clip that was averaged."""
        return through_h264(blur.A(averaged), self.like, 10, self.scratch)

    def row(self, title: str, truth: Tensor, measured: Tensor, scenes: list[range]) -> None:
        """Solve each scene for itself in each of the ways."""
        ways: dict[str, list[Tensor]] = {"with": [], "without": [], "auto": [], "full": []}
        odd: list[int] = []
        for scene in scenes:
            timeline = Timeline(self.setup.operator.operators, len(scene))
            (part,) = timeline.parts(len(scene))
            assert timeline.only_average is not None
            problem = self.setup.pose(measured[scene.start : scene.stop], None, timeline.operators_of(part))
            found = misfits(problem.y, timeline.only_average, part.own, problem.codec_noise)
            odd += [scene.start + n for n in found]

            def taken(frames: list[int], problem: Problem = problem, part: Part = part) -> Problem:
                return problem.degraded_by(without_mixing(problem.operator, part, frames))

            ways["with"].append(data_alone(problem))
            ways["without"].append(data_alone(taken(list(range(len(scene))))))
            ways["auto"].append(data_alone(taken(found)))
            ways["full"].append((solve(self.prior, taken(found), self.settings) + 1) / 2)
        done = {"given": measured} | {name: torch.cat(parts) for name, parts in ways.items()}
        cells = [
            f"{psnr(x, truth):.2f}, {min(psnr(a, b) for a, b in zip(x, truth, strict=True)):.2f}" for x in done.values()
        ]
        full = done["full"]
        warp = [warp_errors(full, guide) for guide in (full, truth)]
        cells += [f"{warp[0]:.4f}, {warp[1]:.4f}", _runs(odd)]
        print("|", " | ".join([title, *cells]), "|", flush=True)


def _runs(frames: list[int]) -> str:
    if not frames:
        return "-"
    ends = [n for n, (a, b) in enumerate(pairwise(frames)) if b > a + 1]
    edges = [0, *(n + 1 for n in ends), len(frames)]
    return ", ".join(f"{frames[a]}-{frames[b - 1]}" if b - a > 1 else str(frames[a]) for a, b in pairwise(edges))


def partly(averaged: Tensor, truth: Tensor, frames: range) -> Tensor:
    """Some frames not averaged."""
    mixed = averaged.clone()
    mixed[frames.start : frames.stop] = truth[frames.start : frames.stop]
    return mixed


def cuts(bench: Bench, name: str, one: Tensor, other: Tensor) -> None:
    """Four rows: the mean within scenes or across the cut, solved apart there or not."""
    truth = torch.cat([one[:CUT], other[CUT:]])
    within = bench.sent(torch.cat([average.A(one[:CUT]), average.A(other[CUT:])]))
    across = bench.sent(average.A(truth))
    whole, apart = [range(FRAMES)], [range(CUT), range(CUT, FRAMES)]
    rows: list[tuple[str, Tensor, list[range]]] = [
        ("cut, mean within scenes, found", within, apart),
        ("cut, mean within scenes, missed", within, whole),
        ("cut, mean across it, found", across, apart),
        ("cut, mean across it, missed", across, whole),
    ]
    for title, measured, scenes in rows:
        path = bench.scratch / "cut.mp4"
        write_clip(path, measured, bench.like, pts=bench.like.pts[:FRAMES], crf=10)
        seen = "scan finds it" if len(scan(path).scenes) == 2 else "scan finds none"
        bench.row(f"{name} | 4 | {title} ({seen})", truth, measured, scenes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--speeds", nargs="+", type=int, default=SPEEDS)
    args = parser.parse_args()
    prior = load_prior()
    pictures = [(path.stem, read_clip(path, 1).frames[0].float()) for path in args.clips]
    like = replace(read_clip(args.clips[0], 1), pts=[512 * n for n in range(FRAMES)])
    statements: dict[str, Callable[[Tensor], Tensor]] = {
        "right": average.A,
        f"{ODD.start}-{ODD.stop - 1} not averaged": lambda x: partly(average.A(x), x, ODD),
        "none averaged": lambda x: x,
    }
    print("| clip | px/frame | statement | given | with | without | auto | full | warp | dropped |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    with TemporaryDirectory() as directory:
        bench = Bench(prior, like, Path(directory))
        for n, (name, picture) in enumerate(pictures):
            for statement, degrade in statements.items():
                for speed in args.speeds:
                    truth = pan(picture, speed)
                    bench.row(f"{name} | {speed} | {statement}", truth, bench.sent(degrade(truth)), [range(FRAMES)])
            other = pictures[n - 1][1] if len(pictures) > 1 else picture.flip(0, 1, 2)
            cuts(bench, name, pan(picture, 4), pan(other, 4, first=40))


if __name__ == "__main__":
    main()
