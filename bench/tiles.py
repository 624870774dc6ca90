"""What tiles cost and whether they show: clips restored whole and in tiles, each time in a process of its own.

    python bench/tiles.py CLIP [CLIP ...] --size 512x320 --tiles 65536 24576
    python bench/tiles.py CLIP --size 2048x1280 --frames 1 --steps 20 --tiles 1048576

A clip is scaled, middle cropped, degraded, rounded to 8 bits and restored. Columns:

    PSNR      of the result, dB
    differs   RMS difference from the clip restored whole, in levels of 255
    seam      how that difference jumps at the lines where tiles begin, end or start to count: energy of the step across
              the line over the mean of lines around it, at the worst line; 1 is as anywhere
    seconds   of processor time a frame
    MiB       peak resident set
"""

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from cases import scaled, size_of
from consistency import measured
from torch import Tensor

from app.degradations import Task, degradations_of
from app.restoration import SolverSettings
from worker.measures import psnr
from worker.solve import pose, solve
from worker.solver.prior import load_prior
from worker.solver.tiles import Tiling, seam_lines
from worker.stated import operator_of
from worker.video import Beside, read_clip

WHOLE = 1 << 40  # pixels: no frame is larger
AROUND = [8 * n for n in range(-4, 5) if n]  # lines that a line is compared with; latents end at every 4th or 8th


def seam(tiled: Tensor, whole: Tensor, tiling: Tiling) -> float:
    """The worst line's step energy over that around it; clips (T, 3, H, W)."""
    off = tiled - whole
    worst = 0.0
    for dim, starts, side in ((-2, tiling.tops, tiling.tile[0]), (-1, tiling.lefts, tiling.tile[1])):
        others = tuple(d for d in range(off.ndim) if d != off.ndim + dim)
        energy = off.diff(dim=dim).square().mean(others).tolist()  # [n]: of the step from line n to line n + 1
        for line in seam_lines(starts, side):
            near = [energy[line - 1 + by] for by in AROUND if 0 < line + by <= len(energy)]
            worst = max(worst, energy[line - 1] / (sum(near) / len(near)))
    return worst


def restore(args: argparse.Namespace, path: Path) -> None:
    """Restore the clip in this process, and keep what came of it in a file."""
    prior, stated = load_prior(args.model), degradations_of(Task(args.task))
    truth = scaled(read_clip(args.clips[0], args.frames), args.frames, args.size)
    mask = (torch.rand(1, 1, *truth.shape[-2:], generator=torch.Generator().manual_seed(0)) > 0.5).float()
    y = measured(operator_of(stated, Beside(mask), truth.device).A(truth), "8 bits")
    settings = SolverSettings(steps=args.steps)
    problem = pose(prior, y, stated, Beside(mask), None, settings, tile_pixels=args.tiles[0])
    started = time.process_time()
    x = (solve(prior, problem, settings) + 1) / 2
    seconds = (time.process_time() - started) / len(x)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    torch.save({"x": x, "psnr": psnr(x, truth), "seconds": seconds, "peak": peak}, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--task", default="deblur", choices=[task.value for task in Task])
    parser.add_argument("--size", type=size_of, default=(512, 320), help="such as 640x384, or as-is")
    parser.add_argument("--frames", type=int, default=3)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--tiles", type=int, nargs="+", default=[65536, 24576], help="pixels of a tile, at most")
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)  # where a process of its own leaves its result
    args = parser.parse_args()
    if args.into:
        restore(args, args.into)
        return
    given, multiple = sys.argv[1:], load_prior(args.model).multiple
    print("| clip | size | tiles | of | PSNR | differs | seam | seconds | MiB |\n|---|---|---|---|---|---|---|---|---|")
    with TemporaryDirectory() as directory:
        path, options = Path(directory) / "result.pt", given[len(args.clips) :]
        for clip in args.clips:
            whole = None
            for pixels in (WHOLE, *args.tiles):
                command = [sys.executable, __file__, str(clip), *options, "--tiles", str(pixels), "--into", str(path)]
                subprocess.run(command, check=True)
                got = torch.load(path)
                whole = got["x"] if whole is None else whole
                tiling = Tiling.within(pixels, whole.shape[-2], whole.shape[-1], multiple)
                off = 255 * float((got["x"] - whole).square().mean().sqrt())
                cells = [
                    *(clip.stem, f"{whole.shape[-1]}x{whole.shape[-2]}", len(tiling)),
                    *("x".join(map(str, tiling.tile[::-1])), f"{got['psnr']:.2f}"),
                    *((f"{off:.2f}", f"{seam(got['x'], whole, tiling):.2f}") if len(tiling) > 1 else ("-", "-")),
                    *(f"{got['seconds']:.1f}", f"{got['peak']:.0f}"),
                ]
                print("|", " | ".join(map(str, cells)), "|", flush=True)


if __name__ == "__main__":
    main()
