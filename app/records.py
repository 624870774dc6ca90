"""Uploads and jobs as records in Redis, shared by API and worker; the one place that changes a job's state.

vxl:upload:{id}        JSON Upload, expires by itself
vxl:upload:{id}:jobs   set of the jobs made from it
vxl:job:{id}           JSON Job; its progress as it was when the job was queued: the next key has the present one
vxl:job:{id}:progress  JSON Progress, in its own key so that a progress write can never undo a state
vxl:job:{id}:events    stream of what happened, for replay
vxl:job:{id}:cancel    exists once the client has asked to cancel
vxl:jobs               sorted set of job ids by time of creation
vxl:jobs:live          set of the ids of jobs that have not ended
vxl:jobs:expiring      sorted set of the ids of jobs that have ended, by the time when their results go
vxl:tenants            hash: the tenant of each job that has one
vxl:worker:{name}      JSON of what a worker says of itself, gone soon after the worker
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar, cast

import structlog
from pydantic import ValidationError
from redis import Redis
from redis.client import Pipeline

from app.contract import TERMINAL, TRANSITIONS, Job, JobStatus, Progress, Upload

log = structlog.get_logger(__name__)

TENANTS = "vxl:tenants"
EVENTS_KEPT = 1000
UPLOAD_JOBS_KEPT_SECONDS = 60 * 86400

# KEYS: a job's record, progress and events, and a registry of executions. ARGV: an entry there, or nothing; JSON; how
# many events to keep.
PROGRESS = """
if ARGV[1] ~= '' and not redis.call('ZSCORE', KEYS[4], ARGV[1]) then return end
if redis.call('EXISTS', KEYS[1]) == 0 then return end
redis.call('SET', KEYS[2], ARGV[2])
redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[3], '*', 'event', 'progress', 'data', ARGV[2])
"""

T = TypeVar("T")
Also = Callable[[Pipeline], object]  # adds commands to the transaction that writes a record


@dataclass(frozen=True)
class Event:
    """One entry of a job's stream: its id, `status` or `progress`, and JSON."""

    id: str
    kind: str
    data: str


class IllegalTransition(Exception):
    """The job is in a state that does not allow what was asked."""

    def __init__(self, job: Job, to: JobStatus) -> None:
        super().__init__(f"job {job.id} is {job.status} and cannot become {to}")
        self.job = job


class UnknownJob(Exception):
    """No record under this id."""


def now() -> datetime:
    return datetime.now(UTC)


def nothing(pipe: Pipeline) -> None:
    """Adds no command."""


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
        return bool(self.redis.delete(f"vxl:upload:{upload_id}", f"vxl:upload:{upload_id}:jobs"))

    def live_jobs_of(self, upload_id: str) -> list[Job]:
        """Jobs that still have to read this upload."""
        ids = cast(set[bytes], self.redis.smembers(f"vxl:upload:{upload_id}:jobs"))
        return [job for job in self._find([raw.decode() for raw in ids]) if job and not job.terminal]

    # --- jobs

    def create(self, job: Job, also: Also = nothing) -> bool:
        """Write a new job, and whatever `also` adds, in one step; False, and nothing written, where the id is taken."""
        key = f"vxl:job:{job.id}"

        def attempt(pipe: Pipeline) -> bool:
            if pipe.exists(key):
                return False
            pipe.multi()
            self._write(pipe, job)
            pipe.set(f"{key}:progress", job.progress.model_dump_json())
            pipe.zadd("vxl:jobs", {job.id: job.created_at.timestamp()})
            if job.tenant:
                pipe.hset(TENANTS, job.id, job.tenant)
            source = job.request.source
            for upload_id in (source.upload_id, *source.beside().values()):
                pipe.sadd(f"vxl:upload:{upload_id}:jobs", job.id)
                pipe.expire(f"vxl:upload:{upload_id}:jobs", UPLOAD_JOBS_KEPT_SECONDS)
            self._event(pipe, job.id, "status", f'{{"status": "{job.status}"}}')
            also(pipe)
            return True

        return self._atomically(key, attempt)

    def find(self, job_id: str) -> Job | None:
        """The job; None, too, where another version wrote its record and this one cannot read that."""
        return self._find([job_id])[0]

    def get(self, job_id: str) -> Job:
        """The job; raises UnknownJob, or pydantic's ValidationError where another version wrote it."""
        job = self._read([job_id], _job)[0]
        if job is None:
            raise UnknownJob(job_id)
        return job

    def newest(
        self, before: tuple[float, str] | None = None, wanted: Callable[[list[str]], list[str]] = list
    ) -> Iterator[Job]:
        """Jobs, newest first; `before` is time of creation and id of the last one already seen, though it be gone.

        wanted: which of these ids to read
        """
        top, last = before or (float("inf"), "")
        start = 0
        while found := cast(
            list[tuple[bytes, float]],
            self.redis.zrevrangebyscore("vxl:jobs", top, "-inf", start=start, num=100, withscores=True),
        ):
            ids = [raw.decode() for raw, created in found if created < top or raw.decode() < last or before is None]
            yield from filter(None, self._find(wanted(ids)))
            start += len(found)

    def of_tenant(self, tenant: str | None, ids: list[str]) -> list[str]:
        """Those of the jobs that are a tenant's; None: nobody's."""
        found = cast(list[bytes | None], self.redis.hmget(TENANTS, ids)) if ids else []
        return [i for i, raw in zip(ids, found, strict=True) if (raw.decode() if raw else None) == tenant]

    def live_ids(self) -> set[str]:
        """Of the jobs that have not ended."""
        return {raw.decode() for raw in cast(set[bytes], self.redis.smembers("vxl:jobs:live"))}

    def live(self) -> list[Job]:
        """The jobs that have not ended."""
        return [job for job in self._find(sorted(self.live_ids())) if job and not job.terminal]

    def expired_ids(self, limit: int) -> list[str]:
        """Of the jobs whose results are no longer to be kept, at most `limit`, the longest due in front."""
        found = self.redis.zrangebyscore("vxl:jobs:expiring", "-inf", now().timestamp(), start=0, num=limit)
        return [raw.decode() for raw in cast(list[bytes], found)]

    def move(self, job_id: str, to: JobStatus, also: Also = nothing, **changes: Any) -> Job:
        """Change the job's state, and with it any other fields and whatever `also` adds; the job as it then is.

        Raises IllegalTransition where TRANSITIONS has no such step, UnknownJob where there is no such job.
        """

        def step(job: Job) -> Job:
            if to not in TRANSITIONS[job.status]:
                raise IllegalTransition(job, to)
            return job.model_copy(update={"status": to, **changes})

        return self._change(job_id, step, event="status", also=also)

    def update(self, job_id: str, **changes: Any) -> Job:
        """Change fields other than the state."""
        return self._change(job_id, lambda job: job.model_copy(update=changes), event=None)

    def delete(self, job_id: str, also: Also = nothing) -> None:
        """Forget a job that has ended; raises IllegalTransition where it has not, UnknownJob where there is none."""
        key = f"vxl:job:{job_id}"

        def attempt(pipe: Pipeline) -> None:
            raw = cast(bytes | None, pipe.get(key))
            if raw is None:
                raise UnknownJob(job_id)
            job = Job.model_validate_json(raw, extra="ignore")
            if job.status not in TERMINAL:
                raise IllegalTransition(job, job.status)
            pipe.multi()
            pipe.delete(*(f"{key}{part}" for part in ("", ":progress", ":events", ":cancel")))
            pipe.zrem("vxl:jobs", job_id)
            pipe.zrem("vxl:jobs:expiring", job_id)
            pipe.srem("vxl:jobs:live", job_id)
            pipe.hdel(TENANTS, job_id)
            also(pipe)

        self._atomically(key, attempt)

    # --- what goes on meanwhile

    def progress(self, job_id: str, progress: Progress, held: tuple[str, str] | None = None) -> None:
        """Record progress of a job that goes on.

        held: a sorted set and the entry there that says who has the job; nothing is written where it is gone
        """
        key, (registry, entry) = f"vxl:job:{job_id}", held or ("", "")
        keys = key, f"{key}:progress", f"{key}:events", registry
        self.redis.eval(PROGRESS, len(keys), *keys, entry, progress.model_dump_json(), str(EVENTS_KEPT))

    def events(self, job_id: str, after: str = "0-0") -> list[Event]:
        """What happened since the event with the id `after`."""
        entries = cast(
            list[tuple[bytes, dict[bytes, bytes]]], self.redis.xrange(f"vxl:job:{job_id}:events", min=f"({after}")
        )
        return [Event(id.decode(), entry[b"event"].decode(), entry[b"data"].decode()) for id, entry in entries]

    def ask_cancel(self, job_id: str, pipe: Pipeline | None = None) -> None:
        target = self.redis if pipe is None else pipe
        target.set(f"vxl:job:{job_id}:cancel", now().isoformat(), nx=True, ex=86400)

    def start_over(self, job_id: str, pipe: Pipeline) -> None:
        """Forget how far an earlier run came, and that it was to be canceled."""
        pipe.delete(f"vxl:job:{job_id}:cancel")
        pipe.set(f"vxl:job:{job_id}:progress", Progress(stage="queued", percent=0).model_dump_json())

    def cancel_asked_at(self, job_id: str) -> datetime | None:
        raw = cast(bytes | None, self.redis.get(f"vxl:job:{job_id}:cancel"))
        return datetime.fromisoformat(raw.decode()) if raw else None

    def workers(self) -> list[dict[str, Any]]:
        """What the live workers say of themselves."""
        keys = sorted(self.redis.scan_iter("vxl:worker:*", count=1000))
        values = cast(list[bytes | None], self.redis.mget(keys)) if keys else []
        return [info for raw in values if raw and isinstance(info := json.loads(raw), dict)]

    # --- how it is read and written

    def _find(self, ids: list[str]) -> list[Job | None]:
        return self._read(ids, _readable)

    def _read(self, ids: list[str], job_of: Callable[[bytes | None, bytes | None], Job | None]) -> list[Job | None]:
        if not ids:
            return []
        keys = [f"vxl:job:{job_id}{part}" for part in ("", ":progress") for job_id in ids]
        values = cast(list[bytes | None], self.redis.mget(keys))
        return [job_of(*pair) for pair in zip(values[: len(ids)], values[len(ids) :], strict=True)]

    def _change(self, job_id: str, change: Callable[[Job], Job], event: str | None, also: Also = nothing) -> Job:
        key = f"vxl:job:{job_id}"

        def attempt(pipe: Pipeline) -> Job:
            raw = cast(bytes | None, pipe.get(key))
            if raw is None:
                raise UnknownJob(job_id)
            job = Job.model_validate(change(Job.model_validate_json(raw, extra="ignore")).model_dump())
            pipe.multi()
            self._write(pipe, job)
            if event:
                self._event(pipe, job_id, event, f'{{"status": "{job.status}"}}')
            also(pipe)
            return job

        return self._atomically(key, attempt)

    def _atomically(self, key: str, attempt: Callable[[Pipeline], T]) -> T:
        """Read, decide, write: begins again when someone else wrote `key` in between."""
        untyped = cast(Callable[[Pipeline], None], attempt)
        return cast(T, self.redis.transaction(untyped, key, value_from_callable=True))

    @staticmethod
    def _write(pipe: Pipeline, job: Job) -> None:
        """The record, and its place in the indices."""
        pipe.set(f"vxl:job:{job.id}", job.model_dump_json(exclude={"queue_position"}))
        if job.status in TERMINAL:
            pipe.srem("vxl:jobs:live", job.id)
        else:
            pipe.sadd("vxl:jobs:live", job.id)
        if job.status in TERMINAL and job.expires_at is not None:
            pipe.zadd("vxl:jobs:expiring", {job.id: job.expires_at.timestamp()})
        else:
            pipe.zrem("vxl:jobs:expiring", job.id)

    @staticmethod
    def _event(pipe: Pipeline, job_id: str, kind: str, data: str) -> None:
        pipe.xadd(f"vxl:job:{job_id}:events", {"event": kind, "data": data}, maxlen=EVENTS_KEPT, approximate=True)


def _job(record: bytes | None, progress: bytes | None) -> Job | None:
    """What another version added to the record is passed over."""
    if record is None:
        return None
    job = Job.model_validate_json(record, extra="ignore")
    return job.model_copy(update={"progress": Progress.model_validate_json(progress)}) if progress else job


def _readable(record: bytes | None, progress: bytes | None) -> Job | None:
    try:
        return _job(record, progress)
    except ValidationError as error:
        log.error("a job's record cannot be read: another version wrote it", at=error.errors()[0]["loc"])
        return None
