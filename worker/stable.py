"""Where the parent keeps its horse: the handle on the process, and the care that there always is one."""

import contextlib
import multiprocessing
import os
import signal
import time
from multiprocessing.connection import wait
from pathlib import Path
from typing import cast

import structlog

from app.settings import Settings
from worker.control import Observer, Shared
from worker.horse import Broken, Defunct, Ended, Message, Observed, Order, Ready, main

log = structlog.get_logger(__name__)

CONTEXT = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
AT_ONCE = 1000  # messages read before the parent looks at anything else
RELOAD_SECONDS_MAX = 30.0
KILL_SECONDS = 10
GONE_SECONDS = 0.5  # a killed process of torch takes a tenth of that to give its memory back
OOM_COUNTS = (Path("/sys/fs/cgroup/memory.events"), Path("/proc/vmstat"))


class HorseGone(Exception):
    """The process is dead, or as good as. out_of_memory: the system killed it for that."""

    def __init__(self, why: str, out_of_memory: bool) -> None:
        super().__init__(why)
        self.out_of_memory = out_of_memory


def oom_kills() -> int:
    """How many processes the system has killed for want of memory: of this container, or of the machine."""
    for path in OOM_COUNTS:
        with contextlib.suppress(OSError, StopIteration, ValueError):
            lines = path.read_text().splitlines()
            return next(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
    return 0


class Horse:
    """A process that loads the model once and then runs jobs until it is stopped."""

    def __init__(self, loader: str, settings: Settings) -> None:
        self.shared = Shared()
        self.ready: Ready | None = None
        self.defunct = ""  # why it is of no use any more, if it is not
        self.trouble = ""  # why its model does not load
        self._killed, self._oom_kills = False, oom_kills()
        self._pipe, theirs = CONTEXT.Pipe()
        self._process = CONTEXT.Process(
            target=main, args=(loader, settings, theirs, self.shared, os.getpid()), name="horse", daemon=True
        )
        self._process.start()
        theirs.close()  # so that the pipe ends when the horse does

    @property
    def pid(self) -> int:
        return self._process.pid or 0

    def run(self, order: Order) -> None:
        """Hand over a job; `messages` tells how it went."""
        self._oom_kills = oom_kills()
        self.shared.ask(None)
        self.shared.pulse()
        with contextlib.suppress(OSError):  # dead already, which `messages` will find
            self._pipe.send(order)

    def messages(self, seconds: float) -> list[Message]:
        """What it said within the next `seconds`; raises HorseGone if it can say no more."""
        said: list[Message] = []
        try:
            while len(said) < AT_ONCE and self._pipe.poll(0 if said else seconds):
                said.append(cast(Message, self._pipe.recv()))
        except (EOFError, OSError):
            if not said:
                raise self._obituary() from None
        return said

    def kill(self) -> None:
        """End it and all that it started, now."""
        if self._process.exitcode is not None:
            return  # its number may be another's by now
        self._killed = True
        for end in (os.killpg, os.kill):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                end(self.pid, signal.SIGKILL)

    def gone(self, seconds: float) -> bool:
        """Whether it ends within so many seconds; may be asked by any thread."""
        return bool(wait([self._process.sentinel], seconds))

    def stop(self, seconds: float) -> None:
        """Let it go; kill it where it will not."""
        with contextlib.suppress(OSError):
            self._pipe.send(None)
        self._process.join(seconds)
        self.kill()
        self._process.join(KILL_SECONDS)
        if self._process.exitcode is None:
            log.error("the horse cannot be killed: its device hangs in the kernel", pid=self.pid)
        self._pipe.close()

    def _obituary(self) -> HorseGone:
        self._process.join(5)
        code = self._process.exitcode
        if code is None:
            return HorseGone("the horse closed its pipe", False)
        if code >= 0:
            return HorseGone(f"the horse exited with {code}", False)
        out_of_memory = -code == signal.SIGKILL and not self._killed and oom_kills() > self._oom_kills
        why = ", for want of memory" if out_of_memory else ""
        return HorseGone(f"the horse died of {signal.Signals(-code).name}{why}", out_of_memory)


class Stable:
    """Sees to it that there is a horse, or will be once its model loads.

    observe: takes what the horse measured
    """

    def __init__(self, loader: str, settings: Settings, observe: Observer) -> None:
        self.loader, self.settings, self.observe = loader, settings, observe
        self.horse: Horse | None = None
        self.trouble = ""  # why the model does not load
        self.defunct = ""  # why the last horse was of no use any more, until there is another
        self._failures, self._load_at = 0, 0.0

    @property
    def ready(self) -> Ready | None:
        """What the horse said of its model, once that is loaded."""
        return self.horse.ready if self.horse else None

    def tend(self) -> None:
        """Between jobs: start a horse where there is none, find out how it is where there is one."""
        if self.horse is None:
            if time.monotonic() >= self._load_at:
                self.horse = Horse(self.loader, self.settings)
            return
        try:
            for message in self.horse.messages(0):
                self.heed(self.horse, message)
        except HorseGone as gone:
            self.bury(str(gone))
            return
        if self.horse.ready is None and self.horse.shared.silent_seconds() > self.settings.load_seconds:
            self.horse.trouble = f"the model did not load within {self.settings.load_seconds:g} seconds"
            self.trouble = self.horse.trouble  # it may be that it cannot be killed
            self.horse.kill()

    def bury(self, why: str) -> None:
        """Make room for another horse. After one that never got ready the next has to wait, longer each time."""
        if self.horse is None:
            return
        if self.horse.ready is None:
            delay = min(RELOAD_SECONDS_MAX, 2.0**self._failures)
            self._failures, self._load_at = self._failures + 1, time.monotonic() + delay
            self.trouble = self.horse.trouble or why
            log.error("the model does not load", reason=self.trouble, retry_seconds=delay)
        else:
            log.error("lost the horse", reason=why)
            self.defunct = self.horse.defunct
        self.close()

    def kill(self) -> None:
        """End the horse, if there is one; returns once it is gone, or GONE_SECONDS later."""
        if horse := self.horse:
            horse.kill()
            horse.gone(GONE_SECONDS)

    def close(self, seconds: float = 0) -> None:
        """Let the horse go, within so many seconds."""
        if self.horse:
            self.horse.stop(seconds)
        self.horse = None

    def heed(self, horse: Horse, message: Message) -> None:
        """Take note of what it said, other than how a job ended."""
        match message:
            case Ready(model, device):
                horse.ready, self.trouble, self.defunct, self._failures = message, "", "", 0
                log.info("the model is loaded", model=model, device=device, pid=horse.pid)
            case Broken(reason):
                horse.trouble = reason
            case Observed():
                self.observe(message.name, message.value, **message.labels)
            case Defunct(reason):
                horse.defunct = reason
            case Ended(how):
                log.error("the horse ended a job that it does not have", how=how)
