"""Memory of the host, or of the device where there is one: what is free, what work takes, and giving it back."""

import contextlib
import ctypes
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

SAMPLE_SECONDS = 0.002
RESIDENT = Path("/proc/self/statm")
CGROUP = Path("/sys/fs/cgroup")
PAGE = 4096

# Of glibc's mallopt(3). Left alone it raises both while it runs, the first up to 32 MiB and the second to twice that.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
APART = 4 << 20  # bytes; at 1 MiB a clip of 256x160 takes a quarter to a third more time, at 16 7% more memory
MOST_APART = 65536  # blocks, as glibc has it
ALL = (1 << 31) - 1
KEPT = 64 << 20  # what the second would come to by itself; it starts at 128 KiB, which takes a tenth more time


def free_memory(device: torch.device) -> int:
    """Bytes: of the device, torch's own cache among them; or of the host, within the limit of its container."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    lines = Path("/proc/meminfo").read_text().splitlines()
    available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    with contextlib.suppress(OSError, ValueError):  # no container, or one without a limit ("max")
        limit, used = (int((CGROUP / name).read_text()) for name in ("memory.max", "memory.current"))
        lines = (CGROUP / "memory.stat").read_text().splitlines()
        cached = next((int(line.split()[1]) for line in lines if line.startswith("inactive_file ")), 0)
        available = min(available, limit - used + cached)  # files that were read count as used, and give way
    return available


def peak_of(work: Callable[[], object], device: torch.device) -> int:
    """Bytes that `work` takes at most, beyond what was taken before."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        return int(torch.cuda.max_memory_allocated(device)) - before
    give_back()  # what is held but free would not show when it is taken again
    before, peak, done = _resident(), 0, threading.Event()

    def sample() -> None:
        nonlocal peak
        while not done.wait(SAMPLE_SECONDS):
            peak = max(peak, _resident())

    watcher = threading.Thread(target=sample, daemon=True)
    watcher.start()
    try:
        with reused():  # as the loop does it
            work()
            peak = max(peak, _resident())  # what was freed is still held: a busy machine samples late
    finally:
        done.set()
        watcher.join()
    return max(peak, _resident()) - before


def _resident() -> int:
    return int(RESIDENT.read_text().split()[1]) * PAGE


def give_back() -> None:
    """Return freed memory to the system, which the C library keeps in ever more pieces, a few megabytes a part."""
    with contextlib.suppress(AttributeError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)


def keep_little() -> None:
    """Have the C library return large blocks to the system as soon as they are freed, for as long as the process runs.

    Those of a small clip would else share a heap with what is small and stays.
    """
    with contextlib.suppress(AttributeError):  # only glibc has it
        library = ctypes.CDLL(None)
        library.mallopt(M_MMAP_THRESHOLD, APART)
        library.mallopt(M_TRIM_THRESHOLD, KEPT)


@contextmanager
def reused() -> Iterator[None]:
    """Have the C library keep what is freed meanwhile, to be taken again; at the end it is the system's.

    A network takes the same large blocks for each micro-batch. The system would clear them every time, which is a tenth
    to a fifth of the time at 1280x768.
    """
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt"):  # only glibc has it
        yield
        return
    library.mallopt(M_MMAP_MAX, 0)
    library.mallopt(M_TRIM_THRESHOLD, ALL)
    try:
        yield
    finally:
        library.mallopt(M_MMAP_MAX, MOST_APART)
        library.mallopt(M_TRIM_THRESHOLD, KEPT)
        give_back()
