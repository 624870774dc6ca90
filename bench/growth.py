"""How seconds a frame grow with a clip's length and with its size: the table of docs/performance.md.

    python bench/growth.py                                   # 9 to 200 frames of 256x160; 9 frames of three sizes
    python bench/growth.py --frames 9 200 --sizes 1280x768

A window that moves over a photograph is degraded and restored from file to files, with the bundled checkpoint and no
service about it. `seconds a frame`: of the whole pipeline, the best of --rounds, over the frames of the result.
`sampled`: frames that went through the sampler.
"""

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from memory import Nobody, pipeline
from speed import moving

from app.degradations import Task
from app.restoration import Restoration
from worker.demo import SAMPLE, degrade
from worker.encode import write_clip
from worker.solver.prior import DiffusersPrior, load_prior
from worker.video import read_clip


class Counting(Nobody):
    """Keeps how many frames the solver was going to take."""

    frames = 0

    def planned(self, frames: int, steps: int, inversions: int) -> None:
        self.frames = frames


def row(prior: DiffusersPrior, task: Task, frames: int, height: int, width: int, rounds: int) -> list[str]:
    """Cells for one clip."""
    sample = read_clip(SAMPLE, 2)
    step = sample.pts[1] - sample.pts[0]
    with TemporaryDirectory() as scratch:
        directory = Path(scratch)
        truth = moving(frames, height, width)
        write_clip(directory / "clean.mp4", truth, sample, pts=[n * step for n in range(frames)], crf=10)
        degraded, mask = degrade(read_clip(directory / "clean.mp4"), truth, task, directory)
        seconds = []
        for n in range(rounds):
            follower, into = Counting(), directory / str(n)
            into.mkdir()
            started = time.monotonic()
            outcome = pipeline(prior, Restoration(task=task), degraded, mask, follower).run(into)
            seconds.append((time.monotonic() - started) / outcome.frames)
    parts = sum(scene["parts"] for scene in outcome.scenes)
    return [task.value, f"{width}x{height}", str(frames), str(parts), str(follower.frames), f"{min(seconds):.3f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, nargs="+", default=[9, 25, 50, 100, 200])
    parser.add_argument("--sizes", nargs="+", default=["256x160", "512x320", "1280x768"])
    parser.add_argument("--tasks", type=Task, nargs="+", default=[Task.deblur, Task.deblur_plus])
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    sizes = [(int(height), int(width)) for width, height in (size.split("x") for size in args.sizes)]
    cases = [(frames, *sizes[0]) for frames in args.frames] + [(args.frames[0], *size) for size in sizes[1:]]
    prior = load_prior()
    print("| task | size | frames | parts | sampled | seconds a frame |\n|---|---|---|---|---|---|", flush=True)
    for task in args.tasks:
        for frames, height, width in cases:
            print("|", " | ".join(row(prior, task, frames, height, width, args.rounds)), "|", flush=True)


if __name__ == "__main__":
    main()
