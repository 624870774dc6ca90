"""An attempt at a job: why it has to stop, if it has to, and what becomes of the job."""

import math
import time
from dataclasses import dataclass
from typing import Literal

from app.contract import Job
from app.settings import Settings
from worker.board import Claim
from worker.control import INTERNAL_ERROR
from worker.horse import Ended, Order
from worker.lease import Lease
from worker.ledger import Ledger
from worker.ticket import LeaseLost

STALL_TIMES = 10  # what the slowest piece of work so far took

Reason = Literal["cancel", "preempt", "stall", "lease"]


@dataclass
class Attempt:
    """A job in the horse, and what the parent has against it.

    kill_at: when patience ends, on the monotonic clock
    look_at: when to ask Redis about the job again
    silent, longest: seconds since the horse gave a sign of life, and the most there have been between two of them
    """

    job: Job
    lease: Lease
    reason: Reason | None = None
    kill_at: float = math.inf
    look_at: float = 0
    silent: float = 0
    longest: float = 0

    def hangs(self, silent: float, limit: float) -> bool:
        """Whether nothing was heard for too long: for `limit` seconds, and many times what it has taken so far."""
        if silent < self.silent:
            self.longest = max(self.longest, self.silent)
        self.silent = silent
        return silent > max(limit, STALL_TIMES * self.longest)

    def stop(self, reason: Reason, grace: float) -> None:
        """It has to end within `grace` seconds. To cancel outweighs making way; a lost lease outweighs everything."""
        if self.reason is None or reason == "lease" or (self.reason, reason) == ("preempt", "cancel"):
            self.reason = reason
        self.kill_at = min(self.kill_at, time.monotonic() + grace)

    @property
    def order(self) -> Order:
        """For the horse."""
        return Order(self.job.id, self.lease.ticket)

    def look(self, ledger: Ledger, settings: Settings) -> None:
        """What Redis says of the job."""
        if not self.lease.held():
            self.stop("lease", 0)
        elif ledger.unwanted(self.job):
            self.stop("cancel", settings.cancel_grace_seconds)

    def settle(self, ledger: Ledger, ended: Ended) -> None:
        """Write down what becomes of the job; may be called again if Redis was away. Raises LeaseLost."""
        job_id, lease = self.job.id, self.lease
        match self.reason, ended.how:
            case "lease", _:
                raise LeaseLost(job_id)
            case _, "finished":
                ledger.finished(job_id, lease)
            case _, "failed":
                ledger.failed(job_id, ended.error or INTERNAL_ERROR, lease)
            case _, "overtaken":
                ledger.overtaken(job_id, lease)
            case (_, "canceled") | ("cancel", _):
                ledger.canceled(job_id, lease)
            case (_, "preempted") | ("preempt", _):
                ledger.preempted(job_id, lease)
            case "stall", _:
                ledger.lost(job_id, lease, "stalled")
            case _, "out_of_memory" | "store_unavailable":
                ledger.lost(job_id, lease, ended.how)
            case _:
                ledger.lost(job_id, lease)


@dataclass
class Help(Attempt):
    """A run of frames of a job that another worker has, done for want of a job of our own."""

    lease: Claim  # type: ignore[assignment]  # it, too, can be held and lost

    @property
    def order(self) -> Order:
        return Order(self.job.id, run=self.lease.run)

    def look(self, ledger: Ledger, settings: Settings) -> None:
        """It ends with the job, or where a job waits: what has been done of it is kept."""
        if not self.lease.held():
            self.stop("cancel", settings.cancel_grace_seconds)
        elif ledger.waiting():
            self.stop("preempt", settings.cancel_grace_seconds)

    def settle(self, ledger: Ledger, ended: Ended) -> None:
        """What does not work here is left to the worker that has the job, so that it ends no more than that one."""
        match ended.how:
            case "finished":
                self.lease.let_go("done")
            case "preempted" | "canceled" | "overtaken":
                self.lease.let_go("free")
            case _:
                self.lease.let_go("free" if self.reason in ("cancel", "preempt") else "left")
