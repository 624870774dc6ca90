"""What the front end does to jobs, without its HTTP, uploads and files."""

from datetime import timedelta
from typing import Any, cast

from redis import Redis
from rq import Queue

from app.contract import TASK, Job, JobRequest, JobSource, JobStatus, Progress, job_urls
from app.ids import new_id
from app.records import Records, now
from tests.processes import wait_until


class Service:
    """What the front end does, on the database of a test."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis
        self.records = Records(redis)

    def submit(
        self,
        priority: str = "normal",
        cancel_after: int | None = None,
        upload_id: str | None = None,
        frames: int = 8,
        tenant: str | None = None,
        **metadata: Any,
    ) -> str:
        job_id = new_id("job")
        request = JobRequest.model_validate(
            {
                "source": {"upload_id": upload_id or new_id("up")},
                "task": "deblur",
                "priority": priority,
                "cancel_after_seconds": cancel_after,
                "metadata": metadata,
            }
        )
        job = Job(
            id=job_id,
            status=JobStatus.queued,
            tenant=tenant,
            request=request,
            source=JobSource(width=96, height=64, frames=frames, frame_rate="25/1", sha256=""),
            progress=Progress(stage="queued", percent=0),
            seed=42,
            created_at=now(),
            queued_at=now(),
            urls=job_urls(job_id),
        )
        queue = Queue(priority, connection=self.redis, serializer="json")
        self.records.create(
            job,
            lambda pipe: queue.enqueue_call(TASK, args=(job_id,), job_id=job_id, timeout=-1, pipeline=pipe),
        )
        return job_id

    def cancel(self, job_id: str) -> None:
        """Of a job that runs."""
        self.records.move(job_id, JobStatus.canceling, also=lambda pipe: self.records.ask_cancel(job_id, pipe))

    def end(self, job_id: str, status: JobStatus = JobStatus.failed, expired_for: float | None = None) -> None:
        """End a job that is queued; expired_for: seconds since its results expired, None if they are kept for ever."""
        expires_at = None if expired_for is None else now() - timedelta(seconds=expired_for)
        self.records.move(
            job_id,
            status,
            lambda pipe: pipe.delete("rq:queue:normal"),
            completed_at=now(),
            expires_at=expires_at,
        )

    def status(self, job_id: str) -> JobStatus:
        return self.records.get(job_id).status

    def wait_for(self, job_id: str, status: JobStatus) -> Job:
        wait_until(lambda: self.status(job_id) is status)
        return self.records.get(job_id)

    def pids(self, job_id: str) -> list[int]:
        """Of the horses that ran the job, in order."""
        return [int(pid) for pid in cast(list[bytes], self.redis.lrange(f"test:pids:{job_id}", 0, -1))]

    def wait_for_start(self, job_id: str, times: int = 1) -> int:
        """The horse's process id, once the job runs for that many times."""
        wait_until(lambda: len(self.pids(job_id)) == times)
        return self.pids(job_id)[-1]

    def leftovers(self) -> list[bytes]:
        """What RQ still holds of any job."""
        kinds = ("rq:job:*", "rq:execution*", "rq:wip:*", "rq:queue:*", "rq:registry:*")
        return [key for kind in kinds for key in self.redis.scan_iter(kind)]
