"""Uploads and jobs as records in Redis, shared by API and worker; the one place that changes a job's state.

    vxl:upload:{id}        JSON Upload, expires by itself
    vxl:job:{id}           JSON Job without its progress
    vxl:job:{id}:progress  JSON Progress, in its own key so that a progress write can never undo a state
    vxl:job:{id}:events    stream of what happened, for replay
    vxl:job:{id}:cancel    exists once the client has asked to cancel
    vxl:jobs               sorted set of job ids by time of creation
"""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, cast

from redis import Redis
from redis.client import Pipeline

from app.contract import TRANSITIONS, Job, JobStatus, Progress, Upload

EVENTS_KEPT = 1000


class IllegalTransition(Exception):
    """The job is in a state that does not allow what was asked."""

    def __init__(self, job: Job, to: JobStatus) -> None:
        super().__init__(f"job {job.id} is {job.status} and cannot become {to}")
        self.job = job


class UnknownJob(Exception):
    """No record under this id."""


def now() -> datetime:
    return datetime.now(UTC)


class Records:
    """Job and upload records; every write is atomic."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis

    # --- uploads

    def put_upload(self, upload: Upload) -> None:
        seconds = max(1, int((upload.expires_at - now()).total_seconds()))
        self.redis.set(f"vxl:upload:{upload.id}", upload.model_dump_json(), ex=seconds)

    def upload(self, upload_id: str) -> Upload | None:
        raw = cast(bytes | None, self.redis.get(f"vxl:upload:{upload_id}"))
        return Upload.model_validate_json(raw) if raw else None

    def delete_upload(self, upload_id: str) -> bool:
        return bool(self.redis.delete(f"vxl:upload:{upload_id}"))

    # --- jobs

    def create(self, job: Job) -> None:
        with self.redis.pipeline() as pipe:
            self._write(pipe, job)
            pipe.set(f"vxl:job:{job.id}:progress", job.progress.model_dump_json())
            pipe.zadd("vxl:jobs", {job.id: job.created_at.timestamp()})
            pipe.execute()

    def find(self, job_id: str) -> Job | None:
        record, progress = cast(
            list[bytes | None], self.redis.mget(f"vxl:job:{job_id}", f"vxl:job:{job_id}:progress")
        )
        if record is None:
            return None
        job = Job.model_validate_json(record)
        return job.model_copy(update={"progress": Progress.model_validate_json(progress)}) if progress else job

    def get(self, job_id: str) -> Job:
        """The job; raises UnknownJob."""
        job = self.find(job_id)
        if job is None:
            raise UnknownJob(job_id)
        return job

    def newest(self, before: str | None = None) -> Iterator[Job]:
        """Jobs, newest first; `before` is the id of the last one already seen."""
        start = 0
        if before is not None:
            rank = cast(int | None, self.redis.zrevrank("vxl:jobs", before))
            start = 0 if rank is None else rank + 1
        while ids := cast(list[bytes], self.redis.zrevrange("vxl:jobs", start, start + 99)):
            for raw in ids:
                if job := self.find(raw.decode()):
                    yield job
            start += len(ids)

    def move(self, job_id: str, to: JobStatus, **changes: Any) -> Job:
        """Change the job's state, and with it any other fields; the job as it then is.

        Raises IllegalTransition where TRANSITIONS has no such step, UnknownJob where there is no such job.
        """

        def step(job: Job) -> Job:
            if to not in TRANSITIONS[job.status]:
                raise IllegalTransition(job, to)
            return job.model_copy(update={"status": to, **changes})

        return self._change(job_id, step, event="status")

    def update(self, job_id: str, **changes: Any) -> Job:
        """Change fields other than the state."""
        return self._change(job_id, lambda job: job.model_copy(update=changes), event=None)

    def delete(self, job_id: str) -> None:
        with self.redis.pipeline() as pipe:
            pipe.delete(*(f"vxl:job:{job_id}{part}" for part in ("", ":progress", ":events", ":cancel")))
            pipe.zrem("vxl:jobs", job_id)
            pipe.execute()

    # --- what goes on meanwhile

    def progress(self, job_id: str, progress: Progress) -> None:
        """Record progress of a job that still exists."""
        with self.redis.pipeline() as pipe:
            pipe.set(f"vxl:job:{job_id}:progress", progress.model_dump_json(), xx=True)
            self._event(pipe, job_id, "progress", progress.model_dump_json())
            pipe.execute()

    def ask_cancel(self, job_id: str) -> None:
        self.redis.set(f"vxl:job:{job_id}:cancel", now().isoformat(), nx=True, ex=86400)

    def cancel_asked_at(self, job_id: str) -> datetime | None:
        raw = cast(bytes | None, self.redis.get(f"vxl:job:{job_id}:cancel"))
        return datetime.fromisoformat(raw.decode()) if raw else None

    # --- how it is written

    def _change(self, job_id: str, change: Callable[[Job], Job], event: str | None) -> Job:
        key = f"vxl:job:{job_id}"

        def attempt(pipe: Pipeline) -> Job:
            raw = cast(bytes | None, pipe.get(key))
            if raw is None:
                raise UnknownJob(job_id)
            job = Job.model_validate(change(Job.model_validate_json(raw)).model_dump())
            pipe.multi()
            self._write(pipe, job)
            if event:
                self._event(pipe, job_id, event, f'{{"status": "{job.status}"}}')
            return job

        return cast(Job, self.redis.transaction(attempt, key, value_from_callable=True))

    @staticmethod
    def _write(pipe: Pipeline, job: Job) -> None:
        pipe.set(f"vxl:job:{job.id}", job.model_dump_json(exclude={"queue_position"}))

    @staticmethod
    def _event(pipe: Pipeline, job_id: str, kind: str, data: str) -> None:
        pipe.xadd(f"vxl:job:{job_id}:events", {"event": kind, "data": data}, maxlen=EVENTS_KEPT, approximate=True)
