"""How much memory a clip takes, by its length: peak resident set of a process that restores it.

    python bench/memory.py --frames 46 500

The sample clip is played to and fro until it is as long as asked, written as H.264, and restored after a mean of three
frames, in few steps: memory is that of any number of steps.
"""

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from app.restoration import Restoration
from app.settings import Settings
from worker.demo import SAMPLE
from worker.encode import ClipWriter
from worker.pipeline import Pipeline
from worker.scenes import scan
from worker.solve_run import Follower
from worker.solver.prior import DiffusersPrior, load_prior
from worker.solver.stages import Stage
from worker.video import read_clip


class Nobody:
    """Follows nothing."""

    def check(self) -> None: ...

    def measured(self, stage: str, frames: int) -> None: ...

    def planned(self, frames: int, steps: int, inversions: int) -> None: ...

    def resumed(self, frames: int, inversions: int, steps: int, spent: dict[str, float]) -> None: ...

    def spent(self) -> dict[str, float]:
        return {}

    def watch(self, stage: Stage, frames: int, seconds: float | None = None) -> None: ...


def make(path: Path, frames: int) -> None:
    """The sample clip to and fro."""
    clip = read_clip(SAMPLE)
    period = 2 * len(clip.frames) - 2
    with ClipWriter(path, clip, crf=10) as writer:
        for n in range(frames):
            place = min(n % period, period - n % period)
            writer.add(clip.frames[place], 512 * n)


def pipeline(prior: DiffusersPrior, wanted: Restoration, path: Path, mask: Path | None, follower: Follower) -> Pipeline:
    """As a worker with the settings of the environment would make it."""
    settings = Settings()
    return Pipeline(
        prior,
        wanted,
        path,
        scan(path),
        mask,
        None,
        micro_batch=settings.micro_batch,
        part_frames=settings.part_frames,
        tile_pixels=settings.tile_pixels,
        follower=follower,
    )


def restore(path: Path, directory: Path) -> None:
    """Restore it in this process, and print what that took."""
    wanted = Restoration.model_validate(
        {"degradation": [{"kind": "temporal_average", "window": 3}], "solver": {"steps": 20, "tau": 0.06}}
    )
    started = time.monotonic()
    outcome = pipeline(load_prior(), wanted, path, None, Nobody()).run(directory)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    parts = sum(scene["parts"] for scene in outcome.scenes)
    print(f"| {outcome.frames} | {parts} | {peak:.0f} | {time.monotonic() - started:.0f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, nargs="+", default=[46, 500])  # both in parts of 25
    parser.add_argument("--clip", type=Path, help=argparse.SUPPRESS)  # what a process of its own is to restore
    args = parser.parse_args()
    with TemporaryDirectory() as directory:
        if args.clip:
            restore(args.clip, Path(directory))
            return
        print("| frames | parts | peak MiB | seconds |\n|---|---|---|---|", flush=True)
        for frames in args.frames:
            path = Path(directory) / f"{frames}.mp4"
            make(path, frames)
            subprocess.run([sys.executable, __file__, "--clip", str(path)], check=True)


if __name__ == "__main__":
    main()
