"""A worker that was told to go is gone in time, whatever keeps it: Redis, the kernel, a log that nobody reads."""

import math
import os
import time
from collections.abc import Callable
from threading import Event, Thread

import structlog

log = structlog.get_logger(__name__)

LAST_SECONDS = 2.0  # after the time to drain: to write down what became of the job, and to go


class Leaving:
    """When it has to go. at: by when a job has to have made way, on the monotonic clock; never, unless told."""

    def __init__(self, drain_seconds: float) -> None:
        self.at = math.inf
        self._drain_seconds, self._told = drain_seconds, Event()

    def tell(self) -> None:
        """The first time counts. May be called by a signal handler."""
        if self.at == math.inf:
            self.at = time.monotonic() + self._drain_seconds
            self._told.set()

    @property
    def seconds_left(self) -> float:
        return max(0.0, self.at - time.monotonic())

    def see_to_it(self, last: Callable[[], object]) -> None:
        """From now on. last: called before the process is ended by force; leases will tell others what it leaves."""
        Thread(target=self._end, args=(last,), daemon=True).start()

    def _end(self, last: Callable[[], object]) -> None:
        self._told.wait()
        time.sleep(self.seconds_left + LAST_SECONDS)
        last()
        Thread(target=lambda: log.error("left at once: something does not answer"), daemon=True).start()
        time.sleep(0.1)
        os._exit(0)
