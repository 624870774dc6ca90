"""A small task at the seam of the warm worker: it moves its job's record as the real one does, and obeys `metadata`.

`python -m tests.worker.fake_horse` is a worker with this task.
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, cast

from redis import Redis

from app.contract import Job, JobStatus
from app.records import Records, now
from app.settings import Settings
from worker.control import Canceled, Control, DeviceLost, Preempted, TaskFailed
from worker.main import main


def load(settings: Settings, control: Control) -> Callable[[str], None]:
    """Counts how often it is called; fails as often as `test:broken` says, takes as long as `test:slow` does."""
    redis = Redis.from_url(settings.redis_url or "")
    redis.incr("test:loads")
    time.sleep(int(cast(bytes, redis.get("test:slow") or b"0")))
    if redis.decr("test:broken") >= 0:
        raise RuntimeError("no such model")
    return FakeTask(redis, control)


class FakeTask:
    """Takes `steps` micro-batches of 50 ms, unless it is told to misbehave."""

    model, device = "fake", "cpu"

    def __init__(self, redis: Redis, control: Control) -> None:
        self.redis, self.control, self.records = redis, control, Records(redis)

    def __call__(self, job_id: str) -> None:
        job = self.records.get(job_id)
        job = self.move(job_id, JobStatus.starting, attempt=job.attempt + 1, started_at=now())
        self.move(job_id, JobStatus.processing)
        self.redis.rpush(f"test:pids:{job_id}", os.getpid())
        first = self.redis.llen(f"test:pids:{job_id}") == 1
        match job.request.metadata.get("do"):
            case "segfault":
                os.kill(os.getpid(), signal.SIGSEGV)
            case "hang once" if first:
                time.sleep(600)
            case "lose the device once" if first:
                raise DeviceLost("sticky")
            case "fail":
                raise TaskFailed("out_of_memory", "The clip is too large for this device.", retryable=True)
            case "raise":
                raise ValueError("a secret")
        self.work(cast(int, job.request.metadata.get("steps", 2)), job.request.metadata.get("do") == "be deaf")
        self.move(job_id, JobStatus.finalizing)
        self.move(job_id, JobStatus.succeeded, completed_at=now())

    def move(self, job_id: str, to: JobStatus, **changes: Any) -> Job:
        return self.records.move(job_id, to, lambda pipe: self.control.check(self.redis), **changes)

    def work(self, steps: int, deaf: bool) -> None:
        for _ in range(steps):
            time.sleep(0.05)
            self.control.pulse()
            self.control.observe("visionxl_frames_processed_total", 1, task="deblur")
            self.control.observe("visionxl_frame_duration_seconds", 0.05, task="deblur", resolution="96x64")
            match None if deaf else self.control.stop_requested():
                case "cancel":
                    raise Canceled
                case "preempt":
                    raise Preempted


if __name__ == "__main__":
    sys.exit(main("tests.worker.fake_horse:load"))
