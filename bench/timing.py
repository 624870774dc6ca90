"""What a loop takes: seconds and operations of each stage, and memory; and what the machine can do at best."""

import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

P = ParamSpec("P")
R = TypeVar("R")
STAGES = ("invert", "denoise", "vae_decode", "data_step", "lowpass", "vae_encode")


@dataclass
class Clock:
    """Adds up what each stage takes; waits for the device, so that each stage pays for its own work.

    seconds, flops: by stage. flops stays empty but under `counting`.
    """

    device: torch.device
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    flops: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    last: float = field(default_factory=time.perf_counter)
    _counter: FlopCounterMode | None = None
    _counted: float = 0

    def watch(self, stage: str, frames: int = 0) -> None:
        """What was done since the last call was this stage."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        self.seconds[stage] += now - self.last
        self.last = now
        if self._counter is not None:
            total = self._counter.get_total_flops()
            self.flops[stage] += total - self._counted
            self._counted = total

    def timed(self, stage: str, part: Callable[P, R]) -> Callable[P, R]:
        """The same function, on this stage's account."""

        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            done = part(*args, **kwargs)
            self.watch(stage)
            return done

        return run

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count the operations of matrix products and convolutions meanwhile, which takes its time."""
        with FlopCounterMode(display=False) as self._counter:
            yield
        self._counter = None


def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a large square matrix product, the best of ten.

    Also of the same product as a convolution of 1 x 1, which another library computes: on AMD processors oneDNN takes
    less than half of the time that MKL does.
    """
    size = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    pixels = a.view(1, size, -1, 64).contiguous(memory_format=torch.channels_last)
    kernel = b.view(size, size, 1, 1).contiguous(memory_format=torch.channels_last)
    products: list[Callable[[], Tensor]] = [lambda: a @ b, lambda: F.conv2d(pixels, kernel)]
    clock = Clock(device)
    best = float("inf")
    for product in products:
        for _ in range(10):
            clock.watch("between")
            clock.seconds["product"] = 0
            product()
            clock.watch("product")
            best = min(best, clock.seconds["product"])
    return 2 * size**3 / best


def forget_peak(device: torch.device) -> None:
    """From here on `peak_memory` counts anew."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory(device: torch.device) -> int:
    """Bytes: allocated on the GPU, or the largest resident set of this process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    found: Any = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024
