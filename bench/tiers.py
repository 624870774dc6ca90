"""What each tier costs in quality and gains in speed: the table of docs/performance.md.

    python bench/tiers.py CLIP [CLIP ...]

Nine frames of 256x160 of each clip, degraded and sent through H.264 (crf 10), solved at each tier. PSNR in dB, and the
operations of the loop (torch's counter: matrix products and convolutions), exact over tier. With --seconds 3 also the
median time of three rounds over exact's, which takes a machine with nothing else to do.
"""

import argparse
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from cases import SIX, SIZE, degrade, scaled
from torch.utils.flop_counter import FlopCounterMode

from app.degradations import Task, degradations_of
from app.restoration import SolverSettings, Tier
from worker.measures import psnr
from worker.solve import pose, solve
from worker.solver.prior import load_prior
from worker.video import Beside, read_clip

TIERS: tuple[Tier, ...] = ("exact", "fast", "draft")
FRAMES = 9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--seconds", type=int, default=0, help="rounds to time")
    args = parser.parse_args()
    prior, settings = load_prior(), SolverSettings()
    print(
        "| task | clip | given | exact | fast | draft | fast, operations | draft, operations | fast, seconds | draft |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    with TemporaryDirectory() as directory:
        for task in map(Task, SIX):
            for path in args.clips:
                clip = read_clip(path, FRAMES)
                case = degrade(task, clip, scaled(clip, FRAMES, SIZE), 10, Path(directory))
                stated, beside = degradations_of(task), Beside(case.mask)
                problems = {
                    tier: pose(prior, case.measured, stated, beside, None, settings, tier=tier) for tier in TIERS
                }
                near = {"given": psnr((problems["exact"].lifted + 1) / 2, case.truth)}
                operations = {}
                for tier, problem in problems.items():
                    with FlopCounterMode(display=False) as counter:
                        near[tier] = psnr((solve(prior, problem, settings) + 1) / 2, case.truth)
                    operations[tier] = counter.get_total_flops()
                rounds: dict[Tier, list[float]] = {tier: [] for tier in TIERS}
                for _ in range(args.seconds):
                    for tier, problem in problems.items():
                        started = time.perf_counter()
                        solve(prior, problem, settings)
                        rounds[tier].append(time.perf_counter() - started)
                seconds = {tier: median(took) for tier, took in rounds.items() if took}
                cells = [f"{value:.2f}" for value in near.values()]
                cells += [f"{operations['exact'] / operations[tier]:.1f}" for tier in TIERS[1:]]
                cells += [f"{seconds['exact'] / seconds[tier]:.1f}" if seconds else "-" for tier in TIERS[1:]]
                print("|", " | ".join([task.value, path.stem, *cells]), "|", flush=True)


if __name__ == "__main__":
    main()
