"""SDXL at its full size, with random weights: what the loop takes in time and memory where nothing can be downloaded.

    python bench/full_size.py --size 256x256 --steps 2                                        # takes 6 GiB, in bfloat16
    python bench/full_size.py --device cuda --dtype float16 --size 768x1280 --steps 8 --frames 25

Runs frames of noise through inversion, the sampler's steps and the last decode, by the same prior and loop as a job.
The text encoders are left out: they run once a prompt, and are let go again.
"""

import argparse
import resource
import time
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from rich.console import Console
from rich.table import Table
from timing import STAGES, Clock
from torch import Tensor, nn

from app.degradations import Task, degradations_of
from app.restoration import SolverSettings
from worker.solve import pose, solve
from worker.solver.batches import MicroBatches
from worker.solver.offload import OneAtATime
from worker.solver.prior import DiffusersPrior
from worker.solver.schedule import scaled_linear
from worker.solver.text import Prompt
from worker.video import Beside

# As the configs of stabilityai/stable-diffusion-xl-base-1.0 say.
UNET: dict[str, Any] = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": (5, 10, 20),
    "transformer_layers_per_block": (1, 2, 10),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
VAE: dict[str, Any] = {
    "sample_size": 1024,
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "scaling_factor": 0.13025,
}
POOLED_WIDTH = 1280
STRIDE = 40  # between timesteps, as with 25 steps over the whole schedule


def on_meta() -> tuple[UNet2DConditionModel, AutoencoderKL]:
    """UNet and autoencoder without memory for their weights."""
    with torch.device("meta"):
        return UNet2DConditionModel(**UNET), AutoencoderKL(**VAE)


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def fill(module: nn.Module, bank: Tensor) -> None:
    """Random weights that keep the size of what passes through; from a bank of normal numbers, as drawing is slow."""
    for name, parameter in module.named_parameters():
        if parameter.ndim == 1:
            parameter.fill_(float(name.endswith("weight")))  # norms; biases are 0
            continue
        for piece in torch.split(parameter.view(-1), len(bank)):
            torch.mul(bank[: len(piece)], parameter[0].numel() ** -0.5, out=piece)


@torch.no_grad()
def random_sdxl(device: str, dtype: torch.dtype, offload: bool = False) -> DiffusersPrior:
    """What load_prior makes of SDXL, but for the weights."""
    bank = torch.randn(1 << 22, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    parts = []
    for part in on_meta():
        part.to(dtype).to_empty(device=device)
        fill(part, bank)
        parts.append(part.to(memory_format=torch.channels_last).eval().requires_grad_(False))
    unet, vae = parts
    text = Prompt(bank[: 77 * 2048].view(1, 77, 2048), bank[:POOLED_WIDTH].view(1, POOLED_WIDTH))
    place = torch.device(device)
    in_turns = OneAtATime([unet, vae], place) if offload else None
    return DiffusersPrior(Path(), None, unet, vae, scaled_linear(), "", text, place, offload=in_turns)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="256x256", help="height x width of the restored clip")
    parser.add_argument("--frames", type=int, default=1)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--micro-batch", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="bfloat16", choices=("float32", "float16", "bfloat16"))
    args = parser.parse_args()
    height, width = map(int, args.size.split("x"))

    started = time.perf_counter()
    prior = random_sdxl(args.device, getattr(torch, args.dtype))
    print(f"UNet {parameters(prior.unet):,} parameters, autoencoder {parameters(prior.vae):,}", flush=True)
    print(f"made in {time.perf_counter() - started:.0f} s", flush=True)

    settings = SolverSettings(steps=1000 // STRIDE, tau=(1.5 + STRIDE * (args.steps - 1)) / 999)
    measured = torch.rand(args.frames, 3, height, width, generator=torch.Generator().manual_seed(0))
    problem = pose(prior, measured, degradations_of(Task.deblur), Beside(), 0.01, settings)
    assert len(problem.sampling.schedule.timesteps) == args.steps
    clock = Clock(prior.device)
    started, worked = time.perf_counter(), time.process_time()
    x = solve(prior, problem, settings, clock.watch, batches=MicroBatches(args.micro_batch))
    seconds = time.perf_counter() - started
    assert x.shape == measured.shape and x.isfinite().all()

    title = f"seconds: {args.frames} x {width}x{height}, {args.steps} steps, {args.device}, {args.dtype}"
    table = Table(*STAGES, "all", title=title)
    table.add_row(*(f"{clock.seconds[stage]:.2f}" for stage in STAGES), f"{seconds:.2f}")
    Console(width=110).print(table)
    print(f"processor time {time.process_time() - worked:.0f} s")
    print(f"peak resident set {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB")
    if prior.device.type == "cuda":
        print(f"peak on the device {torch.cuda.max_memory_allocated(prior.device) / 2**30:.1f} GiB")


if __name__ == "__main__":
    main()
