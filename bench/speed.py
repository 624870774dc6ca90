"""Seconds per frame, stage by stage.

    python bench/speed.py                                   # the bundled checkpoint on this machine
    python bench/speed.py --model DIR --size 768x1280 --frames 25 --device cuda --dtype float16

The measurement is made from noise of the right shape: time does not depend on what the pixels show. Rounds run one
after the other in one process; the first one, which warms caches, is not counted. Medians are printed.
"""

import argparse
import statistics
import time
from collections import defaultdict
from dataclasses import dataclass, field

import torch
from rich.console import Console
from rich.table import Table

from app.degradations import Task, degradations_of
from app.restoration import SolverSettings
from worker.solve import operator_of, pose, solve
from worker.solver.prior import DiffusersPrior, load_prior
from worker.solver.restore import Stage
from worker.video import Beside

TASKS = ("deblur_plus", "super_resolution_x4_plus", "inpaint_plus")
STAGES: tuple[Stage, ...] = ("invert", "denoise", "vae_decode", "data_step", "vae_encode")


@dataclass
class Clock:
    """Adds up what each stage takes; waits for the device, so that each stage pays for its own work."""

    device: torch.device
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    last: float = field(default_factory=time.perf_counter)

    def watch(self, stage: Stage, frames: int) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        self.seconds[stage] += now - self.last
        self.last = now


def one_round(prior: DiffusersPrior, task: Task, frames: int, height: int, width: int, batch: int) -> dict[str, float]:
    """Seconds a frame of each stage, and of all."""
    generator = torch.Generator().manual_seed(0)
    mask = (torch.rand(1, 1, height, width, generator=generator) > 0.5).float()
    degradations = degradations_of(task)
    beside = Beside(mask if degradations[-1].kind == "mask" else None)
    truth = torch.rand(frames, 3, height, width, generator=generator)
    measured = operator_of(degradations, beside, truth.device).A(truth)
    settings = SolverSettings()
    problem = pose(prior, measured, degradations, beside, 0.01, settings, batch)
    clock = Clock(prior.device)
    started = time.perf_counter()
    solve(prior, problem, settings, clock.watch)
    clock.seconds["all"] = time.perf_counter() - started
    return {stage: seconds / frames for stage, seconds in clock.seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=("float32", "float16", "bfloat16"))
    parser.add_argument("--size", default="256x384", help="height x width of the restored clip")
    parser.add_argument("--frames", type=int, default=9)
    parser.add_argument("--micro-batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tasks", nargs="+", default=TASKS, choices=[task.value for task in Task])
    args = parser.parse_args()
    height, width = map(int, args.size.split("x"))
    prior = load_prior(args.model, device=args.device, dtype=getattr(torch, args.dtype))

    size = f"{args.frames} frames of {width}x{height}"
    title = f"seconds a frame: {size}, {args.device}, {args.dtype}, median of {args.rounds}"
    table = Table("task", *STAGES, "all", title=title)
    for task in map(Task, args.tasks):
        rounds = [one_round(prior, task, args.frames, height, width, args.micro_batch) for _ in range(args.rounds + 1)]
        medians = {key: statistics.median(r.get(key, 0.0) for r in rounds[1:]) for key in (*STAGES, "all")}
        table.add_row(task.value, *(f"{medians[key]:.3f}" for key in (*STAGES, "all")))
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
