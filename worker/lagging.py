"""Tells of work on a GPU once it is done there, without ever waiting for it."""

from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import torch

from worker.solver.stages import Stage


class Event(Protocol):
    """A place in the device's queue, as torch.cuda.Event is one."""

    def record(self) -> None: ...

    def query(self) -> bool:
        """Whether the device has come past it."""

    def synchronize(self) -> None: ...

    def elapsed_time(self, later: Any, /) -> float:
        """Milliseconds of the device's time."""


def cuda_event() -> Event:
    """One that is timed."""
    event: Event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    return event


class Lagging:
    """Takes the solver's calls as work is queued; passes them on, with the device's own seconds, once it is done.

    The host runs ahead of a GPU: its clock says nothing of the stages, and to wait at each would leave the GPU idle.
    done(stage, frames, seconds). each: called at every piece of work that is queued, to stop the loop where it must.
    """

    def __init__(
        self,
        done: Callable[[Stage, int, float], None],
        each: Callable[[], None],
        event: Callable[[], Event] = cuda_event,
    ) -> None:
        self._done, self._each, self._event = done, each, event
        self._last = self._recorded()
        self._queued: deque[tuple[Event, Stage, int]] = deque()

    def watch(self, stage: Stage, frames: int) -> None:
        """The solver's callback."""
        self._queued.append((self._recorded(), stage, frames))
        while self._queued and self._queued[0][0].query():
            self._pass_on()
        self._each()

    def finish(self) -> None:
        """Wait for what is still queued."""
        while self._queued:
            self._queued[0][0].synchronize()
            self._pass_on()

    def _pass_on(self) -> None:
        event, stage, frames = self._queued.popleft()
        self._done(stage, frames, self._last.elapsed_time(event) / 1000)
        self._last = event

    def _recorded(self) -> Event:
        event = self._event()
        event.record()
        return event
