"""Which settings a task does best with: PSNR over a grid, on clips that are neither trained on nor reported.

    python tools/make_sample_clip.py --photo coffee -o build/coffee.mp4
    python bench/tune.py build/coffee.mp4 --tasks deblur --tau 0.05 0.15 0.3 --eta 0.2 1 --floor 0.06 0.1

Prints the settings from best to worst, beside the data step alone at its best (neither written as H.264 again). The
winners stand in worker/tuning.py.
"""

import argparse
from dataclasses import asdict
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

from cases import SIX, SIZE, degrade, scaled, tuned
from quality import best_data_alone
from rich.console import Console
from rich.table import Table

from app.degradations import Task
from app.restoration import SolverSettings
from worker.measures import psnr
from worker.solve import solve
from worker.solver.prior import load_prior
from worker.tuning import BUNDLED_ELSE, Tuning
from worker.video import read_clip

AXES = ("tau", "eta", "lowpass", "floor", "slope", "chroma")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--tasks", nargs="+", default=SIX, choices=[task.value for task in Task])
    parser.add_argument("--frames", type=int, default=3)
    for axis in AXES:
        parser.add_argument(f"--{axis}", nargs="+", type=float, default=[getattr(BUNDLED_ELSE, axis)])
    args = parser.parse_args()

    prior, settings = load_prior(), SolverSettings()
    grid = [Tuning(**dict(zip(AXES, point, strict=True))) for point in product(*(getattr(args, axis) for axis in AXES))]
    with TemporaryDirectory() as directory:
        for name in args.tasks:
            clips = [read_clip(path, args.frames) for path in args.clips]
            cases = [degrade(Task(name), clip, scaled(clip, args.frames, SIZE), 10, Path(directory)) for clip in clips]
            problems = [case.posed(prior, settings) for case in cases]
            pairs = list(zip(cases, problems, strict=True))
            data = sum(psnr(best_data_alone(case, problem), case.truth) for case, problem in pairs) / len(pairs)
            found = []
            for tuning in grid:
                full = [(solve(prior, tuned(prior, p, settings, **asdict(tuning)), settings) + 1) / 2 for _, p in pairs]
                found.append((sum(map(psnr, full, [case.truth for case, _ in pairs])) / len(pairs), tuning))
            table = Table("PSNR", *AXES, title=f"{name}: mean of {len(pairs)} clips; data step alone {data:.2f}")
            for value, tuning in sorted(found, key=lambda pair: -pair[0]):
                table.add_row(f"{value:.2f}", *(f"{getattr(tuning, axis):g}" for axis in AXES))
            Console().print(table)


if __name__ == "__main__":
    main()
