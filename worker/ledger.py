"""Takes jobs from their queues and settles what becomes of them, keeping records and queues in step.

The record of a job is the truth for clients, its place in RQ makes a worker run it. Everything here changes both in one
transaction on the record, so that of several workers that find the same lost job one gives it back.

A job that has not ended is in its queue, in the queue's intermediate list (for the moment it takes to start it), or
among the executions under `rq:wip`, each with a lease that its worker renews. A lease that ran out, or a job in none of
these places, tells of a lost worker.
"""

from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import Any, cast

import structlog
from redis import Redis
from redis.client import Pipeline
from redis.exceptions import RedisError
from rq import Queue
from rq.exceptions import DeserializationError, NoSuchJobError
from rq.job import Job as QueuedJob
from rq.serializers import JSONSerializer

from app.contract import CALL_KEPT_SECONDS, TASK, TERMINAL, Job, JobError, JobStatus
from app.records import IllegalTransition, Records, UnknownJob, now
from app.settings import QUEUES, Settings
from worker import board, tenants
from worker.control import INTERNAL_ERROR
from worker.lease import MISSING, Lease, Places
from worker.metrics import Metrics
from worker.ticket import LeaseLost
from worker.verdicts import Loss, Verdict, after_loss, as_wished, too_late, uncounted

log = structlog.get_logger(__name__)

# KEYS: a queue, its intermediate list, MISSING.
TAKE = """
local id = redis.call('LMOVE', KEYS[1], KEYS[2], 'LEFT', 'RIGHT')
if id then redis.call('ZADD', KEYS[3], redis.call('TIME')[1], id) end
return id
"""


class Ledger:
    """Takes jobs, gives them back and ends them. Any number may do so at once.

    Whoever settles a job passes its lease, if there is one. It is released in the same transaction; where it was lost,
    LeaseLost is raised and nothing written. `on_end` is told of every job that ends here.
    """

    def __init__(self, connection: Redis, settings: Settings, metrics: Metrics) -> None:
        self.redis, self.settings, self.metrics = connection, settings, metrics
        self.records = Records(connection)
        self.on_end: Callable[[Job], object] = lambda job: None
        self._between = ""  # the id of a job that was taken and is not leased yet
        self.queues = {name: Queue(name, connection=connection, serializer=JSONSerializer) for name in QUEUES}

    # --- taking

    def take(self, allowed: frozenset[str]) -> tuple[Job, QueuedJob] | None:
        """The next job that may run, from the highest queue that has one. allowed: functions that may be called.

        One queue after the other: RQ's BLPOP over several loses a job whose worker dies just then.
        """
        for queue in self.queues.values():
            while raw := self._next(queue):
                self._between = raw.decode()
                queued = self._fetch(self._between, allowed)
                if queued and (job := self._admit(queued.id)):
                    return job, queued
                self._between = ""
        return None

    def leased(self) -> None:
        """There is a lease on the job that was taken."""
        self._between = ""

    def put_back(self) -> None:
        """Give back a job that was taken, if Redis went away before there was a lease on it: no attempt was made."""
        if self._between and (job := self.records.find(self._between)) and job.status is JobStatus.queued:
            self._queue_again(job, {}, None)
        self._between = ""

    def _next(self, queue: Queue) -> bytes | None:
        if limit := self.settings.tenant_jobs:
            return tenants.take(self.redis, queue.key, queue.intermediate_queue_key, limit)
        return cast(bytes | None, self.redis.eval(TAKE, 3, queue.key, queue.intermediate_queue_key, MISSING))

    def _fetch(self, job_id: str, allowed: frozenset[str]) -> QueuedJob | None:
        """The call that was queued; one that is gone is made again, one that is not allowed is dropped."""
        try:
            queued = QueuedJob.fetch(job_id, self.redis, JSONSerializer)
        except NoSuchJobError:
            self.lost(job_id, None)
            return None
        try:
            call: object = (queued.func_name, list(queued.args), queued.kwargs)
        except DeserializationError as error:
            call = error
        if call in [(name, [job_id], {}) for name in allowed]:
            return queued
        log.error("refused: not a call that this worker makes", job_id=job_id, call=str(call))
        self.failed(job_id, INTERNAL_ERROR, None)
        return None

    def _admit(self, job_id: str) -> Job | None:
        """The record of a job just taken from its queue; None where it must not run, and has been seen to."""
        job = self.records.find(job_id)
        if job is None or job.terminal:
            self._release(job_id, None, forget=True)
        elif job_id in self.places().leased:
            log.warning("job runs already", job_id=job_id)
            for queue in self.queues.values():
                self.redis.lrem(queue.intermediate_queue_key, 0, job_id)
        elif job.status is not JobStatus.queued or self.records.cancel_asked_at(job_id):
            self.lost(job_id, None)
        elif job.overdue(now()):
            self.expired(job_id)
        else:
            return job
        return None

    # --- what becomes of a job

    def unwanted(self, job: Job) -> bool:
        """Whether a job that runs has to stop: somebody wished so, or its deadline passed, which makes it a wish."""
        if self.records.cancel_asked_at(job.id):
            return True
        if not job.overdue(now()):
            return False
        self.records.ask_cancel(job.id)
        with suppress(IllegalTransition, UnknownJob):
            self.records.move(job.id, JobStatus.canceling)
        return True

    def finished(self, job_id: str, lease: Lease | None) -> None:
        """Its task returned, so the record says how it ended. If not, Redis lost that, and it is done again."""
        self.lost(job_id, lease)

    def failed(self, job_id: str, error: JobError, lease: Lease | None) -> None:
        self._settle(job_id, lambda job: (JobStatus.failed, {"error": error}), lease)

    def canceled(self, job_id: str, lease: Lease | None) -> None:
        self._settle(job_id, as_wished, lease)

    def overtaken(self, job_id: str, lease: Lease | None) -> None:
        """Its record changed under the task: canceled, or run by another. If neither, the housekeeper will find it."""
        self._settle(job_id, lambda job: None, lease)

    def preempted(self, job_id: str, lease: Lease | None) -> None:
        """Its worker has to go: to the front of the queue, the attempt not counted."""
        self._settle(job_id, uncounted, lease, "preempted")

    def lost(self, job_id: str, lease: Lease | None, reason: Loss = "worker_lost") -> None:
        """Its worker died, hung or was cut off: to the front of the queue, unless that was the last attempt."""
        self._settle(job_id, after_loss(reason, self.settings.max_attempts), lease, reason)

    def expired(self, job_id: str) -> None:
        """Its deadline passed before it started."""
        self._settle(job_id, too_late, None)

    def waiting(self) -> bool:
        """Whether a job waits that may run."""
        limit, queues = self.settings.tenant_jobs, self.queues.values()
        if limit is None:
            return any(self.redis.exists(queue.key) for queue in queues)
        return any(tenants.any_ready(self.redis, queue.key, queue.intermediate_queue_key, limit) for queue in queues)

    def places(self) -> Places:
        return Places.seen(self.redis, self.queues.values())

    # --- how it is written

    def _settle(
        self, job_id: str, verdict: Callable[[Job], Verdict | None], lease: Lease | None, reason: str = ""
    ) -> None:
        """Bring record and queue to what `verdict` says; None leaves both. A wish to cancel overrules it."""
        while (job := self.records.find(job_id)) is not None and not job.terminal:
            asked = job.status is JobStatus.canceling or self.records.cancel_asked_at(job_id)
            decided = as_wished(job) if asked else verdict(job)
            if decided is None:
                return self._release(job_id, lease, forget=False)
            to, changes = decided
            if to is job.status is JobStatus.queued:
                return self._queue_again(job, changes, lease)
            try:
                moved = self.records.move(job_id, to, self._also(job, to, lease), **changes, **self._dates(job, to))
            except (IllegalTransition, UnknownJob):
                continue  # someone was faster: look again
            if moved.terminal:
                return self._tell(moved)
            if to is JobStatus.queued:
                log.info("job queued again", job_id=job_id, reason=reason, attempts=moved.attempt)
                return self.metrics.job_resumed(reason)
        ours = lease is not None and lease.held()
        self._release(job_id, lease, forget=True)
        if job is not None and job.status is JobStatus.succeeded and ours:  # the task itself ended it, and told nobody
            return self._tell(job)
        if job is not None and job.terminal:
            self.on_end(job)
        return None

    def _also(self, job: Job, to: JobStatus, lease: Lease | None) -> Callable[[Pipeline], None]:
        """What changes in the queue, in the same transaction; runs when the record is watched, so the lease counts."""

        def write(pipe: Pipeline) -> None:
            if lease is not None and not lease.held():
                raise LeaseLost(job.id)
            if to is JobStatus.canceling:
                return  # a step on the way
            if lease is not None:
                lease.release(pipe)
            self._forget(pipe, job.id)
            if to is JobStatus.queued:
                self._push(pipe, job)

        return write

    def _queue_again(self, job: Job, changes: dict[str, Any], lease: Lease | None) -> None:
        """For a job that never started: its record says `queued` all the time, only its place was lost."""
        if lease is None and job.id in (places := self.places()).waiting | places.leased:
            return
        if lease is not None and not lease.held():
            raise LeaseLost(job.id)
        self.records.update(job.id, **changes)
        with self.redis.pipeline() as pipe:
            self._also(job, JobStatus.queued, lease)(pipe)
            pipe.execute()
        log.info("job queued again", job_id=job.id, reason="it never started")

    def _push(self, pipe: Pipeline, job: Job) -> None:
        """To the front of its queue, as new."""
        queue = self.queues[job.request.priority]
        call = queue.create_job(TASK, (job.id,), job_id=job.id, timeout=-1, result_ttl=0, failure_ttl=CALL_KEPT_SECONDS)
        queue._enqueue_job(call, pipeline=pipe, at_front=True)
        progress = job.progress.model_copy(update={"stage": "queued", "eta_seconds": None})
        pipe.set(f"vxl:job:{job.id}:progress", progress.model_dump_json(), xx=True)

    def _forget(self, pipe: Pipeline, job_id: str) -> None:
        """Take a job out of every place."""
        for queue in self.queues.values():
            pipe.lrem(queue.key, 0, job_id)
            pipe.lrem(queue.intermediate_queue_key, 0, job_id)
            pipe.zrem(queue.failed_job_registry.key, job_id)
        pipe.delete(QueuedJob.key_for(job_id), f"rq:executions:{job_id}")
        board.close(job_id, pipe)
        tenants.release(job_id, pipe)

    def _release(self, job_id: str, lease: Lease | None, forget: bool) -> None:
        with self.redis.pipeline() as pipe:
            if lease is not None:
                lease.release(pipe)
            if forget:
                self._forget(pipe, job_id)
            pipe.execute()

    def _dates(self, job: Job, to: JobStatus) -> dict[str, datetime]:
        if to is JobStatus.queued:
            return {"queued_at": now()}
        return job.ending(now(), self.settings.result_ttl_seconds) if to in TERMINAL else {}

    def _tell(self, job: Job) -> None:
        log.info("job ended", job_id=job.id, status=job.status, code=job.error.code if job.error else None)
        asked = None
        with suppress(RedisError):  # the job has ended, and nobody would say so again
            asked = self.records.cancel_asked_at(job.id)
        self.metrics.job_ended(job, asked)
        self.on_end(job)
