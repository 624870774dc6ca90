"""The horse: the process that holds the model, warm from job to job.

The horse knows nothing of queues. It gets job ids over a pipe and answers with how each one ended; who is to be told,
and whether the job is tried again, is the parent's affair.
"""

import contextlib
import importlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from typing import Literal, Protocol, cast

import structlog
from redis.exceptions import RedisError

from app.card import ModelCard
from app.contract import JobError
from app.logging import configure
from app.parent import tied_to
from app.records import IllegalTransition, UnknownJob
from app.settings import Settings
from worker.control import INTERNAL_ERROR, Canceled, Control, DeviceLost, Preempted, Shared, StoreAway, TaskFailed
from worker.ticket import LeaseLost, Ticket

log = structlog.get_logger(__name__)

Task = Callable[[str], None]


class Helping(Protocol):
    """A task that can help."""

    def help(self, job_id: str, run: int) -> None: ...


Load = Callable[[Settings, Control], Task]


# --- what it says


@dataclass(frozen=True)
class Ready:
    """The model is loaded. helps: the task can do runs of another worker's job."""

    model: str
    device: str
    card: ModelCard | None = None
    helps: bool = False


@dataclass(frozen=True)
class Broken:
    """The model could not be loaded."""

    reason: str


@dataclass(frozen=True)
class Observed:
    """A measurement for the parent's metrics."""

    name: str
    value: float
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Ended:
    """How the task left a job.

    overtaken: the record would not take the task's step, since someone else had changed it, or has taken the job back
    lost: by no fault of the job's; it may be tried again
    out_of_memory: the system killed it for that; it may be tried again
    store_unavailable: the store did not answer; it may be tried again
    """

    how: Literal[
        "finished", "preempted", "canceled", "failed", "overtaken", "lost", "out_of_memory", "store_unavailable"
    ]
    error: JobError | None = None


@dataclass(frozen=True)
class Defunct:
    """The device answers no more, and the process is about to end."""

    reason: str


Message = Ready | Broken | Observed | Ended | Defunct


@dataclass(frozen=True)
class Order:
    """What it is told to do. ticket: the right to change the job's record. run: help with that run of it, no more."""

    job_id: str
    ticket: Ticket | None = None
    run: int | None = None


# --- what it does


def main(loader: str, settings: Settings, pipe: Connection, shared: Shared, parent: int) -> None:
    """Load the model, then run jobs until told to stop."""
    _live_and_die_with(parent)
    configure(settings)
    sending = threading.Lock()  # a task may observe from several threads

    def say(message: Message) -> None:
        with sending:
            pipe.send(message)

    def observe(name: str, value: float, **labels: str) -> None:
        say(Observed(name, value, labels))

    control = Control(shared, observe)
    try:
        module, _, function = loader.partition(":")
        load = cast(Load, getattr(importlib.import_module(module), function))
        task = load(settings, control)
    except Exception as error:
        log.exception("the model does not load", loader=loader)
        say(Broken(f"{type(error).__name__}: {error}"))
        sys.exit(1)
    model, device = (str(getattr(task, name, getattr(settings, name))) for name in ("model", "device"))
    say(Ready(model, device, getattr(task, "card", None), hasattr(task, "help")))
    with contextlib.suppress(EOFError, BrokenPipeError):  # the parent is gone, and so will we be in a moment
        while (order := cast(Order | None, pipe.recv())) is not None:
            control.ticket = order.ticket
            with structlog.contextvars.bound_contextvars(job_id=order.job_id):
                say(_run(partial(_do, task, order), say))


def _do(task: Task, order: Order) -> None:
    if order.run is None:
        task(order.job_id)
    else:
        cast(Helping, task).help(order.job_id, order.run)


def _run(work: Callable[[], None], say: Callable[[Message], None]) -> Ended:
    """Do it, and put how it ended into the parent's words."""
    started = time.monotonic()
    try:
        work()
        log.info("job done", seconds=round(time.monotonic() - started, 3))
        return Ended("finished")
    except Preempted:
        return Ended("preempted")
    except Canceled:
        return Ended("canceled")
    except TaskFailed as error:
        log.warning("job failed", code=error.code, detail=error.detail)
        return Ended("failed", JobError(code=error.code, detail=error.detail, retryable=error.retryable))
    except (IllegalTransition, UnknownJob, LeaseLost) as error:
        log.warning("job overtaken", reason=str(error))
        return Ended("overtaken")
    except StoreAway as error:
        log.error("job interrupted: the store is away", reason=str(error))
        return Ended("store_unavailable")
    except RedisError as error:
        log.error("job interrupted", reason=f"{type(error).__name__}: {error}")
        return Ended("lost")
    except DeviceLost as error:
        log.exception("device lost", kind=error.kind)
        say(Observed("visionxl_gpu_errors_total", 1, {"kind": error.kind}))
        say(Defunct(f"it lost its device ({error.kind})"))
        os._exit(1)  # nothing on a lost device can be closed in good order
    except Exception:
        log.exception("job failed")
        return Ended("failed", INTERNAL_ERROR)


def _live_and_die_with(parent: int) -> None:
    """Signals are the parent's to handle; its death is ours."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(PermissionError):
        os.setpgid(0, 0)
    tied_to(parent, signal.SIGKILL)()
