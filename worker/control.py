"""The seam between a task and the worker that runs it. Both sides import this, so it knows no torch.

The task is loaded once and then called for one job after the other, in a process of its own, the horse:

    def load(settings: Settings, control: Control) -> Callable[[str], None]: ...

`load` builds what is dear (the prior, on its device) and returns `run(job_id)`, kept for the life of the process. Where
`run` has attributes `model`, `device` and `card` (app/card.py), the worker publishes them. While a job runs, `run`

- calls `control.go_on()` at every micro-batch: one that is silent for `stall_seconds` is taken for hung and killed. If
  told to stop, that raises `Preempted` or `Canceled`, which `run` lets through, dropping what it has and leaving the
  job's record alone: the worker queues it again, to go on elsewhere, or ends it;
- returns once the record says `succeeded`, or raises: `TaskFailed` to end it as `failed` with a code of its own,
  `DeviceLost` where the device can no longer be used. A RedisError or `StoreAway` costs an attempt, an
  IllegalTransition, UnknownJob or LeaseLost (somebody changed the job or took it back meanwhile) nothing; anything else
  ends the job as `internal_error`, its cause in the log;
- passes each change of the job's record through `control.check`: else two workers might end one job.

Where the task has `help(job_id, run)`, workers with nothing to do call it for runs of a job that another offers
(worker/board.py). It follows the same rules, but leaves the record alone.

The task itself counts `attempt` and sets `started_at` when it moves the record to `starting`.
"""

import ctypes
import time
from multiprocessing.sharedctypes import RawValue
from typing import Literal, Protocol

from redis import Redis

from app.contract import JobError
from worker.ticket import LeaseLost, Ticket

Stop = Literal["cancel", "preempt"]

INTERNAL_ERROR = JobError(
    code="internal_error",
    detail="The job failed for a reason that lies in the service; its log knows.",
    retryable=False,
)

_CODES: dict[Stop | None, int] = {None: 0, "cancel": 1, "preempt": 2}
_STOPS: dict[int, Stop | None] = {code: stop for stop, code in _CODES.items()}


class Preempted(Exception):
    """The task stopped, since the worker has to go; the job goes on elsewhere."""


class Canceled(Exception):
    """The task stopped, since the job is no longer wanted."""


class TaskFailed(Exception):
    """The job cannot be done; what the client is told."""

    def __init__(self, code: str, detail: str, retryable: bool = False) -> None:
        super().__init__(f"{code}: {detail}")
        self.code, self.detail, self.retryable = code, detail, retryable


class NotFinite(Exception):
    """The prior gave values that are no numbers."""


class StoreAway(Exception):
    """The store does not answer; the job goes on once it does."""


class DeviceLost(Exception):
    """The device answers no more (a sticky CUDA error, say): the job goes on in a fresh process."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


class Observer(Protocol):
    """Takes a measurement; names and labels as in worker/metrics.py. `worker` and `gpu` are filled in."""

    def __call__(self, name: str, value: float, **labels: str) -> None: ...


def unobserved(name: str, value: float, **labels: str) -> None:
    """For a task run without a worker."""


class Shared:
    """Memory that parent and horse both see.

    Bare values without locks: a horse killed while it held a lock would take the parent with it. Each value has one
    writer (the parent also sets the pulse, but only while no job runs), and the clock is the machine's.
    """

    def __init__(self) -> None:
        self._pulse = RawValue(ctypes.c_double, time.monotonic())
        self._stop = RawValue(ctypes.c_int, 0)

    def pulse(self) -> None:
        self._pulse.value = time.monotonic()

    def silent_seconds(self) -> float:
        return time.monotonic() - float(self._pulse.value)

    def ask(self, stop: Stop | None) -> None:
        self._stop.value = _CODES[stop]

    def asked(self) -> Stop | None:
        return _STOPS[self._stop.value]


class Control:
    """What a task may tell its worker, and be told by it. `Control()` alone serves a task that has no worker."""

    def __init__(self, shared: Shared | None = None, observe: Observer = unobserved) -> None:
        self._shared = shared or Shared()
        self.observe = observe
        self.ticket: Ticket | None = None  # for the job at hand

    def pulse(self) -> None:
        """Still alive; call it at every micro-batch."""
        self._shared.pulse()

    def check(self, redis: Redis) -> None:
        """Part of every change to the record; raises LeaseLost where another may have the job by now."""
        if self.ticket and not self.ticket.held(redis):
            raise LeaseLost(self.ticket.entry)

    def stop_requested(self) -> Stop | None:
        """Whether to stop after this micro-batch, and why."""
        return self._shared.asked()

    def go_on(self) -> None:
        """Still alive, and ready to stop: raises Canceled or Preempted where the worker says so."""
        self.pulse()
        match self.stop_requested():
            case "cancel":
                raise Canceled
            case "preempt":
                raise Preempted
