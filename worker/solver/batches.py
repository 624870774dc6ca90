"""How many frames go through the prior at a time, and half as many where they do not fit."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import structlog
import torch

log = structlog.get_logger(__name__)

# What torch says where memory ends. On the host: its own allocator, C++'s, and oneDNN's; on a GPU, besides the error of
# its own allocator: CUDA and cuBLAS, which also allocate for themselves.
MEMORY_ENDS = (
    "can't allocate memory",
    "bad_alloc",
    "could not create a memory object",
    "could not create a primitive",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error means that the memory of device or host did not hold what was asked."""
    told = str(error)
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and any(words in told for words in MEMORY_ENDS)
    )


class MicroBatches:
    """Slices of at most `size` frames; halved: how often they were too many. around: what each pass is done within."""

    def __init__(self, size: int, around: Callable[[], AbstractContextManager[None]] = nullcontext) -> None:
        self.size, self.halved, self._around = size, 0, around

    def over(self, frames: int, work: Callable[[slice], None]) -> None:
        """Call `work` with consecutive slices of 0 to `frames`.

        Where memory ends, the same slice is tried again in halves, and all that follow have that size; so `work` must
        change nothing before its memory-hungry part is over. What it raises of a single frame is raised.
        """
        start = 0
        with self._around():
            while start < frames:
                part = slice(start, min(start + self.size, frames))
                if self._fits(work, part):
                    start = part.stop

    def _fits(self, work: Callable[[slice], None], part: slice) -> bool:
        count = part.stop - part.start
        try:
            work(part)
            return True
        except (RuntimeError, MemoryError) as error:
            if count == 1 or not out_of_memory(error):
                raise
        # Only out here has the traceback let go of what was allocated.
        self.size, self.halved = count // 2, self.halved + 1
        log.warning("a micro-batch did not fit and is halved", frames=count, now=self.size)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return False
