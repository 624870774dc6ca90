"""What clients do with jobs: submit, get, list, cancel, retry, delete. The only import of rq in the front end.

A record and its place in the queue change in one Redis transaction, so a job is never queued without a record, nor the
reverse. RQ holds no more than the id; what happened to a job is in its record alone.
"""

import math
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import cast

from redis.client import Pipeline
from rq import Queue
from rq.job import Job as QueuedJob
from rq.serializers import JSONSerializer
from rq.utils import utcparse

from app import checks
from app.contract import (
    CALL_KEPT_SECONDS,
    TASK,
    Job,
    JobError,
    JobMetrics,
    JobRequest,
    JobSource,
    JobStatus,
    MediaInfo,
    Progress,
    job_urls,
)
from app.errors import Problem, invalid
from app.ids import new_id
from app.keys import checkpoint_prefix, results_prefix
from app.records import Also, IllegalTransition, Records, UnknownJob, nothing, now
from app.settings import QUEUES, Settings
from app.store import Store

QUEUE_FULL_RETRY_SECONDS = 10
JOB_ID = re.compile(r"job_[0-9a-z]{26}")


@dataclass(frozen=True)
class QueueState:
    """How long a queue is, and how long the one of its jobs that waits the longest has done so."""

    name: str
    depth: int
    oldest_age_seconds: float


class Jobs:
    """Jobs as clients see and steer them. `on_end` is told of every job that ends while it is queued."""

    def __init__(self, settings: Settings, records: Records, store: Store) -> None:
        self.settings = settings
        self.records = records
        self.store = store
        self.redis = records.redis
        self.on_end: Callable[[Job], object] = lambda job: None
        self._queues = {name: Queue(name, connection=self.redis, serializer=JSONSerializer) for name in QUEUES}

    # --- what clients do

    def submit(
        self, request: JobRequest, job_id: str | None = None, also: Also = nothing, tenant: str | None = None
    ) -> tuple[Job, bool]:
        """The queued job, and whether it is new: a chosen `job_id` with the same request gives the job there is.

        also: adds commands to the transaction that creates the job. Raises a Problem where the uploads or the queue do
        not allow the job, or the id belongs to another request.
        """
        job_id = job_id or new_id("job")
        if (existing := self.records.find(job_id)) is not None:
            return self._same(existing, request), False  # even where its upload is gone by now, or the queue full
        clip = checks.find_uploads(request, tenant, self.records, self.settings)
        self._check_room()
        job = self._new(job_id, request, clip.media, clip.sha256, clip.warnings, tenant)

        def enqueue(pipe: Pipeline) -> None:
            self._enqueue(pipe, job)
            also(pipe)

        created = self.records.create(job, enqueue)
        return self._same(self.records.get(job_id), request), created

    def get(self, job_id: str) -> Job:
        """The job as it is now; raises UnknownJob."""
        return self._view([self._current(self.records.get(job_id))])[0]

    def page(
        self, status: JobStatus | None, limit: int, cursor: str | None, tenant: str | None = None
    ) -> tuple[list[Job], str | None]:
        """A page of the tenant's jobs, newest first, and the cursor of the next page if there is one."""
        page: list[Job] = []
        wanted = partial(self.records.of_tenant, tenant) if self.settings.tenant_header else list
        for found in self.records.newest(_position(cursor) if cursor else None, wanted):
            job = self._current(found)
            if status is None or job.status is status:
                if len(page) == limit:
                    return self._view(page), _cursor(page[-1])
                page.append(job)
        return self._view(page), None

    def cancel(self, job_id: str) -> Job:
        """Take a queued job from its queue, or tell its worker to stop; raises IllegalTransition where it has ended."""
        while True:
            job = self._current(self.records.get(job_id))
            try:
                if job.status is JobStatus.queued:
                    self._end_queued(job, JobStatus.canceled, None)
                elif job.status is not JobStatus.canceling:
                    self.records.move(
                        job_id, JobStatus.canceling, also=lambda pipe: self.records.ask_cancel(job_id, pipe)
                    )
                return self.get(job_id)
            except IllegalTransition as error:
                if error.job.terminal:
                    raise
                # A worker took the job, or gave it back, in between: look again.

    def retry(self, job_id: str) -> Job:
        """Queue a job that failed, was canceled or expired once more; raises IllegalTransition for any other."""
        job = self._current(self.records.get(job_id))
        if job.status not in (JobStatus.failed, JobStatus.canceled, JobStatus.expired):
            raise IllegalTransition(job, JobStatus.queued)
        checks.find_uploads(job.request, job.tenant, self.records, self.settings)
        self._check_room()
        request = job.request
        if job.overdue(now()):  # whoever retries then wants the result all the same
            request = request.model_copy(update={"cancel_after_seconds": None})
        fresh = self._new(job_id, request, job.source, job.source.sha256, job.warnings, job.tenant)

        self.store.delete(checkpoint_prefix(job_id))  # whatever made it fail may be in there

        def enqueue(pipe: Pipeline) -> None:
            self.records.start_over(job_id, pipe)
            self._enqueue(pipe, job)

        changes = {name: getattr(fresh, name) for name in Job.model_fields if name not in ("status", "created_at")}
        return self._view([self.records.move(job_id, JobStatus.queued, enqueue, **changes)])[0]

    def delete(self, job_id: str) -> None:
        """Purge the files and the record of a job that has ended; raises IllegalTransition where it has not."""
        job = self._current(self.records.get(job_id))
        if not job.terminal:
            raise IllegalTransition(job, job.status)
        self.store.delete(results_prefix(job_id))
        self.records.delete(job_id, lambda pipe: pipe.delete(QueuedJob.key_for(job_id)))

    # --- the queues

    def queues(self) -> list[QueueState]:
        """Every queue's state, read without touching anything."""
        return [self._state(name, queue) for name, queue in self._queues.items()]

    def _state(self, name: str, queue: Queue) -> QueueState:
        ids = queue.get_job_ids()
        with self.redis.pipeline(transaction=False) as pipe:
            for job_id in ids:
                pipe.hget(QueuedJob.key_for(job_id), "enqueued_at")
            # Not of the first alone: what was given back is there anew, in front of those that wait.
            since = [utcparse(raw.decode()) for raw in cast(list[bytes | None], pipe.execute()) if raw]
        return QueueState(name, len(ids), max(0.0, (now() - min(since)).total_seconds()) if since else 0.0)

    def _check_room(self) -> None:
        with self.redis.pipeline(transaction=False) as pipe:
            for queue in self._queues.values():
                pipe.llen(queue.key)
            depths = cast(list[int], pipe.execute())
        if sum(depths) >= self.settings.max_queue:
            detail = f"{self.settings.max_queue} jobs are waiting already."
            raise Problem(503, "queue_full", detail, retry_after=QUEUE_FULL_RETRY_SECONDS)

    def _enqueue(self, pipe: Pipeline, job: Job) -> None:
        queue = self._queues[job.request.priority]
        # Once, even if the commands reach Redis twice; and with nothing left of an earlier run.
        pipe.lrem(queue.key, 0, job.id)
        pipe.zrem(queue.failed_job_registry.key, job.id)
        pipe.delete(QueuedJob.key_for(job.id))
        queue.enqueue_call(
            TASK,
            args=(job.id,),
            job_id=job.id,
            timeout=-1,
            result_ttl=0,
            failure_ttl=CALL_KEPT_SECONDS,
            description=f"restore {job.id}",
            pipeline=pipe,
        )

    def _unqueue(self, pipe: Pipeline, job: Job) -> None:
        pipe.lrem(self._queues[job.request.priority].key, 0, job.id)
        pipe.delete(QueuedJob.key_for(job.id))  # a worker that took the id a moment ago finds out from the record

    def _view(self, jobs: list[Job]) -> list[Job]:
        """With the number of jobs ahead of each: those in higher queues, then those in front of it in its own."""
        queued = [job for job in jobs if job.status is JobStatus.queued]
        if not queued:
            return jobs
        with self.redis.pipeline(transaction=False) as pipe:
            for queue in self._queues.values():
                pipe.llen(queue.key)
            for job in queued:
                pipe.lpos(self._queues[job.request.priority].key, job.id)
            answers = cast(list[int | None], pipe.execute())
        depths = [depth or 0 for depth in answers[: len(QUEUES)]]
        ahead = {
            job.id: sum(depths[: QUEUES.index(job.request.priority)]) + place
            for job, place in zip(queued, answers[len(QUEUES) :], strict=True)
            if place is not None  # else a worker has just taken it
        }
        seen = {job.id: job.model_copy(update={"queue_position": ahead.get(job.id, 0)}) for job in queued}
        return [seen.get(job.id, job) for job in jobs]

    # --- one job

    def _new(
        self,
        job_id: str,
        request: JobRequest,
        clip: MediaInfo | JobSource,
        sha256: str,
        warnings: list[str],
        tenant: str | None,
    ) -> Job:
        return Job(
            id=job_id,
            status=JobStatus.queued,
            tenant=tenant,
            request=request,
            source=JobSource(
                width=clip.width, height=clip.height, frames=clip.frames, frame_rate=clip.frame_rate, sha256=sha256
            ),
            progress=Progress(stage="queued", percent=0),
            metrics=JobMetrics(),
            warnings=warnings,
            seed=request.solver.seed,
            created_at=now(),
            queued_at=now(),
            urls=job_urls(job_id),
        )

    def _same(self, job: Job, request: JobRequest) -> Job:
        if job.request != request:
            raise Problem(409, "job_exists", "This id belongs to a job with another request.")
        return self._view([self._current(job)])[0]

    def _current(self, job: Job) -> Job:
        """The job, expired if its deadline passed while it was queued."""
        if job.status is not JobStatus.queued or not job.overdue(now()):
            return job
        detail = f"The job did not start within {job.request.cancel_after_seconds} seconds."
        try:
            return self._end_queued(job, JobStatus.expired, JobError(code="expired", detail=detail, retryable=True))
        except (IllegalTransition, UnknownJob):
            return self.records.get(job.id)

    def _end_queued(self, job: Job, to: JobStatus, error: JobError | None) -> Job:
        moved = self.records.move(
            job.id,
            to,
            also=lambda pipe: self._unqueue(pipe, job),
            error=error,
            **job.ending(now(), self.settings.result_ttl_seconds),
        )
        self.on_end(moved)
        return moved


def _cursor(last: Job) -> str:
    return urlsafe_b64encode(f"{last.created_at.timestamp()!r} {last.id}".encode()).decode().rstrip("=")


def _position(cursor: str) -> tuple[float, str]:
    try:
        created, job_id = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode().split(" ")
        if not math.isfinite(float(created)) or not JOB_ID.fullmatch(job_id):
            raise ValueError(cursor)
        return float(created), job_id
    except ValueError:
        raise invalid("cursor", "not a cursor that the service gave out") from None
