"""What becomes of a job, by its record and what happened: the state it goes to, and what else of the record changes."""

from collections.abc import Callable
from typing import Any, Literal

from app.contract import Job, JobError, JobStatus

Verdict = tuple[JobStatus, dict[str, Any]]
Loss = Literal["worker_lost", "stalled", "out_of_memory", "store_unavailable"]
LOSSES: dict[Loss, str] = {
    "worker_lost": "The worker ended, or was cut off.",
    "stalled": "The worker came no further.",
    "out_of_memory": "The worker took more memory than its machine has.",
    "store_unavailable": "The clip could not be read, or the result not written.",
}
LIVE = frozenset({JobStatus.starting, JobStatus.processing, JobStatus.finalizing})


def after_loss(reason: Loss, max_attempts: int) -> Callable[[Job], Verdict]:
    """Back to the queue, unless that was the last attempt."""

    def verdict(job: Job) -> Verdict:
        attempt = max(1, job.attempt) if job.status in LIVE else job.attempt + 1  # died before the task counted
        if attempt < max_attempts:
            return JobStatus.queued, {"attempt": attempt}
        code = "worker_lost" if reason == "stalled" else reason
        detail = f"{LOSSES[reason]} The job was tried {attempt} times."
        return JobStatus.failed, {"error": JobError(code=code, detail=detail, retryable=True)}

    return verdict


def uncounted(job: Job) -> Verdict:
    """Back to the queue, as if there had been no attempt."""
    return JobStatus.queued, {"attempt": max(0, job.attempt - (job.status in LIVE))}


def as_wished(job: Job) -> Verdict:
    """Cancelled, or a step nearer to it."""
    return JobStatus.canceling if job.status in LIVE else JobStatus.canceled, {}


def too_late(job: Job) -> Verdict | None:
    """Its deadline passed, which is for one that waits alone."""
    error = JobError(code="expired", detail="The job did not start before its deadline.", retryable=True)
    return (JobStatus.expired, {"error": error}) if job.status is JobStatus.queued else None
