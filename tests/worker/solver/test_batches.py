"""How many frames go through the prior at a time, and what happens where they do not fit."""

import os
import subprocess
import sys

import pytest
import torch

from worker.solver.batches import MicroBatches, out_of_memory

# A process that may take but three frames' worth more than it has, and is to take eight frames at a time.
SHORT_OF_MEMORY = """
import resource
from pathlib import Path

import torch

from worker.memory import peak_of
from worker.solver.batches import MicroBatches
from worker.solver.prior import load_prior
from worker.solver.restore import Sampling, restore
from worker.solver.schedule import Schedule

torch.set_num_threads(1)
prior, seen = load_prior(), []
x = torch.rand(16, 3, 256, 256, generator=torch.Generator().manual_seed(0)) * 2 - 1
how = Sampling(Schedule.leading(prior.abar, 25, 0.05))


def restored(size):
    batches = MicroBatches(size)
    watch = lambda stage, frames: seen.append((stage, frames))
    generator = torch.Generator().manual_seed(0)
    return restore(prior, x, lambda x, t: x, how, generator, watch, batches), batches


expected, _ = restored(1)
frame = peak_of(lambda: restored(1), prior.device)
pages = int(Path("/proc/self/statm").read_text().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * 4096 + 5 * frame // 2, -1))
seen.clear()
found, batches = restored(16)
assert batches.halved >= 1, batches.halved
assert 1 <= batches.size <= 8, batches.size
assert float((found - expected).abs().max()) < 1e-4
for stage in ("denoise", "vae_decode"):
    assert sum(frames for name, frames in seen if name == stage) == 16 * len(how.schedule.timesteps)
print("halved", batches.halved)
"""


def test_a_host_short_of_memory_gives_the_same_in_smaller_batches() -> None:
    # What is freed goes back at once, so that the limit leaves as much as it says.
    own = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
    command = [sys.executable, "-c", SHORT_OF_MEMORY]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | own)
    assert done.returncode == 0, done.stderr
    assert "halved" in done.stdout


def test_every_frame_is_done_once_and_in_order_and_the_size_is_kept() -> None:
    done: list[int] = []

    def work(part: slice) -> None:
        if part.stop - part.start > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        done.extend(range(part.start, part.stop))

    batches = MicroBatches(8)
    batches.over(17, work)
    assert done == list(range(17))
    assert (batches.size, batches.halved) == (2, 2)
    done.clear()
    batches.over(3, work)
    assert done == [0, 1, 2]
    assert batches.halved == 2


def test_a_frame_that_does_not_fit_alone_is_told_of() -> None:
    def work(part: slice) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        MicroBatches(4).over(4, work)


def test_what_is_no_lack_of_memory_is_not_tried_again() -> None:
    asked: list[slice] = []

    def work(part: slice) -> None:
        asked.append(part)
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        MicroBatches(4).over(4, work)
    assert asked == [slice(0, 4)]


@pytest.mark.parametrize(
    ("error", "is_so"),
    [
        (MemoryError(), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("can't allocate memory"), False),
    ],
)
def test_lack_of_memory_is_told_from_other_errors(error: Exception, is_so: bool) -> None:
    assert out_of_memory(error) is is_so
