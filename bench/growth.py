"""How seconds a frame grow with a clip's length and with its size: the table of docs/performance.md.

    python bench/growth.py                                   # 9 to 200 frames of 256x160; 9 frames of three sizes
    python bench/growth.py --frames 9 200 --sizes 1280x768

A window that moves over a photograph is degraded and restored from file to files, with the bundled checkpoint and no
service about it. `seconds a frame`: of the whole pipeline, the best of --rounds, over the frames of the result. All
clips go in turns, as a machine is not as fast at all times. `sampled`: frames that went through the sampler.
"""

import argparse
import time
from pathlib import Path
from statistics import median
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


class Case:
    """A clip of so many frames, ready to be restored again and again."""

    def __init__(self, task: Task, frames: int, height: int, width: int, directory: Path) -> None:
        self.task, self.frames, self.size, self._directory = task, frames, f"{width}x{height}", directory
        directory.mkdir()
        sample = read_clip(SAMPLE, 2)
        step = sample.pts[1] - sample.pts[0]
        truth = moving(frames, height, width)
        write_clip(directory / "clean.mp4", truth, sample, pts=[n * step for n in range(frames)], crf=10)
        self._degraded, self._mask = degrade(read_clip(directory / "clean.mp4"), truth, task, directory)
        self.seconds: list[float] = []

    def run(self, prior: DiffusersPrior) -> None:
        """Once more."""
        self._follower = Counting()
        with TemporaryDirectory(dir=self._directory) as into:
            started = time.monotonic()
            wanted = Restoration(task=self.task)
            self._outcome = pipeline(prior, wanted, self._degraded, self._mask, self._follower).run(Path(into))
            self.seconds.append((time.monotonic() - started) / self._outcome.frames)

    def row(self) -> str:
        """What the table says of it."""
        parts = sum(scene["parts"] for scene in self._outcome.scenes)
        numbers = (self.frames, parts, self._follower.frames, f"{min(self.seconds):.3f}", f"{median(self.seconds):.3f}")
        return " | ".join(map(str, (self.task.value, self.size, *numbers)))


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
    print("| task | size | frames | parts | sampled | seconds a frame | median |\n" + "|---" * 7 + "|", flush=True)
    for task in args.tasks:
        with TemporaryDirectory() as scratch:
            clips = [Case(task, *case, Path(scratch) / str(n)) for n, case in enumerate(cases)]
            for _ in range(args.rounds):
                for clip in clips:
                    clip.run(prior)
            for clip in clips:
                print("|", clip.row(), "|", flush=True)


if __name__ == "__main__":
    main()
