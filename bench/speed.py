"""Seconds a frame, stage by stage, of the published arrangement of the loop and of ours, on the same weights and clip.

    python bench/speed.py                     # the bundled checkpoint on this machine's processor
    python bench/speed.py --model full-size --device cuda --dtype bfloat16 --size 768x1280 --frames 25  # make bench-gpu
    python bench/speed.py --arrangements ours --frames 9 25 50 100 200    # how it grows

bench/arrangements.py says what is compared. All of it runs in one process, alternating; a first round, which counts the
operations (torch's counter: matrix products and convolutions) and warms caches, is not timed. Medians are printed, and
written as JSON beside them: seconds, TFLOP and TFLOP/s a frame and stage, the share of what the machine reaches on one
large matrix product, peak memory, and how near the results come to each other and to the truth.
"""

import argparse
import json
import statistics
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F
from arrangements import Arrangement, arrangements
from cases import OUTPUT_CRF
from full_size import random_sdxl
from rich.console import Console
from rich.table import Table
from timing import STAGES, Clock, forget_peak, matmul_peak, peak_memory
from torch import Tensor

from app.degradations import Task
from app.settings import MEMORY_BUDGETS
from worker.demo import SAMPLE
from worker.encode import write_clip
from worker.measures import psnr
from worker.micro_batch import choose
from worker.solver.prior import load_prior
from worker.video import Clip, read_clip

TASKS = ("deblur_plus", "super_resolution_x4_plus", "inpaint_plus")
ARRANGEMENTS = ("published", "same", "ours")


def moving(frames: int, height: int, width: int) -> Tensor:
    """(T, 3, H, W) in [0, 1]: the sample clip, played to and fro, enlarged to fill the size."""
    sample = read_clip(SAMPLE).frames.float()
    there_and_back = [*range(len(sample)), *range(len(sample) - 2, 0, -1)]
    x = sample[[there_and_back[n % len(there_and_back)] for n in range(frames)]]
    scale = max(height / x.shape[-2], width / x.shape[-1])
    size = (round(x.shape[-2] * scale), round(x.shape[-1] * scale))
    x = F.interpolate(x, size=size, mode="bicubic", antialias=True).clamp(0, 1)
    top, left = (x.shape[-2] - height) // 2, (x.shape[-1] - width) // 2
    return x[..., top : top + height, left : left + width]


def compare(runs: dict[str, Arrangement], truth: Tensor, device: torch.device, rounds: int) -> dict[str, Any]:
    """For each arrangement: medians of seconds a frame and stage, operations, memory; and the PSNR of all results."""
    found: dict[str, dict[str, Any]] = {}
    results = {}
    for name, run in runs.items():
        clock = Clock(device)
        forget_peak(device)
        with clock.counting():
            results[name] = (run(clock) + 1) / 2
        found[name] = {"peak_bytes": peak_memory(device), "psnr": psnr(results[name].cpu(), truth)}
        found[name]["tflop"] = {stage: clock.flops[stage] / len(truth) / 1e12 for stage in STAGES}
    timed: dict[str, list[dict[str, float]]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            clock = Clock(device)
            run(clock)
            timed[name].append({stage: clock.seconds[stage] / len(truth) for stage in STAGES})
            timed[name][-1]["all"] = sum(timed[name][-1].values())
    for name, rows in timed.items():
        found[name]["seconds"] = {key: statistics.median(row[key] for row in rows) for key in (*STAGES, "all")}
        found[name]["tflop"]["all"] = sum(found[name]["tflop"].values())
    if {"published", "same"} <= runs.keys():
        found["same"]["psnr_to_published"] = psnr(results["same"].cpu(), results["published"].cpu())
    return found


def video_seconds(truth: Tensor) -> dict[str, float]:
    """Seconds a frame to write the clip as a job's result, and to read it."""
    like: Clip = read_clip(SAMPLE, 2)
    step = like.pts[1] - like.pts[0]
    clock = Clock(torch.device("cpu"))
    with TemporaryDirectory() as directory:
        path = Path(directory) / "clip.mp4"
        clock.watch("between")
        write_clip(path, truth, like, pts=[n * step for n in range(len(truth))], crf=OUTPUT_CRF)
        clock.watch("video_encode")
        read_clip(path)
        clock.watch("video_decode")
    return {stage: clock.seconds[stage] / len(truth) for stage in ("video_decode", "video_encode")}


def show(title: str, found: dict[str, Any], peak: float) -> None:
    """Print one task's table."""
    table = Table("", *STAGES, "all", "of peak", "peak GiB", "PSNR", title=title)
    for name, of in found.items():
        seconds, tflop = of["seconds"], of["tflop"]
        share = tflop["all"] * 1e12 / seconds["all"] / peak
        cells = [f"{seconds[key]:.3f}" for key in (*STAGES, "all")]
        table.add_row(name, *cells, f"{share:.0%}", f"{of['peak_bytes'] / 2**30:.2f}", f"{of['psnr']:.2f}")
        table.add_row("  TFLOP", *(f"{tflop[key]:.3f}" for key in (*STAGES, "all")), "", "", "")
        rates = [f"{tflop[key] / seconds[key]:.3f}" if seconds[key] > 0 else "" for key in (*STAGES, "all")]
        table.add_row("  TFLOP/s", *rates, "", "", "", end_section=True)
    console = Console(width=150)
    console.print(table)
    if "published" in found:
        for name in found.keys() - {"published"}:
            ratio = found["published"]["seconds"]["all"] / found[name]["seconds"]["all"]
            console.print(f"{name}: {ratio:.1f} times as fast as published")
    if "psnr_to_published" in found.get("same", {}):
        console.print(f"same and published agree to {found['same']['psnr_to_published']:.1f} dB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", default="bundled", help="bundled, full-size (SDXL with random weights), or as VXL_MODEL"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=("float32", "float16", "bfloat16"))
    parser.add_argument("--size", default="256x384", help="height x width of the restored clip")
    parser.add_argument("--frames", type=int, nargs="+", default=[9])
    parser.add_argument("--memory", default="normal", choices=(*MEMORY_BUDGETS, "all"), help="as VXL_MEMORY")
    parser.add_argument("--micro-batch", type=int, help="as the service would choose if not given; published takes one")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tasks", nargs="+", default=TASKS, choices=[task.value for task in Task])
    parser.add_argument("--arrangements", nargs="+", default=ARRANGEMENTS, choices=ARRANGEMENTS)
    parser.add_argument("--json", type=Path, default=Path("build/speed.json"))
    args = parser.parse_args()
    height, width = map(int, args.size.split("x"))
    device, dtype = torch.device(args.device), getattr(torch, args.dtype)
    offload = args.memory == "low" and device.type == "cuda"
    prior = (
        random_sdxl(args.device, dtype, offload)
        if args.model == "full-size"
        else load_prior(args.model, device=args.device, dtype=dtype, offload=offload)
    )
    peak = matmul_peak(device, dtype)
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    print(f"{machine}, torch {torch.__version__}, {args.dtype}: {peak / 1e12:.3f} TFLOP/s on one large matrix product")

    report: dict[str, Any] = {"machine": machine, "peak_flops": peak, "settings": vars(args) | {"json": str(args.json)}}
    for frames in args.frames:
        truth = moving(frames, height, width)
        budget = MEMORY_BUDGETS.get(args.memory)
        size = choose(prior, device, height, width, frames, args.micro_batch, budget).size
        print(f"{frames} frames, micro-batches of {size}")
        for task in map(Task, args.tasks):
            runs = arrangements(prior, task, truth, size)
            found = compare({name: runs[name] for name in args.arrangements}, truth, device, args.rounds)
            title = f"{task.value}, seconds a frame: {frames} frames of {width}x{height}, median of {args.rounds}"
            show(title, found, peak)
            report[f"{task.value}, {frames} frames"] = found
        report[f"video, {frames} frames"] = video = video_seconds(truth)
        print("  ".join(f"{stage} {seconds:.4f} s a frame" for stage, seconds in video.items()))
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
